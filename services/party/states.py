"""The states of a round at one party (docs/aggregation.md, 9), as data and pure functions.

It may not know of clocks, files, peers or jobs: what happened is an event, what time it is and
who is reachable are arguments, and what is due comes out as a step. Its functions are the only
way from one state to another; whoever calls them stores what they return before acting on it.

What is fixed once is fixed for good: the set of reports, the verdicts, and this party's noise,
which is drawn for all parties at once and never for some of them. So whatever is opened,
however often and by whomever, is one sum with one noise of every honest party in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, IntEnum, StrEnum
from types import MappingProxyType
from typing import Final

from crypto.shares import check_parties
from mpc.manifest import quorum


class State(IntEnum):
    """How far a round is. Only ever goes up; ABANDONED can follow each but SIGNED."""

    OPEN = 1
    """Boxes are taken in."""
    CLOSED = 2
    """The window is over and this party's share rows are fixed."""
    VERIFIED = 3
    """All parties agreed on the reports and on which of them are valid, and this one holds a
    share of the noise of all."""
    SUMMED = 4
    """It holds its share of the sum of the valid reports."""
    NOISED = 5
    """The opening is entered in its ledger: a share of the noised sum may leave."""
    OPENED = 6
    """It knows the noised sum and signed the result."""
    SIGNED = 7
    """Enough parties signed one result. Ended."""
    ABANDONED = 8
    """Ended without a result, for a reason that this party signed."""

    @property
    def ended(self) -> bool:
        """Nothing follows."""
        return self in (State.SIGNED, State.ABANDONED)


class Reason(StrEnum):
    """Why a round was abandoned."""

    PARTY_MISSING = "party_missing"
    """Retention ended while a party that was needed was not there."""
    PARTY_GAVE_UP = "party_gave_up"
    """A party that is needed said, and signed, that it abandoned the round."""
    TOO_FEW = "too_few_valid"
    """Fewer valid reports than k_min; nothing was opened."""
    SET_DISAGREED = "set_disagreed"
    """A party signed another set of reports than follows from what it said."""
    OPENING_REFUSED = "opening_refused"
    """Shares of an opening lie on no polynomial, or verdicts differ: a party lied."""
    BUDGET = "budget"
    """The cap of the task or of this party would be passed, or the window was opened before."""
    POLICY = "policy"
    """The policy in force does not declare the task any more, or has stopped it."""
    RETENTION = "retention"
    """Retention ended for another cause than a missing party."""


class Step(Enum):
    """What is due."""

    INGEST = "ingest"
    WAIT = "wait"
    AGREE = "agree"
    VERIFY = "verify"
    SUM = "sum"
    NOISE = "noise"
    OPEN = "open"
    SIGN = "sign"
    ABANDON = "abandon"
    NOTHING = "nothing"


class Event(Enum):
    """What happened, durably, at this party."""

    INGESTED = "ingested"
    AGREED = "agreed"
    VERIFIED = "verified"
    SUMMED = "summed"
    NOISED = "noised"
    OPENED = "opened"
    SIGNED = "signed"
    LEARNED = "learned"
    """Others ended the round, and this party holds their signatures."""
    ABANDONED = "abandoned"


TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = MappingProxyType({
    (State.OPEN, Event.INGESTED): State.CLOSED,
    (State.CLOSED, Event.AGREED): State.CLOSED,
    (State.CLOSED, Event.VERIFIED): State.VERIFIED,
    (State.VERIFIED, Event.SUMMED): State.SUMMED,
    (State.SUMMED, Event.NOISED): State.NOISED,
    (State.NOISED, Event.OPENED): State.OPENED,
    # Again, with a party that missed the end of it.
    (State.OPENED, Event.OPENED): State.OPENED,
    (State.OPENED, Event.SIGNED): State.SIGNED,
    **{(state, Event.LEARNED): State.SIGNED for state in State if not state.ended},
    **{(state, Event.ABANDONED): State.ABANDONED for state in State if not state.ended},
})  # fmt: skip
"""What may follow what. Everything else is IllegalTransition."""


class Trouble(Enum):
    """What can go wrong that a party meets (a device that drops out is none)."""

    PARTY_DOWN = "party_down"
    PARTY_GAVE_UP = "party_gave_up"
    PARTY_LIED = "party_lied"
    SET_DIFFERS = "set_differs"
    OTHER_MANIFEST = "other_manifest"
    BAD_REPORT = "bad_report"
    RELAY_MIXED = "relay_mixed"


