"""The states of a round at one party (docs: aggregation, 4 and 7), as data and pure functions.

It may not know of clocks, files, peers or jobs: what happened is an event, what time it is and
who is reachable are arguments, and what is due comes out as a step. `apply` is the only way
from one state to another; the daemon stores what it returns before it acts on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, IntEnum, StrEnum
from types import MappingProxyType
from typing import Final

from mpc.manifest import quorum

PARTIES_MAX: Final = 16


class State(IntEnum):
    """How far a round is. Only ever goes up; ABANDONED can follow each but SIGNED."""

    OPEN = 1
    """Boxes are taken in."""
    CLOSED = 2
    """The window is over and this party's share rows are fixed."""
    VERIFIED = 3
    """All parties signed the same set of reports, and know which of them are valid."""
    SUMMED = 4
    NOISED = 5
    """This party holds a share of the noised sum, and noise of its own that it can't redraw."""
    OPENED = 6
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
    TOO_FEW = "too_few_valid"
    """Fewer valid reports than k_min; nothing was opened."""
    SET_DISAGREED = "set_disagreed"
    """A party signed two sets, or another one than it can have."""
    MANIFEST_REPLACED = "manifest_replaced"
    """Two manifests for one window of one task."""
    OPENING_REFUSED = "opening_refused"
    """Shares of an opening lie on no polynomial: a party lied."""
    BUDGET = "budget"
    """The cap of the task or of this party would be passed."""
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
    FIXED = "fixed"
    """The parties whose noise goes in were agreed on."""
    NOISED = "noised"
    REVEALED = "revealed"
    """From here on a share of the noised sum may have left."""
    OPENED = "opened"
    SIGNED = "signed"
    LEARNED = "learned"
    """Others ended the round without this party, and it holds their signatures."""
    ABANDONED = "abandoned"


TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = MappingProxyType({
    (State.OPEN, Event.INGESTED): State.CLOSED,
    (State.CLOSED, Event.AGREED): State.CLOSED,
    (State.CLOSED, Event.VERIFIED): State.VERIFIED,
    (State.VERIFIED, Event.SUMMED): State.SUMMED,
    (State.SUMMED, Event.FIXED): State.SUMMED,
    (State.SUMMED, Event.NOISED): State.NOISED,
    # A party of the fixed set was lost before anything could be opened: the rest start over.
    (State.NOISED, Event.FIXED): State.SUMMED,
    (State.NOISED, Event.REVEALED): State.NOISED,
    (State.NOISED, Event.OPENED): State.OPENED,
    (State.OPENED, Event.SIGNED): State.SIGNED,
    **{(state, Event.LEARNED): State.SIGNED for state in State if not state.ended},
    **{(state, Event.ABANDONED): State.ABANDONED for state in State if not state.ended},
})  # fmt: skip
"""What may follow what. Everything else is IllegalTransition."""


class Trouble(Enum):
    """The events of section 7 that a party meets (a device that drops out is none)."""

    PARTY_DOWN = "party_down"
    PARTY_LIED = "party_lied"
    SET_DIFFERS = "set_differs"
    OTHER_MANIFEST = "other_manifest"
    BAD_REPORT = "bad_report"
    RELAY_MIXED = "relay_mixed"


class Answer(Enum):
    """What section 7 says to it."""

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
SECTION_7: Final[Mapping[tuple[Trouble, State], Answer]] = MappingProxyType({
    **{(Trouble.PARTY_DOWN, state): Answer.WAIT for state in _BEFORE},
    **{(Trouble.PARTY_DOWN, state): Answer.WITHOUT for state in _AFTER},
    **{(Trouble.PARTY_LIED, state): Answer.ABANDON for state in _BEFORE + _AFTER},
    **{(Trouble.SET_DIFFERS, state): Answer.ABANDON for state in _BEFORE},
    # The set is signed by all; who signs another one now proves a lie, and changes nothing.
    **{(Trouble.SET_DIFFERS, state): Answer.REFUSE for state in _AFTER},
    **{(Trouble.OTHER_MANIFEST, state): Answer.REFUSE for state in State},
    **{(Trouble.BAD_REPORT, state): Answer.DROP for state in _BEFORE},
    **{(Trouble.RELAY_MIXED, state): Answer.DROP for state in _BEFORE},
})  # fmt: skip
"""Section 7 for every state in which the trouble can arise."""


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
    close_ms: int
    retain_until_ms: int
    k_min: int
    patience_ms: int = 0
    """How long a party that is down after VERIFIED is waited for."""

    def __post_init__(self) -> None:
        if not 2 * self.t < self.m <= PARTIES_MAX or self.t < 1 or not 1 <= self.me <= self.m:
            raise ValueError("m parties with 1 <= t < m/2, and this one among them")
        if self.close_ms >= self.retain_until_ms:
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
    """One round at one party. Immutable; `apply` makes the next one."""

    state: State = State.OPEN
    agreed: bytes | None = None
    """Digest of the set that all parties signed."""
    valid: int | None = None
    verified_ms: int | None = None
    present: frozenset[int] | None = None
    """Whose noise goes in."""
    revealed: bool = False
    """A share of the noised sum may have left: `present` is final."""
    reason: Reason | None = None


