"""What a store keeps of joint aggregates: windows, "once", positions, retention, deletion."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from crypto.keys import device_id
from services.store.base import Limits, Store
from services.store.errors import (
    AccountAbsent,
    ConsentStale,
    ContributedAlready,
    QuotaExceeded,
    ResultConflict,
    RoundClosed,
    RoundConflict,
    RoundNotClosed,
    RoundNotOpen,
    RoundOver,
    RoundUnknown,
    TaskConflict,
    TaskUnknown,
)
from services.store.governance import ConsentClaim
from services.store.rounds import Phase, RoundRow, TaskRow
from services.store.sqlite import SqliteStore
from tests.governance_rows import append_consents
from tests.round_rows import (
    CLOSE_MS,
    OPEN_MS,
    UNTIL_MS,
    Round,
    collected,
    people,
    round_,
    rows,
    task,
)
from tests.store_worlds import DAY_MS, NOW_MS, Client, Factory


@pytest.fixture
async def held(store: Store) -> Round:
    """A round of a task, both stored."""
    return await collected(store)


async def test_a_task_stands_for_good(store: Store) -> None:
    """Equal bytes again are fine, other bytes under the id are refused, and there is a bound."""
    assert await store.rounds.publish_task(task())
    assert not await store.rounds.publish_task(task())
    changed = TaskRow(b"task", b"x" * 32, b"p" * 32, b"other cbor", b"s" * 64)
    other_publisher = TaskRow(b"task", task().spec_hash, b"q" * 32, task().task, b"s" * 64)
    for row in (changed, other_publisher):
        with pytest.raises(TaskConflict):
            await store.rounds.publish_task(row)
    assert await store.rounds.find_task(task().spec_hash) == task()
    assert await store.rounds.find_task(b"x" * 32) is None


async def test_tasks_are_bounded_and_read_page_by_page(store_factory: Factory) -> None:
    """In the order of publication, none twice, none left out, with any size of a page."""
    store = await store_factory(limits=Limits(tasks_max=5))
    tasks = [task(b"task %d" % number) for number in range(5)]
    for row in tasks:
        await store.rounds.publish_task(row)
    with pytest.raises(QuotaExceeded, match="tasks is 5"):
        await store.rounds.publish_task(task(b"one more"))
    for tasks_max, bytes_max in ((64, 1 << 20), (2, 1 << 20), (64, 1), (1, 1)):
        found: list[TaskRow] = []
        after, more = 0, True
        while more:
            page, more = await store.rounds.read_tasks(
                after, tasks_max=tasks_max, bytes_max=bytes_max
            )
            found += [row for _, row in page]
            after = page[-1][0]
        assert found == tasks


async def test_a_round_stands_for_good(held: Round) -> None:
    """Equal bytes again are fine; another manifest of its id or of its window is refused."""
    store = held.store.rounds
    assert not await store.collect_round(round_())
    changed = RoundRow(
        b"round".ljust(16, b"r"), round_().spec_hash, b"x", (), round_().parties,
        OPEN_MS, CLOSE_MS, UNTIL_MS,
    )  # fmt: skip
    inside = round_(b"inside", open_ms=OPEN_MS + 1, close_ms=OPEN_MS + 2, until_ms=OPEN_MS + 3)
    around = round_(b"around", open_ms=OPEN_MS - 1, close_ms=CLOSE_MS + 1, until_ms=UNTIL_MS)
    for row in (changed, inside, around, round_(b"same window")):
        with pytest.raises(RoundConflict):
            await store.collect_round(row)
    with pytest.raises(TaskUnknown):
        await store.collect_round(round_(b"orphan", of=b"nothing"))
    # The next window begins where this one ends, whatever grace this one has.
    assert await store.collect_round(
        round_(b"next", open_ms=CLOSE_MS, close_ms=CLOSE_MS + 60_000, until_ms=CLOSE_MS + 90_000)
    )
    found = await store.find_round(round_().round_id)
    assert found is not None
    assert (found.row, found.task) == (round_(), task())
    assert not any(found.standing)
    assert await store.find_party(device_id(b"B" * 32)) == b"B" * 32
    assert await store.find_party(device_id(b"D" * 32)) is None


async def test_rounds_that_take_contributions_are_listed(held: Round) -> None:
    """By open_ms, also those that are announced; not those that are sealed or closed."""
    store = held.store.rounds
    later = round_(b"later", open_ms=CLOSE_MS, close_ms=CLOSE_MS + 1, until_ms=CLOSE_MS + 2)
    await store.collect_round(later)

    async def listed(now_ms: int, rounds_max: int = 64) -> list[bytes]:
        found = await store.rounds_of(task().spec_hash, now_ms=now_ms, rounds_max=rounds_max)
        return [row.round_id for row in found]

    both = [round_().round_id, later.round_id]
    assert await listed(NOW_MS - DAY_MS) == both
    assert await listed(NOW_MS, rounds_max=1) == both[:1]
    assert await listed(UNTIL_MS) == []
    await store.seal_round(round_().round_id)
    assert await listed(NOW_MS) == both[1:]


async def test_rounds_are_counted_by_phase(held: Round) -> None:
    """Each in the phase that its callers see, also when it moves on."""
    store = held.store.rounds
    later = round_(b"later", open_ms=CLOSE_MS, close_ms=CLOSE_MS + 1, until_ms=CLOSE_MS + 2)
    await store.collect_round(later)

    async def counted(now_ms: int) -> dict[Phase, int]:
        tally = await store.tally(now_ms=now_ms)
        return {phase: count for phase, count in tally.items() if count}

    assert await counted(OPEN_MS) == {Phase.OPEN: 1, Phase.ANNOUNCED: 1}
    await store.seal_round(later.round_id)
    assert await counted(OPEN_MS) == {Phase.OPEN: 1, Phase.CLOSED: 1}
    await store.publish_result(round_().round_id, b"r", {1: b"1" * 64}, now_ms=UNTIL_MS)
    await store.abandon(later.round_id, 1, b"x", b"1" * 64, quorum=2)
    for _ in range(2):
        assert await counted(UNTIL_MS) == {Phase.DONE: 1, Phase.ABANDONED: 1}


async def test_a_contribution_counts_once(held: Round) -> None:
    """Equal bytes again are fine, others refused; each party reads its own in one order."""
    clients = await people(held.store, 3)
    for number, client in enumerate(clients):
        assert await held.give(client, rows(number))
    assert not await held.give(clients[0], rows(0))
    for other in (rows(9), rows(0)[:2] + rows(9)[2:], (rows(0)[0] + rows(0)[1], *rows(0)[2:])):
        with pytest.raises(ContributedAlready):
            await held.give(clients[0], other)
    # An equal one is also recognised once the window is over.
    assert not await held.give(clients[0], rows(0), UNTIL_MS + DAY_MS)
    for party in (1, 2, 3):
        assert await held.boxes(party) == [rows(number)[party - 1] for number in range(3)]
        assert await held.boxes(party, bytes_max=1) == await held.boxes(party)
        assert await held.boxes(party, after=2) == [rows(2)[party - 1]]
        assert await held.boxes(party, after=1 << 40) == []
    assert await held.store.rounds.has_contributed(held.row.round_id, clients[0].world.account_id)
    stranger = await Client.create(held.store, "stranger")
    assert not await held.store.rounds.has_contributed(held.row.round_id, stranger.world.account_id)


async def test_contributions_at_once_count_once(held: Round) -> None:
    """Twenty calls of each account in the same commit: one is new, all are answered."""
    clients = await people(held.store, 5)
    answers = await asyncio.gather(
        *(
            held.give(client, rows(number))
            for number, client in enumerate(clients)
            for _ in "x" * 20
        )
    )
    assert sum(answers) == 5
    assert sorted(await held.boxes(2)) == sorted(rows(number)[1] for number in range(5))


async def test_a_window_has_two_ends(held: Round) -> None:
    """Before it, after it, and at a round or by an account that is not there."""
    [client] = await people(held.store, 1)
    with pytest.raises(RoundNotOpen) as early:
        await held.give(client, rows(0), OPEN_MS - 1)
    assert early.value.open_ms == OPEN_MS
    with pytest.raises(RoundClosed) as late:
        await held.give(client, rows(0), UNTIL_MS)
    assert late.value.close_ms == UNTIL_MS
    with pytest.raises(RoundUnknown):
        await Round(held.store, round_(b"other")).give(client, rows(0))
    nobody = await Client.create(held.store, "nobody")
    await held.store.delete_account(nobody.world.account_id)
    with pytest.raises(AccountAbsent):
        await held.give(nobody, rows(0))
    assert await held.give(client, rows(0), UNTIL_MS - 1)


async def test_nothing_comes_after_the_seal(held: Round) -> None:
    """What was sent in time and comes to the writer after the seal is refused, not hidden."""
    clients = await people(held.store, 12)
    calls = [held.give(client, rows(number)) for number, client in enumerate(clients)]
    before = [asyncio.ensure_future(call) for call in calls[:6]]
    sealing = asyncio.ensure_future(held.store.rounds.seal_round(held.row.round_id))
    after = [asyncio.ensure_future(call) for call in calls[6:]]
    outcomes = await asyncio.gather(*before, *after, return_exceptions=True)
    taken = [outcome for outcome in outcomes if outcome is True]
    assert {type(outcome) for outcome in outcomes} == {bool, RoundClosed}
    assert await sealing == len(taken) == len(await held.boxes(1))
    assert await held.store.rounds.seal_round(held.row.round_id) == len(taken)
    with pytest.raises(RoundUnknown):
        await held.store.rounds.seal_round(bytes(16))


async def test_contributions_have_a_bound(store_factory: Factory) -> None:
    """One more than it is refused; one that is held already is not."""
    held = await collected(await store_factory(limits=Limits(contributions_max=2)))
    clients = await people(held.store, 3)
    for number in range(2):
        await held.give(clients[number], rows(number))
    with pytest.raises(QuotaExceeded, match="contributions is 2"):
        await held.give(clients[2], rows(2))
    assert not await held.give(clients[0], rows(0))


async def test_rounds_have_a_bound(store_factory: Factory) -> None:
    """One more than it is refused."""
    held = await collected(await store_factory(limits=Limits(rounds_max=1)))
    later = round_(b"later", open_ms=CLOSE_MS, close_ms=CLOSE_MS + 1, until_ms=CLOSE_MS + 2)
    with pytest.raises(QuotaExceeded, match="rounds is 1"):
        await held.store.rounds.collect_round(later)


async def test_deleting_an_account_deletes_its_contributions(held: Round) -> None:
    """Those whose boxes are still held, at every party; other people's stay."""
    clients = await people(held.store, 3)
    for number, client in enumerate(clients):
        await held.give(client, rows(number))
    await held.store.delete_account(clients[1].world.account_id)
    for party in (1, 2, 3):
        assert await held.boxes(party) == [rows(0)[party - 1], rows(2)[party - 1]]
        assert await held.boxes(party, after=2) == [rows(2)[party - 1]]
    assert await held.store.rounds.seal_round(held.row.round_id) == 2


