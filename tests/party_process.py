"""Parties as processes of their own, and the publisher that opens rounds with them. A helper."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from crypto import labels, request
from crypto.contribution import make
from crypto.field import FIELD31, Array
from crypto.keys import Identity
from crypto.primitives import sign_keypair
from crypto.request import METADATA_KEY, NO_ACCOUNT, CallKind
from mpc.keys import PublisherKey
from mpc.kinds import Histogram
from mpc.manifest import Manifest, Party
from mpc.noise import Law, Mechanism
from mpc.tail_params import AsTheyAre
from mpc.task import Caps, Task
from rookery.v1 import parties_pb2, rounds_pb2
from services.party.states import State
from tests.relay_worlds import Relay, attached
from tests.served import AUDIENCE, Service, nonce
from tests.service_process import ServiceProcess, environment
from tests.worlds import World

PUBLISHER = Identity(b"\x07" * 32, b"\x08" * 32)
_PUBLISHER_KEY = PublisherKey(b"\x07" * 32)
REAL, PUPPET = "services.cli", "tests.party_child"
"""What a party's process runs: the program, or one that a test can make lie and die."""


def task(name: str, **changes: Any) -> Task:
    """A histogram of four bins."""
    plain = Task(
        task_id=name, title="Favourite cuisine", purpose="product",
        kind=Histogram(FIELD31, 4, ()), kappa=2, window_ms=8_000, grace_ms=0, reports_max=1_000,
        k_min=2, noise=Law(Mechanism.GAUSSIAN, 4_000),
        caps=Caps(1_000_000, 86_400_000, 10_000_000), m=3, t=1, tail=AsTheyAre(),
        expires_ms=1 << 52,
    )  # fmt: skip
    return replace(plain, **changes)


