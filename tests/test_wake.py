"""Waking sleeping devices: a real service, a real gateway, phones behind a socket."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from client.remoteerrors import RemoteError
from client.wake import Waking
from services import server
from services.wake import waker
from tests.served import serving
from tests.shell_worlds import Watching, endpoint_of, fleet, put, shown, together
from tests.store_worlds import RedisHouse
from tests.wake_worlds import (
    KEY,
    Tap,
    calm,
    gateway,
    phones,
    register,
    silence,
    token_of,
    until,
    until_logged,
    waking,
)  # fmt: skip


async def test_a_burst_is_one_poke_and_the_device_that_syncs_has_all(tmp_path: Path) -> None:
    """Twenty pushes wake a sleeping device once or twice; its author is not woken."""
    async with (
        phones() as platform,
        gateway(platform) as told,
        serving(tmp_path, **waking(tmp_path, told.address, wake_debounce_s=2.0)) as service,
        fleet(endpoint_of(service)) as devices,
    ):
        a = await devices.first()
        b = await devices.another(a)
        await register(b, "b")
        await register(a, "a")
        await calm(service, platform)
        for number in range(20):
            put(a, "theme", number)
            await a.sync_once()
        times = 0
        while shown(b).get("ui/theme") != 19:
            times += 1
            await platform.poked("b", times)
            await b.sync_once()
        assert platform.pokes.count("b") in (1, 2)
        assert "a" not in platform.pokes


async def test_a_device_with_an_open_stream_is_not_woken(tmp_path: Path) -> None:
    """The stream tells it; the one that sleeps beside it is woken in the same batch."""
    async with (
        phones() as platform,
        gateway(platform) as told,
        serving(tmp_path, **waking(tmp_path, told.address, wake_debounce_s=0.0)) as service,
        fleet(endpoint_of(service)) as devices,
    ):
        a = await devices.first()
        b, c = await devices.another(a), await devices.another(a)
        await register(b, "b")
        watching = Watching(b)
        await watching.until_live()
        await register(c, "c")
        await calm(service, platform)
        put(a, "theme", "dark")
        await a.sync_once()
        await watching.until_shown("ui/theme", "dark")
        await platform.poked("c")
        pokes = list(platform.pokes)
        await calm(service, platform)
        assert set(pokes) == {"c"}
        await watching.stop()


async def test_a_device_whose_stream_ends_soon_after_ops_came_is_woken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream may have been dead when they came: nobody can tell."""
    monkeypatch.setattr(waker, "RECONNECT_MS", 50)
    async with (
        phones() as platform,
        gateway(platform) as told,
        serving(tmp_path, **waking(tmp_path, told.address, wake_debounce_s=0.0)) as service,
        fleet(endpoint_of(service)) as devices,
    ):
        a = await devices.first()
        b = await devices.another(a)
        await register(b, "b")
        watching = Watching(b)
        await watching.until_live()
        await calm(service, platform)
        put(a, "theme", "dark")
        await a.sync_once()
        await watching.until_shown("ui/theme", "dark")
        await calm(service, platform)
        await watching.stop()
        await platform.poked("b")


