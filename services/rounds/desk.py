"""What every handler of the relay has at hand."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from rookery.v1 import rounds_pb2
from services.call import SignedCall, Signer
from services.errors import Malformed
from services.policy.current import CurrentPolicy
from services.rounds.forms import ROUND_ID_BYTES, Round, read_round
from services.store.errors import RoundUnknown
from services.store.rounds import HeldRound, Phase, RoundStore, Standing, TaskRow
from services.sync.desk import Desk

_ROUNDS_CACHED = 256


@dataclass(slots=True)
class RoundDesk:
    """The sync half's desk, the policy in force, and the rounds in use: parsed once, they never
    change."""

    desk: Desk
    policy: CurrentPolicy
    _cached: OrderedDict[bytes, Round] = field(default_factory=OrderedDict)

    @property
    def store(self) -> RoundStore:
        """Where tasks and rounds are kept."""
        return self.desk.store.rounds

    def info_field(self, call: Signer) -> bytes:
        """The field `info = 1` of every answer."""
        return self.desk.info_field(call.tip.chain.seq if isinstance(call, SignedCall) else 0)

    async def held(self, round_id: bytes) -> HeldRound:
        """The round as it stands. Malformed, RoundUnknown."""
        if len(round_id) != ROUND_ID_BYTES:
            raise Malformed("round_id")
        found = await self.store.find_round(round_id)
        if found is None:
            raise RoundUnknown("no such round")
        return found

    async def round(self, round_id: bytes) -> Round:
        """What never changes of it: it may be gone by now. Malformed, RoundUnknown."""
        found = self._cached.get(round_id)
        if found is None:
            held = await self.held(round_id)
            found = read_round(held.row, held.task)
            self._cached[round_id] = found
            if len(self._cached) > _ROUNDS_CACHED:
                self._cached.popitem(last=False)
        return found


def signed_task(row: TaskRow) -> rounds_pb2.SignedTask:
    """A task as it travels."""
    return rounds_pb2.SignedTask(task=row.task, sig=row.sig, publisher=row.publisher)


def summary(
    round_id: bytes, open_ms: int, until_ms: int, standing: Standing, now_ms: int
) -> rounds_pb2.RoundSummary:
    """Where a round stands at this time, as it travels."""
    return rounds_pb2.RoundSummary(
        round_id=round_id,
        open_ms=open_ms,
        close_ms=until_ms,
        state=STATES[Phase.of(open_ms, until_ms, standing, now_ms)],
    )


STATES = {
    Phase.ANNOUNCED: rounds_pb2.ROUND_STATE_ANNOUNCED,
    Phase.OPEN: rounds_pb2.ROUND_STATE_OPEN,
    Phase.CLOSED: rounds_pb2.ROUND_STATE_CLOSED,
    Phase.DONE: rounds_pb2.ROUND_STATE_DONE,
    Phase.ABANDONED: rounds_pb2.ROUND_STATE_ABANDONED,
    Phase.EXPIRED: rounds_pb2.ROUND_STATE_EXPIRED,
}
