"""Who belongs: pairing, removing, recovering and deleting against a real service."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any

import pytest

from client import methods, remoteerrors as reasons
from client.device import Device
from client.errors import AccountGone, CodeWrong, NotAllowed, PairingError, PairingRefused
from client.pairflow import Admission, Invitation, find_invite, read_code
from client.recoverflow import recover
from client.remote import Remote
from client.remoteerrors import ProtocolBreach, RemoteError
from client.steps import ChainItem
from client.transport import Signer, Transport
from client.vault import MemoryVault
from crypto.cert import Role
from crypto.pairing import PairingKeys
from rookery.v1 import accounts_pb2
from tests.scripted import answer, scripted
from tests.served import serving
from tests.shell_worlds import (
    DAY_MS,
    Clock,
    Watching,
    endpoint_of,
    fleet,
    put,
    rules,
    shown,
    together,
)


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


async def test_wrong_digits_reach_the_new_device(tmp_path: Path) -> None:
    """The existing device leaves word, and nobody waits for the five minutes to pass."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        invitation = Invitation(a)
        admission = Admission(devices.transport(), invitation.invite)
        asking = asyncio.create_task(admission.ask(lambda core: None))

        async def invite() -> None:
            async with invitation:
                await invitation.wait_for_reader()
                await invitation.enter("not these")

        with pytest.raises(CodeWrong):
            await invite()
        await asking
        with pytest.raises(PairingRefused):
            await admission.wait()


class _Conflicts(Remote):
    """A service that answers that another link came first, and shows none."""

    async def append_link(self, item: ChainItem) -> None:
        raise RemoteError(reasons.CHAIN_CONFLICT, status="ABORTED")


async def test_a_device_that_may_still_be_added_is_not_refused(tmp_path: Path) -> None:
    """The ADD link waits to be sent again, and the service has it: the new device is told
    nothing, and belongs as soon as the link is taken."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        invitation = Invitation(a)
        admission = Admission(devices.transport(), invitation.invite)
        asking = asyncio.create_task(admission.ask(lambda core: None))

        async def invite() -> None:
            async with invitation:
                await invitation.wait_for_reader()
                a.remote = _Conflicts(a.transport)
                await invitation.enter(await asking)

        with pytest.raises(PairingError, match="may be added still"):
            await invite()
        a.remote = Remote(a.transport)
        await a.sync_once()
        assert len(a.core.devices) == 2
        await admission.wait()


async def test_a_refusal_that_nobody_sealed_is_none(tmp_path: Path) -> None:
    """The service, which knows no key, can't end a pairing by a word in the mailbox."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        invitation = Invitation(a)
        mailbox = PairingKeys(invitation.invite).refusal_rendezvous
        await a.remote.post_message(mailbox, 1, bytes(40))
        admission = Admission(devices.transport(), invitation.invite)
        digits, _ = await asyncio.gather(
            admission.ask(lambda core: None), invitation.wait_for_reader()
        )
        await invitation.enter(digits)
        await admission.wait()
        assert len(a.core.devices) == 2


async def test_the_paper_brings_everything_back(tmp_path: Path) -> None:
    """With all devices lost, the recovery key makes one that holds the profile and can remove
    the lost ones."""
    paper = secrets.token_bytes(20)
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first(paper=paper)
        put(a, "theme", "dark")
        await a.sync_once()
        transport = devices.transport()
        stored: list[Device] = []
        await recover(transport, paper, a.core.account_id, stored.append)
        [core] = stored
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


class Forgetful(Transport):
    """Every link arrives, and the answer never does."""

    async def call(self, method: Any, *arguments: Any) -> Any:
        answered = await super().call(method, *arguments)
        if method is methods.APPEND_LINK:
            raise RemoteError(reasons.UNREACHABLE, status="UNAVAILABLE")
        return answered


async def test_a_recovery_whose_answer_is_lost_leaves_a_device_and_no_orphan(
    tmp_path: Path,
) -> None:
    """The new device is stored before the link that adds it is sent, so it goes on."""
    paper = secrets.token_bytes(20)
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first(paper=paper)
        put(a, "theme", "dark")
        await a.sync_once()
        forgetful = Forgetful(endpoint_of(service))
        stored: list[Device] = []
        with pytest.raises(RemoteError):
            await recover(forgetful, paper, a.core.account_id, stored.append)
        await forgetful.close()
        b = devices.adopt(stored[-1], MemoryVault(), devices.transport())
        await b.sync_once()
        assert shown(b) == {"ui/theme": "dark"}
        assert len(b.core.devices) == 3


async def test_another_paper_recovers_nothing(tmp_path: Path) -> None:
    """A key that does not belong to the account is refused in words."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        with pytest.raises(NotAllowed, match="no such account"):
            await recover(
                devices.transport(), secrets.token_bytes(20), a.core.account_id, lambda _: None
            )