async def test_what_a_deleted_account_gave_is_named_by_its_position_alone(held: Round) -> None:
    """A party that holds it is told where it was. Positions of what stands are those of its
    boxes, and none is given again."""
    store, round_id = held.store.rounds, held.row.round_id
    clients = await people(held.store, 5)
    assert await store.erased(round_id) == ()
    for number, client in enumerate(clients[:4]):
        await held.give(client, rows(number))
    for gone in (clients[2], clients[0]):
        await held.store.delete_account(gone.world.account_id)
    assert list(await store.erased(round_id)) == [1, 3]
    await held.give(clients[4], rows(4))
    page = await store.read_boxes(round_id, 2, 0, bytes_max=1 << 18)
    assert list(page.positions) == [2, 4, 5]
    assert page.rows == [rows(number)[1] for number in (1, 3, 4)]
    assert list(await store.erased(round_id)) == [1, 3]
    await held.store.delete_account(clients[4].world.account_id)
    assert list(await store.erased(round_id)) == [1, 3, 5]
    with pytest.raises(RoundUnknown):
        await store.erased(bytes(16))
    await store.publish_result(round_id, b"result", {1: b"1" * 64}, now_ms=UNTIL_MS)
    with pytest.raises(RoundOver):
        await store.erased(round_id)


