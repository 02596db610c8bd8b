"""Forget me, whole: real processes of service, Redis and parties, searched for one person."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from client.measure.participant import Outcome, Participant
from client.measure.policy import Panel, Policy
from client.sync import SyncedDevice
from client.transport import Signer
from crypto import contribution, wake
from crypto.keys import Recipient
from mpc.manifest import Manifest
from rookery.v1 import accounts_pb2
from services import keys
from services.party.states import State
from tests.consent_worlds import COUNTING, favourites, policy, record
from tests.governed_service import Governed
from tests.governed_worlds import KEY, shown
from tests.party_process import PUBLISHER, Parties, Town, task, town, until
from tests.redis_process import RedisServer
from tests.relay_worlds import attached
from tests.served import AUDIENCE
from tests.service_process import ServiceProcess
from tests.shell_worlds import Fleet, fleet
from tests.wake_worlds import GATEWAY_AUDIENCE, KEY as GATEWAY, SERVICE_SEED, token_of

pytestmark = pytest.mark.timeout(300)
WINDOW_MS = 10_000


@dataclass
class Place:
    """A governed service and three parties, each a process."""

    process: ServiceProcess
    parties: Parties
    redis: RedisServer | None

    def stored(self) -> dict[str, bytes]:
        """All that service, Redis and parties hold or said, by where it is."""
        folders = [self.process.folder, *(one.folder for one in self.parties.all)]
        files = [file for folder in folders for file in sorted(folder.glob("*")) if file.is_file()]
        found = {str(file): file.read_bytes() for file in files if file.suffix != ".key"}
        return found | (self._redis() if self.redis is not None else {})

    def _redis(self) -> dict[str, bytes]:
        """Every key with its content. Nonces of the last calls are left out: their keys are named
        by the account, and end by themselves."""
        assert self.redis is not None
        found: dict[str, bytes] = {}
        with self.redis.client() as client:
            for key in client.scan_iter(count=1_000):
                if b"}n" in key:
                    assert 0 < client.ttl(key) <= 900
                    continue
                found[repr(key)] = key + b"\0" + b"\0".join(_content(client, key))
        return found


def _content(client: Any, key: bytes) -> Iterator[bytes]:
    match client.type(key):
        case b"string":
            yield client.get(key)
        case b"hash":
            for name, value in client.hgetall(key).items():
                yield from (name, value)
        case b"list":
            yield from client.lrange(key, 0, -1)
        case b"set":
            yield from client.smembers(key)
        case b"zset":
            yield from client.zrange(key, 0, -1)
        case other:
            raise AssertionError(f"a type that nobody looks into: {other!r}")


@contextmanager
def place(folder: Path, redis: RedisServer | None) -> Iterator[Place]:
    """For the time of the block."""
    home = folder / "service"
    home.mkdir()
    keys.create(home / "rookery-server.wake", SERVICE_SEED)
    settings = {
        "ROOKERY_AUDIENCE": AUDIENCE,
        "ROOKERY_POLICY_KEYS": KEY.public.hex(),
        "ROOKERY_PUBLISHERS": PUBLISHER.ik_pk.hex(),
        "ROOKERY_ACCESS_LOG_SHARE": "1",
        "ROOKERY_LOG_LEVEL": "debug",
        # Nobody is there: a handle can be left all the same.
        "ROOKERY_WAKE_GATEWAY": "127.0.0.1:9",
        "ROOKERY_WAKE_AUDIENCE": GATEWAY_AUDIENCE,
    }
    if redis is not None:
        redis.flush()
        settings["ROOKERY_REDIS_URL"] = redis.url
    with ServiceProcess(home, **settings) as process:
        [address] = process.endpoint.targets
        parties = Parties(folder, address)
        try:
            parties.start()
            yield Place(process, parties, redis)
        finally:
            parties.end()


@dataclass
class Person:
    """An account that agreed, recorded and contributes."""

    first: SyncedDevice
    part: Participant
    handle: bytes

    @classmethod
    async def make(cls, devices: Fleet, there: Place) -> Person:
        """Its first device."""
        first = await devices.first()
        first.pin_policy(KEY.public)
        first.on_policy(shown(policy()))
        await first.consenting.grant(COUNTING)
        record(first, "food/cuisine", "thai")
        part = Participant(first)
        panel = Panel(tuple(one.ik for one in there.parties.all), 1)
        part.core.set_policy(Policy().with_publisher(PUBLISHER.ik_pk).with_panel(panel))
        part.save()
        handle = wake.seal(
            Recipient(GATEWAY.public), token_of("phone"), audience=AUDIENCE, expires_ms=1 << 52
        )
        await first.remote.register_handle(handle)
        return cls(first, part, handle)

    async def contribute(self) -> None:
        [given] = await self.part.contribute_once()
        assert given.outcome is Outcome.CONTRIBUTED, given

    def names(self, round_: Manifest) -> dict[str, bytes]:
        """All that anybody could know this person by."""
        core = self.first.core
        key = core.aggregation_key
        assert key is not None
        names: dict[str, bytes] = {"account": bytes(core.account_id)}
        for row in core.devices:
            names[f"device {row.index}"] = bytes(row.device_id)
            found = core.chain.find(row.device_id)
            assert found is not None
            names[f"ik {row.index}"], names[f"bk {row.index}"] = found.ik_pk, found.box_pk
        for seq, link_hash in enumerate(core.chain.hashes):
            names[f"link {seq}"] = bytes(link_hash)
        for index, one in enumerate(self.first.ledger.records.chain()):
            names[f"tag {index}"], names[f"entry {index}"] = one.entry.tag, one.entry.hash
            names[f"receipt {index}"], names[f"signature {index}"] = one.receipt.hash, one.sig
            names[f"salt {index}"] = self.salt
        for collection, name in (("food", "cuisine"), (".rookery", "aggregation-key")):
            tag = core.tag(collection, name)
            assert tag is not None
            names[f"record {collection}"] = bytes(tag)
        names["handle"] = self.handle
        names["nullifier"] = bytes(contribution.nullifier(key, round_.digest))
        return names

    @property
    def salt(self) -> bytes:
        proof = self.first.ledger.proof(COUNTING)
        assert proof is not None
        return proof.salt


def hits(stored: dict[str, bytes], names: dict[str, bytes]) -> list[tuple[str, str]]:
    """Where any of them stands, as bytes, in hexadecimal or base64."""
    forms = {
        (name, form)
        for name, raw in names.items()
        for form in (
            raw, raw.hex().encode(), raw.hex().upper().encode(),
            base64.b64encode(raw).rstrip(b"="), base64.urlsafe_b64encode(raw).rstrip(b"="),
        )
    }  # fmt: skip
    return sorted(
        {(where, name) for where, data in stored.items() for name, form in forms if form in data}
    )


def reports(there: Place, round_: Manifest) -> list[set[bytes]]:
    """The ids of reports that each party holds."""
    found = []
    for party in there.parties.all:
        [(number,)] = party.stored("SELECT round_n FROM round WHERE round_id = ?", round_.round_id)
        rows = party.stored(f"SELECT report_id FROM r{number}_report")  # noqa: S608
        found.append({row[0] for row in rows})
    return found


@asynccontextmanager
async def everybody(there: Place) -> AsyncIterator[tuple[list[Person], Manifest]]:
    """Three people who contributed to a round that is still open, the first with two devices."""
    async with attached(there.process) as relay:
        await Governed(relay.service).publish(policy())
    async with fleet(there.process.endpoint) as devices:
        people = list(await asyncio.gather(*(Person.make(devices, there) for _ in range(3))))
        await devices.another(people[0].first)
        made = replace(favourites(), window_ms=WINDOW_MS, grace_ms=0)
        round_ = await there.parties.collect(made)
        for person in people:
            await person.contribute()
        yield people, round_


@pytest.mark.parametrize("backend", ["sqlite", "redis"])
async def test_a_person_who_asks_to_be_forgotten_is_nowhere(
    tmp_path: Path, request: pytest.FixtureRequest, backend: str
) -> None:
    """Every table, key, file and log of service and parties: what named the account, its devices,
    its records, its consent and its contribution stood there, and is gone. What others gave
    stays, and their round ends with a result. Logs never had it: a pseudonym of the day stands
    in its place."""
    redis = request.getfixturevalue("redis_server") if backend == "redis" else None
    with place(tmp_path, redis) as there:
        async with everybody(there) as (people, round_):
            gone, *others = people
            names = gone.names(round_)
            await until(lambda: all(len(one) == 3 for one in reports(there, round_)))
            held = reports(there, round_)
            stored = there.stored()
            before = {name for _, name in hits(stored, names)}
            assert {
                "account",
                "device 0",
                "device 1",
                "tag 0",
                "entry 0",
                "nullifier",
                "handle",
            } <= before
            logs = {where: data for where, data in stored.items() if where.endswith(".log")}
            assert any(b'"account"' in data for data in logs.values())
            assert hits(logs, names) == []
            signer = Signer(gone.first.core.identity, gone.first.core.account_id)
            receipt = await gone.first.remote.delete_account(signer)
            assert receipt.opened.account_id == gone.first.core.account_id
            await until(lambda: all(len(one) == 2 for one in reports(there, round_)))
            [names["report"]] = held[0] - reports(there, round_)[0]
            # We looked into the file, which may have kept its log from being cut at once.
            await until(lambda: hits(there.stored(), names) == [])
            left = {name for _, name in hits(there.stored(), others[0].names(round_))}
            assert {"account", "tag 0", "nullifier"} <= left
            answer = await there.parties.finished(round_)
            assert answer.result
            assert hits(there.stored(), names) == []


def test_parties_that_wait_for_another_one_still_hear_of_it(tmp_path: Path) -> None:
    """The window is over and a party is down: until they have told it what they have, the others
    ask the relay, and destroy what was erased since."""
    with town(tmp_path, 3, 3) as made:
        asyncio.run(_wait_and_forget(made))


async def _wait_and_forget(made: Town) -> None:
    asked = task("waiting", window_ms=4_000)
    there = Place(made.process, made.parties, None)
    round_ = await made.parties.collect(asked)
    await made.vote(asked, round_, [1, 2, 2])
    await until(lambda: all(len(one) == 3 for one in reports(there, round_)))
    made.parties.all[2].kill()
    waiting = made.parties.all[:2]
    await until(lambda: all(one.state(round_) is State.CLOSED for one in waiting))
    async with attached(made.process) as relay:
        delete = accounts_pb2.DeleteAccountRequest(account_id=made.people[0].account_id)
        await relay.call(made.people[0], "/rookery.v1.Accounts/DeleteAccount", delete)
    await until(lambda: all(len(one) == 2 for one in reports(there, round_)[:2]))
    assert all(one.state(round_) is State.CLOSED for one in waiting)
