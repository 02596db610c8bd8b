"""A device against a real service on a real file: syncing, watching, losing and finding."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from client import remoteerrors as reasons
from client.errors import StateUnsaved
from client.remote import Remote, SignedReceipt
from client.remoteerrors import RemoteError
from client.rows import Changes
from client.steps import Push
from client.sync import SyncedDevice
from client.vault import MemoryVault
from rookery.v1 import sync_pb2
from tests.served import serving
from tests.shell_worlds import (
    DAY_MS,
    Clock,
    Watching,
    endpoint_of,
    fleet,
    like,
    put,
    rules,
    shown,
    together,
)


async def test_a_value_arrives_on_the_other_device(tmp_path: Path) -> None:
    """Set here, synced, read there; and back."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        put(a, "theme", "dark")
        like(a, "thai", 2)
        await a.sync_once()
        b = await devices.another(a)
        assert shown(b) == {"ui/theme": "dark", "cuisine/thai": 2}
        put(b, "theme", "light")
        like(b, "thai", 3)
        await b.sync_once()
        await a.sync_once()
        assert shown(a) == shown(b) == {"ui/theme": "light", "cuisine/thai": 5}
        assert not rules(a)
        assert not rules(b)


async def test_an_account_costs_the_work_that_the_service_asks_for(tmp_path: Path) -> None:
    """The client does the proof of work that PROOF_REQUIRED names."""
    async with serving(tmp_path, pow_bits=10) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        assert a.core.status.account_made


async def test_a_subscribed_device_sees_a_change_without_asking(tmp_path: Path) -> None:
    """A watch brings what others do, and sends what is set meanwhile."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        b = await devices.another(a)
        watch_a, watch_b = Watching(a), Watching(b)
        await together(watch_a.until_live(), watch_b.until_live())
        for number in range(5):
            put(a, "theme", number)
            await watch_b.until_shown("ui/theme", number)
            put(b, "lang", number)
            await watch_a.until_shown("ui/lang", number)
        await together(watch_a.stop(), watch_b.stop())
        assert not rules(a)
        assert not rules(b)


async def test_a_watch_meets_a_device_that_was_added_meanwhile(tmp_path: Path) -> None:
    """EVENT_CHAIN leads to the longer chain, so that the new device's ops count."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        b = await devices.another(a)
        watch = Watching(b)
        await watch.until_live()
        c = await devices.another(a)
        put(c, "theme", "dark")
        await c.sync_once()
        await watch.until(lambda: shown(b).get("ui/theme") == "dark")
        assert len(b.core.devices) == 3
        await watch.stop()


async def test_a_watch_that_is_far_behind_is_resynced_and_loses_nothing(tmp_path: Path) -> None:
    """RESYNC sends it to Pull and back to the stream."""
    async with (
        serving(tmp_path, backlog_ops_max=3) as service,
        fleet(endpoint_of(service)) as devices,
    ):
        a = await devices.first()
        b = await devices.another(a)
        watch = Watching(b)
        await watch.until_live()
        for number in range(700):
            put(a, f"k{number}", number)
        await a.sync_once()
        await watch.until(lambda: len(shown(b)) == 700)
        await watch.stop()
        assert shown(b) == shown(a)


