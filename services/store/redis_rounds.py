"""The Redis store's part for joint aggregates: a `services.store.rounds.RoundStore`.

What is compared between rounds lies in one slot, each round's boxes in their own. A round is
written to the index first, and made behind it by whoever first finds that it isn't. It leaves
the index first, too; what is left of it is deleted then, or by a later sweep.

A contribution is noted with the account first and then taken by the round. Whoever deletes an
account finds there every round that may have something of it, and bars the account from each:
also from one whose contribution was noted and has not come yet.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from crypto.ids import AccountId, DeviceId
from crypto.keys import device_id
from crypto.primitives import SIG_BYTES
from services.store import redis_round_keys as keys, redis_round_scripts as scripts
from services.store.base import Limits
from services.store.erased import SLICE_POSITIONS, ErasedOf
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
from services.store.governance import ConsentClaim, ConsentState
from services.store.redis_governance_rows import pack_state
from services.store.redis_keys import AccountKeys
from services.store.redis_link import Link
from services.store.redis_round_keys import RoundKeys
from services.store.retention import BOXES, RESULTS, Retention
from services.store.rounds import (
    LOOKED_AT,
    BoxPage,
    Contribution,
    HeldRound,
    Phase,
    ResultRow,
    RoundRow,
    Standing,
    Summary,
    TaskRow,
)

ROUNDS_CACHED = 256
PER_SWEEP = 256
AT_ONCE = 64
NOTED_MS = 30 * 86_400_000
"""How much longer it is noted what an account gave than boxes are kept, so that a retention may
be made longer."""
_ANY_SEQ = 1 << 53
"""Of who claims no consent: no withdrawal bars it."""


class RedisRounds:
    """Every call is one exchange with Redis for a round in use, `contribute` two, and a third one
    if it claims consent."""

    def __init__(self, link: Link, limits: Limits) -> None:
        self._link = link
        self._limits = limits
        self._tasks: dict[bytes, TaskRow] = {}
        self._rows: OrderedDict[bytes, RoundRow] = OrderedDict()
        self._done: set[bytes] = set()
        self._erased = ErasedOf()
        link.on_renewed(self._forget_known)

    def _forget_known(self) -> None:
        self._tasks.clear()
        self._rows.clear()
        self._done.clear()
        self._erased.clear()

    # --- tasks ---

    async def publish_task(self, row: TaskRow) -> bool:
        """See `RoundStore.publish_task`."""
        how, *standing = await self._link.run(
            scripts.PUBLISH_TASK,
            (keys.TASKS, keys.TASK_IDS, keys.TASK_LIST),
            (row.task_id, row.spec_hash, keys.pack_task(row), self._limits.tasks_max),
        )
        if how == scripts.FULL:
            raise QuotaExceeded("tasks", self._limits.tasks_max)
        if how == scripts.STANDS:
            task = keys.unpack_task(standing[0])
            if (task.publisher, task.task) != (row.publisher, row.task):
                raise TaskConflict("other bytes stand under this task id: a change is a new task")
        return bool(how == scripts.DONE)

    async def read_tasks(
        self, after: int, *, tasks_max: int, bytes_max: int
    ) -> tuple[Sequence[tuple[int, TaskRow]], bool]:
        """See `RoundStore.read_tasks`."""
        more, *found = await self._link.run(
            scripts.READ_TASKS, (keys.TASKS, keys.TASK_LIST), (after, tasks_max, bytes_max)
        )
        return list(enumerate(map(keys.unpack_task, found), start=after + 1)), bool(more)

    async def find_task(self, spec_hash: bytes) -> TaskRow | None:
        """See `RoundStore.find_task`. Tasks stay: each is read once."""
        task = self._tasks.get(spec_hash)
        if task is None:
            raw = await self._link.call("HGET", keys.TASKS, spec_hash)
            if raw is None:
                return None
            task = self._tasks[spec_hash] = keys.unpack_task(raw)
        return task

    # --- rounds ---

    async def rounds_of(
        self, spec_hash: bytes, *, now_ms: int, rounds_max: int
    ) -> Sequence[Summary]:
        """See `RoundStore.rounds_of`."""
        raws = await self._link.run(scripts.LIST, (keys.by_end(spec_hash), keys.ROUNDS), (now_ms,))
        rows = sorted(map(keys.unpack_round, raws), key=lambda row: row.open_ms)
        found: list[Summary] = []
        for start in range(0, len(rows), rounds_max):
            some = rows[start : start + rounds_max]
            for row, standing in zip(
                some, await asyncio.gather(*map(self._standing, some)), strict=True
            ):
                if standing is not None and not standing.sealed and len(found) < rounds_max:
                    found.append(Summary(row.round_id, row.open_ms, row.until_ms, standing))
            if len(found) == rounds_max:
                break
        return found

    async def newest_result(self, spec_hash: bytes, *, now_ms: int) -> bytes | None:
        """See `RoundStore.newest_result`. A round with a result stays so: it is asked once."""
        names = await self._link.call(
            "ZREVRANGEBYSCORE", keys.by_end(spec_hash), now_ms, "-inf", "LIMIT", 0, LOOKED_AT
        )
        for name in names:
            if name in self._done:
                return bytes(name)
            held = await self.find_round(name)
            if held is not None and held.standing.has_result:
                self._done.add(held.row.round_id)
                return held.row.round_id
        return None

    async def list_rounds(self, skip: int, *, rounds_max: int) -> Sequence[HeldRound]:
        """See `RoundStore.list_rounds`."""
        names = await self._link.call("ZREVRANGE", keys.ALL_BY_END, skip, skip + rounds_max - 1)
        found = await asyncio.gather(*map(self.find_round, names))
        return [held for held in found if held is not None]

    async def tally(self, *, now_ms: int) -> Mapping[Phase, int]:
        """See `RoundStore.tally`. A round with a result stays so: it is asked once."""
        counts: Counter[Phase] = Counter()
        names = await self._link.call("ZRANGE", keys.ALL_BY_END, 0, -1)
        self._done.intersection_update(names)
        counts[Phase.DONE] = len(self._done)
        asked = [name for name in names if name not in self._done]
        for start in range(0, len(asked), AT_ONCE):
            some = asked[start : start + AT_ONCE]
            found = await asyncio.gather(*map(self.find_round, some))
            for held in found:
                if held is None:
                    continue
                row, standing = held.row, held.standing
                counts[Phase.of(row.open_ms, row.until_ms, standing, now_ms)] += 1
                if standing.has_result:
                    self._done.add(row.round_id)
        return counts

    async def collect_round(self, row: RoundRow) -> bool:
        """See `RoundStore.collect_round`."""
        parties = [part for ik in row.parties for part in (device_id(ik), ik)]
        how, *standing = await self._link.run(
            scripts.COLLECT,
            (
                keys.TASKS, keys.ROUNDS, keys.windows(row.spec_hash), keys.by_end(row.spec_hash),
                keys.WITH_BOXES, keys.ALL_BY_END, keys.PARTIES, keys.PARTY_ROUNDS,
            ),
            (
                row.round_id, keys.pack_round(row), row.spec_hash,
                row.open_ms, row.close_ms, row.until_ms, self._limits.rounds_max, *parties,
            ),
        )  # fmt: skip
        if how == scripts.ABSENT:
            raise TaskUnknown("no task with this spec_hash")
        if how == scripts.CONFLICT:
            raise RoundConflict("a round of the task overlaps this window")
        if how == scripts.FULL:
            raise QuotaExceeded("rounds", self._limits.rounds_max)
        if how == scripts.STANDS and keys.unpack_round(standing[0]).manifest != row.manifest:
            raise RoundConflict("another manifest stands under this round id")
        made = await self._make(keys.unpack_round(standing[0]) if standing else row)
        return bool(how == scripts.DONE or made)

    async def find_round(self, round_id: bytes) -> HeldRound | None:
        """See `RoundStore.find_round`."""
        row = await self._row(round_id)
        if row is None:
            return None
        standing = await self._standing(row)
        task = await self.find_task(row.spec_hash)
        if standing is None or task is None:
            return None
        return HeldRound(row, task, standing)

    async def find_party(self, key_id: DeviceId) -> bytes | None:
        """See `RoundStore.find_party`."""
        found: bytes | None = await self._link.call("HGET", keys.PARTIES, key_id)
        return found

    async def _row(self, round_id: bytes, *, fresh: bool = False) -> RoundRow | None:
        """What never changes of a round. It may have been forgotten since."""
        row = None if fresh else self._rows.get(round_id)
        if row is None:
            raw = await self._link.call("HGET", keys.ROUNDS, round_id)
            if raw is None:
                self._rows.pop(round_id, None)
                return None
            row = self._rows[round_id] = keys.unpack_round(raw)
            if len(self._rows) > ROUNDS_CACHED:
                self._rows.popitem(last=False)
        return row

    async def _known_row(self, round_id: bytes) -> RoundRow:
        row = await self._row(round_id)
        if row is None:
            raise RoundUnknown("no such round")
        return row

    async def _make(self, row: RoundRow) -> bool:
        """The round's own part, behind the index."""
        made: int = await self._link.run(
            scripts.MAKE, (RoundKeys(row.round_id).state,), (row.open_ms, row.until_ms)
        )
        return bool(made)

    async def _again(self, row: RoundRow) -> None:
        """The round's own part is not there: whoever collected it was interrupted, or it was
        forgotten. RoundUnknown."""
        if await self._row(row.round_id, fresh=True) is None:
            raise RoundUnknown("no such round")
        await self._make(row)

    async def _standing(self, row: RoundRow) -> Standing | None:
        state = RoundKeys(row.round_id).state
        how, *standing = await self._link.run(scripts.STANDING, (state,))
        if how == scripts.ABSENT:
            try:
                await self._again(row)
            except RoundUnknown:
                return None
            how, *standing = await self._link.run(scripts.STANDING, (state,))
        return Standing(*map(bool, standing)) if standing else None

    # --- contributions ---

    async def contribute(self, given: Contribution) -> bool:
        """See `RoundStore.contribute`."""
        row = await self._known_row(given.round_id)
        account = AccountKeys(given.account_id)
        gone_ms = row.until_ms + self._limits.boxes_ms + NOTED_MS
        claim = given.consent
        # In one step with the note: whoever withdraws later finds the round there.
        incarnation = await self._link.run(
            scripts.GIVE,
            (account.state, account.given, account.consent_tags),
            (
                given.round_id, gone_ms, given.now_ms,
                b"" if claim is None else claim.tag, _granted(claim),
            ),
        )  # fmt: skip
        if incarnation is None:
            raise AccountAbsent("no such account")
        if incarnation == scripts.STALE:
            raise ConsentStale("no consent that stands")
        who = given.account_id + incarnation
        most = min(self._limits.contributions_max, given.reports_max)
        round_keys = RoundKeys(given.round_id)
        how = await self._run_made(
            row,
            scripts.CONTRIBUTE,
            (
                round_keys.state, round_keys.given, round_keys.barred,
                *round_keys.all_boxes(len(given.rows)),
            ),
            (
                who, keys.barred(who), _digest(given.rows), given.now_ms, most,
                _ANY_SEQ if claim is None else claim.seq, keys.withdrawn(who), *given.rows,
            ),
        )  # fmt: skip
        if how == scripts.DELETED:
            raise AccountAbsent("no such account")
        if how == scripts.STALE:
            raise ConsentStale("no consent that stands")
        if how == scripts.CONFLICT:
            raise ContributedAlready("the account has given other bytes to this round")
        if how == scripts.NOT_OPEN:
            raise RoundNotOpen(row.open_ms)
        if how == scripts.CLOSED:
            raise RoundClosed(row.until_ms)
        if how == scripts.FULL:
            raise QuotaExceeded("contributions", most)
        await self._check_still(given)
        return bool(how)

    async def _check_still(self, given: Contribution) -> None:
        """A withdrawal that does not say of what, since nobody told its device that something was
        given, bars no round: so what it overtook is erased here."""
        if given.consent is None:
            return
        tags = AccountKeys(given.account_id).consent_tags
        if await self._link.call("HGET", tags, given.consent.tag) != _granted(given.consent):
            await self.take_back(given.round_id, given.account_id, behind=given.consent.seq)
            raise ConsentStale("no consent that stands")

    async def has_contributed(self, round_id: bytes, account_id: AccountId) -> bool:
        """See `RoundStore.has_contributed`."""
        incarnation = await self._link.call("HGET", AccountKeys(account_id).state, "i")
        if incarnation is None:
            return False
        held = await self._link.call("HEXISTS", RoundKeys(round_id).given, account_id + incarnation)
        return bool(held)

    async def given_by(self, account_id: AccountId) -> Sequence[bytes]:
        """See `RoundStore.given_by`."""
        found: list[bytes] = await self._link.call("ZRANGE", AccountKeys(account_id).given, 0, -1)
        return found

    async def take_back(self, round_id: bytes, account_id: AccountId, *, behind: int) -> bool:
        """See `RoundStore.take_back`."""
        row = await self._known_row(round_id)
        incarnation = await self._link.call("HGET", AccountKeys(account_id).state, "i")
        if incarnation is None:
            raise AccountAbsent("no such account")
        round_keys, who = RoundKeys(round_id), account_id + incarnation
        taken = await self._run_made(
            row,
            scripts.TAKE_BACK,
            (round_keys.state, round_keys.given, *round_keys.all_boxes(len(row.parties))),
            (who, behind, keys.withdrawn(who)),
        )
        return bool(taken)

    async def forget_account(self, account_id: AccountId, incarnation: bytes) -> None:
        """Drops what a deleted account gave to rounds whose boxes are held. Whoever is
        interrupted calls it again: what is to be done stays noted until it is."""
        noted = AccountKeys(account_id).given_by_deleted(incarnation)
        who = account_id + incarnation
        for round_id in await self._link.call("ZRANGE", noted, 0, -1):
            row = await self._row(round_id)
            if row is None:
                continue
            round_keys = RoundKeys(round_id)
            with contextlib.suppress(RoundUnknown):  # forgotten, with all that was given
                await self._run_made(
                    row,
                    scripts.DROP,
                    (round_keys.state, *round_keys.content(len(row.parties))),
                    (who, keys.barred(who)),
                )
        await self._link.call("UNLINK", noted)

    async def seal_round(self, round_id: bytes) -> int:
        """See `RoundStore.seal_round`."""
        row = await self._known_row(round_id)
        held: int = await self._run_made(row, scripts.SEAL, (RoundKeys(round_id).state,), ())
        _check_over(held)
        return held

    async def read_boxes(
        self, round_id: bytes, party: int, after: int, *, bytes_max: int
    ) -> BoxPage:
        """See `RoundStore.read_boxes`."""
        row = await self._known_row(round_id)
        round_keys = RoundKeys(round_id)
        position, *page = await self._run_made(
            row,
            scripts.READ,
            (round_keys.state, round_keys.boxes(party)),
            (after, bytes_max),
        )
        _check_over(position)
        more, *found = page
        return BoxPage(found[1::2], position, more=bool(more), positions=found[::2])

    async def erased(self, round_id: bytes) -> Sequence[int]:
        """See `RoundStore.erased`. What came after the positions were counted is left for the
        next call."""
        row = await self._known_row(round_id)
        round_keys = RoundKeys(round_id)
        end, *rest = await self._run_made(row, scripts.COUNTS, (round_keys.state,), ())
        _check_over(end)
        (held,) = rest
        known = self._erased.get(round_id)
        if known is None or len(known) != end - held:
            known = await self._missing(round_keys.given, end) if end > held else ()
            self._erased.put(round_id, known)
        return known

    async def _missing(self, given: bytes, end: int) -> Sequence[int]:
        there: set[int] = set()
        cursor = b"0"
        while True:
            cursor, flat = await self._link.call("HSCAN", given, cursor, "COUNT", SLICE_POSITIONS)
            there.update(int.from_bytes(value[32:36], "big") for value in flat[1::2])
            if int(cursor) == 0:
                break
        return sorted(set(range(1, end + 1)) - there)

    # --- results ---

    async def publish_result(
        self, round_id: bytes, result: bytes, sigs: Mapping[int, bytes], *, now_ms: int
    ) -> bool:
        """See `RoundStore.publish_result`."""
        row = await self._known_row(round_id)
        round_keys = RoundKeys(round_id)
        signed = [part for party, sig in sigs.items() for part in (b"z%d" % party, sig)]
        how = await self._run_made(
            row,
            scripts.RESULT,
            (round_keys.state, *round_keys.content(len(row.parties))),
            (now_ms, result, *signed),
        )
        if how == scripts.NOT_CLOSED:
            raise RoundNotClosed(row.until_ms)
        if how == scripts.CONFLICT:
            raise ResultConflict("another result stands")
        return bool(how)

    async def abandon(
        self, round_id: bytes, party: int, statement: bytes, sig: bytes, *, quorum: int
    ) -> bool:
        """See `RoundStore.abandon`."""
        row = await self._known_row(round_id)
        round_keys = RoundKeys(round_id)
        how = await self._run_made(
            row,
            scripts.ABANDON,
            (round_keys.state, *round_keys.content(len(row.parties))),
            (b"a%d" % party, sig + statement, len(row.parties), quorum),
        )
        if how == scripts.CONFLICT:
            raise ResultConflict("another abandonment of this party stands")
        return bool(how)

    async def find_result(self, round_id: bytes) -> ResultRow | None:
        """See `RoundStore.find_result`."""
        if await self._row(round_id) is None:
            return None
        flat = await self._link.call("HGETALL", RoundKeys(round_id).state)
        if not flat and await self._row(round_id, fresh=True) is None:
            return None
        return read_result(dict(zip(flat[::2], flat[1::2], strict=True)))

    async def _run_made(
        self, row: RoundRow, script: Any, names: Sequence[bytes], args: Sequence[Any]
    ) -> Any:
        """What the script answers, when the round's own part is there. RoundUnknown."""
        answer = await self._link.run(script, names, args)
        if answer in (scripts.ABSENT, [scripts.ABSENT]):
            await self._again(row)
            answer = await self._link.run(script, names, args)
        return answer

    # --- housekeeping ---

    async def sweep(self, *, now_ms: int, retention: Retention) -> None:
        """See `RoundStore.sweep`."""
        async for round_id, row in self._ended(keys.WITH_BOXES, now_ms - retention.boxes_ms):
            await self._drop_boxes(round_id, row)
        async for round_id, row in self._ended(keys.ALL_BY_END, now_ms - retention.results_ms):
            await self._leave(round_id, row, keys.ALL_BY_END)
        for spec_hash, boxes_ms, results_ms in await self._own_bounds(retention):
            index = keys.by_end(spec_hash)
            with_boxes = await self._ids(keys.WITH_BOXES, now_ms - boxes_ms)
            for round_id in with_boxes & await self._ids(index, now_ms - boxes_ms):
                await self._drop_boxes(round_id, await self._row(round_id, fresh=True))
            for round_id in await self._ids(index, now_ms - results_ms):
                await self._leave(round_id, await self._row(round_id, fresh=True), index)
        flat = await self._link.call("HGETALL", keys.FORGOTTEN)
        for round_id, parties in zip(flat[::2], flat[1::2], strict=True):
            await self._erase(round_id, int(parties))

    async def _drop_boxes(self, round_id: bytes, row: RoundRow | None) -> None:
        if row is not None:
            round_keys = RoundKeys(round_id)
            content = round_keys.content(len(row.parties))
            await self._link.run(scripts.END, (round_keys.state, *content))
        await self._link.call("ZREM", keys.WITH_BOXES, round_id)

    async def _leave(self, round_id: bytes, row: RoundRow | None, index: bytes) -> None:
        if row is not None:
            await self._forget(row)
        await self._link.call("ZREM", index, round_id)

    async def overdue(self, *, now_ms: int, retention: Retention) -> Mapping[str, int]:
        """See `RoundStore.overdue`."""
        boxes = await self._ids(keys.WITH_BOXES, now_ms - retention.boxes_ms)
        results = await self._ids(keys.ALL_BY_END, now_ms - retention.results_ms)
        results |= set(await self._link.call("HKEYS", keys.FORGOTTEN))
        for spec_hash, boxes_ms, results_ms in await self._own_bounds(retention):
            with_boxes = await self._ids(keys.WITH_BOXES, now_ms - boxes_ms)
            boxes |= with_boxes & await self._ids(keys.by_end(spec_hash), now_ms - boxes_ms)
            results |= await self._ids(keys.by_end(spec_hash), now_ms - results_ms)
        return {BOXES: len(boxes), RESULTS: len(results)}

    async def _ids(self, index: bytes, until_ms: int) -> set[bytes]:
        return set(await self._link.call("ZRANGEBYSCORE", index, "-inf", until_ms))

    async def _own_bounds(self, retention: Retention) -> list[tuple[bytes, int, int]]:
        """Of tasks that keep their boxes or results for less: spec_hash, and how long."""
        flat = await self._link.call("HGETALL", keys.TASK_IDS)
        found = [
            (spec_hash, retention.box_ms(task_id), retention.result_ms(task_id))
            for task_id, spec_hash in zip(flat[::2], flat[1::2], strict=True)
        ]
        general = retention.boxes_ms, retention.results_ms
        return [row for row in found if row[1:] != general]

    async def _ended(
        self, index: bytes, until_ms: int
    ) -> AsyncIterator[tuple[bytes, RoundRow | None]]:
        """Rounds of an index that ended before. Whoever asks takes each out of the index."""
        while found := await self._link.call(
            "ZRANGEBYSCORE", index, "-inf", until_ms, "LIMIT", 0, PER_SWEEP
        ):
            for round_id in found:
                yield round_id, await self._row(round_id, fresh=True)

    async def _forget(self, row: RoundRow) -> None:
        await self._link.run(
            scripts.FORGET,
            (
                keys.ROUNDS, keys.windows(row.spec_hash), keys.by_end(row.spec_hash),
                keys.WITH_BOXES, keys.ALL_BY_END, keys.PARTIES, keys.PARTY_ROUNDS,
                keys.FORGOTTEN,
            ),
            (row.round_id, row.close_ms, len(row.parties), *map(device_id, row.parties)),
        )  # fmt: skip
        self._rows.pop(row.round_id, None)
        await self._erase(row.round_id, len(row.parties))

    async def _erase(self, round_id: bytes, parties: int) -> None:
        round_keys = RoundKeys(round_id)
        await self._link.call("UNLINK", round_keys.state, *round_keys.content(parties))
        await self._link.call("HDEL", keys.FORGOTTEN, round_id)


def _granted(claim: ConsentClaim | None) -> bytes:
    """What counts under the claim's tag while it holds."""
    return b"" if claim is None else pack_state(ConsentState(claim.seq, granted=True))


def _digest(rows: Sequence[bytes]) -> bytes:
    lengths = (len(data).to_bytes(4, "big") + data for data in rows)
    return blake2b(b"".join(lengths), digest_size=32).digest()


def _check_over(how: int) -> None:
    if how == scripts.OVER:
        raise RoundOver("the boxes of this round were dropped")


def read_result(state: Mapping[bytes, bytes]) -> ResultRow:
    """Result and abandonments from a round's state."""
    sigs = {int(name[1:]): value for name, value in state.items() if name.startswith(b"z")}
    abandonments = {
        int(name[1:]): (value[SIG_BYTES:], value[:SIG_BYTES])
        for name, value in sorted(state.items())
        if name.startswith(b"a")
    }
    return ResultRow(state.get(b"result", b""), sigs, abandonments)
