"""Every store: long pushes, of which ops are superseded, sent again and trimmed here and there."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
from pathlib import Path

import pytest

from crypto import op
from crypto.op import STUB_BYTES, SealedOp, Verb
from services.store import packed, sqlite_schema as schema
from services.store.base import Store
from services.store.errors import DeviceForked
from services.store.sqlite import SqliteStore
from services.store.sqlite_state import WINNER
from tests.store_worlds import Client, stub_of

MANY = 100


async def overwritten(client: Client, every: int = 7) -> list[bytes]:
    """A long push, and then another one over every so many-th of its ops; the log to expect."""
    ops = client.world.ops(MANY)
    await client.push(*ops)
    over = [client.world.op(key=f"key/{number}") for number in range(0, MANY, every)]
    await client.push(*over)
    kept = [sealed.stub if n % every == 0 else sealed.raw for n, sealed in enumerate(ops)]
    return kept + [sealed.raw for sealed in over]


async def test_long_push_is_one_page_in_its_order(store: Store) -> None:
    """A page of one op holds the whole push that begins there, and says what comes after."""
    client = await Client.create(store)
    first, second = client.world.ops(MANY), client.world.ops(3, keys="other")
    await client.push(*first)
    await client.push(*second)
    page = await client.page(0, 1)
    assert page.ops == [sealed.raw for sealed in first]
    assert (page.count, page.position, page.more) == (MANY, MANY, True)
    page = await client.page(page.position, 1)
    assert page.ops == [sealed.raw for sealed in second]
    assert (page.count, page.position, page.more) == (3, MANY + 3, False)


async def test_ops_of_any_size_stay_in_their_order(store: Store) -> None:
    """Small ops and the largest that there are, mixed in one push."""
    client = await Client.create(store)
    sizes = (10, 30_000, 10, 10, 15_000, 30_000, *[10] * 40)
    ops = [client.world.op(key=f"{n}", value=b"x" * size) for n, size in enumerate(sizes)]
    await client.push(*ops)
    assert await client.pull() == [sealed.raw for sealed in ops]


async def test_ops_inside_a_long_push_become_stubs_where_they_are(store: Store) -> None:
    """What is superseded loses its payload; its neighbours keep theirs."""
    client = await Client.create(store)
    expected = await overwritten(client)
    assert await client.pull() == expected


async def test_any_op_of_a_long_push_is_recognised_when_it_comes_again(store: Store) -> None:
    """Whole or as a stub, superseded or not; another op in its place is a fork."""
    client = await Client.create(store)
    clone = client.world.fork()
    ops = client.world.ops(MANY)
    await client.push(*ops)
    await client.push(client.world.op(key="key/40"))
    for sealed in (ops[0], ops[31], ops[32], ops[40], ops[-1]):
        assert (await client.push(sealed)).new_ops == 0
        assert (await client.push(stub_of(sealed))).new_ops == 0
    others = [clone.op(key=f"key/{number}", value=b"other") for number in range(MANY)]
    for sealed in (others[0], others[31], others[32], others[40], others[-1]):
        with pytest.raises(DeviceForked):
            await client.push(sealed)


async def test_trimming_takes_ops_out_of_a_long_push(store: Store) -> None:
    """Stubs go, in the middle and whole runs of them; what is left and what went is known."""
    client = await Client.create(store)
    ops = client.world.ops(MANY)
    await client.push(*ops)
    lost = {3, *range(30, 70), MANY - 1}
    await client.push(*[client.world.op(key=f"key/{number}") for number in sorted(lost)])
    covers = await client.position()
    await client.push(client.world.op(verb=Verb.CHECKPOINT), checkpoint=0, covers=covers)
    log = await client.pull()
    await client.passed(covers, 0)
    for _ in range(4):
        await client.store.sweep(now_ms=client.now_ms)
    assert await client.pull() == [raw for raw in log if len(raw) != STUB_BYTES]
    again = [ops[number] for number in (2, 3, 4, 29, 30, 50, 69, 70, MANY - 1)]
    for sealed in again:
        assert (await client.push(sealed)).new_ops == 0
    await client.push(client.world.op(key="key/2"))
    assert (await client.pull())[2] == ops[2].stub


async def test_pushes_that_share_a_commit_see_each_other(store: Store) -> None:
    """Two devices write one tag at once: one winner, whichever comes first, in every round."""
    client = await Client.create(store, devices=2)
    for _ in range(20):
        ops: list[SealedOp] = [client.world.op(by, key="same") for by in (0, 1, 0, 1)]
        await asyncio.gather(
            client.push(ops[0], by=0), client.push(ops[1], by=1),
            client.push(ops[2], by=0), client.push(ops[3], by=1),
        )  # fmt: skip
        log = await client.pull()
        assert [raw for raw in log if len(raw) != STUB_BYTES] == [ops[3].raw]


async def test_file_with_one_row_an_op_is_brought_up(tmp_path: Path) -> None:
    """A file of the first schema holds the same ops and winners afterwards, and goes on."""
    path = tmp_path / "store.db"
    store = await SqliteStore.open(path)
    client = await Client.create(store)
    expected = await overwritten(client)
    await store.close()
    as_in_schema_1(path)
    client.store = store = await SqliteStore.open(path)
    assert await client.pull() == expected
    page = await client.page(0, 1)
    assert (page.count, page.more) == (MANY, True)
    over = client.world.op(key="key/1")
    await client.push(over)
    expected[1] = op.parse(expected[1]).stub
    assert await client.pull() == [*expected, over.raw]
    await store.close()


def as_in_schema_1(path: Path) -> None:
    """Puts ops and winners back into the tables of the first schema."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        segments = connection.execute("SELECT segment_id, push_rest, ops FROM segment").fetchall()
        winners = connection.execute("SELECT name, winner FROM live").fetchall()
        first = schema.MIGRATIONS[0]
        tables = [
            part for part in first.split(";") if "TABLE op (" in part or "TABLE live (" in part
        ]
        later = re.findall(r"CREATE TABLE (\w+)", "".join(schema.MIGRATIONS[2:]))
        gone = ";".join(f"DROP TABLE {name}" for name in ("segment", "live", *later))
        connection.executescript(f"{gone};{';'.join(tables)};")
        for segment_id, push_rest, ops in segments:
            for place, raw in enumerate(packed.split(ops)):
                connection.execute(
                    "INSERT INTO op VALUES (?, ?, ?, ?)",
                    (segment_id + place, push_rest - place, b"", raw),
                )
        for name, winner in winners:
            connection.execute(
                "INSERT INTO live VALUES (?, ?, ?, ?)", (name, *WINNER.unpack(winner))
            )
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
