"""The relay of joint aggregates as Python calls, for whoever may make them (rounds.proto).

It puts messages together and takes them apart. Nothing that comes out is verified: who reads
it judges it by the keys that it has pinned.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from client.remoteerrors import ProtocolBreach
from client.transport import Method, Signer, Transport
from crypto.consent import Proof
from rookery.v1 import rounds_pb2

_ROUNDS: Final = "/rookery.v1.Rounds/"
# Not in `client.methods`, which every command imports.
LIST_TASKS: Final = Method(_ROUNDS + "ListTasks", rounds_pb2.ListTasksResponse.FromString)
GET_ROUND: Final = Method(_ROUNDS + "GetRound", rounds_pb2.GetRoundResponse.FromString)
CONTRIBUTE: Final = Method(
    _ROUNDS + "Contribute", rounds_pb2.ContributeResponse.FromString, seconds=30.0
)
GET_RESULT: Final = Method(_ROUNDS + "GetResult", rounds_pb2.GetResultResponse.FromString)
PAGES_MAX = 10_000
"""More pages of tasks than this are not read: the service would keep its caller busy."""


class RoundState(Enum):
    """Where a round stands, as the service says."""

    UNKNOWN = "unknown"
    ANNOUNCED = "announced"
    OPEN = "open"
    CLOSED = "closed"
    DONE = "done"
    ABANDONED = "abandoned"
    EXPIRED = "expired"


_STATES = {
    rounds_pb2.ROUND_STATE_ANNOUNCED: RoundState.ANNOUNCED,
    rounds_pb2.ROUND_STATE_OPEN: RoundState.OPEN,
    rounds_pb2.ROUND_STATE_CLOSED: RoundState.CLOSED,
    rounds_pb2.ROUND_STATE_DONE: RoundState.DONE,
    rounds_pb2.ROUND_STATE_ABANDONED: RoundState.ABANDONED,
    rounds_pb2.ROUND_STATE_EXPIRED: RoundState.EXPIRED,
}


@dataclass(frozen=True, slots=True)
class SignedTask:
    """A task as its publisher signed it, and whose key that is by the service's word."""

    body: bytes
    sig: bytes
    publisher: bytes

    @property
    def published(self) -> bytes:
        """`task | sig[64]`, what `mpc.task.open_` takes."""
        return self.body + self.sig


@dataclass(frozen=True, slots=True)
class RoundSummary:
    """A round in a list. `close_ms` is the end of the grace, not of the window."""

    round_id: bytes
    open_ms: int
    close_ms: int
    state: RoundState


@dataclass(frozen=True, slots=True)
class ListedTask:
    """A task, and its rounds that are announced or open."""

    task: SignedTask
    rounds: tuple[RoundSummary, ...]
    result_round_id: bytes = b""
    """The last round that there is a result of; empty if there is none."""


@dataclass(frozen=True, slots=True)
class RelayedRound:
    """A round with what is needed to judge it."""

    task: SignedTask
    manifest: bytes
    sigs: tuple[bytes, ...]
    summary: RoundSummary
    contributed: bool
    """The service holds a contribution of the account that asked."""

    @property
    def published(self) -> bytes:
        """`manifest | m x sig[64]`, what `mpc.manifest.open_` takes."""
        return self.manifest + b"".join(self.sigs)


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A party's signed word that it gave a round up."""

    party: int
    statement: bytes
    sig: bytes


@dataclass(frozen=True, slots=True)
class RelayedResult:
    """What the parties signed. `result` is empty while there are only abandonments."""

    result: bytes
    sigs: dict[int, bytes]
    given_up: tuple[GivenUp, ...]


class Rounds:
    """Calls by one device, or by a key without an account: `signer` says whose."""

    def __init__(self, transport: Transport, signer: Signer) -> None:
        self._transport = transport
        self._signer = signer

    async def tasks(self) -> AsyncGenerator[ListedTask, None]:
        """All tasks, in the order in which they were published."""
        after, more = 0, True
        for _ in range(PAGES_MAX):
            message = rounds_pb2.ListTasksRequest(after=after)
            answer = (await self._transport.call(LIST_TASKS, message, self._signer)).message
            for row in answer.tasks:
                rounds = tuple(map(summary_in, row.rounds))
                yield ListedTask(_task_in(row.task), rounds, row.result_round_id)
            after, more = answer.next, answer.more
            if not more:
                return
            if not answer.tasks:
                break
        raise ProtocolBreach("the service's list of tasks does not end")

    async def round(self, round_id: bytes) -> RelayedRound:
        """One round; RemoteError ROUND_UNKNOWN."""
        message = rounds_pb2.GetRoundRequest(round_id=round_id)
        answer = (await self._transport.call(GET_ROUND, message, self._signer)).message
        return RelayedRound(
            _task_in(answer.task),
            answer.manifest,
            tuple(answer.sigs),
            summary_in(answer.summary),
            answer.contributed,
        )

    async def contribute(
        self,
        round_id: bytes,
        header: bytes,
        boxes: Sequence[bytes],
        proof: Proof | None = None,
    ) -> None:
        """One report; equal bytes again are the same report. `proof`: of consent, where the
        service stands under a policy."""
        message = rounds_pb2.ContributeRequest(round_id=round_id, header=header, boxes=boxes)
        if proof is not None:
            message.consent.salt, message.consent.seq = proof.salt, proof.seq
        await self._transport.call(CONTRIBUTE, message, self._signer)

    async def result(self, round_id: bytes) -> RelayedResult:
        """What came of a round; RemoteError ROUND_UNKNOWN, RESULT_ABSENT."""
        message = rounds_pb2.GetResultRequest(round_id=round_id)
        answer = (await self._transport.call(GET_RESULT, message, self._signer)).message
        return RelayedResult(
            answer.result,
            {row.party: row.sig for row in answer.sigs},
            tuple(GivenUp(row.party, row.statement, row.sig) for row in answer.abandonments),
        )


def _task_in(row: rounds_pb2.SignedTask) -> SignedTask:
    return SignedTask(row.task, row.sig, row.publisher)


def summary_in(row: rounds_pb2.RoundSummary) -> RoundSummary:
    """A summary as it travelled."""
    return RoundSummary(row.round_id, row.open_ms, row.close_ms, state_of(row.state))


def state_of(state: rounds_pb2.RoundState.ValueType) -> RoundState:
    """A state as it travelled."""
    return _STATES.get(state, RoundState.UNKNOWN)
