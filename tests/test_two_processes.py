"""Processes that see each other's changes, and processes that are killed at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from client.remote import Remote
from client.remoteerrors import RemoteError
from client.steps import Push
from client.sync import SyncedDevice
from client.transport import Signer
from crypto import op
from crypto.ids import OpHash
from tests.cli_process import Home, join
from tests.service_process import ROOT, ServiceProcess
from tests.shell_worlds import Fleet, fleet, like, put, rules, shown


@pytest.fixture
def homes(tmp_path: Path, own_server: ServiceProcess) -> tuple[Home, Home]:
    """Two devices of one account."""
    a, b = Home(tmp_path, "a", own_server), Home(tmp_path, "b", own_server)
    a.run("init", "--no-recovery", service=True)
    assert join(a, b) == (0, 0)
    return a, b


def _alarms(home: Home) -> list[str]:
    notices = home.run("status", "--json").json["notices"]
    return [row["rule"] for row in notices if row["kind"] == "alarm"]


def test_a_value_set_in_one_process_appears_in_another(
    homes: tuple[Home, Home], own_server: ServiceProcess
) -> None:
    """A subscribed process prints what another one sets, also after the service came back."""
    a, b = homes
    with b.start("watch") as watch:
        watch.until(event="live")
        a.run("set", "ui/theme", "dark")
        row = watch.until(event="change", name="ui/theme")
        assert row == {
            "event": "change", "name": "ui/theme", "kind": "setting", "value": "dark",
        }  # fmt: skip
        a.run("like", "cuisine/thai", "2")
        assert watch.until(event="change", name="cuisine/thai")["value"] == 2
        own_server.kill()
        watch.until(event="offline")
        own_server.start()
        watch.until(event="live")
        a.run("unset", "ui/theme")
        assert watch.until(event="change", name="ui/theme")["value"] is None


def test_a_copied_state_file_becomes_a_device_of_its_own(
    homes: tuple[Home, Home], tmp_path: Path, own_server: ServiceProcess
) -> None:
    """The copy says so, takes a new identity, and no edit of either is lost."""
    a, b = homes
    copy = Home(tmp_path, "copy", own_server)
    for ending in ("", ".key"):
        shutil.copy(f"{a.state}{ending}", f"{copy.state}{ending}")
    a.run("set", "ui/theme", "original")
    copy.run("set", "ui/lang", "copy")
    copy.run("sync")
    assert "cloned" in _alarms(copy)
    devices = copy.run("devices", "--json").json["devices"]
    assert len(devices) == 3
    for home in (a, b, copy):
        home.run("sync")
        settings = home.run("export").json["settings"]
        assert settings == {"ui/theme": "original", "ui/lang": "copy"}


def _crash(home: Home, point: int, verb: str, *more: str) -> bool:
    """Runs a command that dies at a point; False if it ended before it got there."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.crashing", str(point), *home.arguments(verb, *more)[3:]],
        env=home.variables(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in (0, -9), run.stderr
    return run.returncode == -9


def test_a_device_that_is_killed_at_any_point_goes_on(homes: tuple[Home, Home]) -> None:
    """At every write and every call of `set`, in turn: the next run goes on with the same
    identity, the edit is there once it was stored, and nobody sees a forked chain."""
    a, b = homes
    identity = a.run("status", "--json").json["device"]
    point = 1
    while _crash(a, point, "like", "cuisine/thai"):
        a.run("set", "ui/last", str(point))
        point += 1
    assert point > 10
    stored = a.run("get", "cuisine/thai", "--json").json["value"]
    # Only a death before the first write may lose the edit.
    assert stored == point - 1
    assert a.run("status", "--json").json["device"] == identity
    b.run("sync")
    assert a.run("export").json["scores"] == b.run("export").json["scores"]
    assert not _alarms(a)
    assert not _alarms(b)


def test_a_rotation_that_is_killed_at_any_point_is_finished_later(
    homes: tuple[Home, Home],
) -> None:
    """Wherever `rotate` dies, syncing finishes it or it was never begun; both devices agree."""
    a, b = homes
    for number in range(3):
        a.run("set", f"ui/k{number}", str(number))
    point, crashes = 1, 0
    # Each one costs an epoch.
    while _crash(a, point, "rotate"):
        crashes += 1
        point += 7
        a.run("sync")
    assert crashes > 2
    for home in (b, a):
        home.run("sync")
    statuses = [home.run("status", "--json").json for home in homes]
    assert statuses[0]["epoch"] == statuses[1]["epoch"] > 1
    # When it was exported, and from where, is each one's own.
    one, other = (home.run("export").json for home in homes)
    assert all(one[part] == other[part] for part in ("account", "settings", "scores", "details"))
    assert not _alarms(a)
    assert not _alarms(b)


def test_a_device_that_is_killed_at_random_moments_goes_on(homes: tuple[Home, Home]) -> None:
    """SIGKILL from outside, in the middle of whatever: what was acknowledged is there."""
    a, b = homes
    chance = random.Random(7)
    done: dict[str, str] = {}
    tried: dict[str, str] = {}
    for number in range(14):
        name, value = f"ui/k{number}", str(number)
        tried[name] = value
        process = subprocess.Popen(
            a.arguments("set", name, value),
            env=a.variables(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            if process.wait(chance.uniform(0.2, 1.5)) == 0:
                done[name] = value
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    a.run("sync")
    settings = b.run("export").json["settings"]
    assert done.items() <= settings.items() <= tried.items()
    assert a.run("export").json["settings"] == settings
    assert not _alarms(a)
    assert not _alarms(b)


class _Recording(Remote):
    """Notes which ops were ever sent, and which the service has acknowledged."""

    sent: set[OpHash]
    acknowledged: set[OpHash]

    async def push(self, push: Push) -> None:
        hashes = {op.parse_any(raw).op_hash for raw in push.ops}
        self.sent |= hashes
        await super().push(push)
        self.acknowledged |= hashes


async def _held(synced: SyncedDevice) -> set[OpHash]:
    """All ops that the service holds."""
    remote = Remote(synced.transport, Signer(synced.core.identity, synced.core.account_id))
    held: set[OpHash] = set()
    cursor, more = b"", True
    while more:
        page = await remote.pull(cursor)
        held |= {op.parse_any(raw).op_hash for raw in page.ops}
        cursor, more = page.cursor, page.more
    return held


class _Storm:
    """Devices that set unique things as fast as they can, and a service that is killed."""

    def __init__(self, devices: Fleet, phones: list[SyncedDevice]) -> None:
        self._phones = phones
        self._stopping = False
        self.made: dict[str, int] = {}
        self.likes = 0
        self.sent: set[OpHash] = set()
        self.acknowledged: set[OpHash] = set()
        self.progress = asyncio.Event()
        for phone in phones:
            phone.remote = remote = _Recording(phone.transport)
            remote.sent, remote.acknowledged = self.sent, self.acknowledged
        self._tasks = [
            asyncio.create_task(self._push(number, phone)) for number, phone in enumerate(phones)
        ]

    async def _push(self, number: int, phone: SyncedDevice) -> None:
        count = 0
        while not self._stopping:
            for _ in range(5):
                name = f"p{number}.{count}"
                put(phone, name, count)
                self.made[f"ui/{name}"] = count
                count += 1
            like(phone, "thai")
            self.likes += 1
            with contextlib.suppress(RemoteError):
                await phone.sync_once()
                self.progress.set()

    async def some_progress(self, times: int) -> None:
        """Returns after so many syncs went through."""
        for _ in range(times):
            self.progress.clear()
            await self.progress.wait()

    async def stop(self) -> None:
        """Lets everybody finish."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        for _ in range(2):
            for phone in self._phones:
                await phone.sync_once()


async def test_a_service_that_is_killed_again_and_again_keeps_its_word(
    own_server: ServiceProcess,
) -> None:
    """SIGKILL in the middle of concurrent pushes: every acknowledged op is there after each
    restart, none is there that nobody sent, and in the end all devices hold everything."""
    chance = random.Random(11)
    async with fleet(own_server.endpoint) as devices:
        a = await devices.first()
        phones = [a, await devices.another(a), await devices.another(a)]
        before = await _held(a)
        storm = _Storm(devices, phones)
        auditor = devices.again(a)
        for _ in range(6):
            await storm.some_progress(chance.randrange(1, 6))
            await asyncio.to_thread(own_server.kill)
            acknowledged = set(storm.acknowledged)
            await asyncio.to_thread(own_server.start)
            held = await _held(auditor)
            assert acknowledged <= held
            assert held - before <= storm.sent
        await storm.stop()
        wanted = {**storm.made, "cuisine/thai": storm.likes}
        for phone in phones:
            assert shown(phone) == wanted
            assert not rules(phone)
        fresh = await devices.another(a)
        assert shown(fresh) == wanted
        assert not rules(fresh)
