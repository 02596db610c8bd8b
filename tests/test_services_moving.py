"""`rookery-server migrate-store`: what is moved is the same, whole, and served by one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from crypto.op import STUB_BYTES, Verb
from services import cli
from services.moving.move import Moved, move
from services.moving.redis_side import RedisSide
from services.moving.rows import Target
from services.moving.sqlite_side import SqliteSide
from services.store.base import Store
from services.store.errors import ContributedAlready, DeviceForked, StoreUnavailable
from services.store.governance import Head, first_broken
from services.store.redis import RedisStore
from services.store.redis_link import Link
from services.store.sqlite import SqliteStore
from tests.governance_rows import append_consents, policy_after, put_policies
from tests.redis_process import RedisCluster, RedisServer
from tests.round_rows import CLOSE_MS, UNTIL_MS, Round, collected, people, round_, rows, task
from tests.service_process import ROOT, environment
from tests.store_worlds import DAY_MS, NOW_MS, Client

HANDLE = b"handle" * 20


class Lives:
    """Accounts of every kind, and what there is of joint aggregates; in one store after another."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def fill(self) -> None:
        """Makes them all."""
        store = self.store
        self.trimmed = await Client.create(store, "trimmed", devices=2)
        self.first = self.trimmed.world.op(0, key="0")
        await self.trimmed.push(self.first)
        for number in range(80):
            await self.trimmed.push(self.trimmed.world.op(0, key=f"{number % 5}"))
        covers = await self.trimmed.position()
        mark = self.trimmed.world.op(0, verb=Verb.CHECKPOINT)
        await self.trimmed.push(mark, checkpoint=0, covers=covers)
        await self.trimmed.passed(covers, 0, 1)
        for _ in range(3):
            await store.sweep(now_ms=NOW_MS)
        await self.trimmed.push(*(self.trimmed.world.op(1, key=f"{n}") for n in range(70)))
        # A checkpoint that one device has not passed.
        self.waiting = await Client.create(store, "waiting", devices=3)
        for number in range(9):
            await self.waiting.push(self.waiting.world.op(number % 3, key=f"{number % 2}"))
        self.covers = await self.waiting.position()
        mark = self.waiting.world.op(0, verb=Verb.CHECKPOINT)
        await self.waiting.push(mark, checkpoint=0, covers=self.covers)
        await self.waiting.passed(self.covers, 0, 1)
        # Two epochs, and a device that was revoked.
        self.rotated = await Client.create(store, "rotated", devices=3)
        await self.rotated.push(*(self.rotated.world.op(1, key=f"{n}") for n in range(40)))
        await self.rotated.rotate(revoke=[2])
        await self.rotated.push(*(self.rotated.world.op(0, key=f"{n}") for n in range(20)))
        self.people = await people(store, 4)
        await store.wake.set_handle(
            self.people[0].world.account_id,
            self.people[0].world.authors[0].device_id,
            HANDLE,
            expires_ms=NOW_MS + 99 * DAY_MS,
        )
        self.round = await collected(store)
        for number, client in enumerate(self.people[:3]):
            await self.round.give(client, rows(number))
        await store.delete_account(self.people[1].world.account_id)
        self.done = round_(b"done", open_ms=CLOSE_MS, close_ms=UNTIL_MS, until_ms=UNTIL_MS)
        await store.rounds.collect_round(self.done)
        await Round(store, self.done).give(self.people[0], rows("done"), CLOSE_MS)
        await store.rounds.abandon(self.done.round_id, 3, b"disk", b"3" * 64, quorum=1)
        await store.rounds.publish_result(
            self.done.round_id, b"result", {1: b"1" * 64, 2: b"2" * 64}, now_ms=UNTIL_MS
        )

        await put_policies(store, 2)
        for client in (self.trimmed, self.people[2]):
            said = [("dishes", True), ("taste", True), ("dishes", False)]
            await append_consents(store, client.world.account_id, said)
        for at in range(4):
            await store.governance.append_audit(b"done", now_ms=NOW_MS + at)
        await store.governance.trim_audit(before_ms=NOW_MS + 3)

    def clients(self) -> list[Client]:
        """All that are still there."""
        return [self.trimmed, self.waiting, self.rotated, *self.people[:1], *self.people[2:]]

    async def seen(self) -> list[Any]:
        """What devices and parties see."""
        seen: list[Any] = []
        for client in self.clients():
            account_id = client.world.account_id
            tip = await self.store.tip(account_id)
            seen += [tip, await client.pull(), await self.store.heads(account_id)]
            pages = [await client.page(0, 3)]
            while pages[-1].more:
                pages.append(await client.page(pages[-1].position, 3))
            seen.append(pages)
            seen.append(
                await self.store.read_links(account_id, -1, links_max=99, bytes_max=1 << 30)
            )
        for row in (round_(), self.done):
            seen.append(await self.store.rounds.find_round(row.round_id))
            seen.append(await self.store.rounds.find_result(row.round_id))
        seen.append([await self.round.boxes(party) for party in (1, 2, 3)])
        seen.append(await self.store.rounds.find_task(task().spec_hash))
        seen += await self._governance()
        return [self.store.generation, self.store.secret, _plain(seen)]

    async def _governance(self) -> list[Any]:
        held = self.store.governance
        seen: list[Any] = [await held.policy(number) for number in (1, 2, 3)]
        for client in self.clients():
            account_id = client.world.account_id
            entries = list(await held.consents(account_id, 0, rows_max=99))
            states = [await held.consent_state(account_id, entry.tag) for entry in entries]
            seen += [await held.consent_head(account_id), *entries, *states]
        # The command that moves a store is itself in the log, behind all that it moved.
        log = list(await held.read_audit(0, rows_max=99))
        while log and b"migrate-store" in log[-1].body:
            log.pop()
        assert first_broken(log, await held.audit_anchor()) is None
        return [*seen, *log, await held.audit_anchor()]

    def go_on(self, store: Store) -> None:
        """The same lives in another store."""
        self.store = self.round.store = store
        for client in self.clients():
            client.store = store

    async def check(self) -> None:
        """They go on as if nothing had been: forks are told, "once" holds, trimming trims."""
        clone = self.trimmed.world.fork()
        clone.authors[0].dev_seq, clone.authors[0].head = 0, None
        with pytest.raises(DeviceForked):
            await Client(self.store, clone).push(clone.op(0, key="another"))
        again = await self.trimmed.push(self.first)
        assert again.new_ops == 0
        await self.trimmed.push(self.trimmed.world.op(0, key="new"))
        with pytest.raises(ContributedAlready):
            await self.round.give(self.people[0], rows(7))
        assert not await self.round.give(self.people[2], rows(2))
        assert await self.round.give(self.people[3], rows(3))
        before = await self.waiting.pull()
        await self.waiting.passed(self.covers, 2)
        for _ in range(4):
            await self.store.sweep(now_ms=NOW_MS)
        after = await self.waiting.pull()
        assert after == [raw for raw in before if len(raw) != STUB_BYTES] != before
        person = self.people[0].world
        expires_ms = await self.store.wake.handle_expires_ms(
            person.account_id, person.authors[0].device_id, now_ms=NOW_MS
        )
        assert expires_ms == NOW_MS + 99 * DAY_MS
        newest = await self.store.governance.policy()
        assert newest is not None
        following = policy_after(Head(newest.sequence, newest.hash))
        assert await self.store.governance.put_policy(following)
        await append_consents(self.store, self.trimmed.world.account_id, [("taste", False)])
        anchor = await self.store.governance.audit_anchor()
        await self.store.governance.append_audit(b"more", now_ms=NOW_MS)
        log = await self.store.governance.read_audit(0, rows_max=99)
        assert (len(log), first_broken(log, anchor)) == (3, None)
        await self.store.delete_account(self.people[2].world.account_id)
        assert await self.round.boxes(2) == [rows(0)[1], rows(3)[1]]
        del self.people[2:]