async def test_a_phone_that_vanished_with_its_stream_open_is_woken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No packet comes from it any more, and none says so: the service asks, and finds out."""
    monkeypatch.setattr(waker, "RECONNECT_MS", 50)
    usual = server.grpc_options
    often = {"grpc.keepalive_time_ms": 1_000, "grpc.http2.ping_timeout_ms": 1_000}
    monkeypatch.setattr(server, "grpc_options", lambda config: {**usual(config), **often})
    async with (
        phones() as platform,
        gateway(platform) as told,
        serving(tmp_path, **waking(tmp_path, told.address, wake_debounce_s=0.0)) as service,
        fleet(endpoint_of(service)) as devices,
        Tap(service.server.address) as tap,
        fleet(replace(endpoint_of(service), targets=(tap.address,))) as far,
    ):
        a = await devices.first()
        b = await far.another(a)
        await register(b, "b")
        watching = Watching(b)
        await watching.until_live()
        await calm(service, platform)
        tap.frozen = True
        put(a, "theme", "dark")
        await a.sync_once()
        await calm(service, platform)
        await platform.poked("b")
        assert shown(b) == {}
        await watching.stop()


async def test_a_handle_that_is_gone_is_dropped(tmp_path: Path) -> None:
    """The platform knows the token no more: the service forgets the handle and the device can
    see that."""
    async with (
        phones() as platform,
        gateway(platform) as told,
        serving(tmp_path, **waking(tmp_path, told.address, wake_debounce_s=0.0)) as service,
        fleet(endpoint_of(service)) as devices,
    ):
        a = await devices.first()
        b = await devices.another(a)
        platform.gone.add("b")
        made = await register(b, "b")
        assert await Waking(b).held_until_ms() >= made.expires_ms

        async def forgotten() -> bool:
            return await Waking(b).held_until_ms() == 0

        put(a, "theme", "dark")
        await a.sync_once()
        await platform.poked("b")
        await until(forgotten)
        count = platform.pokes.count("b")
        put(a, "theme", "light")
        await a.sync_once()
        await register(a, "a")
        assert platform.pokes.count("b") == count


async def test_a_platform_that_wants_it_later_gets_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RETRY is tried again, with a pause that grows."""
    monkeypatch.setattr(waker, "LATER_FIRST_MS", 50)
    async with (
        phones() as platform,
        gateway(platform) as told,
        serving(tmp_path, **waking(tmp_path, told.address, wake_debounce_s=0.0)) as service,
        fleet(endpoint_of(service)) as devices,
    ):
        a = await devices.first()
        b = await devices.another(a)
        await register(b, "b")
        await calm(service, platform)
        platform.answer = b"busy\n"
        put(a, "theme", "dark")
        await a.sync_once()
        await platform.poked("b", 3)
        platform.answer = b"ok\n"
        await platform.poked("b", 4)
        assert await Waking(b).held_until_ms()


async def test_a_gateway_that_does_not_answer_slows_no_push(tmp_path: Path) -> None:
    """Pushes are answered while the gateway keeps the waker waiting."""
    async with (
        phones() as platform,
        silence() as address,
        serving(tmp_path, **waking(tmp_path, address, wake_timeout_s=1.0)) as service,
        fleet(endpoint_of(service)) as devices,
    ):
        a = await devices.first()
        b = await devices.another(a)
        await register(b, "b")
        for number in range(10):
            put(a, "theme", number)
            await a.sync_once()
        assert "gateway_down" not in service.log.getvalue()
        await until_logged(service.log, "gateway_down")
        assert platform.pokes == []


async def test_the_poke_comes_once_the_gateway_is_back(tmp_path: Path) -> None:
    """Down is told once, and so is up."""
    async with phones() as platform:
        async with gateway(platform) as told:
            address = told.address
        async with (
            serving(tmp_path, **waking(tmp_path, address)) as service,
            fleet(endpoint_of(service)) as devices,
        ):
            a = await devices.first()
            b = await devices.another(a)
            await register(b, "b")
            put(a, "theme", "dark")
            await a.sync_once()
            await until_logged(service.log, "gateway_down")
            async with gateway(platform, listen=address):
                await platform.poked("b")
                await until_logged(service.log, "gateway_up")
            assert service.log.getvalue().count("gateway_down") == 1


async def test_what_was_due_when_the_service_was_stopped_is_poked_by_the_next(
    tmp_path: Path,
) -> None:
    """Whose turn it is stands in the store."""
    async with phones() as platform:
        async with gateway(platform) as told:
            address = told.address
        settings = waking(tmp_path, address)
        async with (
            serving(tmp_path, **settings) as service,
            fleet(endpoint_of(service)) as devices,
        ):
            a = await devices.first()
            b = await devices.another(a)
            await register(b, "b")
            put(a, "theme", "dark")
            await a.sync_once()
        assert platform.pokes == []
        async with gateway(platform, listen=address), serving(tmp_path, **settings):
            await platform.poked("b")


