"""A device against a real service on a real file: syncing, watching, losing and finding."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from client import remoteerrors as reasons
from client.errors import AccountGone, CodeWrong, NotAllowed, PairingError, StateUnsaved
from client.pairflow import Admission, Invitation, find_invite, read_code
from client.recoverflow import recover
from client.remote import Remote, SignedReceipt
from client.remoteerrors import ProtocolBreach, RemoteError
from client.rows import Changes
from client.steps import Push
from client.sync import SyncedDevice
from client.transport import Signer
from client.vault import MemoryVault
from crypto.cert import Role
from rookery.v1 import accounts_pb2, sync_pb2
from tests.scripted import answer, scripted
from tests.served import serving
from tests.service_process import ServiceProcess, environment
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


async def test_a_removed_device_is_told_and_keeps_its_data(tmp_path: Path) -> None:
    """Revocation ends its stream and its calls; what it holds stays readable."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        b = await devices.another(a)
        put(a, "theme", "dark")
        await a.sync_once()
        watch = Watching(b)
        await watch.until(lambda: shown(b) == {"ui/theme": "dark"})
        await watch.until_live()
        gone = b.core.identity.device_id
        a.edit(lambda core, _: core.rotate([gone]))
        await a.sync_once()
        with pytest.raises(AccountGone):
            await watch.task
        assert shown(b) == {"ui/theme": "dark"}
        with pytest.raises(AccountGone):
            await devices.again(b).sync_once()
        put(a, "theme", "light")
        await a.sync_once()
        assert a.core.status.epoch == 2
        assert shown(a) == {"ui/theme": "light"}


async def test_the_others_follow_a_rotation(tmp_path: Path) -> None:
    """After a new epoch the devices that stay go on together, edits made meanwhile included."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        b = await devices.another(a)
        c = await devices.another(a)
        for number in range(40):
            put(a, f"k{number}", number)
        await together(a.sync_once(), b.sync_once(), c.sync_once())
        put(b, "theme", "made before it knew")
        a.edit(lambda core, _: core.rotate([c.core.identity.device_id]))
        await a.sync_once()
        await b.sync_once()
        await a.sync_once()
        assert shown(a) == shown(b)
        assert shown(a)["ui/theme"] == "made before it knew"
        assert a.core.status.epoch == b.core.status.epoch == 2
        assert not rules(a)
        assert not rules(b)


async def test_deleting_is_signed_for_and_the_others_keep_their_data(tmp_path: Path) -> None:
    """The receipt of deletion verifies; another device finds the account gone and asks."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        b = await devices.another(a)
        put(b, "theme", "dark")
        await b.sync_once()
        watch = Watching(b)
        await watch.until_live()
        signer = Signer(a.core.identity, a.core.account_id)
        receipt = await a.remote.delete_account(signer)
        assert receipt.opened.account_id == a.core.account_id
        with pytest.raises(AccountGone):
            await watch.task
        assert shown(devices.again(b)) == {"ui/theme": "dark"}


async def test_a_forged_receipt_of_deletion_is_a_breach(tmp_path: Path) -> None:
    """A deletion that the pinned key did not sign is not taken for one."""
    forged = accounts_pb2.DeleteAccountResponse(receipt=bytes(200))
    async with (
        serving(tmp_path) as service,
        scripted(answer(forged)) as script,
        fleet(endpoint_of(service)) as devices,
    ):
        a = await devices.first()
        liar = type(devices.endpoint)(
            (script.target,), devices.endpoint.audience, devices.endpoint.server_key
        )
        async with fleet(liar) as others:
            remote = Remote(others.transport())
            with pytest.raises(ProtocolBreach, match="pinned key"):
                await remote.delete_account(Signer(a.core.identity, a.core.account_id))


@pytest.mark.parametrize("by_qr", [True, False])
async def test_pairing_works_by_qr_and_by_typing(tmp_path: Path, by_qr: bool) -> None:
    """Both codes lead to the same pairing."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        b = await devices.another(a, by_qr=by_qr)
        assert [row.active for row in b.core.devices] == [True, True]
        assert b.core.account_id == a.core.account_id


async def test_wrong_digits_add_nobody(tmp_path: Path) -> None:
    """One attempt: after wrong digits nothing was shared and the code is over."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        with pytest.raises(CodeWrong):
            await devices.another(a, spoil=lambda digits: f"{(int(digits) + 1) % 1_000_000:06d}")
        await a.sync_once()
        assert len(a.core.devices) == 1


async def test_a_clock_that_is_hours_off_still_pairs(tmp_path: Path) -> None:
    """The time of an invitation is the service's."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first(clock=Clock(-7 * DAY_MS))
        b = await devices.another(a, clock=Clock(7 * DAY_MS))
        assert len(b.core.devices) == 2


async def test_a_code_that_nobody_waits_behind_is_refused(tmp_path: Path) -> None:
    """A typing error finds no mailbox, and the sentence says so."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        with pytest.raises(PairingError, match="Nobody waits"):
            await find_invite(devices.transport(), read_code("A" * 26))
        with pytest.raises(PairingError, match="no pairing code"):
            read_code("hello")


async def test_a_second_reader_of_the_code_is_refused(tmp_path: Path) -> None:
    """Who comes second to a photographed code gets nothing."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        invitation = Invitation(a)
        first = Admission(devices.transport(), invitation.invite)
        second = Admission(devices.transport(), invitation.invite)
        asking = asyncio.create_task(first.ask(lambda core: None))
        await invitation.wait_for_reader()
        with pytest.raises(PairingError):
            await second.ask(lambda core: None)
        assert len(await asking) == 6


async def test_the_paper_brings_everything_back(tmp_path: Path) -> None:
    """With all devices lost, the recovery key makes one that holds the profile and can remove
    the lost ones."""
    paper = secrets.token_bytes(20)
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first(paper=paper)
        put(a, "theme", "dark")
        await a.sync_once()
        transport = devices.transport()
        core = await recover(transport, paper, a.core.account_id)
        b = devices.adopt(core, MemoryVault(), transport)
        await b.sync_once()
        assert shown(b) == {"ui/theme": "dark"}
        lost = a.core.identity.device_id
        b.edit(lambda core, _: core.rotate([lost]))
        await b.sync_once()
        active = [row for row in b.core.devices if row.active]
        assert {row.role for row in active} == {Role.FULL, Role.RECOVERY}
        with pytest.raises(AccountGone):
            await a.sync_once()


async def test_another_paper_recovers_nothing(tmp_path: Path) -> None:
    """A key that does not belong to the account is refused in words."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        with pytest.raises(NotAllowed, match="no such account"):
            await recover(devices.transport(), secrets.token_bytes(20), a.core.account_id)


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


@pytest.fixture
def make_certificate(tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """Makes self-signed certificates of this machine, each with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")

    def make(name: str) -> tuple[Path, Path]:
        cert, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        _openssl(cert, key)
        return cert, key

    return make


def _openssl(cert: Path, key: Path) -> None:
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", str(key),
            "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-out", str(cert),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip


async def test_tls_is_spoken_under_the_given_ca(
    tmp_path: Path, make_certificate: Callable[[str], tuple[Path, Path]]
) -> None:
    """With the CA file everything works; without TLS or with another CA nothing is sent."""
    (cert, key), (stranger, _) = make_certificate("ours"), make_certificate("other")
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