def _plain(seen: list[Any]) -> list[Any]:
    """Pages may be packed in other runs."""
    return [
        [(page.ops, page.position, page.more) for page in one]
        if isinstance(one, list) and one and hasattr(one[0], "runs")
        else one
        for one in seen
    ]


async def redis_side(url: str, *, filled: bool) -> RedisSide:
    """A store there, for the move alone."""
    return RedisSide(await Link.open(url, make=filled, serves=False), url)


async def moved(source: Target, target: Target) -> Moved:
    """Moves, and closes both."""
    try:
        return await move(source, target, lambda part, done, total: None)
    finally:
        await source.close()
        await target.close()


@pytest.fixture(params=["single", pytest.param("cluster", marks=pytest.mark.soak)])
def url(request: pytest.FixtureRequest) -> str:
    """An empty Redis."""
    servers: RedisServer | RedisCluster = request.getfixturevalue(
        {"single": "redis_server", "cluster": "redis_cluster"}[request.param]
    )
    servers.flush()
    return servers.url


async def test_a_store_goes_to_redis_and_back_and_is_the_same(tmp_path: Path, url: str) -> None:
    """Everybody sees what they saw, under the same generation, and goes on; what was changed
    there comes back as well; the stores that were left are served by nobody."""
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    store: Store = await SqliteStore.open(old)
    lives = Lives(store)
    await lives.fill()
    before = await lives.seen()
    await store.close()

    there = await moved(SqliteSide(old, filled=False), await redis_side(url, filled=True))
    assert there.kinds.keys() == {
        "account", "link", "end", "device", "mark", "op", "winner", "superseded", "run",
        "trimmed", "wake", "task", "round", "contribution", "box", "result", "abandonment",
        "consent", "policy", "anchor", "audit",
    }  # fmt: skip
    with pytest.raises(StoreUnavailable, match="moved elsewhere"):
        await SqliteStore.open(old)
    lives.go_on(await RedisStore.open(await Link.open(url)))
    assert await lives.seen() == before
    await lives.check()
    before = await lives.seen()
    await lives.store.close()

    await moved(await redis_side(url, filled=False), SqliteSide(new, filled=True))
    with pytest.raises(StoreUnavailable, match="moved elsewhere"):
        await Link.open(url)
    lives.go_on(await SqliteStore.open(new))
    assert await lives.seen() == before
    await lives.trimmed.push(lives.trimmed.world.op(0, key="newest"))
    assert not await lives.round.give(lives.people[0], rows(0))
    await lives.store.close()


