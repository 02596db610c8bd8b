"""services/party/store.py: what was written once stays, and a killed process goes on."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from crypto.policy import Bundle
from mpc.budget import OpenedBefore, OverBudget
from services.party import items, states
from services.party.config import PartyConfig
from services.party.items import Rewritten
from services.party.reports import Report
from services.party.retention import Keeping
from services.party.schema import MIGRATIONS
from services.party.states import Reason, State
from services.party.store import PartyStore
from services.store.errors import RoundClosed, RoundConflict, RoundUnknown, StoreUnavailable
from tests import policy_samples
from tests.party_store_child import REPORTS, TERMS, WINDOW
from tests.relay_worlds import task
from tests.service_process import environment

ROUND = WINDOW.round_id


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "party.db"


@pytest.fixture
def store(path: Path) -> Iterator[PartyStore]:
    opened = PartyStore.open(path)
    yield opened
    opened.close()


@pytest.fixture
def open_round(store: PartyStore) -> PartyStore:
    store.prepare(WINDOW, b"k" * 32)
    store.accept(ROUND, b"manifest", b"d" * 32, b"m" * 64)
    return store


def close(store: PartyStore) -> None:
    store.advance(ROUND, lambda p: states.ingested(p, TERMS, 10))


def test_the_box_key_is_made_once_and_given_again(store: PartyStore) -> None:
    assert store.prepare(WINDOW, b"k" * 32) == b"k" * 32
    assert store.prepare(WINDOW, b"x" * 32) == b"k" * 32
    assert "kkk" not in repr(store.round(ROUND))


@pytest.mark.parametrize(
    "other",
    [
        replace(WINDOW, close_ms=11),
        replace(WINDOW, round_id=b"q" * 16),
        replace(WINDOW, round_id=b"q" * 16, open_ms=9, close_ms=20),
    ],
)
def test_a_second_round_in_a_window_is_refused(store: PartyStore, other: object) -> None:
    store.prepare(WINDOW, b"k" * 32)
    store.accept(ROUND, b"manifest", b"d" * 32, b"m" * 64)
    with pytest.raises(RoundConflict):
        store.prepare(other, b"k" * 32)  # type: ignore[arg-type]


def test_a_round_that_was_only_prepared_is_in_nobody_s_way(store: PartyStore) -> None:
    """A publisher whose first attempt failed begins another one; one of them is signed."""
    store.prepare(WINDOW, b"k" * 32)
    store.prepare(replace(WINDOW, round_id=b"q" * 16), b"l" * 32)
    store.accept(b"q" * 16, b"manifest", b"d" * 32, b"m" * 64)
    with pytest.raises(RoundConflict):
        store.accept(ROUND, b"other", b"e" * 32, b"m" * 64)


def test_the_next_window_and_other_tasks_are_free(store: PartyStore) -> None:
    store.prepare(WINDOW, b"k" * 32)
    store.prepare(replace(WINDOW, round_id=b"a" * 16, open_ms=10, close_ms=20), b"k" * 32)
    store.prepare(replace(WINDOW, round_id=b"b" * 16, spec_hash=b"t" * 32), b"k" * 32)
    for name in (b"a", b"b", b"r"):
        store.accept(name * 16, b"manifest " + name, name * 32, b"m" * 64)
    assert [round_id[:1] for round_id in store.to_do()] == [b"r", b"b", b"a"]


def test_one_manifest_is_signed_for_a_round(open_round: PartyStore) -> None:
    """An old manifest, or another one for the same window, gets no signature."""
    open_round.accept(ROUND, b"manifest", b"d" * 32, b"m" * 64)
    with pytest.raises(RoundConflict):
        open_round.accept(ROUND, b"other", b"e" * 32, b"m" * 64)
    with pytest.raises(RoundUnknown):
        open_round.accept(b"x" * 16, b"manifest", b"d" * 32, b"m" * 64)
    assert open_round.round(ROUND).manifest == b"manifest"


def test_the_first_of_an_id_or_nullifier_stands_and_the_rest_are_counted(
    open_round: PartyStore,
) -> None:
    replayed_id = REPORTS[0]._replace(nullifier=b"n" * 32, report_hash=b"h" * 32)
    replayed_nullifier = REPORTS[1]._replace(report_id=b"i" * 16)
    new = open_round.add_batch(
        ROUND, cursor=b"1", reports=[*REPORTS[:3], replayed_id, replayed_nullifier, REPORTS[2]],
        refused={"length": 2}, reports_max=99,
    )  # fmt: skip
    assert new == 3
    assert open_round.refused(ROUND) == {
        "length": 2, "replayed-nullifier": 1, "replayed-id": 2,
    }  # fmt: skip
    held = [one.report_hash for one in open_round.reports(ROUND)]
    assert held == [r.report_hash for r in REPORTS[:3]]


def placed(*numbers: int) -> list[Report]:
    """Reports as a relay that gives positions sends them: number n at n + 1."""
    return [REPORTS[number]._replace(position=number + 1) for number in numbers]


def take(store: PartyStore, reports: list[Report]) -> None:
    store.add_batch(ROUND, cursor=b"c", reports=reports, refused={}, reports_max=100)


def test_an_erased_report_leaves_neither_name_nor_row(path: Path) -> None:
    """Not in the file and not in its log; what lies beside it stays where it was."""
    store = PartyStore.open(path)
    store.prepare(WINDOW, b"k" * 32)
    store.accept(ROUND, b"manifest", b"d" * 32, b"m" * 64)
    marked = [Report(bytes((n, 255)) * 8, bytes((n, 254)) * 16, bytes((n, 253)) * 16,
                     bytes((n, 252)) * 40, n) for n in range(1, 5)]  # fmt: skip
    take(store, marked[:2])
    take(store, marked[2:])
    assert store.erase(ROUND, [2, 3, 9]) == 2
    assert store.erase(ROUND, [2, 3]) == 0
    assert [one.report_hash for one in store.reports(ROUND)] == [
        marked[0].report_hash, marked[3].report_hash,
    ]  # fmt: skip
    assert store.batch(ROUND, 1).rows == bytes(marked[0].row) + bytes(80)
    assert store.batch(ROUND, 2).rows == bytes(80) + bytes(marked[3].row)
    left = b"".join(file.read_bytes() for file in sorted(path.parent.glob("party.db*")))
    for gone in marked[1:3]:
        assert not any(bytes(part) in left for part in gone[:4])
    assert all(bytes(part) in left for part in marked[0][:4])
    store.close()


def test_nothing_is_erased_once_others_were_told_of_it(open_round: PartyStore) -> None:
    """They may have signed the set: it goes with the round, and not before."""
    take(open_round, placed(0, 1))
    close(open_round)
    assert open_round.may_erase(ROUND)
    assert open_round.erase(ROUND, [1]) == 1
    open_round.put(ROUND, items.TOLD, b"1")
    assert not open_round.may_erase(ROUND)
    assert open_round.erase(ROUND, [2]) == 0
    assert len(open_round.reports(ROUND)) == 1


def test_a_relay_that_counts_anew_is_believed_anew(open_round: PartyStore) -> None:
    """After it was restored, another report may stand where one was; what is held and comes
    again is no replay, and is placed anew."""
    take(open_round, placed(0, 1))
    open_round.start_over(ROUND)
    assert open_round.erase(ROUND, [1]) == 0
    take(open_round, [REPORTS[1]._replace(position=1), REPORTS[2]._replace(position=2)])
    assert open_round.erase(ROUND, [1]) == 1
    held = [one.report_hash for one in open_round.reports(ROUND)]
    assert held == [REPORTS[0].report_hash, REPORTS[2].report_hash]
    assert open_round.refused(ROUND) == {}


def test_no_more_reports_are_taken_in_than_the_task_allows(open_round: PartyStore) -> None:
    """With more of them a sum could leave the field, whatever the relay sends."""
    for _ in range(2):
        open_round.add_batch(ROUND, cursor=b"1", reports=REPORTS, refused={}, reports_max=12)
    assert len(open_round.reports(ROUND)) == 12
    assert open_round.refused(ROUND) == {"surplus": 16, "replayed-id": 12}


def test_a_relay_that_starts_over_adds_nothing(open_round: PartyStore) -> None:
    """And what it repeats is no replay; another report under a held id still is. What it
    refuses again counts once."""
    open_round.add_batch(
        ROUND, cursor=b"1", reports=REPORTS[:9], refused={"open": 3}, reports_max=99
    )
    open_round.start_over(ROUND)
    assert open_round.round(ROUND).cursor == b""
    swapped = REPORTS[0]._replace(report_hash=b"h" * 32)
    new = open_round.add_batch(
        ROUND, cursor=b"2", reports=[*REPORTS, swapped], refused={"open": 3}, reports_max=99
    )
    assert new == 11
    assert open_round.refused(ROUND) == {"open": 3, "replayed-id": 1}
    assert open_round.round(ROUND).cursor == b"2"


@given(st.lists(st.integers(0, 19), max_size=60), st.integers(1, 7))
@settings(max_examples=25, deadline=None)
def test_rows_come_back_as_they_were_whatever_the_batches(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], size: int
) -> None:
    store = PartyStore.open(tmp_path_factory.mktemp("rows") / "party.db")
    try:
        store.prepare(WINDOW, b"k" * 32)
        store.accept(ROUND, b"manifest", b"d" * 32, b"m" * 64)
        for start in range(0, len(order), size):
            reports = [REPORTS[n] for n in order[start : start + size]]
            store.add_batch(ROUND, cursor=b"", reports=reports, refused={}, reports_max=99)
        rows = {}
        held = store.reports(ROUND)
        for number in {one.batch for one in held}:
            batch = store.batch(ROUND, number)
            assert len(batch.rows) == 8 * batch.reports
            for row in range(batch.reports):
                rows[number, row] = batch.rows[8 * row : 8 * row + 8]
        found = [(one.report_hash, rows[one.batch, one.row]) for one in held]
        assert found == [(REPORTS[n].report_hash, REPORTS[n].row) for n in dict.fromkeys(order)]
        assert sum(store.refused(ROUND).values()) == len(order) - len(set(order))
    finally:
        store.close()


def test_nothing_comes_in_after_the_window(open_round: PartyStore) -> None:
    close(open_round)
    with pytest.raises(RoundClosed):
        open_round.add_batch(ROUND, cursor=b"", reports=REPORTS, refused={}, reports_max=99)


def test_what_was_written_once_can_only_be_written_again_the_same(
    open_round: PartyStore,
) -> None:
    open_round.put(ROUND, "opening:sum", b"bytes", party=2)
    open_round.put(ROUND, "opening:sum", b"bytes", party=2)
    with pytest.raises(Rewritten):
        open_round.put(ROUND, "opening:sum", b"other", party=2)
    assert open_round.by_party(ROUND, "opening:sum") == {2: b"bytes"}
    assert open_round.get(ROUND, "opening:sum") is None


def test_noise_is_drawn_once(open_round: PartyStore) -> None:
    first = open_round.once(ROUND, "noise", lambda: b"first")
    assert open_round.once(ROUND, "noise", lambda: b"second") == first == b"first"


def test_a_transition_and_what_it_was_made_of_are_one(open_round: PartyStore) -> None:
    """A conflict in the one undoes the other."""
    open_round.put(ROUND, "verdicts", b"old")
    with pytest.raises(Rewritten):
        open_round.advance(
            ROUND, lambda p: states.ingested(p, TERMS, 10), {("verdicts", 0): b"new"}
        )
    assert open_round.round(ROUND).progress.state is State.OPEN
    with pytest.raises(states.IllegalTransition):
        open_round.advance(ROUND, states.opened)


def test_a_sharing_is_made_again_in_place_of_the_first(open_round: PartyStore) -> None:
    for share in (b"first", b"second"):
        open_round.advance(ROUND, lambda p: p, {("sharing", 0): share}, instead_of=["sharing"])
    assert open_round.get(ROUND, "sharing") == b"second"


def test_the_end_of_a_round_destroys_its_keys_and_reports(
    open_round: PartyStore, path: Path
) -> None:
    """In the file and in its log: neither key, nor id, nor nullifier, nor row."""
    secret = Report(
        b"ID-OF-A-REPORT-X", b"NULLIFIER-OF-A-REPORT-XXXXXXXXXX", b"h" * 32, b"SHAREROW"
    )
    open_round.prepare(
        replace(WINDOW, round_id=b"z" * 16, open_ms=10, close_ms=20),
        b"BOX-KEY-OF-THE-ROUND-ABCDEFGHIJK",
    )
    for round_id in (ROUND, b"z" * 16):
        open_round.add_batch(
            round_id, cursor=b"", reports=[secret], refused={"length": 1},
            reports_max=9,
        )  # fmt: skip
        open_round.put(round_id, "noise", b"NOISE-OF-THIS-PARTY")
        open_round.put(round_id, "statement", b"signed words")
        open_round.advance(round_id, lambda p: states.abandoned(p, Reason.RETENTION))
        assert open_round.round(round_id).box_sk is None
        assert open_round.get(round_id, "statement") == b"signed words"
        assert open_round.refused(round_id) == {"length": 1}
        with pytest.raises(RoundClosed):
            open_round.reports(round_id)
    data = b"".join(file.read_bytes() for file in path.parent.iterdir())
    for trace in (b"ID-OF-A-REPORT", b"NULLIFIER-OF-A", b"SHAREROW", b"BOX-KEY-OF", b"NOISE-OF"):
        assert trace not in data


def test_the_schema_has_no_place_for_accounts_or_devices(
    open_round: PartyStore, path: Path
) -> None:
    with sqlite3.connect(path) as look:
        words = " ".join(
            sql for (sql,) in look.execute("SELECT sql FROM sqlite_master WHERE sql > ''")
        )
    assert "account" not in words
    assert "device" not in words


def test_a_window_is_spent_once_and_never_past_the_cap(open_round: PartyStore) -> None:
    open_round.spend(ROUND, micro_rho=6, cap_micro_rho=10)
    open_round.spend(ROUND, micro_rho=6, cap_micro_rho=10)
    with pytest.raises(OpenedBefore):
        open_round.spend(ROUND, micro_rho=5, cap_micro_rho=10)
    later = replace(WINDOW, round_id=b"l" * 16, open_ms=10, close_ms=20)
    open_round.prepare(later, b"k" * 32)
    open_round.accept(b"l" * 16, b"later", b"e" * 32, b"m" * 64)
    with pytest.raises(OverBudget) as refusal:
        open_round.spend(b"l" * 16, micro_rho=5, cap_micro_rho=10)
    assert refusal.value.left == 4
    open_round.spend(b"l" * 16, micro_rho=4, cap_micro_rho=10)
    # What others have opened is entered, whatever it comes to.
    open_round.spend(ROUND, micro_rho=6, cap_micro_rho=None)
    assert open_round.spent(WINDOW.spec_hash) == 10


def test_a_sweep_ends_what_was_never_signed_and_forgets_what_is_long_over(
    open_round: PartyStore,
) -> None:
    """A box key that nobody collected for goes with its window; spendings stay for ever."""
    later = replace(WINDOW, round_id=b"l" * 16, open_ms=10, close_ms=20)
    open_round.prepare(later, b"k" * 32)
    open_round.sweep(now_ms=19, history_ms=lambda _: 19)
    assert open_round.round(later.round_id).box_sk is not None
    open_round.sweep(now_ms=20, history_ms=lambda _: 20)
    assert open_round.round(later.round_id).box_sk is None
    assert open_round.round(ROUND).progress.state is State.OPEN
    open_round.spend(ROUND, micro_rho=6, cap_micro_rho=10)
    open_round.advance(ROUND, lambda p: states.abandoned(p, Reason.RETENTION))
    open_round.sweep(now_ms=99, history_ms=lambda _: 0)
    with pytest.raises(RoundUnknown):
        open_round.round(ROUND)
    assert open_round.spent(WINDOW.spec_hash) == 6


def test_spending_outlives_the_round(open_round: PartyStore, path: Path) -> None:
    """An abandoned round's window can be tried again only if it had not been opened."""
    open_round.spend(ROUND, micro_rho=6, cap_micro_rho=10)
    open_round.advance(ROUND, lambda p: states.abandoned(p, Reason.RETENTION))
    assert open_round.spent(WINDOW.spec_hash) == 6


