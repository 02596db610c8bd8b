"""What a backend keeps of joint aggregates: tasks, rounds, sealed boxes, results.

The same promises as `services.store.base`: durable when a call returns, each call atomic,
positions allocated in the transaction that commits. The caller has checked form, sizes and
signatures; windows, conflicts and "once" are judged here, in the transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, Protocol

from crypto.ids import AccountId, DeviceId
from services.store.governance import ConsentClaim
from services.store.retention import Retention


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task as its publisher signed it."""

    task_id: bytes
    spec_hash: bytes
    publisher: bytes
    task: bytes
    sig: bytes


@dataclass(frozen=True, slots=True)
class RoundRow:
    """A round as its parties signed it. Its window is from `open_ms` to `close_ms`; with the
    task's grace, contributions are taken before `until_ms`."""

    round_id: bytes
    spec_hash: bytes
    manifest: bytes
    sigs: tuple[bytes, ...]
    parties: tuple[bytes, ...]
    """Identity keys, in the manifest's order."""
    open_ms: int
    close_ms: int
    until_ms: int


class Standing(NamedTuple):
    """What changes of a round."""

    sealed: bool
    """Takes no contributions any more, whatever the clock says."""
    over: bool
    """Its boxes go, or are gone."""
    has_result: bool
    abandoned: bool


class Phase(Enum):
    """Where a round is at a time, as its callers see it."""

    ANNOUNCED = "announced"
    OPEN = "open"
    CLOSED = "closed"
    """Takes no more contributions, and has no result yet."""
    DONE = "done"
    ABANDONED = "abandoned"
    EXPIRED = "expired"
    """Its boxes went before a result came."""

    @classmethod
    def of(cls, open_ms: int, until_ms: int, standing: Standing, now_ms: int) -> Phase:
        """The phase of a round that stands so, at this time."""
        if standing.has_result:
            return cls.DONE
        if standing.abandoned:
            return cls.ABANDONED
        if standing.over:
            return cls.EXPIRED
        if standing.sealed or now_ms >= until_ms:
            return cls.CLOSED
        return cls.OPEN if now_ms >= open_ms else cls.ANNOUNCED


class Summary(NamedTuple):
    """A round in a list."""

    round_id: bytes
    open_ms: int
    until_ms: int
    standing: Standing


@dataclass(frozen=True, slots=True)
class HeldRound:
    """A round with its task and where it stands."""

    row: RoundRow
    task: TaskRow
    standing: Standing


@dataclass(frozen=True, slots=True)
class Contribution:
    """One report: for each party the field `boxes` of its `StreamBoxesResponse`, encoded."""

    round_id: bytes
    account_id: AccountId
    rows: tuple[bytes, ...]
    now_ms: int
    reports_max: int = 1 << 32
    """How many the task allows in a round."""
    consent: ConsentClaim | None = None
    """What must hold at the moment at which it is taken; None: nothing need."""


@dataclass(frozen=True, slots=True)
class BoxPage:
    """Boxes of one party after a position, encoded one by one."""

    rows: Sequence[bytes]
    position: int
    more: bool
    positions: Sequence[int] = ()
    """Of each box, its contribution's."""


@dataclass(frozen=True, slots=True)
class ResultRow:
    """What the parties signed. `result` is empty while there are only abandonments."""

    result: bytes
    sigs: Mapping[int, bytes]
    """Party (from 1) to signature."""
    abandonments: Mapping[int, tuple[bytes, bytes]]
    """Party to (statement, signature)."""


LOOKED_AT: Final = 8
"""So many of a task's last rounds are looked at for one with a result."""