async def test_a_store_that_is_served_is_not_moved(tmp_path: Path, url: str) -> None:
    """Neither from nor to one; and what is being moved is not served."""
    path = tmp_path / "store.db"
    sqlite = await SqliteStore.open(path)
    with pytest.raises(StoreUnavailable, match="open in another process"):
        SqliteSide(path, filled=False)
    await sqlite.close()
    serving = await Link.open(url)
    for filled in (True, False):
        side = await redis_side(url, filled=filled)
        with pytest.raises(StoreUnavailable, match="1 process serves this store"):
            await side.seize(b"of" if filled else b"to")
        await side.close()
    await serving.close()
    side = await redis_side(url, filled=False)
    assert await side.seize(b"to1") == b"to1"
    with pytest.raises(StoreUnavailable, match="migrate-store is at work"):
        await Link.open(url)
    await side.close()


async def test_a_target_with_other_data_is_left_alone(tmp_path: Path, url: str) -> None:
    """Neither a store nor a file is written over; another move is not taken up."""
    path = tmp_path / "store.db"
    store = await SqliteStore.open(path)
    await Client.create(store)
    await store.close()
    redis = await RedisStore.open(await Link.open(url))
    await Client.create(redis, "other")
    await redis.close()
    with pytest.raises(StoreUnavailable, match="holds another store, with the data of its clients"):
        await moved(SqliteSide(path, filled=False), await redis_side(url, filled=True))
    other = tmp_path / "other.db"
    await (await SqliteStore.open(other)).close()
    with pytest.raises(StoreUnavailable, match="is there already"):
        await moved(SqliteSide(other, filled=False), SqliteSide(path, filled=True))
    for name in (path, other):  # a refusal has not marked the source
        await (await SqliteStore.open(name)).close()
    with pytest.raises(StoreUnavailable, match="is not there"):
        SqliteSide(tmp_path / "nothing.db", filled=False)


