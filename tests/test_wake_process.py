"""Service, gateway and `rookery device` as processes: who is woken, and who learns what."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from services import cli, keys
from tests.cli_process import Home
from tests.service_process import ServiceProcess
from tests.shell_worlds import Fleet, fleet, put, shown
from tests.wake_worlds import (
    GATEWAY_AUDIENCE,
    KEY,
    SERVICE_SEED,
    GatewayProcess,
    Phones,
    Tap,
    phones,
    register,
    token_of,
)  # fmt: skip

AUDIENCE = "rookery.localhost"


@dataclass
class House:
    """All processes, and the line between service and gateway."""

    service: ServiceProcess
    gateway: GatewayProcess
    platform: Phones
    tap: Tap
    devices: Fleet

    def left_behind(self, folder: Path) -> bytes:
        """All that service and gateway wrote."""
        names = ("service.db", "service.db-wal", "service.log", "gateway.log")
        return b"".join((folder / name).read_bytes() for name in names if (folder / name).exists())


@asynccontextmanager
async def house(folder: Path, **settings: str) -> AsyncIterator[House]:
    """For the time of the block; the gateway is started first."""
    keys.create(folder / "rookery-server.wake", SERVICE_SEED)
    async with phones() as platform:
        gateway = GatewayProcess(folder, platform, AUDIENCE)
        gateway.start()
        try:
            async with Tap(gateway.address) as tap:
                told = {
                    "ROOKERY_WAKE_GATEWAY": tap.address,
                    "ROOKERY_WAKE_AUDIENCE": GATEWAY_AUDIENCE,
                    "ROOKERY_WAKE_SPREAD_S": "0.05",
                    **settings,
                }
                with ServiceProcess(folder, **told) as service:
                    async with fleet(service.endpoint) as devices:
                        yield House(service, gateway, platform, tap, devices)
        finally:
            gateway.kill()


def forms(*secrets: bytes) -> Sequence[bytes]:
    """How bytes may stand somewhere."""
    return [
        form for one in secrets for form in (one, one.hex().encode(), one.hex().upper().encode())
    ]


async def test_a_sleeping_device_is_woken_and_nobody_learns_more_than_they_must(
    tmp_path: Path,
) -> None:
    """Twenty pushes: one or two pokes, and what is pulled is all. The service has stored and sent
    no token; the gateway was sent nothing of accounts and devices."""
    async with house(tmp_path, ROOKERY_WAKE_DEBOUNCE_S="2") as all_:
        a = await all_.devices.first()
        b = await all_.devices.another(a)
        await register(b, "b")
        for number in range(20):
            put(a, "theme", number)
            await a.sync_once()
        times = 0
        while shown(b).get("ui/theme") != 19:
            times += 1
            await all_.platform.poked("b", times)
            await b.sync_once()
        assert all_.platform.pokes.count("b") in (1, 2)
        all_.service.stop()
        all_.gateway.kill()
        told = all_.left_behind(tmp_path)
        assert b"serving" in told
        sent = bytes(all_.tap.sent)
        assert b"Gateway/Wake" in sent or len(sent) > 560
        for form in forms(token_of("b").token, b"push-token"):
            assert form not in told
            assert form not in sent
        ids = [bytes(a.core.account_id), *(bytes(row.device_id) for row in a.core.devices)]
        ids += [row.core.identity.ik_pk for row in (a, b)]
        for form in forms(*ids):
            assert form not in sent


async def test_a_service_that_is_killed_with_somebody_due_pokes_when_it_is_back(
    tmp_path: Path,
) -> None:
    """The gateway is away, the service is killed: what was marked is in the store."""
    # Killed with a claim in its hands, it leaves it to its lease: two time-outs.
    async with house(tmp_path, ROOKERY_WAKE_TIMEOUT_S="1") as all_:
        a = await all_.devices.first()
        b = await all_.devices.another(a)
        all_.gateway.kill()
        await register(b, "b")
        put(a, "theme", "dark")
        await a.sync_once()
        log = tmp_path / "service.log"
        async with asyncio.timeout(30):
            while b"gateway_down" not in log.read_bytes():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        all_.service.kill()
        assert all_.platform.pokes == []
        all_.gateway.start()
        all_.service.start()
        await all_.platform.poked("b")
        await b.sync_once()
        assert shown(b)["ui/theme"] == "dark"


async def test_the_commands(tmp_path: Path) -> None:
    """`rookery device wake` registers, shows, renews and removes; errors are sentences."""
    async with house(tmp_path) as all_:
        home = Home(tmp_path, "a", all_.service)
        file = tmp_path / "token"
        file.write_bytes(token_of("a").token + b"\n")
        given = ("--platform", "loopback", "--gateway-key", KEY.public.hex(), "--token-file")

        async def run(*arguments: str, code: int = 0, verb: str = "wake") -> str:
            done = await asyncio.to_thread(home.run, verb, *arguments, code=code)
            return done.out + done.err

        await asyncio.to_thread(home.run, "init", "--no-recovery", service=True)
        assert "go together" in await run("--gateway-key", KEY.public.hex(), code=1)
        assert "hexadecimal" in await run(*given[2:], str(file), "--platform", "apns", code=1)
        assert KEY.public.hex() in await run(*given, str(file))
        shown_ = await run()
        assert "loopback" in shown_
        assert "push-token" not in shown_
        assert "no push" in await run("--remove")
        assert "not registered" in await run("--offline")


def test_the_gateway_makes_its_key_and_prints_its_settings(tmp_path: Path) -> None:
    """`--init` makes it for its owner alone and shows the public half; not twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert cli.main(["gateway", "--init"]) == 0
        assert stat.S_IMODE((tmp_path / "gateway.key").stat().st_mode) == 0o600
        assert cli.main(["gateway", "--init"]) == 1
        assert cli.main(["gateway", "--show-config"]) == 0


def test_a_service_that_has_its_keys_is_given_one_for_waking(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`keys init` would refuse, for the others are there: `keys make wake` makes this one, and
    `keys list` shows what the gateway is to pin."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["keys", "init"]) == 0
    monkeypatch.setenv("ROOKERY_WAKE_GATEWAY", "127.0.0.1:7463")
    assert cli.main(["keys", "make", "wake"]) == 0
    made = capsys.readouterr().out.split()[-1]
    assert len(bytes.fromhex(made)) == 32
    assert cli.main(["keys", "make", "wake"]) == 1
    assert cli.main(["keys", "list"]) == 0
    assert made in capsys.readouterr().out