async def test_what_was_given_is_taken_back_from_one_round(store: Store) -> None:
    """Of one account, at every party; its position stays empty, and it can give another one."""
    first = await collected(store)
    later = round_(b"later", open_ms=CLOSE_MS, close_ms=CLOSE_MS + 1, until_ms=CLOSE_MS + 2)
    assert await store.rounds.collect_round(later)
    second = Round(store, later)
    clients = await people(store, 2)
    for number, client in enumerate(clients):
        await first.give(client, rows(number))
        await second.give(client, rows(number), CLOSE_MS)
    one = clients[0].world.account_id
    given = await store.rounds.given_by(one)
    assert sorted(given) == sorted([first.row.round_id, later.round_id])
    assert await store.rounds.take_back(first.row.round_id, one, behind=1)
    assert not await store.rounds.take_back(first.row.round_id, one, behind=1)
    assert not await store.rounds.has_contributed(first.row.round_id, one)
    for party in (1, 2, 3):
        assert await first.boxes(party) == [rows(1)[party - 1]]
        assert len(await second.boxes(party)) == 2
    assert list(await store.rounds.erased(first.row.round_id)) == [1]
    assert list(await store.rounds.erased(later.round_id)) == []
    assert await first.give(clients[0], rows(7))
    assert await first.boxes(1) == [rows(1)[0], rows(7)[0]]
    with pytest.raises(RoundUnknown):
        await store.rounds.take_back(bytes(16), one, behind=1)
    await store.delete_account(one)
    with pytest.raises(AccountAbsent):
        await store.rounds.take_back(first.row.round_id, one, behind=1)


