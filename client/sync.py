"""A device that syncs: the core, its vault and the service, put together.

The core says what is due; here it is stored, then done, then the outcome is told. All steps of
the core and all writes to the vault happen on the event loop between two awaits, so they
have one order: what a call sends was on the disk before.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from typing import NoReturn, TypeVar

from client import remoteerrors as reasons
from client.consent.ledger import ConsentLedger
from client.consent.obeying import heard, obey
from client.consent.shell import Consenting
from client.device import Device
from client.endpoint import Endpoint
from client.errors import AccountGone, StateUnsaved
from client.gate import Ungoverned
from client.governed.gate import PolicyGate
from client.governed.holding import Holding, Shown
from client.governed.remote import get_policy
from client.remote import DeletionReceipt, Remote
from client.remoteerrors import ProtocolBreach, RemoteError
from client.rows import Changes, Rows
from client.steps import (
    AppendLink,
    CreateAccount,
    GetChain,
    GetReceipt,
    Pull,
    Push,
    Step,
)
from client.transport import Signer, Transport
from client.vault import Vault
from crypto.errors import CryptoError
from crypto.policy import Bundle

STEPS_MAX = 20_000
"""A sync that takes more calls than this is kept busy by the service."""
SHELL_ROWS = "shell/"
"""Rows of the vault that are not the core's."""
KEPT_ROWS = (SHELL_ROWS + "consent/", SHELL_ROWS + "reset/")
ENDPOINT_ROW = SHELL_ROWS + "endpoint"
"""Which service this device belongs to, and with which key."""
RECEIPT_ROW = SHELL_ROWS + "deleted-receipt"
"""What the service signed when it deleted the account."""
RENEWED_ROW = SHELL_ROWS + "renewed"
"""When this device last became another one, u64 milliseconds."""
RENEWAL_MS = 86_400_000
TIDY_MS = 3_600_000
"""How often a device that stays connected looks for what is over."""
_NEVER_TAKEN = (
    "The account has not taken this device: what was to make it one was cut off. Remove its state"
    " and start again."
)
T = TypeVar("T")


