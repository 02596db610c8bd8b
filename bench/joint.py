"""The whole round: a relay, three parties and thousands of devices, all over gRPC.

Accounts are made and contributions written before the window closes, by the relay's own calls.
What is timed is the rest: from the close to the result that all parties signed.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
from google.protobuf.message import Message

from bench import load, processes
from bench.accounts import CREATE, Account
from bench.processes import Child
from bench.rounds import PUBLISHER_SEED, Devices, World
from crypto import labels, request
from crypto.contribution import Contribution
from crypto.keys import Identity
from crypto.request import METADATA_KEY, NO_ACCOUNT, CallKind
from mpc import result as results
from mpc.manifest import Manifest, Party
from mpc.result import RoundResult, Sums
from mpc.task import Task
from rookery.v1 import parties_pb2, rounds_pb2

AUDIENCE = "rookery.localhost"
ROUNDS, PARTIES = "/rookery.v1.Rounds/", "/rookery.v1.Parties/"
CONTRIBUTE = ROUNDS + "Contribute"
LANES = 32
LOOK_S = 0.05
"""How often the relay is asked for the result."""


class Publisher:
    """Publishes a task, collects a round from its parties, looks for its result."""

    def __init__(self, relay: str) -> None:
        self._identity = Identity(PUBLISHER_SEED, bytes(32))
        self._relay = relay

    @property
    def public(self) -> bytes:
        """What relay and parties pin."""
        return self._identity.ik_pk

    async def call(self, target: str, method: str, message: Message) -> bytes:
        """One signed call."""
        payload = message.SerializeToString()
        signed = request.sign(
            self._identity,
            kind=CallKind.UNARY,
            method=method,
            audience=AUDIENCE,
            account_id=NO_ACCOUNT,
            ts_ms=time.time_ns() // 1_000_000,
            nonce=os.urandom(16),
            payload=payload,
        )
        async with grpc.aio.insecure_channel(target) as channel:
            call: Any = channel.unary_unary(method)
            answer: bytes = await call(payload, metadata=((METADATA_KEY, signed),), timeout=20)
        return answer

    async def collect(self, task: Task, parties: Sequence[str]) -> Manifest:
        """A round from now on, signed by all."""
        sig = self._identity.sign(labels.TASK_SIG, task.encoded)
        signed = rounds_pb2.SignedTask(task=task.encoded, sig=sig, publisher=self.public)
        await self.call(
            self._relay,
            ROUNDS + "PublishTask",
            rounds_pb2.PublishTaskRequest(task=task.encoded, sig=sig),
        )
        round_id, open_ms = os.urandom(16), time.time_ns() // 1_000_000
        close_ms = open_ms + task.window_ms
        ask = parties_pb2.PrepareRoundRequest(
            task=signed, round_id=round_id, open_ms=open_ms, close_ms=close_ms
        )
        keys = []
        for party in parties:
            raw = await self.call(party, PARTIES + "PrepareRound", ask)
            answer = parties_pb2.PrepareRoundResponse.FromString(raw)
            keys.append(Party(answer.ik, answer.box_key))
        made = Manifest(
            round_id, task.spec_hash, task.t, open_ms, close_ms, task.k_min, tuple(keys)
        )
        asked = parties_pb2.SignManifestRequest(manifest=made.encoded)
        sigs = [
            parties_pb2.SignManifestResponse.FromString(
                await self.call(party, PARTIES + "SignManifest", asked)
            ).sig
            for party in parties
        ]
        await self.call(
            self._relay,
            ROUNDS + "CollectRound",
            rounds_pb2.CollectRoundRequest(manifest=made.encoded, sigs=sigs),
        )
        return made

    async def result(
        self, made: Manifest, meanwhile: Callable[[], None]
    ) -> rounds_pb2.GetResultResponse:
        """As soon as the relay has it. `meanwhile` is called every time that it is asked."""
        asked = rounds_pb2.GetResultRequest(round_id=made.round_id)
        while True:
            meanwhile()
            try:
                raw = await self.call(self._relay, ROUNDS + "GetResult", asked)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
            else:
                return rounds_pb2.GetResultResponse.FromString(raw)
            await asyncio.sleep(LOOK_S)


@dataclass(frozen=True, slots=True)
class Took:
    """What a round took, and where."""

    load_s: float
    """Until the last contribution was durable at the relay; not part of the round."""
    close_to_result_s: float
    states_s: dict[str, float]
    """Of the last party to reach each state, from the close."""
    cpu_s: float
    """Of all parties' services from the close; their jobs are processes of their own."""
    peak_bytes: int
    """The largest resident set that a party's service had."""
    job_peak_bytes: int
    """The largest that a process of a job was seen with."""
    error_max: int
    """The largest difference of a bin from the truth: the noise."""


