"""services/party/ending.py: one result, whoever opened it with whom, and how it is taken over."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crypto import labels
from crypto.errors import FormatError, SignatureError
from mpc import result as results
from mpc.result import Counted, RoundResult, Sums
from services.call import Clock
from services.party import states
from services.party.assignment import Assignment
from services.party.config import PartyConfig
from services.party.ending import Ending, reply
from services.party.host import Host
from services.party.jobs import Jobs
from services.party.messages import Abandoned, Have, Ready, Signed
from services.party.metrics import PartyMetrics
from services.party.parley import Parley
from services.party.records import Window
from services.party.states import Reason, State, Terms
from services.party.store import PartyStore
from services.party.turns import Turns
from services.spans import NO_TRACES
from services.telemetry import Telemetry, configure
from tests.mpc_samples import manifest, party, task

TASK = task(k_min=2)
MANIFEST = manifest(TASK)
ROUND = MANIFEST.round_id
SUMS = list(range(TASK.kind.d))
COUNTED = Counted(10, 1, 2, ({"open": 1}, {}, {}))


class Scene:
    """Party 1, at a round of three that it is about to open."""

    def __init__(self, path: Path) -> None:
        self.store = PartyStore.open(path)
        window = Window(
            round_id=ROUND, spec_hash=TASK.spec_hash, open_ms=MANIFEST.open_ms,
            close_ms=MANIFEST.close_ms, retain_until_ms=1 << 60, task=TASK.encoded,
            task_sig=bytes(64), publisher=bytes(32),
        )  # fmt: skip
        self.store.prepare(window, bytes(range(32)))
        self.store.accept(ROUND, MANIFEST.encoded, MANIFEST.digest, bytes(64))
        terms = Terms(m=3, t=1, me=1, until_ms=MANIFEST.close_ms, retain_until_ms=1 << 60, k_min=2)
        assignment = Assignment(MANIFEST, TASK, terms, None, party(1))
        self.log = io.StringIO()
        parley = Parley(
            assignment.others, say=lambda ik, message: True, up=lambda: frozenset(), tick_s=1,
            monotonic_s=time.monotonic,
        )  # fmt: skip
        no_relay: Any = None
        host = Host(
            config=PartyConfig(task_micro_rho_max=1 << 60),
            store=self.store,
            key=party(1),
            relay=no_relay,
            jobs=Jobs(lambda *_: True),
            turns=Turns(1, expires_s=9, monotonic_s=time.monotonic),
            telemetry=Telemetry(configure("info", "json", self.log)),
            metrics=PartyMetrics(),
            tracer=NO_TRACES,
            clock=Clock.system(),
            say=lambda *_: True,
            stops=lambda *_: None,
            up=lambda: frozenset(),
        )
        self.ending = Ending(host, assignment, parley)
        for step in (
            lambda p: states.ingested(p, terms, terms.until_ms),
            lambda p: states.agreed(p, bytes(32)),
            lambda p: states.verified(p, 7, 0),
            lambda p: states.summed(p, terms),
            states.noised,
        ):
            self.store.advance(ROUND, step)

    def state(self) -> State:
        """As it is stored."""
        return self.store.progress(ROUND).state

    def held(self) -> RoundResult:
        """The result that this party has."""
        said = self.ending.signed()
        assert said is not None
        return results.parse(said.result, TASK)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "party.db")
    yield made
    made.store.close()


def signed(by: tuple[int, ...], *, checked: bool = True, first: int = 0) -> Signed:
    """A result that these parties signed."""
    made = results.make(
        TASK, [first, *SUMS[1:]], COUNTED, noise_of=(1, 2, 3), checked=checked
    ).encode(TASK)
    sigs = {one: party(one).sign(labels.RESULT, MANIFEST.digest + made) for one in by}
    return Signed(made, sigs)


def test_an_opening_that_is_done_again_may_only_differ_in_what_was_checked(scene: Scene) -> None:
    """Two of three do it for one that missed it; other sums are a lie, and the first stand."""
    scene.ending.opened(SUMS, COUNTED, checked=True)
    scene.ending.opened(SUMS, COUNTED, checked=False)
    assert scene.held() == RoundResult(COUNTED, (1, 2, 3), False, Sums(tuple(SUMS)))
    scene.ending.opened([99, *SUMS[1:]], COUNTED, checked=True)
    assert scene.held().outcome == Sums(tuple(SUMS))
    assert "opened_otherwise" in scene.log.getvalue()
    said = scene.ending.signed()
    assert said is not None
    assert said == signed((1,), checked=False)


def test_a_result_counts_once_enough_have_signed_it(scene: Scene) -> None:
    """And all are waited for, for a while."""
    scene.ending.opened(SUMS, COUNTED, checked=True)
    scene.ending.hear_signed(signed((2,)))
    scene.ending.sign(everyone=True)
    assert scene.state() is State.OPENED
    scene.ending.sign(everyone=False)
    assert scene.state() is State.SIGNED
    mine = signed((1, 2))
    assert reply(scene.store, ROUND, Ready(1, 7, b"", b"")) == mine
    assert reply(scene.store, ROUND, Have(0, b"", {}, 0)) == mine
    assert reply(scene.store, ROUND, signed((1,))) == mine
    # Or two parties that have both ended would answer each other for ever.
    assert reply(scene.store, ROUND, mine) is None
    assert reply(scene.store, ROUND, Abandoned(b"", b"")) is None


def test_a_result_that_enough_signed_is_taken_over_and_entered_in_the_ledger(
    scene: Scene,
) -> None:
    """Also by a party that has opened another: it signs that one never."""
    scene.ending.opened(SUMS, COUNTED, checked=True)
    scene.ending.hear_signed(signed((2,), first=5))
    assert scene.state() is State.OPENED
    scene.ending.hear_signed(signed((2, 3), first=5))
    assert scene.state() is State.SIGNED
    assert scene.ending.signed() == signed((2, 3), first=5)
    assert scene.store.spent(TASK.spec_hash) == TASK.cost_micro_rho


def test_signatures_that_are_none_and_results_that_are_none_are_refused(scene: Scene) -> None:
    good = signed((2, 3))
    with pytest.raises(SignatureError):
        scene.ending.hear_signed(Signed(good.result, {2: good.sigs[3]}))
    with pytest.raises(SignatureError):
        scene.ending.hear_signed(Signed(good.result, {4: good.sigs[3]}))
    garbage = {one: party(one).sign(labels.RESULT, MANIFEST.digest + b"x") for one in (2, 3)}
    with pytest.raises(FormatError):
        scene.ending.hear_signed(Signed(b"x", garbage))
    assert scene.state() is State.NOISED


def test_who_gave_up_said_so_itself(scene: Scene) -> None:
    statement = b"words"
    sig = party(3).sign(labels.ABANDONMENT, MANIFEST.digest + statement)
    with pytest.raises(SignatureError):
        scene.ending.hear_abandoned(2, Abandoned(statement, sig))
    scene.ending.hear_abandoned(3, Abandoned(statement, sig))
    assert scene.ending.gave_up == {3}
    scene.ending.abandon(Reason.OPENING_REFUSED, opening="sum", party=2)
    assert scene.state() is State.ABANDONED
    said = reply(scene.store, ROUND, Ready(1, 7, b"", b""))
    assert isinstance(said, Abandoned)
    assert b"opening_refused" in said.statement