class SyncedDevice:
    """One device of an account. `close` it to let go of its state."""

    def __init__(self, core: Device, vault: Vault, transport: Transport) -> None:
        # First what a new device comes with: it may be under a policy from its first moment on.
        vault.apply(core.take_changes())
        self.core = core
        self.vault = vault
        self.transport = transport
        self.remote = Remote(transport, on_new_key=self._pin)
        rows = vault.load()
        self.kept = {name: row for name, row in rows.items() if name.startswith(KEPT_ROWS)}
        """Rows of the vault that consent and resets are remembered by: read at each sync."""
        self.holding = Holding(rows)
        """The policy bundle, and whose word this device takes for one."""
        self.ledger = ConsentLedger(core, lambda: self.policy)
        """What the account's person has agreed to; of a governed device."""
        self.consenting = Consenting(self, self.ledger)
        self._obeyed: frozenset[bytes] = frozenset()
        self._govern()
        self.woken = asyncio.Event()
        """Set when something of ours may be due: a local edit, a longer chain."""
        self.token: bytes | None = None
        """Enrolment token, for making the account where proof of work is not enough."""
        self._tidied_ms = 0
        """When what is over was last looked for."""
        self._net = asyncio.Lock()
        self.frames = asyncio.Lock()
        """Held while a receipt is under way: an op that came meanwhile by a stream would look
        like one that the service has lost."""
        self._unsaved = False
        self.save()

    @classmethod
    def load(cls, vault: Vault, transport: Transport) -> SyncedDevice:
        """The device that lives in this vault."""
        return cls(Device.load(core_rows(vault.load())), vault, transport)

    async def close(self) -> None:
        """Ends the connection and releases the state."""
        await self.transport.close()
        self.vault.close()

    # -- state ---------------------------------------------------------------------------

    def save(self, also: Changes | None = None) -> None:
        """Stores what the core changed, and `also`, all in one. After a failure nothing is done
        any more: memory and disk differ, and only the disk counts."""
        if self._unsaved:
            raise StateUnsaved
        changes = {**self.core.take_changes(), **(also or {})}
        try:
            self.vault.apply(changes)
        except BaseException:
            self._unsaved = True
            raise
        for name, row in (also or {}).items():
            if row is None:
                self.kept.pop(name, None)
            elif name.startswith(KEPT_ROWS):
                self.kept[name] = row

    def edit(self, change: Callable[[Device, int], T]) -> T:
        """Runs `change(core, now_ms)`, stores it, and lets a running watch send it."""
        result = change(self.core, self.now_ms())
        self.save()
        self.woken.set()
        return result

    def now_ms(self) -> int:
        """This machine's clock: what people see. Never an order of anything."""
        return self.transport.clock.wall_ms()

    def _pin(self, endpoint: Endpoint) -> None:
        """The service has another key, which the pinned one leads to. Stored before anything is
        believed that it signed."""
        self.core.on_server_key(endpoint.server_key, now_ms=self.now_ms())
        self.save({ENDPOINT_ROW: endpoint.encode()})

    # -- the policy ----------------------------------------------------------------------

    @property
    def governed(self) -> bool:
        """Whether this device is under a policy: one of its publishers is pinned."""
        return self.holding.governed

    @property
    def policy(self) -> Bundle | None:
        """The bundle in force. None on a governed device: there is none yet, and nothing is
        allowed."""
        return self.holding.bundle

    def pin_policy(self, key: bytes) -> None:
        """Puts this device under the policy of who has this Ed25519 key. UserError."""
        self.holding.pin(key)
        self._govern()
        self._save_policy()

    def unpin_policy(self, prefix: bytes) -> bool:
        """Takes no policy any more from keys that begin so. True if there was one. UserError."""
        found = self.holding.unpin(prefix)
        self._govern()
        self._save_policy()
        return found

    def _govern(self) -> None:
        """What an app writes passes the gate of the bundle in force, whichever that is by then."""
        gate = PolicyGate(lambda: self.policy, self.ledger) if self.governed else Ungoverned()
        self.core.govern(gate)

    def on_policy(self, shown: Shown) -> int | None:
        """What the service shows as its newest bundle. From which number on to ask once more."""

        def alarm(rule: str, sentence: str, *evidence: bytes, about: bytes) -> None:
            self.core.on_policy_alarm(rule, sentence, *evidence, about=about, now_ms=self.now_ms())

        again = self.holding.take(shown, alarm)
        self._save_policy()
        return again

    def _save_policy(self) -> None:
        changes = self.holding.take_changes()
        self.save(changes)
        if changes:
            # What it does not let stand any more goes with the next thing that is done.
            self._tidied_ms = 0
            self.woken.set()

    async def fetch_policy(self) -> None:
        """Asks for the newest bundle, if the service speaks of another number than that of the
        one held. What can't be had now comes with a later sync."""
        if not self.holding.wants(self.transport.wire.policy_sequence):
            return
        with contextlib.suppress(RemoteError):
            again = self.on_policy(await get_policy(self.transport, self.holding.sequence))
            if again is not None:
                self.on_policy(await get_policy(self.transport, again))

    # -- syncing -------------------------------------------------------------------------

    async def sync_once(self) -> None:
        """Sends what waits, takes what is new, compares with a receipt (C15).

        RemoteError when the service can't be reached: nothing is lost, the next sync goes
        on. AccountGone. Edits may be made meanwhile.
        """
        async with self._net:
            self.core.on_poke()
            await self._drain(also_pull=True)
            await self.fetch_policy()
            self.core.check_in()
            await self._drain(also_pull=True)
            self._tidy()
            await self._drain(also_pull=True)
            if self.governed and not self.core.status.revoked and await self._settle_consent():
                await self._drain(also_pull=True)

    async def _settle_consent(self) -> bool:
        """What was agreed to here and at the service is made one. A service that refuses that
        must not keep this device from syncing: the person is told. True if something changed."""
        try:
            await self.consenting.settle()
        except RemoteError as error:
            if error.transient:
                raise
            if error.reason == reasons.UNAUTHENTICATED:
                self.lose_account()
            if error.reason != reasons.UNSUPPORTED:
                self.core.alarm(
                    "consent-refused",
                    f"The service does not take what you agreed to: {error}",
                    about=error.reason.encode(),
                    now_ms=self.now_ms(),
                )
                self.save()
        return self.core.status.edits_waiting > 0

    def obey(self) -> None:
        """What another device's person withdrew or reset is obeyed at once, if it is news."""
        said = heard(self.ledger)
        if said != self._obeyed:
            self._obeyed = said
            self.save(obey(self.ledger, self.kept, now_ms=self.now_ms()))
            self.woken.set()

    def _tidy(self) -> None:
        self._tidied_ms = self.now_ms()
        self._obeyed = heard(self.ledger)
        self.save(obey(self.ledger, self.kept, now_ms=self._tidied_ms))
        if self.policy is not None:
            self.core.expire(self.policy, now_ms=self._tidied_ms)
        self.save()

    async def make_again(self) -> None:
        """Brings the account back to a service that lost it: the chain and everything that this
        device holds. NotAllowed, RemoteError; AccountGone if the service has the account and
        does not know this device."""
        self.edit(lambda core, _: core.make_again())
        await self.sync_once()

    async def delete_account(self) -> DeletionReceipt:
        """Deletes the account at the service, for all devices, and keeps what it signed for that.
        What is stored here stays. RemoteError, ProtocolBreach."""
        signer = Signer(self.core.identity, self.core.account_id)
        receipt = await self.remote.delete_account(signer)
        self.vault.apply({RECEIPT_ROW: receipt.data})
        return receipt

    async def send_due(self) -> bool:
        """Does what is due but pulling, which is left to the stream that is open. True if a
        pull is due."""
        async with self._net:
            if await self._drain(also_pull=False):
                return True
            if abs(self.now_ms() - self._tidied_ms) >= TIDY_MS:
                self._tidy()
            return await self._drain(also_pull=False)

    async def _drain(self, *, also_pull: bool) -> bool:
        renewed = False
        for _ in range(STEPS_MAX):
            step = self.core.next_step(now_ms=self.now_ms(), rand=secrets.token_bytes)
            self.save()
            if step is None:
                if renewed or not self._take_new_identity():
                    return False
                renewed = True
            elif isinstance(step, Pull) and not also_pull:
                return True
            else:
                await self._do_and_save(step)
        raise ProtocolBreach("the service keeps this device busy without getting anywhere")

    def _take_new_identity(self) -> bool:
        """A copy of this device wrote under its number: it becomes another device. Once a day at
        most: a service that says so again and again must not use up the account's devices."""
        status, now_ms = self.core.status, self.now_ms()
        if not status.cloned or status.revoked:
            return False
        last_ms = int.from_bytes(self.vault.load().get(RENEWED_ROW, b""), "big")
        if last_ms <= now_ms < last_ms + RENEWAL_MS:
            return False
        self.core.reidentify(now_ms=now_ms, rand=secrets.token_bytes)
        self.save({RENEWED_ROW: now_ms.to_bytes(8, "big")})
        return True

    def sign_as_device(self) -> None:
        """Calls are signed by what is the device's identity now."""
        self.remote.signer = Signer(self.core.identity, self.core.account_id)

    async def _do_and_save(self, step: Step) -> None:
        """Makes the call, tells the core, stores what it makes of it."""
        self.sign_as_device()
        try:
            await self._do(step)
        except RemoteError as error:
            if error.reason == reasons.UNAUTHENTICATED:
                self.lose_account()
            raise
        self.core.on_chain_seq(self.remote.chain_seq)
        self.save()

    def lose_account(self) -> NoReturn:
        """The service knows this device no more; it can't order anything to be wiped."""
        if not any(row.this_device for row in self.core.devices):
            raise AccountGone(_NEVER_TAKEN)
        self.core.on_account_gone(now_ms=self.now_ms())
        self.save()
        raise AccountGone

    async def _do(self, step: Step) -> None:
        match step:
            case CreateAccount():
                await self._create(step)
            case AppendLink():
                await self._append(step)
            case GetChain():
                await self._get_chain(step)
            case GetReceipt():
                await self._get_receipt()
            case Push():
                await self._push(step)
            case Pull():
                await self._pull(step)

    async def _create(self, step: CreateAccount) -> None:
        try:
            await self.remote.create_account(step, token=self.token)
        except RemoteError as error:
            if not error.transient:
                self.core.on_create_refused()
                self.save()
            raise
        self.core.on_account_created()

    async def _append(self, step: AppendLink) -> None:
        try:
            await self.remote.append_link(step.item)
        except RemoteError as error:
            if error.transient or error.reason == reasons.UNAUTHENTICATED:
                raise
            self.core.on_append_refused(
                step.item, error.reason, error.metadata, now_ms=self.now_ms()
            )
        else:
            self.core.on_appended(step.item, now_ms=self.now_ms())

    async def _get_chain(self, step: GetChain) -> None:
        after_seq = step.after_seq
        while True:
            page = await self.remote.get_chain(after_seq, all_grants=step.all_grants)
            self.core.on_chain(
                page.items, lamport_max=page.lamport_max, more=page.more, now_ms=self.now_ms()
            )
            self.save()
            after_seq += len(page.items)
            if not page.more:
                return
            if not page.items or after_seq > self.core.chain.seq:
                raise ProtocolBreach(
                    "the service says that the device list goes on, and sends nothing of it"
                )

    async def _get_receipt(self) -> None:
        async with self.frames:
            receipt = await self.remote.get_receipt()
            try:
                server_key = await self.remote.signer_of(receipt.data, receipt.nonce)
            except CryptoError as error:
                self.core.on_server_key_refused(error.rule, receipt.data, now_ms=self.now_ms())
                self.save()
                return
            self.core.on_receipt(
                receipt.data,
                receipt.heads,
                server_key=server_key,
                nonce=receipt.nonce,
                now_ms=self.now_ms(),
            )
            self.save()

    async def _push(self, push: Push) -> None:
        try:
            await self.remote.push(push)
        except RemoteError as error:
            if error.transient or error.reason == reasons.UNAUTHENTICATED:
                raise
            self.core.on_push_refused(push, error.reason, error.metadata, now_ms=self.now_ms())
        else:
            self.core.on_pushed(push, now_ms=self.now_ms())

    async def _pull(self, step: Pull) -> None:
        try:
            page = await self.remote.pull(step.cursor)
        except RemoteError as error:
            if not self.restart_cursor(error):
                raise
        else:
            self.core.on_page(page.ops, page.cursor, more=page.more, now_ms=self.now_ms())

    def restart_cursor(self, error: RemoteError) -> bool:
        """Whether the error was about the cursor: then the service is another one than it
        was, and what it lost is compared and pushed again."""
        if error.reason not in (reasons.GENERATION_CHANGED, reasons.CURSOR_INVALID):
            return False
        self.core.on_generation_changed()
        self.save()
        return True


def core_rows(rows: Rows) -> Rows:
    """The part of a vault's rows that is the core's."""
    return {name: value for name, value in rows.items() if not name.startswith(SHELL_ROWS)}