class Answer(Enum):
    """What is done about it."""

    WAIT = "wait"
    WITHOUT = "without"
    """Go on without the party, if enough are left."""
    REFUSE = "refuse"
    """Don't do what was asked; the round goes on as it was."""
    DROP = "drop"
    """Drop and count the report; the others are unaffected."""
    ABANDON = "abandon"


_BEFORE = (State.OPEN, State.CLOSED)
_AFTER = (State.VERIFIED, State.SUMMED, State.NOISED, State.OPENED)
ANSWERS: Final[Mapping[tuple[Trouble, State], Answer]] = MappingProxyType({
    **{(Trouble.PARTY_DOWN, state): Answer.WAIT for state in _BEFORE},
    **{(Trouble.PARTY_DOWN, state): Answer.WITHOUT for state in _AFTER},
    # Until VERIFIED every party is needed, and this one will not come.
    **{(Trouble.PARTY_GAVE_UP, state): Answer.ABANDON for state in _BEFORE},
    **{(Trouble.PARTY_GAVE_UP, state): Answer.WITHOUT for state in _AFTER},
    **{(Trouble.PARTY_LIED, state): Answer.ABANDON for state in _BEFORE + _AFTER},
    **{(Trouble.SET_DIFFERS, state): Answer.ABANDON for state in _BEFORE},
    # The set is signed by all; who signs another one now proves a lie, and changes nothing.
    **{(Trouble.SET_DIFFERS, state): Answer.REFUSE for state in _AFTER},
    **{(Trouble.OTHER_MANIFEST, state): Answer.REFUSE for state in State},
    **{(Trouble.BAD_REPORT, state): Answer.DROP for state in _BEFORE},
    **{(Trouble.RELAY_MIXED, state): Answer.DROP for state in _BEFORE},
})  # fmt: skip
"""docs/aggregation.md, 9, for every state in which the trouble can arise."""


class IllegalTransition(Exception):
    """The event can't happen in that state; whoever raised it has a defect."""

    def __init__(self, state: State, event: Event, why: str = "") -> None:
        super().__init__(f"{event.name} can't follow {state.name}" + (f": {why}" if why else ""))
        self.state = state
        self.event = event


@dataclass(frozen=True, slots=True)
class Terms:
    """What the manifest, the task and the settings fix. Milliseconds of wall-clock time."""

    m: int
    t: int
    me: int
    """This party's number, 1..m."""
    until_ms: int
    """Boxes come in before it: the window's end and the task's grace."""
    retain_until_ms: int
    k_min: int
    patience_ms: int = 0
    """How long a party that is down after VERIFIED is waited for."""

    def __post_init__(self) -> None:
        check_parties(self.m, self.t)
        if not 1 <= self.me <= self.m:
            raise ValueError("this party must be one of the m")
        if self.until_ms >= self.retain_until_ms:
            raise ValueError("retention must end after the window")

    @property
    def everyone(self) -> frozenset[int]:
        """All parties, 1..m."""
        return frozenset(range(1, self.m + 1))

    @property
    def quorum(self) -> int:
        """How many parties an opening and a result need."""
        return quorum(self.m, self.t)


@dataclass(frozen=True, slots=True)
class Progress:
    """One round at one party. Immutable; the functions below make the next one."""

    state: State = State.OPEN
    agreed: bytes | None = None
    """Digest of the set that all parties signed."""
    valid: int | None = None
    verified_ms: int | None = None
    reason: Reason | None = None


def _moved(progress: Progress, event: Event) -> State:
    try:
        return TRANSITIONS[progress.state, event]
    except KeyError:
        raise IllegalTransition(progress.state, event) from None


def ingested(progress: Progress, terms: Terms, now_ms: int) -> Progress:
    """Every box was taken in, and no more can come."""
    state = _moved(progress, Event.INGESTED)
    if now_ms < terms.until_ms:
        raise IllegalTransition(progress.state, Event.INGESTED, "boxes can still come")
    return replace(progress, state=state)


def agreed(progress: Progress, set_digest: bytes) -> Progress:
    """All parties signed this set. Again with the same digest is no change."""
    state = _moved(progress, Event.AGREED)
    if progress.agreed not in (None, set_digest):
        raise IllegalTransition(progress.state, Event.AGREED, "another set was signed")
    return replace(progress, state=state, agreed=set_digest)