async def test_a_contribution_is_taken_while_its_consent_stands(store: Store) -> None:
    """Not before there is one, not by another entry, and not behind a withdrawal."""
    held = await collected(store)
    [client] = await people(store, 1)
    one = client.world.account_id
    [first] = await append_consents(store, one, [("dishes", True)])
    for claim in (
        ConsentClaim(first.tag, 2),
        ConsentClaim(bytes(32), 1),
        ConsentClaim(bytes(32), 0),
    ):
        with pytest.raises(ConsentStale):
            await held.give(client, rows(0), consent=claim)
    claim = ConsentClaim(first.tag, 1)
    assert await held.give(client, rows(0), consent=claim)
    assert not await held.give(client, rows(0), consent=claim)
    await append_consents(store, one, [("dishes", False)])
    assert await store.rounds.take_back(held.row.round_id, one, behind=2)
    for stale in (claim, ConsentClaim(first.tag, 2)):
        with pytest.raises(ConsentStale):
            await held.give(client, rows(1), consent=stale)
    assert await held.boxes(1) == []
    await append_consents(store, one, [("dishes", True)])
    assert await held.give(client, rows(1), consent=ConsentClaim(first.tag, 3))
    assert await held.boxes(1) == [rows(1)[0]]


def files_of(folder: Path) -> list[Path]:
    """The database that the test made there, with its log."""
    return list(folder.glob("deleted.db*"))