async def test_weeks_of_edits_go_out_in_batches_and_both_sides_agree(tmp_path: Path) -> None:
    """A device that was away for weeks, with a clock that is off, pushes and takes all."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        clock = Clock()
        b = await devices.another(a, clock=clock)
        for day in range(21):
            clock.offset_ms = day * DAY_MS
            for number in range(30):
                put(b, f"b{day}.{number}", day)
            put(b, "theme", f"b{day}")
            like(b, "thai")
            put(a, f"a{day}", day)
            put(a, "theme", f"a{day}")
            like(a, "thai")
            await a.sync_once()
        await b.sync_once()
        await a.sync_once()
        assert shown(a) == shown(b)
        assert shown(a)["cuisine/thai"] == 42
        assert len(shown(a)) == 21 * 31 + 2
        assert not rules(a)
        assert not rules(b)


class _Lossy(Remote):
    """Loses the answer to a push that the service has committed."""

    async def push(self, push: Push) -> None:
        await super().push(push)
        raise RemoteError(reasons.UNREACHABLE, status="UNAVAILABLE")


async def test_a_lost_answer_repeats_the_same_bytes(tmp_path: Path) -> None:
    """A push whose answer was lost is sent again as it was, also by a new process, and
    counts once."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        b = await devices.another(a)
        a.remote = _Lossy(a.transport)
        like(a, "thai", 7)
        with pytest.raises(RemoteError):
            await a.sync_once()
        a = devices.again(a)
        assert a.core.status.ops_in_flight
        await a.sync_once()
        await b.sync_once()
        assert shown(a) == shown(b) == {"cuisine/thai": 7}
        assert not rules(a)


class _Order(MemoryVault):
    """Notes how many batches were stored in flight."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: set[bytes] = set()

    def apply(self, changes: Changes) -> None:
        super().apply(changes)
        self.stored |= {value for value in changes.values() if value is not None}


class _Checked(Remote):
    """Refuses to send an op that is not stored."""

    vault: _Order

    async def push(self, push: Push) -> None:
        for raw in push.ops:
            assert any(raw in row for row in self.vault.stored)
        await super().push(push)


async def test_nothing_is_sent_before_it_is_stored(tmp_path: Path) -> None:
    """Every op of every push stands in the vault when the call is made."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        vault = _Order()
        a = await devices.first(vault)
        a.remote = remote = _Checked(a.transport)
        remote.vault = vault
        for number in range(10):
            put(a, "theme", number)
            await a.sync_once()


class _Crossing(Remote):
    """While a receipt is under way, another device's op comes by the stream."""

    other: SyncedDevice | None = None
    frame: asyncio.Event

    def subscribe(self, cursor: bytes) -> AsyncGenerator[sync_pb2.SubscribeResponse, None]:
        return self._noted(super().subscribe(cursor))

    async def _noted(
        self, frames: AsyncGenerator[sync_pb2.SubscribeResponse, None]
    ) -> AsyncGenerator[sync_pb2.SubscribeResponse, None]:
        async for frame in frames:
            self.frame.set()
            yield frame

    async def get_receipt(self) -> SignedReceipt:
        receipt = await super().get_receipt()
        if self.other is None:
            return receipt
        self.frame.clear()
        put(self.other, "theme", "crossing")
        await self.other.sync_once()
        await self.frame.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        return receipt


async def test_an_op_that_crosses_a_receipt_is_not_called_lost(tmp_path: Path) -> None:
    """A receipt from before an op came by the stream does not say that the service lost it."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        b = await devices.another(a)
        b.remote = remote = _Crossing(b.transport)
        remote.frame = asyncio.Event()
        watch = Watching(b)
        await watch.until_live()
        remote.other = a
        b.core.check_in()
        b.woken.set()
        await watch.until_shown("ui/theme", "crossing")
        # Waits for its turn, so the receipt has been judged by then.
        await b.send_due()
        await watch.stop()
        assert [row.rule for row in b.core.notices if row.rule == "service-lost"] == []


class _Full(MemoryVault):
    """A disk that is full from some moment on."""

    full = False

    def apply(self, changes: Changes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().apply(changes)


async def test_a_state_that_can_not_be_stored_sends_nothing(tmp_path: Path) -> None:
    """After a failed write the device stops, and a new process goes on from the disk."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        vault = _Full()
        a = await devices.first(vault)
        put(a, "theme", "dark")
        await a.sync_once()
        vault.full = True
        with pytest.raises(OSError, match="No space"):
            put(a, "theme", "lost")
        with pytest.raises(StateUnsaved):
            await a.sync_once()
        vault.full = False
        again = devices.again(a)
        await again.sync_once()
        assert shown(again) == {"ui/theme": "dark"}