async def test_a_move_that_has_ended_says_so_and_changes_nothing(tmp_path: Path, url: str) -> None:
    """Also while the new store is served already, and in either direction."""
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    client = await Client.create(await SqliteStore.open(old))
    await client.store.close()
    await moved(SqliteSide(old, filled=False), await redis_side(url, filled=True))
    serving: Store = await RedisStore.open(await Link.open(url))
    again = await moved(SqliteSide(old, filled=False), await redis_side(url, filled=True))
    assert again == Moved({}, serving.generation.hex(), ended_before=True)
    client.store = serving
    assert not await client.pull()
    await serving.close()

    await moved(await redis_side(url, filled=False), SqliteSide(new, filled=True))
    serving = await SqliteStore.open(new)
    again = await moved(await redis_side(url, filled=False), SqliteSide(new, filled=True))
    assert again == Moved({}, serving.generation.hex(), ended_before=True)
    await serving.close()
    # The stores that were left are no place for a move, and are not called empty places.
    with pytest.raises(StoreUnavailable, match="holds a store that was moved away"):
        await moved(SqliteSide(new, filled=False), await redis_side(url, filled=True))


async def test_a_move_that_is_refused_leaves_nothing_behind(tmp_path: Path, url: str) -> None:
    """No file beside the target's place."""
    serving = await Link.open(url)
    with pytest.raises(StoreUnavailable, match="1 process serves this store: stop it first"):
        await moved(
            await redis_side(url, filled=False), SqliteSide(tmp_path / "back.db", filled=True)
        )
    await serving.close()
    assert not await asyncio.to_thread(os.listdir, tmp_path)


class Interrupted(RedisSide):
    """A target whose mover is killed when the source has been retired already."""

    async def finish(self, mark: bytes, generation: bytes, secret: bytes) -> None:
        """Never comes to it."""
        raise KeyboardInterrupt