async def test_a_deleted_account_leaves_no_bytes_of_it(tmp_path: Path) -> None:
    """Not in the file and not in its log."""
    held = await collected(await SqliteStore.open(tmp_path / "deleted.db"))
    clients = await people(held.store, 2)
    for number, client in enumerate(clients):
        await held.give(client, rows(number))
    await held.store.delete_account(clients[0].world.account_id)
    await held.store.close()
    left = b"".join(file.read_bytes() for file in files_of(tmp_path))
    assert rows(0)[1][1:200] not in left
    assert rows(1)[1][1:200] in left


async def test_a_result_stands_for_good(held: Round) -> None:
    """After the window only; equal bytes add signatures; other bytes are refused. Then the
    boxes and who gave them are gone."""
    store, round_id = held.store.rounds, held.row.round_id
    clients = await people(held.store, 2)
    await held.give(clients[0], rows(0))
    first, second = {1: b"1" * 64, 3: b"3" * 64}, {1: b"1" * 64, 2: b"2" * 64}
    with pytest.raises(RoundNotClosed):
        await store.publish_result(round_id, b"result", first, now_ms=UNTIL_MS - 1)
    assert len(await held.boxes(1)) == 1
    assert await store.publish_result(round_id, b"result", first, now_ms=UNTIL_MS)
    assert not await store.publish_result(round_id, b"result", second, now_ms=UNTIL_MS)
    with pytest.raises(ResultConflict):
        await store.publish_result(round_id, b"another", second, now_ms=UNTIL_MS)
    row = await store.find_result(round_id)
    assert row is not None
    assert (row.result, row.sigs) == (b"result", first | second)
    for refused in (
        held.boxes(1), store.seal_round(round_id), held.give(clients[1], rows(1)),
        store.publish_result(bytes(16), b"result", first, now_ms=UNTIL_MS),
    ):  # fmt: skip
        with pytest.raises((RoundOver, RoundClosed, RoundUnknown)):
            await refused
    assert not await store.has_contributed(round_id, clients[0].world.account_id)
    found = await store.find_round(round_id)
    assert found is not None
    assert found.standing.has_result
    assert await store.find_result(bytes(16)) is None


async def test_a_round_is_over_when_too_few_parties_are_left(held: Round) -> None:
    """One of three gives up: two can go on. Two give up: the boxes go. A result outlives it."""
    store, round_id = held.store.rounds, held.row.round_id
    [client] = await people(held.store, 1)
    await held.give(client, rows(0))
    assert await store.abandon(round_id, 2, b"disk", b"2" * 64, quorum=2)
    assert not await store.abandon(round_id, 2, b"disk", b"2" * 64, quorum=2)
    with pytest.raises(ResultConflict):
        await store.abandon(round_id, 2, b"other", b"2" * 64, quorum=2)
    assert len(await held.boxes(1)) == 1
    await store.abandon(round_id, 1, b"too few", b"1" * 64, quorum=2)
    with pytest.raises(RoundOver):
        await held.boxes(1)
    row = await store.find_result(round_id)
    assert row is not None
    assert row.result == b""
    assert row.abandonments == {1: (b"too few", b"1" * 64), 2: (b"disk", b"2" * 64)}
    with pytest.raises(RoundUnknown):
        await store.abandon(bytes(16), 1, b"x", b"1" * 64, quorum=2)


async def test_retention(store_factory: Factory) -> None:
    """Boxes go after theirs, the round with its result after its own; many rows, in slices."""
    limits = Limits(boxes_ms=DAY_MS, results_ms=2 * DAY_MS)
    held = await collected(await store_factory(limits=limits))
    store, round_id = held.store.rounds, held.row.round_id
    clients = await people(held.store, 400)
    await asyncio.gather(
        *(held.give(client, rows(number, 10)) for number, client in enumerate(clients))
    )
    await held.store.sweep(now_ms=UNTIL_MS + DAY_MS - 1)
    assert len(await held.boxes(3)) == 400
    await held.store.sweep(now_ms=UNTIL_MS + DAY_MS)
    found = await store.find_round(round_id)
    assert found is not None
    assert found.standing.over
    with pytest.raises(RoundOver):
        await held.boxes(3)
    assert not await store.has_contributed(round_id, clients[0].world.account_id)
    # A result that was computed before may still come.
    assert await store.publish_result(round_id, b"late", {1: b"1" * 64}, now_ms=UNTIL_MS + DAY_MS)
    await held.store.sweep(now_ms=UNTIL_MS + 2 * DAY_MS)
    assert await store.find_round(round_id) is None
    assert await store.find_result(round_id) is None
    assert await store.find_party(device_id(b"B" * 32)) is None
    assert await store.find_task(task().spec_hash) == task()