class PartyProcess:
    """A party on a real file. Port and key stay the same over restarts."""

    def __init__(
        self, folder: Path, seed: bytes, *, module: str = REAL, **settings: str
    ) -> None:  # fmt: skip
        folder.mkdir()
        self.folder = folder
        self.seed = seed
        self.dies_at: State | None = None
        """From its first start until it is restarted (`tests.party_child`)."""
        self.ik, _ = sign_keypair(seed)
        self.address = "127.0.0.1:0"
        self.metrics = ""
        self.settings = settings
        self._module = module
        key = folder / "party.key"
        key.write_text(seed.hex() + "\n")
        key.chmod(0o600)

    def start(self, peers: Sequence[PartyProcess], relay: str, **more: str) -> None:
        """Starts it and waits until it listens. Those with a higher key must have begun."""
        if self.dies_at is not None:
            more = {"TEST_DIES_AT": self.dies_at.name, "TEST_DIES_AFTER_S": "0.5", **more}
            self.dies_at = None
        # Who has the lower key dials: a port that is not known yet is not needed.
        others = ",".join(f"{one.ik.hex()}@{one.address}" for one in peers if one is not self)
        with (self.folder / "party.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self._module, "party", "--listen", self.address,
                 "--database", str(self.folder / "party.db")],
                cwd=self.folder,
                env=environment(**{
                    "ROOKERY_PARTY_RELAY": relay,
                    "ROOKERY_PARTY_AUDIENCE": AUDIENCE,
                    "ROOKERY_PARTY_PEERS": others,
                    "ROOKERY_PARTY_PUBLISHERS": PUBLISHER.ik_pk.hex(),
                    "ROOKERY_PARTY_TICK_S": "0.2",
                    "ROOKERY_PARTY_POLL_S": "2",
                    "ROOKERY_PARTY_PATIENCE_S": "30",
                    "ROOKERY_PARTY_PEER_BEAT_S": "0.2",
                    "ROOKERY_PARTY_PEER_STALL_S": "5",
                    **self.settings,
                    **more,
                }),
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            ready = json.loads(line)
            self.address, self.metrics = ready["listening"], ready.get("metrics", "")
        elif "TEST_DIES_AT" not in more:  # else it was faster with that
            raise AssertionError(self.log)

    @property
    def log(self) -> str:
        """All that it has logged."""
        return (self.folder / "party.log").read_text()

    def stored(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What its file says now."""
        path = f"file:{self.folder / 'party.db'}?mode=ro"
        with closing(sqlite3.connect(path, uri=True)) as look:
            return look.execute(query, values).fetchall()

    def state(self, manifest: Manifest) -> State:
        """How far a round is here."""
        found = self.stored("SELECT state FROM round WHERE round_id = ?", manifest.round_id)
        return State(found[0][0])

    def item(self, manifest: Manifest, name: str) -> bytes | None:
        """What a step of a round stored."""
        found = self.stored(
            "SELECT bytes FROM item NATURAL JOIN round WHERE round_id = ? AND name = ?",
            manifest.round_id, name,
        )  # fmt: skip
        return found[0][0] if found else None

    def kill(self) -> None:
        """SIGKILL: no chance to finish anything."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


class Parties:
    """Three or more parties of one relay, each the peer of all others."""

    def __init__(
        self,
        folder: Path,
        relay: Service | str,
        count: int = 3,
        *,
        module: str = REAL,
        **settings: str,
    ) -> None:
        seeds = [random.Random(f"party {number}").randbytes(32) for number in range(count)]
        self.all = [
            PartyProcess(folder / f"party{number}", seed, module=module, **settings)
            for number, seed in enumerate(seeds, 1)
        ]
        self.relay = relay if isinstance(relay, str) else relay.server.address

    def start(self) -> None:
        """All of them, those that are dialled first."""
        for one in sorted(self.all, key=lambda party: party.ik, reverse=True):
            one.start(self.all, self.relay)

    def restart(self, party: PartyProcess, **more: str) -> None:
        """After its end."""
        party.start(self.all, self.relay, **more)

    def end(self) -> None:
        """All that still run."""
        for one in self.all:
            if hasattr(one, "process"):
                one.kill()

    async def _call(self, target: str, method: str, message: Message) -> bytes:
        payload = message.SerializeToString()
        signed = request.sign(
            PUBLISHER, kind=CallKind.UNARY, method=method, audience=AUDIENCE,
            account_id=NO_ACCOUNT, ts_ms=time.time_ns() // 1_000_000, nonce=nonce(),
            payload=payload,
        )  # fmt: skip
        async with grpc.aio.insecure_channel(target) as channel:
            call: Any = channel.unary_unary(method)
            answer: bytes = await call(payload, metadata=((METADATA_KEY, signed),), timeout=20)
            return answer

    def signed_task(self, made: Task) -> rounds_pb2.SignedTask:
        """As the publisher gives it out."""
        sig = _PUBLISHER_KEY.sign(labels.TASK_SIG, made.encoded)
        return rounds_pb2.SignedTask(task=made.encoded, sig=sig, publisher=PUBLISHER.ik_pk)

    async def prepare(
        self, party: PartyProcess, made: Task, round_id: bytes, open_ms: int
    ) -> Party:
        """One party's keys for a round."""
        answer = parties_pb2.PrepareRoundResponse.FromString(
            await self._call(
                party.address,
                "/rookery.v1.Parties/PrepareRound",
                parties_pb2.PrepareRoundRequest(
                    task=self.signed_task(made), round_id=round_id, open_ms=open_ms,
                    close_ms=open_ms + made.window_ms,
                ),
            )
        )  # fmt: skip
        return Party(answer.ik, answer.box_key)

    async def sign(self, party: PartyProcess, manifest: Manifest) -> bytes:
        """One party's signature of a manifest."""
        answer = await self._call(
            party.address,
            "/rookery.v1.Parties/SignManifest",
            parties_pb2.SignManifestRequest(manifest=manifest.encoded),
        )
        return parties_pb2.SignManifestResponse.FromString(answer).sig

    async def publish(self, made: Task) -> None:
        """At the relay, which takes no task without noise."""
        signed = self.signed_task(made)
        message = rounds_pb2.PublishTaskRequest(task=signed.task, sig=signed.sig)
        await self._call(self.relay, "/rookery.v1.Rounds/PublishTask", message)

    async def collect(
        self, made: Task, seed: object = 0, by: Sequence[PartyProcess] = ()
    ) -> Manifest:
        """Publishes the task, prepares a round from now on, and opens it at the relay. `by`:
        its parties, in their order; all of them otherwise."""
        await self.publish(made)
        round_id = random.Random(f"round {made.task_id} {seed}").randbytes(16)
        open_ms = time.time_ns() // 1_000_000
        parties = by or self.all
        keys = await asyncio.gather(
            *(self.prepare(party, made, round_id, open_ms) for party in parties)
        )
        manifest = Manifest(
            round_id, made.spec_hash, made.t, open_ms, open_ms + made.window_ms, made.k_min,
            tuple(keys),
        )  # fmt: skip
        sigs = await asyncio.gather(*(self.sign(party, manifest) for party in parties))
        await self._call(
            self.relay,
            "/rookery.v1.Rounds/CollectRound",
            rounds_pb2.CollectRoundRequest(manifest=manifest.encoded, sigs=sigs),
        )
        return manifest

    async def result(self, round_id: bytes) -> rounds_pb2.GetResultResponse | None:
        """What the relay has by now."""
        asked = rounds_pb2.GetResultRequest(round_id=round_id)
        try:
            answer = await self._call(self.relay, "/rookery.v1.Rounds/GetResult", asked)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return None
        return rounds_pb2.GetResultResponse.FromString(answer)

    async def finished(
        self, manifest: Manifest, abandoned: int = 1
    ) -> rounds_pb2.GetResultResponse:
        """The signed result, or so many abandonments; the test's own time limit is the bound."""
        while True:
            answer = await self.result(manifest.round_id)
            if answer is not None and (answer.result or len(answer.abandonments) >= abandoned):
                return answer
            await asyncio.sleep(0.5)


def contribution(
    made: Task, manifest: Manifest, values: Array, seed: object
) -> rounds_pb2.ContributeRequest:
    """A device's report of these elements."""
    rng = random.Random(f"device {seed}")
    given = make(
        manifest.shape(made), values, box_keys=manifest.box_keys(),
        aggregation_key=rng.randbytes(32), rand=rng.randbytes,
    )  # fmt: skip
    return rounds_pb2.ContributeRequest(
        round_id=manifest.round_id, header=given.header, boxes=given.boxes
    )


async def contribute(service: Service, world: World, message: rounds_pb2.ContributeRequest) -> None:
    """By the first device of an account."""
    await service.signed(world, "/rookery.v1.Rounds/Contribute", message.SerializeToString())


async def until(condition: Callable[[], bool]) -> None:
    """For what happens in other processes; the test's own time limit is the bound."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Town:
    """A relay, parties, and people with accounts: all real processes but the people."""

    process: ServiceProcess
    parties: Parties
    people: tuple[World, ...]

    async def give(
        self, reports: Sequence[rounds_pb2.ContributeRequest], *, first: int = 0
    ) -> None:
        """One report each of as many people, from the first on."""
        async with attached(self.process) as relay:
            await asyncio.gather(
                *(
                    contribute(relay.service, world, report)
                    for world, report in zip(self.people[first:], reports, strict=False)
                )
            )

    async def vote(
        self, made: Task, manifest: Manifest, values: Sequence[Any], *, first: int = 0
    ) -> None:
        """One honest report a value, by as many people from the first on."""
        kind = made.kind
        await self.give(
            [
                contribution(made, manifest, kind.encode(value), number)
                for number, value in enumerate(values, first)
            ],
            first=first,
        )


@contextmanager
def town(
    folder: Path,
    count: int,
    people: int,
    *,
    module: str = PUPPET,
    dying: Sequence[State] = (),
    **settings: str,
) -> Iterator[Town]:
    """For the time of the block; nothing that happens in it may be a defect of a party. The
    third party and further ones vanish in the states `dying`."""
    place = folder / "relay"
    place.mkdir(parents=True)
    with ServiceProcess(
        place, ROOKERY_AUDIENCE=AUDIENCE, ROOKERY_PUBLISHERS=PUBLISHER.ik_pk.hex()
    ) as process:
        [address] = process.endpoint.targets
        parties = Parties(folder, address, count, module=module, **settings)
        made = Town(process, parties, tuple(World.create(f"person {at}") for at in range(people)))
        for party, state in zip(parties.all[2:], dying, strict=False):
            party.dies_at = state
        try:
            parties.start()
            asyncio.run(_enrol(made))
            yield made
        finally:
            parties.end()
        for party in parties.all:
            assert "defect" not in party.log, party.log


async def _enrol(made: Town) -> None:
    async with attached(made.process) as relay:
        await asyncio.gather(*(relay.service.create(world) for world in made.people))


__all__ = [
    "PUBLISHER", "PUPPET", "REAL", "Parties", "PartyProcess", "Relay", "Town", "contribute",
    "contribution", "task", "town", "until",
]  # fmt: skip