@asynccontextmanager
async def running(folder: Path, **settings: str) -> AsyncIterator[tuple[Child, list[Child]]]:
    """A relay and three parties."""
    publisher = Publisher("").public.hex()
    async with AsyncExitStack() as stack:
        relay = stack.enter_context(
            processes.service(folder, settings={"ROOKERY_PUBLISHERS": publisher})
        )
        identities = [Identity(os.urandom(32), bytes(32)) for _ in range(3)]
        # Who has the lower key dials: those that are dialled begin, and are known by address.
        identities.sort(key=lambda one: one.ik_pk, reverse=True)
        begun: list[Child] = []
        for at, identity in enumerate(identities):
            addresses = [one.address for one in begun] + ["127.0.0.1:0"] * (3 - len(begun))
            peers = ",".join(
                f"{other.ik_pk.hex()}@{address}"
                for other, address in zip(identities, addresses, strict=True)
                if other is not identity
            )
            party = processes.party(
                folder / f"party{at}",
                identity.ik_seed,
                ROOKERY_PARTY_RELAY=relay.address,
                ROOKERY_PARTY_PEERS=peers,
                ROOKERY_PARTY_PUBLISHERS=publisher,
                **settings,
            )
            begun.append(stack.enter_context(party))
        yield relay, begun


async def enrol(relay: Child, count: int) -> list[Account]:
    """Accounts of one device each."""
    accounts = [Account.make(AUDIENCE) for _ in range(count)]
    lanes = [[(one.creation, None) for one in accounts[at::LANES]] for at in range(LANES)]
    await load.run_lanes(relay, CREATE, lanes)
    return accounts


async def contribute(
    relay: Child, made: Manifest, accounts: Sequence[Account], votes: Sequence[Contribution]
) -> None:
    """One report of each account, durable when this returns."""
    calls = []
    for account, vote in zip(accounts, votes, strict=True):
        message = rounds_pb2.ContributeRequest(
            round_id=made.round_id, header=vote.header, boxes=vote.boxes
        ).SerializeToString()
        calls += load.signed(account, CONTRIBUTE, [message])
    await load.run_lanes(relay, CONTRIBUTE, [calls[at::LANES] for at in range(LANES)])


def _states(folder: Path, close_s: float) -> dict[str, float]:
    """When the last party reached each state, by the parties' logs."""
    reached: dict[str, float] = {}
    for log in folder.glob("party*/party.log"):
        for line in log.read_text().splitlines():
            said = json.loads(line)
            if said["event"] == "round_state":
                at_s = datetime.fromisoformat(said["timestamp"]).timestamp() - close_s
                reached[said["state"]] = max(at_s, reached.get(said["state"], at_s))
    return reached


async def whole(folder: Path, making: Devices, task: Task, count: int, **settings: str) -> Took:
    """A round of so many reports. RuntimeError if they are not in before the window closes."""
    async with running(folder, **settings) as (relay, parties):
        publisher = Publisher(relay.address)
        accounts = await enrol(relay, count)
        made = await publisher.collect(task, [party.address for party in parties])
        start = time.perf_counter()
        world = World(task, made, (), ())
        votes, truth = making.counted(world, count)
        await contribute(relay, made, accounts, votes)
        load_s = time.perf_counter() - start
        left_s = made.close_ms / 1000 - time.time()
        if left_s < 0:
            raise RuntimeError(f"{count} contributions took {load_s:.0f} s, beyond the window")
        await asyncio.sleep(left_s)  # the clock is what ends a window
        cpu_s = [party.cpu_seconds() for party in parties]
        jobs: list[int] = []
        answer = await publisher.result(
            made, lambda: jobs.extend(party.children_bytes() for party in parties)
        )
        took_s = time.time() - made.close_ms / 1000
        opened = _opened(answer, made, task)
        if opened.counted.valid != count:
            raise RuntimeError(f"{opened.counted.valid} of {count} reports were counted")
        assert isinstance(opened.outcome, Sums)
        return Took(
            load_s=load_s,
            close_to_result_s=took_s,
            states_s=_states(folder, made.close_ms / 1000),
            cpu_s=sum(
                party.cpu_seconds() - before for party, before in zip(parties, cpu_s, strict=True)
            ),
            peak_bytes=max(party.peak_bytes() for party in parties),
            job_peak_bytes=max(jobs),
            error_max=int(np.abs(np.array(opened.outcome.sums) - truth).max()),
        )


def _opened(
    answer: rounds_pb2.GetResultResponse, made: Manifest, task: Task
) -> RoundResult:  # fmt: skip
    if not answer.result:
        raise RuntimeError(f"the round was abandoned: {answer.abandonments}")
    return results.open_(answer.result, {row.party: row.sig for row in answer.sigs}, made, task)