def _moved(progress: Progress, event: Event) -> State:
    try:
        return TRANSITIONS[progress.state, event]
    except KeyError:
        raise IllegalTransition(progress.state, event) from None


def ingested(progress: Progress, terms: Terms, now_ms: int) -> Progress:
    """Every box was taken in, and the window is over."""
    state = _moved(progress, Event.INGESTED)
    if now_ms < terms.close_ms:
        raise IllegalTransition(progress.state, Event.INGESTED, "the window is open")
    return replace(progress, state=state)


def agreed(progress: Progress, set_digest: bytes) -> Progress:
    """All parties signed this set. Again with the same digest is no change."""
    state = _moved(progress, Event.AGREED)
    if progress.agreed not in (None, set_digest):
        raise IllegalTransition(progress.state, Event.AGREED, "another set was signed")
    return replace(progress, state=state, agreed=set_digest)


def verified(progress: Progress, valid: int, now_ms: int) -> Progress:
    """The verdicts over the agreed set are known."""
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


def fixed(progress: Progress, terms: Terms, present: frozenset[int]) -> Progress:
    """These parties' noise goes in. Can shrink until something may have been revealed."""
    state = _moved(progress, Event.FIXED)
    if progress.revealed and progress.present == present:
        return progress
    if progress.revealed:
        raise IllegalTransition(progress.state, Event.FIXED, "a share of the sum has left")
    if terms.me not in present or not present <= terms.everyone:
        raise IllegalTransition(progress.state, Event.FIXED, "not parties of this round with me")
    if len(present) < terms.quorum:
        raise IllegalTransition(progress.state, Event.FIXED, "too few parties")
    if progress.present is not None and not present <= progress.present:
        raise IllegalTransition(progress.state, Event.FIXED, "parties can only be lost")
    if present == progress.present:
        return progress
    return replace(progress, state=state, present=present)


def noised(progress: Progress) -> Progress:
    """This party's share of the noised sum is on disk."""
    state = _moved(progress, Event.NOISED)
    if progress.present is None:
        raise IllegalTransition(progress.state, Event.NOISED, "nobody's noise was fixed")
    return replace(progress, state=state)


def revealed(progress: Progress) -> Progress:
    """Written before the first share of the noised sum leaves."""
    return replace(progress, state=_moved(progress, Event.REVEALED), revealed=True)


def opened(progress: Progress) -> Progress:
    """The noised sum is known, and was checked."""
    state = _moved(progress, Event.OPENED)
    if not progress.revealed:
        raise IllegalTransition(progress.state, Event.OPENED, "no share was given for it")
    return replace(progress, state=state)


def signed(progress: Progress, terms: Terms, signers: frozenset[int]) -> Progress:
    """Enough parties signed the same result."""
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


def due(progress: Progress, terms: Terms, *, now_ms: int, alive: frozenset[int]) -> Due:
    """What is due at this time, when these parties (this one included) can be reached."""
    alive = (alive & terms.everyone) | {terms.me}
    if progress.state.ended:
        return Due(Step.NOTHING)
    if now_ms >= terms.retain_until_ms:
        return Due(Step.ABANDON, reason=_overdue(progress, terms, alive))
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
            return _due_noise(progress, terms, now_ms, alive)
        case State.NOISED:
            return _due_opening(progress, terms, now_ms, alive)
        case _:
            return Due(Step.SIGN, alive)


def _overdue(progress: Progress, terms: Terms, alive: frozenset[int]) -> Reason:
    if progress.state < State.VERIFIED:
        missing = alive != terms.everyone
    else:
        missing = len(alive) < terms.quorum
    return Reason.PARTY_MISSING if missing else Reason.RETENTION


def _patient(progress: Progress, terms: Terms, now_ms: int) -> bool:
    return progress.verified_ms is not None and now_ms < progress.verified_ms + terms.patience_ms


def _due_noise(progress: Progress, terms: Terms, now_ms: int, alive: frozenset[int]) -> Due:
    wanted = terms.everyone if progress.present is None else progress.present
    here = wanted & alive
    if here == wanted:
        return Due(Step.NOISE, wanted)
    if len(here) < terms.quorum or _patient(progress, terms, now_ms):
        return Due(Step.WAIT)
    return Due(Step.NOISE, here)


def _due_opening(progress: Progress, terms: Terms, now_ms: int, alive: frozenset[int]) -> Due:
    assert progress.present is not None
    here = progress.present & alive
    if here != progress.present and _patient(progress, terms, now_ms):
        return Due(Step.WAIT)
    # Every one of them holds a share of the whole noised sum, the noise of who left included.
    return Due(Step.OPEN, here) if len(here) >= terms.quorum else Due(Step.WAIT)