def verified(progress: Progress, valid: int, now_ms: int) -> Progress:
    """The verdicts over the agreed set are known, and a share of everybody's noise is held."""
    state = _moved(progress, Event.VERIFIED)
    if progress.agreed is None:
        raise IllegalTransition(progress.state, Event.VERIFIED, "no set was agreed on")
    return replace(progress, state=state, valid=valid, verified_ms=now_ms)


def summed(progress: Progress, terms: Terms) -> Progress:
    """The valid rows were added up; never for fewer than k_min."""
    state = _moved(progress, Event.SUMMED)
    if progress.valid is None or progress.valid < terms.k_min:
        raise IllegalTransition(progress.state, Event.SUMMED, "fewer valid than k_min")
    return replace(progress, state=state)


def noised(progress: Progress) -> Progress:
    """The opening is in the ledger."""
    return replace(progress, state=_moved(progress, Event.NOISED))


def opened(progress: Progress) -> Progress:
    """The noised sum is known, and the result signed by this party."""
    return replace(progress, state=_moved(progress, Event.OPENED))


def signed(progress: Progress, terms: Terms, signers: frozenset[int]) -> Progress:
    """Enough parties signed the result that this one holds."""
    state = _moved(progress, Event.SIGNED)
    if len(signers & terms.everyone) < terms.quorum or terms.me not in signers:
        raise IllegalTransition(progress.state, Event.SIGNED, "too few signatures")
    return replace(progress, state=state)


def learned(progress: Progress, terms: Terms, signers: frozenset[int]) -> Progress:
    """A result that as many parties signed as could have opened it."""
    state = _moved(progress, Event.LEARNED)
    if len(signers & terms.everyone) < terms.quorum:
        raise IllegalTransition(progress.state, Event.LEARNED, "too few signatures")
    return replace(progress, state=state)


def abandoned(progress: Progress, reason: Reason) -> Progress:
    """Ended without a result. Again is no change, and the first reason stands."""
    if progress.state is State.ABANDONED:
        return progress
    return replace(progress, state=_moved(progress, Event.ABANDONED), reason=reason)


@dataclass(frozen=True, slots=True)
class Due:
    """What to do now, with whom; `reason` only for ABANDON."""

    step: Step
    parties: frozenset[int] = frozenset()
    reason: Reason | None = None


def due(
    progress: Progress,
    terms: Terms,
    *,
    now_ms: int,
    alive: frozenset[int],
    gave_up: frozenset[int] = frozenset(),
) -> Due:
    """What is due at this time, when these parties (this one included) can be reached, and
    these others have signed that they abandoned the round."""
    gave_up = (gave_up & terms.everyone) - {terms.me}
    alive = ((alive & terms.everyone) | {terms.me}) - gave_up
    if progress.state.ended:
        return Due(Step.NOTHING)
    if now_ms >= terms.retain_until_ms:
        return Due(Step.ABANDON, reason=_overdue(progress, terms, alive))
    if gave_up and _needs(progress, terms) > terms.m - len(gave_up):
        return Due(Step.ABANDON, reason=Reason.PARTY_GAVE_UP)
    match progress.state:
        case State.OPEN:
            return Due(Step.INGEST)
        case State.CLOSED:
            if alive != terms.everyone:
                return Due(Step.WAIT)
            return Due(Step.AGREE if progress.agreed is None else Step.VERIFY, alive)
        case State.VERIFIED:
            if progress.valid is None or progress.valid < terms.k_min:
                return Due(Step.ABANDON, reason=Reason.TOO_FEW)
            return Due(Step.SUM)
        case State.SUMMED:
            return Due(Step.NOISE)
        case State.NOISED:
            if alive != terms.everyone and not impatient(progress, terms, now_ms):
                return Due(Step.WAIT)
            # Each of them holds a share of the whole noised sum, the noise of who left included.
            return Due(Step.OPEN, alive) if len(alive) >= terms.quorum else Due(Step.WAIT)
        case _:
            return Due(Step.SIGN, alive)


def _needs(progress: Progress, terms: Terms) -> int:
    return terms.m if progress.state < State.VERIFIED else terms.quorum


def _overdue(progress: Progress, terms: Terms, alive: frozenset[int]) -> Reason:
    missing = len(alive) < _needs(progress, terms)
    return Reason.PARTY_MISSING if missing else Reason.RETENTION


def impatient(progress: Progress, terms: Terms, now_ms: int) -> bool:
    """Whether parties that are missing have been waited for long enough."""
    return progress.verified_ms is not None and now_ms >= progress.verified_ms + terms.patience_ms
