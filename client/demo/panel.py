"""The demo's three parties: `rookery-server party`, one process and one database each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from client import keyfile
from client.demo.stage import Address, Program
from client.steps import Rand
from mpc.keys import PartyKey

_NOT_DIALLED = "127.0.0.1:0"
"""Of two parties the one with the lower key dials, so the other needs no address of it."""


class Member(Program):
    """A running party."""

    def __init__(
        self,
        folder: Path,
        seed: bytes,
        peers: dict[bytes, str],
        relay: Address,
        publisher: bytes,
        policy: bytes | None = None,
    ) -> None:
        folder.mkdir()
        keyfile.create(folder / "party.key", seed)
        settings = {
            "ROOKERY_PARTY_RELAY": relay.target,
            "ROOKERY_PARTY_AUDIENCE": relay.audience,
            "ROOKERY_PARTY_PUBLISHERS": publisher.hex(),
            "ROOKERY_PARTY_PEERS": ",".join(f"{ik.hex()}@{at}" for ik, at in peers.items()),
            # A waiting round looks again at once; a deployment takes its time.
            "ROOKERY_PARTY_TICK_S": "0.2",
            "ROOKERY_PARTY_POLL_S": "1",
            "ROOKERY_PARTY_LOG_LEVEL": "debug",
            "ROOKERY_PARTY_POLICY_KEYS": policy.hex() if policy is not None else "",
            "ROOKERY_PARTY_METRICS_LISTEN": "127.0.0.1:0",
        }
        super().__init__(folder, folder.name, ["party"], settings)
        self.ik = PartyKey(seed).public
        self.target = self.ready["listening"]


@contextmanager
def panel(
    folder: Path,
    count: int,
    relay: Address,
    publisher: bytes,
    rand: Rand,
    policy: bytes | None = None,
) -> Iterator[tuple[Member, ...]]:
    """So many parties, ended when the block is left."""
    seeds = {PartyKey(seed).public: seed for seed in (rand(32) for _ in range(count))}
    addresses = dict.fromkeys(seeds, _NOT_DIALLED)
    members: list[Member] = []
    with ExitStack() as running:
        for number, ik in enumerate(sorted(seeds, reverse=True), 1):
            peers = {other: at for other, at in addresses.items() if other != ik}
            member = Member(folder / f"party{number}", seeds[ik], peers, relay, publisher, policy)
            members.append(running.enter_context(member))
            addresses[ik] = member.target
        yield tuple(members)
