"""A store in Redis, to be moved from or to. What is written last of an account, or of a round,
is its state: where that is, all of it is."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator

from crypto.ids import AccountId
from services.moving import redis_governance as governance
from services.moving.redis_filling import (
    HASHES_PER_CHUNK,
    Boxes,
    Filling,
    fields_of,
    position_name,
)
from services.moving.rows import Row, Rows
from services.store import (
    packed,
    redis_round_keys as round_keys,
    redis_tenancy as tenancy,
    snapshot,
)
from services.store.account_state import HASH_START_BYTES
from services.store.base import Limits
from services.store.errors import StoreUnavailable
from services.store.judge_chain import pack_grants
from services.store.redis import RedisStore
from services.store.redis_chains import TOKEN
from services.store.redis_keys import AccountKeys, due, shard, subject, untag
from services.store.redis_lineage import META
from services.store.redis_link import Link
from services.store.redis_ops import BLOCK_BITS, RUN, VALUE_HEAD_BYTES
from services.store.redis_read import unpack_link
from services.store.redis_round_keys import RoundKeys
from services.store.redis_round_scripts import GIVE
from services.store.redis_rounds import NOTED_MS, RedisRounds, read_result
from services.store.redis_state import (
    decode,
    new_account,
)
from services.store.redis_wake import HANDLE
from services.store.rounds import RoundRow, TaskRow

CALLS_AT_ONCE = 32
BOXES_AT_ONCE = 64
SCAN_COUNT = 512
_STATE_OF_ACCOUNT = b"{" + b"?" * 43 + b"}s"


class RedisSide:
    """See `services.moving.rows.Target`."""

    def __init__(self, link: Link, name: str) -> None:
        self.name = name
        self._link = link
        self.generation = link.generation
        self.secret = link.secret
        # Ids seen, so that each counts once; spills to disk.
        self._seen = sqlite3.connect("", isolation_level=None)
        self._seen.execute("CREATE TABLE seen (id BLOB PRIMARY KEY) WITHOUT ROWID")

    async def close(self) -> None:
        """See `Side.close`."""
        self._seen.close()
        await self._link.close()

    # --- whose it is ---

    async def seize(self, mark: bytes) -> bytes:
        """See `Side.seize`. Deletions that a crash interrupted are finished first."""
        standing = await tenancy.seize(self._link.lineage, mark)
        if standing == mark and mark.startswith(b"to"):
            store = await RedisStore.open(self._link, limits=Limits())
            await store.finish_deletions()
        return standing

    async def mark(self) -> bytes:
        """See `Side.mark`."""
        return await self._link.call("HGET", META, "moving") or b""

    async def check_free(self, mark: bytes) -> None:
        """See `Target.check_free`. Another program's data was refused when it was opened."""
        standing = await self.mark()
        own = await self._link.call("EXISTS", META, tenancy.SERVING)
        if standing == mark or sum(await self._link.each_master("DBSIZE")) <= own:
            return
        if standing.startswith(b"gone"):
            said = "a store that was moved away: remove it once all is well where it is now"
        elif standing:
            said = "a store that is part of another move: end that one first"
        else:
            said = "another store, with the data of its clients: name an empty place"
        raise StoreUnavailable(f"{self.name} holds {said}")

    async def check_kept(self) -> None:
        """See `Side.check_kept`."""
        await self._link.lineage.reread()
        if self._link.lineage.changes or self._link.generation != self.generation:
            raise StoreUnavailable(f"{self.name}: {tenancy.LOST}")

    async def retire(self, mark: bytes) -> None:
        """See `Side.retire`."""
        after = b"gone" + mark[2:]
        if not await tenancy.settle(self._link.lineage, mark, after, self.generation):
            raise StoreUnavailable(f"{self.name} is no longer being moved")

    async def finish(self, mark: bytes, generation: bytes, secret: bytes) -> None:
        """See `Target.finish`."""
        if not await tenancy.settle(
            self._link.lineage, mark, b"", self.generation, generation, secret
        ):
            raise StoreUnavailable(f"{self.name} is no longer being filled")

    # --- accounts, from ---

    async def count(self) -> int:
        """See `Side.count`."""
        return sum([1 async for _ in self.accounts()])

    async def accounts(self) -> AsyncIterator[bytes]:
        """See `Side.accounts`."""
        self._seen.execute("DELETE FROM seen")
        async for key in self._link.scan(_STATE_OF_ACCOUNT):
            new = self._seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount
            if new:
                yield untag(key)

    async def account(self, account_id: bytes) -> Rows:
        """See `Side.account`."""
        keys = AccountKeys(AccountId(account_id))
        flat = await self._link.call("HGETALL", keys.state)
        chain = await self._link.call("GET", keys.chain)
        account = decode(flat, chain, None, keys)
        yield (
            "account", account_id, account.subject_row, snapshot.encode(account.chain),
            account.position, account.lamport_max, account.records, account.records_before,
        )  # fmt: skip
        async for name, value in self._scan(keys.links):
            stored = unpack_link(value)
            yield (
                "link", account_id, int.from_bytes(name, "big"), stored.link.raw,
                stored.link.sig, stored.link.pop, pack_grants(stored.grants),
            )  # fmt: skip
        for epoch, ended_ms in account.ends.items():
            yield "end", account_id, epoch, ended_ms
        for device in account.chain.devices:
            head = account.heads.get(bytes(device.device_id), (0, b""))
            passed = account.passed.get(device.device_id, 0)
            if head[0] or passed:
                yield "device", account_id, device.index, *head, passed
        for mark in account.marks:
            yield "mark", account_id, *mark
        async for row in self._ops(account_id, keys):
            yield row
        for epoch in range(1, account.chain.epoch + 1):
            async for tag, position in self._scan(keys.winners(epoch)):
                yield "winner", account_id, epoch, tag, int.from_bytes(position, "big")
        async for position, at in self._scan(keys.superseded, b"ZSCAN"):
            yield "superseded", account_id, int(float(at)), int.from_bytes(position, "big")
        async for run, _ in self._scan(keys.runs, b"ZSCAN"):
            yield "run", account_id, *RUN.unpack(run)
        index = account.index
        async for name, chunk in self._scan(keys.trimmed):
            for device_id, dev_seq, start in _trimmed(name, chunk):
                yield "trimmed", account_id, index[device_id], dev_seq, start
        handles = dict([pair async for pair in self._scan(keys.handles)])
        async for device_id, raw in self._scan(keys.waking):
            expires_ms, due_ms, sent_ms, turn, tries, claimed, again = HANDLE.unpack(raw)
            yield (
                "wake", account_id, index[device_id], handles[device_id], expires_ms, due_ms,
                sent_ms, turn, claimed, again, tries,
            )  # fmt: skip
        async for row in governance.of_account(self._link, keys, account_id):
            yield row

    async def _ops(self, account_id: bytes, keys: AccountKeys) -> Rows:
        blocks = sorted([name async for name, _ in self._scan(keys.blocks)])
        for block in blocks:
            first = int.from_bytes(block, "big") << BLOCK_BITS
            positions = range(first, first + (1 << BLOCK_BITS))
            names = [position_name(position) for position in positions]
            values = await self._link.call("HMGET", keys.ops, *names)
            for position, value in zip(positions, values, strict=True):
                if value is not None:
                    (raw,) = packed.split(value[VALUE_HEAD_BYTES:])
                    yield "op", account_id, position, position + value[0], raw

    async def _scan(
        self, key: bytes, command: bytes = b"HSCAN"
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        """Fields and values of a hash, members and scores of a sorted set: each once. Nobody
        writes, so none is missed; while a table is resized some come twice."""
        cursor, seen = b"0", set[bytes]()
        while True:
            cursor, flat = await self._link.call(command, key, cursor, "COUNT", SCAN_COUNT)
            pairs = dict(zip(flat[::2], flat[1::2], strict=True))
            for name, value in pairs.items():
                if name not in seen:
                    yield name, value
            seen |= pairs.keys()
            if cursor == b"0":
                return

    # --- accounts, to ---

    async def has_account(self, account_id: bytes) -> bool:
        """See `Target.has_account`."""
        keys = AccountKeys(AccountId(account_id))
        return bool(await self._link.call("EXISTS", keys.state))

    async def put_account(self, rows: Rows) -> None:
        """See `Target.put_account`. What an interrupted one left is removed first."""
        _, account_id, subject_row, raw_chain, *tail = await anext(rows)
        chain = snapshot.decode(raw_chain)
        keys = AccountKeys(AccountId(account_id))
        account = new_account(chain, keys, subject_row)
        account.position, account.lamport_max, account.records, account.records_before = tail
        await self._link.call("UNLINK", *keys.everything(chain.epoch))
        await self._link.call("SET", keys.chain, raw_chain)
        filling = Filling(self._link, account)
        async for row in rows:
            await filling.take(row)
        await filling.end()
        if subject_row:
            token = TOKEN.pack(0, os.urandom(8))
            await self._link.call("HSET", subject(subject_row), account_id, token)
        if account.marks:
            await self._link.call("ZADD", due(shard(account.chain.account)), 0, account_id)
        await self._link.call("HSET", keys.state, *fields_of(account))

    # --- joint aggregates, from ---

    async def shared(self) -> Rows:
        """See `Side.shared`."""
        rounds = RedisRounds(self._link, Limits())
        tasks, more = await rounds.read_tasks(0, tasks_max=1 << 20, bytes_max=1 << 40)
        assert not more
        for position, task in tasks:
            yield (
                "task", position, task.task_id, task.spec_hash, task.publisher, task.task, task.sig
            )  # fmt: skip
        async for round_id, raw in self._scan(round_keys.ROUNDS):
            row = round_keys.unpack_round(raw)
            state = await self._state(round_id)
            numbers = [int(state.get(name, 0)) for name in _NUMBERS]
            yield (
                "round", round_id, row.spec_hash, row.manifest, list(row.sigs), list(row.parties),
                row.open_ms, row.close_ms, row.until_ms, *numbers,
            )  # fmt: skip
        async for shared in governance.shared(self._link):
            yield shared

    async def _state(self, round_id: bytes) -> dict[bytes, bytes]:
        flat = await self._link.call("HGETALL", RoundKeys(round_id).state)
        return dict(zip(flat[::2], flat[1::2], strict=True))

    async def content(self, round_id: bytes) -> Rows:
        """See `Side.content`."""
        keys = RoundKeys(round_id)
        raw = await self._link.call("HGET", round_keys.ROUNDS, round_id)
        row, state = round_keys.unpack_round(raw), await self._state(round_id)
        async for who, value in self._scan(keys.given):
            position = int.from_bytes(value[32:], "big")
            yield "contribution", round_id, who[:32], value[:32], position
        for party in range(1, len(row.parties) + 1):
            at = 0
            while boxes := await self._link.call(
                "LRANGE", keys.boxes(party), at, at + HASHES_PER_CHUNK - 1
            ):
                for box in boxes:
                    at += 1
                    if box:
                        yield "box", round_id, party, at, box
        result = read_result(state)
        if result.result:
            yield "result", round_id, result.result, sorted(result.sigs.items())
        for party, (statement, sig) in result.abandonments.items():
            yield "abandonment", round_id, party, statement, sig

    # --- joint aggregates, to ---

    async def put_shared(self, rows: Rows) -> None:
        """See `Target.put_shared`."""
        rounds = RedisRounds(self._link, Limits(tasks_max=1 << 40, rounds_max=1 << 40))
        async for kind, *row in rows:
            if kind == "task":
                await rounds.publish_task(TaskRow(*row[1:]))
                continue
            if kind in governance.KINDS:
                await governance.put(self._link, kind, row)
                continue
            round_id, spec_hash, manifest, sigs, parties, *numbers = row
            known = RoundRow(
                round_id, spec_hash, manifest, tuple(sigs), tuple(parties), *numbers[:3]
            )
            await rounds.collect_round(known)
            flat = [x for pair in zip(_NUMBERS, numbers[3:], strict=True) for x in pair]
            await self._link.call("HSET", RoundKeys(round_id).state, *flat)

    async def put_content(self, round_id: bytes, rows: Rows) -> None:
        """See `Target.put_content`."""
        keys = RoundKeys(round_id)
        raw = await self._link.call("HGET", round_keys.ROUNDS, round_id)
        row, state = round_keys.unpack_round(raw), await self._state(round_id)
        await self._link.call("UNLINK", *keys.content(len(row.parties)))
        gone_ms = row.until_ms + Limits().results_ms + NOTED_MS
        boxes = Boxes(self._link, keys)
        given: list[Row] = []
        async for kind, _, *values in rows:
            if kind == "contribution":
                given.append(tuple(values))
                if len(given) == CALLS_AT_ONCE:
                    await self._give(keys, row, gone_ms, given)
            elif kind == "box":
                await boxes.take(*values)
            elif kind == "result":
                result, sigs = values
                flat = [x for party, sig in sigs for x in (b"z%d" % party, sig)]
                await self._link.call("HSET", keys.state, "result", result, *flat)
            else:
                party, statement, sig = values
                await self._link.call("HSET", keys.state, b"a%d" % party, sig + statement)
        await self._give(keys, row, gone_ms, given)
        if state[b"over"] != b"1":
            await boxes.end(len(row.parties), int(state[b"position"]))

    async def _give(self, keys: RoundKeys, row: RoundRow, gone_ms: int, given: list[Row]) -> None:
        async def one(account_id: bytes, digest: bytes, position: int) -> tuple[bytes, bytes]:
            account = AccountKeys(AccountId(account_id))
            # No consent is asked for: it was when this was given.
            incarnation = await self._link.run(
                GIVE,
                (account.state, account.given, account.consent_tags),
                (row.round_id, gone_ms, 0, b"", b""),
            )
            return account_id + incarnation, digest + position_name(position)

        pairs = await asyncio.gather(*(one(*values) for values in given))
        if pairs:
            await self._link.call("HSET", keys.given, *(part for pair in pairs for part in pair))
        given.clear()


_NUMBERS = (b"sealed", b"over", b"position", b"held")


def _trimmed(name: bytes, chunk: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """What a chunk of `trimmed` says: device, dev_seq, hash."""
    device_id, first = name[:-8], int.from_bytes(name[-8:], "big") * HASHES_PER_CHUNK
    for place in range(HASHES_PER_CHUNK):
        start = chunk[HASH_START_BYTES * place : HASH_START_BYTES * (place + 1)]
        if any(start):
            yield device_id, first + place, start