async def test_a_service_without_a_gateway_says_so(tmp_path: Path) -> None:
    """Registering is refused; removing what an earlier configuration took is not."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        with pytest.raises(RemoteError, match="no push gateway") as refused:
            await register(a, "a")
        assert refused.value.reason == "WAKE_OFF"
        await Waking(a).remove()


async def test_registering_renewing_and_removing(tmp_path: Path) -> None:
    """A third of the time later it is sealed anew, and at once under another identity."""
    async with (
        phones() as platform,
        gateway(platform) as told,
        serving(tmp_path, **waking(tmp_path, told.address)) as service,
        fleet(endpoint_of(service)) as devices,
    ):
        a = await devices.first()
        own = Waking(a)
        assert not await own.renew_if_due()
        made = await own.register(KEY.public, token_of("a"))
        assert own.registered == made
        assert "push-token" not in repr(made)
        assert not await own.renew_if_due()
        service.moment.offset_ms += made.renew_ms - made.since_ms
        await a.sync_once()
        assert await own.renew_if_due()
        renewed = own.registered
        assert renewed is not None
        assert renewed.since_ms >= made.renew_ms
        assert await own.held_until_ms() >= renewed.expires_ms
        a.core.reidentify(now_ms=a.now_ms(), rand=lambda size: bytes(range(size)))
        await a.sync_once()
        assert await own.renew_if_due()
        assert not await own.renew_if_due()
        await own.remove()
        assert Waking(a).registered is None
        assert await own.held_until_ms() == 0


async def test_two_replicas_wake_a_device_once(tmp_path: Path, redis_house: RedisHouse) -> None:
    """Pushes through both, within the debounce: one poke, by whichever claims it."""
    redis_house.server.flush()
    async with AsyncExitStack() as stack:
        platform = await stack.enter_async_context(phones())
        told = await stack.enter_async_context(gateway(platform))
        settings = waking(tmp_path, told.address, redis_url=redis_house.server.url)
        one = await stack.enter_async_context(serving(tmp_path, **settings))
        two = await stack.enter_async_context(serving(tmp_path, **settings))
        here = await stack.enter_async_context(fleet(endpoint_of(one)))
        there = await stack.enter_async_context(fleet(endpoint_of(two)))
        a = await here.first()
        b, c = await here.another(a), await there.another(a)
        await calm(one, platform)
        await calm(two, platform)
        await register(b, "b")
        for number in range(5):
            put(a, "theme", number)
            put(c, "lang", number)
            await together(a.sync_once(), c.sync_once())
        await platform.poked("b")
        await register(a, "a")
        put(c, "theme", "dark")
        await c.sync_once()
        await platform.poked("a")
        assert platform.pokes == ["b", "a"]


async def test_what_a_replica_leaves_undone_another_one_does(
    tmp_path: Path, redis_house: RedisHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds it when it looks, without having been told."""
    monkeypatch.setattr(waker, "POLL_S", 0.2)
    redis_house.server.flush()
    async with phones() as platform, AsyncExitStack() as stack:
        async with gateway(platform) as told:
            address = told.address
        settings = waking(tmp_path, address, redis_url=redis_house.server.url)
        async with serving(tmp_path, **settings) as one, fleet(endpoint_of(one)) as devices:
            a = await devices.first()
            b = await devices.another(a)
            await register(b, "b")
            put(a, "theme", "dark")
            await a.sync_once()
            await until_logged(one.log, "gateway_down")
        assert platform.pokes == []
        await stack.enter_async_context(gateway(platform, listen=address))
        await stack.enter_async_context(serving(tmp_path, **settings))
        await platform.poked("b")
