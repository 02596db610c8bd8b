"""Pairing through the service's mailbox: the machines of `client.pairing` with I/O around.

An invitation is shown as a QR, which holds all of it, or as 26 typed characters, which name
a second mailbox where it lies sealed.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Self, TypeVar

from client import remoteerrors as reasons
from client.device import Device
from client.errors import PairingError, PairingRefused
from client.pairing import Inviter, Joiner
from client.remote import Remote
from client.remoteerrors import ProtocolBreach, RemoteError
from client.sync import SyncedDevice
from client.transport import Signer, Transport
from crypto.errors import CryptoError
from crypto.ids import DeviceId
from crypto.pairing import TYPED_BYTES, Invite, TypedInvite
from crypto.primitives import AEAD_NONCE_BYTES

T = TypeVar("T")
_OVER = frozenset({reasons.MAILBOX_ABSENT, reasons.MAILBOX_TAKEN, reasons.MESSAGE_ABSENT})
POLL_SECONDS = 1.0
REFUSE_SECONDS = 3.0
"""How long somebody who ended a pairing waits for the other device to be told."""


class Invitation:
    """The existing device's side. `show`, then `wait_for_reader`, then `enter` the digits.

    As a context it tells the new device if it is left before the digits were right.
    """

    def __init__(self, synced: SyncedDevice) -> None:
        self._synced = synced
        self._kept = False
        self._machine = Inviter(
            synced.core,
            policy_keys=synced.holding.keys,
            now_ms=synced.transport.server_ms(),
            rand=secrets.token_bytes,
        )
        self.invite = self._machine.invite
        self.typed = TypedInvite(secrets.token_bytes(TYPED_BYTES))

    async def show(self) -> None:
        """Leaves the invitation where the typed characters find it. The QR needs no service."""
        sealed = self.typed.seal(self.invite, aead_nonce=secrets.token_bytes(AEAD_NONCE_BYTES))
        await _mail(self._synced.remote.post_message(self.typed.rendezvous, 1, sealed))

    async def wait_for_reader(self) -> None:
        """Until the new device shows its six digits. PairingError."""
        remote, invite, now_ms = self._synced.remote, self.invite, self._synced.transport.server_ms
        m1 = await _mail(remote.fetch_message(invite.rendezvous, 1, until_ms=invite.expiry_ms))
        m2 = self._machine.on_m1(m1, now_ms=now_ms(), rand=secrets.token_bytes)
        await _mail(remote.post_message(invite.rendezvous, 2, m2))
        m3 = await _mail(remote.fetch_message(invite.rendezvous, 3, until_ms=invite.expiry_ms))
        self._machine.on_m3(m3, now_ms=now_ms())

    async def enter(self, digits: str) -> DeviceId:
        """Adds the new device, if these are its digits; one attempt. CodeWrong; PairingError
        if another device was quicker to change the account, or the service does not say."""
        core = self._synced.core
        before = core.chain.seq
        added = self._machine.enter(digits, now_ms=self._synced.transport.server_ms())
        # Stored first: from here on the device is added, whatever happens to this process.
        self._synced.save()
        self._kept = True
        await self._synced.sync_once()
        if core.chain.find(added) is None:
            if core.chain.seq == before:
                # Nothing stands in its place yet, and the service has the link.
                raise PairingError(
                    "The service does not say that it took the new device, which may be added "
                    "still. Sync, and look at the list of devices before you pair again."
                )
            self._kept = False
            raise PairingError("Another device changed the account meanwhile; start again.")
        return added

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        if self._kept:
            return
        mailbox, message = self._machine.refuse(rand=secrets.token_bytes)
        # The pairing is over, whether this arrives or not: the new device waits in vain then.
        with contextlib.suppress(RemoteError, ProtocolBreach, TimeoutError):
            async with asyncio.timeout(REFUSE_SECONDS):
                await self._synced.remote.post_message(mailbox, 1, message)


class Admission:
    """The new device's side. `ask` gives the digits to show, `wait` ends when it belongs."""

    def __init__(self, transport: Transport, invite: Invite) -> None:
        self._transport = transport
        self._remote = Remote(transport)
        self._invite = invite
        # The time of an invitation is the service's, which its first answer tells.
        self._machine = Joiner(invite, now_ms=0, rand=secrets.token_bytes)

    async def ask(self, store: Callable[[Device], None]) -> str:
        """The six digits. `store` gets the device: once its proof is sent, it may be added at
        any moment. PairingError."""
        remote, invite = self._remote, self._invite
        m1 = self._machine.m1(now_ms=0, rand=secrets.token_bytes)
        await _mail(remote.post_message(invite.rendezvous, 1, m1))
        answer = remote.fetch_message(invite.rendezvous, 2, until_ms=invite.expiry_ms)
        m2 = await _mail(self._unless_refused(answer))
        m3 = self._machine.on_m2(m2, now_ms=self._transport.server_ms(), rand=secrets.token_bytes)
        store(self._machine.join(now_ms=self._transport.clock.wall_ms()))
        await _mail(remote.post_message(invite.rendezvous, 3, m3))
        return self._machine.code

    async def wait(self) -> None:
        """Until the service knows us as a member. PairingRefused; PairingError when the time is
        up, RemoteError if the service isn't there by then."""
        self._remote.signer = Signer(self._machine.identity, self._invite.account_id)
        await self._unless_refused(self._wait_for_membership())

    async def _wait_for_membership(self) -> None:
        while True:
            try:
                await self._remote.get_chain(self._invite.chain_seq, all_grants=False)
                return
            except RemoteError as error:
                late = self._transport.server_ms() > self._invite.expiry_ms
                # The other device may add us at any moment: a gap in the network is no end.
                if error.reason != reasons.UNAUTHENTICATED and (late or not error.transient):
                    raise
            if late:
                raise PairingError(
                    "The other device did not accept in time; start again with a new code."
                )
            await self._transport.clock.sleep(POLL_SECONDS)

    async def _unless_refused(self, call: Coroutine[Any, Any, T]) -> T:
        """What `call` gives, or PairingRefused as soon as the other device says so."""
        work, refusal = asyncio.create_task(call), asyncio.create_task(self._refusal())
        try:
            await asyncio.wait((work, refusal), return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and refusal.result():
                raise PairingRefused
            return await work
        finally:
            work.cancel()
            refusal.cancel()
            await asyncio.gather(work, refusal, return_exceptions=True)

    async def _refusal(self) -> bool:
        """Whether the other device ended it; it says so at most once."""
        try:
            message = await self._remote.fetch_message(
                self._machine.refusal_rendezvous, 1, until_ms=self._invite.expiry_ms
            )
        except (RemoteError, ProtocolBreach):
            return False
        return self._machine.is_refusal(message)


def read_code(text: str) -> Invite | TypedInvite:
    """What a QR says (base45, base64url), or the 26 typed characters. PairingError."""
    for read in (TypedInvite.from_text, Invite.from_text):
        try:
            return read(text)
        except CryptoError:
            continue
    raise PairingError("This is no pairing code: type its 26 characters, or give the QR's text.")


async def find_invite(transport: Transport, code: Invite | TypedInvite) -> Invite:
    """The invitation itself; that of a typed code is fetched from its mailbox."""
    if isinstance(code, Invite):
        return code
    try:
        return code.open(await Remote(transport).fetch_message(code.rendezvous, 1, until_ms=0))
    except RemoteError as error:
        if error.reason != reasons.MESSAGE_ABSENT:
            raise
    except CryptoError:
        pass
    raise PairingError("Nobody waits behind this code: look for a typing error, or it is too old.")


async def _mail(call: Awaitable[T]) -> T:
    try:
        return await call
    except RemoteError as error:
        if error.reason in _OVER:
            raise PairingError(str(error)) from None
        raise
