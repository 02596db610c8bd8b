"""A party under attack by a peer and by strangers: each ends its own link, and nothing else."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import grpc.aio
import pytest

from mpc import result as results
from mpc.keys import PartyKey
from mpc.manifest import Manifest
from mpc.task import Task
from rookery.v1 import parties_pb2
from services.party.duplex import DialledDuplex
from services.party.handshake import Session, Side
from services.party.jobs import JOB_CHANNEL_BIT
from services.party.links import LinkLimits, LinkLost, greet
from tests.certificates import certificate
from tests.lying_job import PICKLE
from tests.party_process import Parties, PartyProcess, Town, task, town, until

pytestmark = pytest.mark.timeout(300)
LIMITS = LinkLimits(handshake_s=20)
ROUND = b"r" * 16


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """Three parties, and a fourth one whose key the attacker has."""
    settings = {
        "ROOKERY_PARTY_PEER_STALL_S": "2",
        "ROOKERY_PARTY_PEER_BYTES_PER_S": "65536",
        "ROOKERY_PARTY_PEER_PAYLOAD_BYTES_MAX": str(5 << 20),
    }
    with town(tmp_path_factory.mktemp("hostile"), 4, 6, dying=(), **settings) as made:
        made.parties.all[3].kill()
        yield made


class Attacker:
    """A stream to a party by somebody with a key."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._duplex = DialledDuplex(channel)
        self._session: Session | None = None
        self._ik = b""

    async def prove(self, seed: bytes) -> None:
        """The handshake, as an honest peer does it. LinkLost."""
        self._ik, self._session = await greet(
            self._duplex, PartyKey(seed), Side.DIALER, ephemeral=os.urandom(32),
            is_known=lambda _: True, limits=LIMITS,
        )  # fmt: skip

    async def say(self, payload: bytes, *, channel: int = 1, seal: bool = True) -> None:
        """One frame."""
        assert self._session is not None
        sealed = self._session.seal(ROUND, channel, 7, payload) if seal else payload
        frame = parties_pb2.LinkFrame(round_id=ROUND, channel=channel, counter=7, payload=sealed)
        await self.raw(parties_pb2.LinkRequest(frame=frame).SerializeToString())

    async def raw(self, message: bytes) -> None:
        """Any bytes."""
        await self._duplex.send(message)

    async def ended(self) -> None:
        """The party has ended the stream."""
        while await self._duplex.receive() is not None:
            pass


async def attack(party: PartyProcess, how: str, seed: bytes) -> None:
    """One attack, until the party ends it."""
    async with grpc.aio.insecure_channel(
        party.address, options=[("grpc.max_receive_message_length", -1)]
    ) as channel:
        attacker = Attacker(channel)
        with suppress(LinkLost):
            if how == "no-hello":
                await attacker.raw(os.urandom(64))
            elif how == "stranger":
                await attacker.prove(bytes(32))
            else:
                await attacker.prove(seed)
            if how == "garbage":
                await attacker.raw(os.urandom(500))
            elif how == "unsealed":
                await attacker.say(b"x" * 100, seal=False)
            elif how == "pickle":
                await attacker.say(PICKLE)
            elif how == "pickles":
                for _ in range(50):
                    await attacker.say(PICKLE, channel=JOB_CHANNEL_BIT | 5)
            elif how == "flood":
                while True:
                    await attacker.say(bytes(1 << 20), channel=JOB_CHANNEL_BIT | 6)
        await attacker.ended()


ATTACKS = {
    "no-hello": "", "stranger": "", "garbage": "frame", "unsealed": "frame", "pickle": "frame",
    "pickles": "stalled", "flood": "flood", "silence": "stalled",
}  # fmt: skip
"""And the rule under which the link ends, if there was one."""


def test_attacks_end_their_own_link_and_the_round_goes_on(world: Town) -> None:
    """Garbage, pickles, a flood and silence, by a peer and by strangers, while three parties
    compute: each is cut off by its rule, in bounded time, and the result is there."""
    target = world.parties.all[0]
    seed = world.parties.all[3].seed

    async def play() -> tuple[Task, Manifest, bytes, dict[int, bytes]]:
        made = task("hostile")
        manifest = await world.parties.collect(made, by=world.parties.all[:3])
        await world.vote(made, manifest, [0, 1, 2])
        for how in ATTACKS:
            await attack(target, how, seed)
        answer = await world.parties.finished(manifest)
        return made, manifest, answer.result, {row.party: row.sig for row in answer.sigs}

    made, manifest, data, sigs = asyncio.run(play())
    result = results.open_(data, sigs, manifest, made)
    assert (result.counted.valid, result.checked) == (3, True)
    for rule in set(ATTACKS.values()) - {""}:
        assert f'"state": "{rule}"' in target.log
    assert not list(target.folder.glob("pickled"))


def test_links_of_parties_go_over_tls(tmp_path: Path) -> None:
    """With a certificate of their own authority."""
    cert, key = certificate(tmp_path, "party")
    settings = {
        "ROOKERY_PARTY_TLS_CERT_FILE": str(cert),
        "ROOKERY_PARTY_TLS_KEY_FILE": str(key),
        "ROOKERY_PARTY_PEER_TLS": "true",
        "ROOKERY_PARTY_PEER_CA_FILE": str(cert),
    }
    folder = tmp_path / "parties"
    folder.mkdir()
    parties = Parties(folder, "127.0.0.1:1", 2, **settings)
    try:
        parties.start()
        for party in parties.all:
            asyncio.run(until(lambda: '"state": "up"' in party.log))  # noqa: B023
    finally:
        parties.end()