async def test_everything_survives_a_restart(store_factory: Factory) -> None:
    """Task, round, boxes, "once", the seal, the result."""
    store = await store_factory("kept")
    held = await collected(store)
    [client, other] = await people(store, 2)
    await held.give(client, rows(0))
    await store.rounds.seal_round(held.row.round_id)
    await store.rounds.abandon(held.row.round_id, 2, b"disk", b"2" * 64, quorum=2)
    await store.close()
    again = Round(await store_factory("kept"), held.row)
    assert not await again.store.rounds.publish_task(task())
    assert not await again.store.rounds.collect_round(round_())
    assert await again.boxes(3) == [rows(0)[2]]
    assert not await again.give(client, rows(0))
    with pytest.raises(ContributedAlready):
        await again.give(client, rows(1))
    with pytest.raises(RoundClosed):
        await again.give(other, rows(1))
    row = await again.store.rounds.find_result(held.row.round_id)
    assert row is not None
    assert row.abandonments == {2: (b"disk", b"2" * 64)}


async def test_the_last_result_of_a_task_is_found(store: Store) -> None:
    """Of rounds with a result that of the last window, whichever came first; none of another
    task, none where there are only abandonments, and none whose window is not over."""
    other = replace(task(), task_id=b"other", spec_hash=b"o" * 32)
    for one in (task(), other):
        await store.rounds.publish_task(one)
    made = [
        replace(round_(), round_id=bytes([n]) * 16, open_ms=at, close_ms=at + 10, until_ms=at + 10)
        for n, at in ((1, OPEN_MS), (2, OPEN_MS + 100), (3, OPEN_MS + 200), (4, OPEN_MS + 300))
    ]
    for row in made:
        await store.rounds.collect_round(row)

    async def newest(of: TaskRow | None = None, now_ms: int = UNTIL_MS) -> bytes | None:
        spec_hash = (of or task()).spec_hash
        return await store.rounds.newest_result(spec_hash, now_ms=now_ms)

    found = []
    for row in (made[1], made[0], made[2]):
        await store.rounds.publish_result(row.round_id, b"result", {1: b"s" * 64}, now_ms=UNTIL_MS)
        found.append(await newest())
    assert found == [made[1].round_id, made[1].round_id, made[2].round_id]
    await store.rounds.abandon(made[3].round_id, 1, b"word", b"1" * 64, quorum=2)
    assert await newest() == made[2].round_id
    assert await newest(other) is None
    assert await newest(now_ms=made[1].until_ms) == made[1].round_id
    assert await newest(now_ms=OPEN_MS) is None


async def test_rounds_are_listed_newest_first(store: Store) -> None:
    """Of all tasks, by the end of their windows; a page leaves out what was on those before."""
    await store.rounds.publish_task(task())
    made = [
        replace(round_(), round_id=bytes([n]) * 16, open_ms=at, close_ms=at + 10, until_ms=at + 20)
        for n, at in ((1, OPEN_MS), (2, OPEN_MS + 200), (3, OPEN_MS + 100))
    ]
    for row in made:
        await store.rounds.collect_round(row)
    newest = [made[1], made[2], made[0]]
    found = await store.rounds.list_rounds(0, rounds_max=9)
    assert [held.row for held in found] == newest
    assert {held.task.task_id for held in found} == {task().task_id}
    assert [held.row for held in await store.rounds.list_rounds(1, rounds_max=1)] == [newest[1]]
    assert await store.rounds.list_rounds(3, rounds_max=9) == []