def test_one_process_has_the_file(store: PartyStore, path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        PartyStore.open(path)
    assert path.stat().st_mode & 0o077 == 0


def test_a_newer_or_foreign_file_is_refused(tmp_path: Path) -> None:
    newer, foreign = tmp_path / "newer.db", tmp_path / "foreign.db"
    PartyStore.open(newer).close()
    with sqlite3.connect(newer) as change:
        change.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with sqlite3.connect(foreign) as change:
        change.execute("CREATE TABLE something (x)")
    for path in (newer, foreign):
        with pytest.raises(StoreUnavailable):
            PartyStore.open(path)


@pytest.mark.parametrize("side", [1, -1])
def test_killed_at_every_commit_a_round_ends_the_same(tmp_path: Path, side: int) -> None:
    """One noise leaves, each report counts once, and the budget is spent once."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.party_store_child", str(tmp_path), str(side)],
        env=environment(), cwd=Path(__file__).parent.parent, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) >= 14
    for point in range(1, int(child.stdout) + 1):
        said = (tmp_path / f"{point}.said").read_text().split()
        assert len(set(said)) == 2, "the word noise, and one noise"
        with sqlite3.connect(tmp_path / f"{point}.db") as look:
            assert look.execute("SELECT state, valid FROM round").fetchall() == [(State.SIGNED, 20)]
            assert look.execute("SELECT rule, boxes FROM refused").fetchall() == [("open", 4)]
            assert look.execute("SELECT sum(micro_rho) FROM ledger").fetchone() == (7,)


def test_nothing_is_overdue_after_a_sweep(open_round: PartyStore) -> None:
    """What is due is counted before it; a round that does not come to its end stays counted until
    its driver ends it."""
    later = replace(WINDOW, round_id=b"l" * 16, open_ms=10, close_ms=20)
    open_round.prepare(later, b"k" * 32)
    assert open_round.overdue(now_ms=19, history_ms=lambda _: 0) == {"boxes": 0, "results": 0}
    assert open_round.overdue(now_ms=20, history_ms=lambda _: 99)["boxes"] == 1
    open_round.sweep(now_ms=20, history_ms=lambda _: 99)
    assert open_round.overdue(now_ms=20, history_ms=lambda _: 99) == {"boxes": 0, "results": 0}
    assert open_round.overdue(now_ms=21, history_ms=lambda _: 0)["results"] == 1
    open_round.sweep(now_ms=21, history_ms=lambda _: 0)
    stuck_ms = open_round.round(ROUND).window.retain_until_ms
    assert open_round.overdue(now_ms=stuck_ms, history_ms=lambda _: 0) == {
        "boxes": 1, "results": 0,
    }  # fmt: skip
    open_round.advance(ROUND, lambda p: states.abandoned(p, Reason.RETENTION))
    open_round.sweep(now_ms=1 << 50, history_ms=lambda _: 0)
    assert open_round.overdue(now_ms=1 << 50, history_ms=lambda _: 0) == {"boxes": 0, "results": 0}


def test_a_party_keeps_what_its_settings_and_the_policy_both_let_it_keep() -> None:
    """By the task's own bound where that is the shortest, and never shorter than a result may
    have to be handed in."""
    config, made = PartyConfig(), policy_samples.bundle()
    published = task("app/region").encoded
    held: list[Bundle | None] = [None]
    keeping = Keeping(config, lambda: held[0])
    assert keeping.shares_ms == config.retention_ms
    assert keeping.history_ms(published) == config.history_ms
    days = replace(made.retention, boxes_days=1)
    held[0] = replace(made, retention=days)
    day_ms = 86_400_000
    assert keeping.shares_ms == min(day_ms, config.retention_ms)
    assert keeping.history_ms(published) == min(config.history_ms, 180 * day_ms)
    assert keeping.history_ms(task("other").encoded) == min(config.history_ms, 365 * day_ms)
    assert keeping.history_ms(b"no task") == min(config.history_ms, 365 * day_ms)
    rules = tuple(replace(one, result_days=1) for one in made.tasks)
    held[0] = replace(made, retention=days, tasks=rules)
    assert keeping.history_ms(published) == 2 * keeping.shares_ms