class RoundStore(Protocol):
    """A backend's part for joint aggregates."""

    async def publish_task(self, row: TaskRow) -> bool:
        """False if it stands already. TaskConflict, QuotaExceeded("tasks")."""
        ...

    async def read_tasks(
        self, after: int, *, tasks_max: int, bytes_max: int
    ) -> tuple[Sequence[tuple[int, TaskRow]], bool]:
        """Tasks after a position with their positions, in the order of publication, at least
        one if there is one; and whether there are more."""
        ...

    async def find_task(self, spec_hash: bytes) -> TaskRow | None:
        """The task of this hash."""
        ...

    async def rounds_of(
        self, spec_hash: bytes, *, now_ms: int, rounds_max: int
    ) -> Sequence[Summary]:
        """Rounds of the task that take contributions, or will, by open_ms."""
        ...

    async def newest_result(self, spec_hash: bytes, *, now_ms: int) -> bytes | None:
        """The id of the task's round with the last window, of those that have a result and are
        held; None if there is none among the last `LOOKED_AT` whose window is over."""
        ...

    async def list_rounds(self, skip: int, *, rounds_max: int) -> Sequence[HeldRound]:
        """Rounds that are held, of all tasks, by `until_ms` with the newest first; the first
        `skip` of them are left out."""
        ...

    async def tally(self, *, now_ms: int) -> Mapping[Phase, int]:
        """How many rounds are held in each phase; phases without one may be left out. Asked
        once a scrape of the metrics, so it may look at all of them."""
        ...

    async def collect_round(self, row: RoundRow) -> bool:
        """False if it stands already. TaskUnknown, RoundConflict, QuotaExceeded("rounds")."""
        ...

    async def find_round(self, round_id: bytes) -> HeldRound | None:
        """None if there is no such round, or no longer."""
        ...

    async def find_party(self, key_id: DeviceId) -> bytes | None:
        """The identity key with this id, if it is a party of any round that is held."""
        ...

    async def contribute(self, given: Contribution) -> bool:
        """False if the account has given the same bytes already. RoundUnknown, AccountAbsent,
        ConsentStale, ContributedAlready, RoundNotOpen, RoundClosed,
        QuotaExceeded("contributions"). What it claims of consent holds when it is taken: nothing
        comes behind a withdrawal that was followed by `take_back`."""
        ...

    async def has_contributed(self, round_id: bytes, account_id: AccountId) -> bool:
        """Whether a contribution of the account is held."""
        ...

    async def given_by(self, account_id: AccountId) -> Sequence[bytes]:
        """Ids of the rounds that hold a contribution of the account, or may."""
        ...

    async def take_back(self, round_id: bytes, account_id: AccountId, *, behind: int) -> bool:
        """Erases the account's contribution to a round; False if none is held. It can give
        another one, with an entry of consent that has a greater seq than `behind`.
        RoundUnknown, AccountAbsent."""
        ...

    async def seal_round(self, round_id: bytes) -> int:
        """No contribution is taken from now on; how many are held. RoundUnknown, RoundOver."""
        ...

    async def read_boxes(
        self, round_id: bytes, party: int, after: int, *, bytes_max: int
    ) -> BoxPage:
        """Boxes of a party (from 1) after a position, at least one if there is one.
        RoundUnknown, RoundOver."""
        ...

    async def erased(self, round_id: bytes) -> Sequence[int]:
        """Positions of all contributions whose accounts were deleted since, ascending. Nothing
        else of them is known any more: they are what is missing. RoundUnknown, RoundOver."""
        ...

    async def publish_result(
        self, round_id: bytes, result: bytes, sigs: Mapping[int, bytes], *, now_ms: int
    ) -> bool:
        """Keeps the result and drops the boxes. False if it stands already: then signatures
        are added. RoundUnknown, RoundNotClosed, ResultConflict."""
        ...

    async def abandon(
        self, round_id: bytes, party: int, statement: bytes, sig: bytes, *, quorum: int
    ) -> bool:
        """Keeps a party's abandonment; False if it stands already. Drops the boxes once fewer
        than `quorum` parties are left. RoundUnknown, ResultConflict."""
        ...

    async def find_result(self, round_id: bytes) -> ResultRow | None:
        """None if there is no such round, or no longer."""
        ...

    async def sweep(self, *, now_ms: int, retention: Retention) -> None:
        """Drops boxes whose retention is over, then results whose retention is."""
        ...

    async def overdue(self, *, now_ms: int, retention: Retention) -> Mapping[str, int]:
        """How many rounds have boxes (`boxes`) or stand at all (`results`) past it."""
        ...


__all__ = [
    "BoxPage", "Contribution", "HeldRound", "Phase", "ResultRow", "RoundRow", "RoundStore",
    "Standing", "Summary", "TaskRow",
]  # fmt: skip
