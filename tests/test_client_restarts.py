"""A service that restarts, forgets or is somebody else, and states that were copied."""

from __future__ import annotations

import dataclasses
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from client.remoteerrors import RemoteError
from client.sync import SyncedDevice
from client.vault import MemoryVault
from tests.certificates import certificate
from tests.served import serving
from tests.service_process import ServiceProcess, environment
from tests.shell_worlds import (
    Watching,
    endpoint_of,
    fleet,
    put,
    rules,
    shown,
    together,
)


async def test_a_copied_state_makes_itself_another_device(tmp_path: Path) -> None:
    """Two processes with one identity: the second to write is told DEVICE_FORKED, becomes a
    device of its own, and its edits are kept."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        b = await devices.another(a)
        await a.sync_once()
        copy = devices.again(a, MemoryVault(a.vault.load()))
        put(a, "theme", "original")
        await a.sync_once()
        put(copy, "lang", "copy")
        await copy.sync_once()
        assert copy.core.identity.device_id != a.core.identity.device_id
        assert "cloned" in rules(copy)
        for synced in (a, b, copy, a):
            await synced.sync_once()
        assert shown(a) == shown(b) == shown(copy) == {"ui/theme": "original", "ui/lang": "copy"}


async def test_a_device_becomes_another_one_at_most_once_a_day(tmp_path: Path) -> None:
    """A state that is copied again and again gets one new device a day."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        first = a.core.identity.device_id
        copy = devices.again(a, MemoryVault(a.vault.load()))
        for number in range(2):
            put(a, "theme", f"original {number}")
            await a.sync_once()
            put(copy, "lang", f"copy {number}")
            await copy.sync_once()
            a, copy = copy, devices.again(copy, MemoryVault(copy.vault.load()))
        assert len(a.core.devices) == 2
        assert a.core.identity.device_id != first
        assert a.core.status.cloned
        assert shown(a)["ui/lang"] == "copy 1"


async def test_the_word_of_the_service_makes_no_new_device(tmp_path: Path) -> None:
    """DEVICE_FORKED from a service that can't show the other version: the device stays."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        await a.sync_once()
        before = a.core.identity.device_id
        put(a, "lang", "fr")
        push = a.core.next_push(now_ms=a.now_ms(), rand=secrets.token_bytes)
        assert push is not None
        a.save()
        a.core.on_push_refused(push, "DEVICE_FORKED", {}, now_ms=a.now_ms())
        await a.sync_once()
        assert rules(a) == ["fork-unproven"]
        assert a.core.identity.device_id == before
        assert len(a.core.devices) == 1
        assert a.core.status.edits_waiting == 1
        later = devices.again(a)
        await later.sync_once()
        assert later.core.status.edits_waiting == 0


async def test_a_restored_backup_of_the_state_is_a_clone_too(tmp_path: Path) -> None:
    """A state that was put back to an older copy goes on under a new identity."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        old = a.vault.load()
        put(a, "theme", "newer than the backup")
        await a.sync_once()
        before = a.core.identity.device_id
        restored = devices.again(a, MemoryVault(old))
        put(restored, "lang", "fr")
        await restored.sync_once()
        await restored.sync_once()
        assert shown(restored) == {"ui/theme": "newer than the backup", "ui/lang": "fr"}
        assert restored.core.identity.device_id != before


def _new_generation(service: ServiceProcess) -> None:
    subprocess.run(
        [sys.executable, "-m", "services.cli", "new-generation"],
        cwd=service.folder,
        env=environment(ROOKERY_DATABASE=str(service.folder / "service.db")),
        check=True,
        capture_output=True,
    )


def _files(folder: Path) -> list[Path]:
    return [row for row in folder.iterdir() if row.name.startswith("service.db")]


@pytest.fixture
def service(tmp_path: Path) -> ServiceProcess:
    """A service process on a folder of its own."""
    return ServiceProcess(tmp_path)


async def test_a_restart_of_the_service_is_survived_by_a_watch(service: ServiceProcess) -> None:
    """A watch reconnects after a drain and after a kill, and sees what was set meanwhile."""
    with service:
        async with fleet(service.endpoint) as devices:
            a = await devices.first()
            b = await devices.another(a)
            watch = Watching(b)
            await watch.until_live()
            for number, end in enumerate((service.stop, service.kill)):
                await watch.until_live()
                end()
                await watch.until(lambda: watch.live == watch.lost)
                put(a, "theme", number)
                service.start()
                await a.sync_once()
                await watch.until_shown("ui/theme", number)
            await watch.stop()
            assert not rules(b)


async def test_a_service_that_went_back_in_time_is_healed(
    service: ServiceProcess, tmp_path: Path
) -> None:
    """A restored backup with a new generation: devices push again what it lost, links too."""
    backup = tmp_path / "backup"
    backup.mkdir()
    with service:
        async with fleet(service.endpoint) as devices:
            a = await devices.first()
            put(a, "kept", 1)
            await a.sync_once()
            service.stop()
            for file in _files(service.folder):
                shutil.copy(file, backup / file.name)
            service.start()
            b = await devices.another(a)
            put(b, "lost", 2)
            await b.sync_once()
            await a.sync_once()
            service.kill()
            for file in _files(service.folder):
                file.unlink()
            for file in backup.iterdir():
                shutil.copy(file, service.folder / file.name)
            _new_generation(service)
            service.start()
            watch = Watching(a)
            await watch.until_live()
            put(b, "after", 3)
            await b.sync_once()
            await watch.until(lambda: len(shown(a)) == 3)
            await watch.stop()
            c = await devices.another(a)
            assert shown(a) == shown(b) == shown(c)
            assert shown(c) == {"ui/kept": 1, "ui/lost": 2, "ui/after": 3}
            assert not rules(a)
            assert not rules(b)


async def test_many_devices_that_lost_the_service_all_come_back(service: ServiceProcess) -> None:
    """A retry storm ends with every device in sync."""
    with service:
        async with fleet(service.endpoint) as devices:
            a = await devices.first()
            others: list[SyncedDevice] = [await devices.another(a) for _ in range(5)]
            watches = [Watching(row) for row in others]
            await together(*(row.until_live() for row in watches))
            service.kill()
            await together(*(row.until_lost() for row in watches))
            for number, synced in enumerate(others):
                put(synced, f"k{number}", number)
            service.start()
            await together(*(row.until_count(len(others)) for row in watches))
            await together(*(row.stop() for row in watches))


async def test_tls_is_spoken_under_the_given_ca(tmp_path: Path) -> None:
    """With the CA file everything works; without TLS or with another CA nothing is sent."""
    (cert, key), (stranger, _) = certificate(tmp_path, "ours"), certificate(tmp_path, "other")
    async with serving(tmp_path, tls_cert_file=str(cert), tls_key_file=str(key)) as service:
        plain = endpoint_of(service)
        secure = dataclasses.replace(plain, tls_ca=cert.read_bytes())
        async with fleet(secure) as devices:
            a = await devices.first()
            put(a, "theme", "dark")
            await a.sync_once()
            assert shown(await devices.another(a)) == {"ui/theme": "dark"}
        other = dataclasses.replace(secure, tls_ca=stranger.read_bytes())
        for endpoint in (plain, other):
            async with fleet(endpoint) as devices:
                with pytest.raises(RemoteError, match="can't be reached"):
                    await devices.first()