async def test_a_move_that_ended_between_the_two_goes_on(tmp_path: Path, url: str) -> None:
    """The source is left and the target has not begun: nobody serves either, and the same
    command ends it."""
    path = tmp_path / "store.db"
    store: Store = await SqliteStore.open(path)
    client = await Client.create(store)
    await client.push(client.world.op())
    log = await client.pull()
    await store.close()
    target = Interrupted(await Link.open(url, serves=False), url)
    with pytest.raises(KeyboardInterrupt):
        await moved(SqliteSide(path, filled=False), target)
    with pytest.raises(StoreUnavailable, match="moved elsewhere"):
        await SqliteStore.open(path)
    with pytest.raises(StoreUnavailable, match="migrate-store is at work"):
        await Link.open(url)
    await moved(SqliteSide(path, filled=False), await redis_side(url, filled=True))
    client.store = await RedisStore.open(await Link.open(url))
    assert await client.pull() == log
    await client.store.close()


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("late", [False, True])
async def test_a_generation_that_is_renewed_during_a_move_ends_it(
    tmp_path: Path, url: str, *, back: bool, late: bool
) -> None:
    """On either side, before the two are compared and after: nothing is written over it, and
    another run goes on."""
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    store: Store = await SqliteStore.open(old)
    client = await Client.create(store)
    await client.push(client.world.op())
    log, generation = await client.pull(), store.generation
    await store.close()
    if back:
        await moved(SqliteSide(old, filled=False), await redis_side(url, filled=True))
    renewing = await Link.open(url, serves=False)

    class Renewed(RedisSide):
        """A store in Redis whose generation changes once it was compared."""

        async def retire(self, mark: bytes) -> None:
            await renewing.new_generation()
            await super().retire(mark)

        async def finish(self, mark: bytes, generation: bytes, secret: bytes) -> None:
            await renewing.new_generation()
            await super().finish(mark, generation, secret)

    async def sides(kind: type[RedisSide]) -> tuple[Target, Target]:
        link = await Link.open(url, make=not back, serves=False)
        if back:
            return kind(link, url), SqliteSide(new, filled=True)
        return SqliteSide(old, filled=False), kind(link, url)

    pair = await sides(Renewed if late else RedisSide)
    if not late:
        await renewing.new_generation()
    with pytest.raises(StoreUnavailable, match="may have lost writes"):
        await moved(*pair)
    renewed = renewing.generation
    await renewing.close()
    await moved(*await sides(RedisSide))
    store = await (SqliteStore.open(new) if back else RedisStore.open(await Link.open(url)))
    client.store = store
    assert await client.pull() == log
    assert client.store.generation == (renewed if back else generation)
    await client.store.close()


def _command(source: str, target: str) -> list[str]:
    arguments = ["migrate-store", "--from", source, "--to", target, "--json"]
    return [sys.executable, "-m", "services.cli", *arguments]


def _killed_after(lines: int, source: str, target: str) -> bool:
    """Starts the command and kills it when it has said so many lines; False if it was faster."""
    with subprocess.Popen(
        _command(source, target), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(lines):
            if "ok" in json.loads(process.stdout.readline()):
                return process.wait() != 0
        process.kill()
    return process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("back", "kills"),
    [
        (False, (3,)),
        pytest.param(False, range(1, 20, 3), marks=pytest.mark.soak),
        pytest.param(True, range(1, 20, 3), marks=pytest.mark.soak),
    ],
)
def test_a_move_that_is_killed_goes_on(
    tmp_path: Path,
    redis_server: RedisServer,
    capsys: pytest.CaptureFixture[str],
    kills: Sequence[int],
    *,
    back: bool,
) -> None:
    """SIGKILL at one point after another: run again, it ends, and the copy is exact. Until then
    neither store is served."""
    redis_server.flush()
    old, new = tmp_path / "old.db", tmp_path / "new.db"

    async def fill() -> list[Any]:
        store = await SqliteStore.open(old)
        lives = Lives(store)
        await lives.fill()
        seen = await lives.seen()
        await store.close()
        if back:
            await moved(
                SqliteSide(old, filled=False), await redis_side(redis_server.url, filled=True)
            )
        return [lives, seen]

    lives, seen = asyncio.run(fill())
    names = (redis_server.url, str(new)) if back else (str(old), redis_server.url)
    done = False
    for lines in kills:
        done = not _killed_after(lines, *names)
        if done:
            break
        assert not asyncio.run(_is_served(redis_server))
    if not done:
        assert cli.main(_command(*names)[3:]) == 0, capsys.readouterr().err
        last = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert last["ok"]
        assert last["kinds"]["op"]["count"] > 100

    async def look() -> None:
        store: Store = (
            await SqliteStore.open(new)
            if back
            else await RedisStore.open(await Link.open(redis_server.url))
        )
        lives.go_on(store)
        assert await lives.seen() == seen
        await store.close()

    asyncio.run(look())


async def _is_served(server: RedisServer) -> bool:
    try:
        await (await Link.open(server.url)).close()
    except StoreUnavailable:
        return False
    return True
