"""Pairing through the service's mailbox: `client.pairing` with I/O around it."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import TypeVar

from client import remoteerrors as reasons
from client.errors import PairingError
from client.pairing import Inviter, Joiner
from client.remote import Remote
from client.remoteerrors import RemoteError
from crypto.cert import DeviceCert
from crypto.errors import CryptoError
from crypto.keys import Identity
from crypto.link import SignedLink
from crypto.pairing import Invite, TypedInvite

T = TypeVar("T")
_OVER = frozenset({reasons.MAILBOX_ABSENT, reasons.MAILBOX_TAKEN, reasons.MESSAGE_ABSENT})
POLL_SECONDS = 1.0


async def show_invite(remote: Remote, inviter: Inviter) -> None:
    """Leaves the invite where the typed code finds it. The QR needs no service."""
    await _mail(remote.post_message(inviter.typed.rendezvous, 1, inviter.typed_message))


async def invite_device(
    remote: Remote, inviter: Inviter, build_add: Callable[[DeviceCert], SignedLink]
) -> DeviceCert:
    """Waits for the new device up to the point where its six digits are to be typed.

    Who joins is returned; `inviter.accept` then takes the digits.
    """
    invite = inviter.invite
    hello = await _mail(remote.fetch_message(invite.rendezvous, 1, until_ms=invite.expiry_ms))
    cert = inviter.on_hello(hello)
    offer = inviter.offer(build_add(cert), secrets.token_bytes)
    await _mail(remote.post_message(invite.rendezvous, 2, offer))
    proof = await _mail(remote.fetch_message(invite.rendezvous, 3, until_ms=invite.expiry_ms))
    inviter.on_proof(proof)
    return cert


async def find_invite(remote: Remote, code: Invite | TypedInvite) -> Invite:
    """The invite itself; a typed code's is fetched from its mailbox."""
    if isinstance(code, Invite):
        return code
    try:
        return code.open(await remote.fetch_message(code.rendezvous, 1, until_ms=0))
    except RemoteError as error:
        if error.reason != reasons.MESSAGE_ABSENT:
            raise
    except CryptoError:
        pass
    raise PairingError("nobody waits behind this pairing code: look for a typing error")


async def ask_to_join(
    remote: Remote, invite: Invite, identity: Identity, before_proof: Callable[[], None]
) -> str:
    """The six digits to show. `before_proof` stores the new device: once the proof is sent
    it may be added at any moment."""
    joiner = Joiner(invite, identity, secrets.token_bytes)
    await _mail(remote.post_message(invite.rendezvous, 1, joiner.hello))
    offer = await _mail(remote.fetch_message(invite.rendezvous, 2, until_ms=invite.expiry_ms))
    proof, digits = joiner.on_offer(
        offer, now_ms=remote.transport.server_ms(), rand=secrets.token_bytes
    )
    before_proof()
    await _mail(remote.post_message(invite.rendezvous, 3, proof))
    return digits


async def wait_for_admission(remote: Remote, invite: Invite) -> None:
    """Returns once the service knows the signer as a member; PairingError when time is up."""
    while True:
        try:
            await remote.get_chain(invite.chain_seq, all_grants=False)
            return
        except RemoteError as error:
            if error.reason != reasons.UNAUTHENTICATED:
                raise
        if remote.transport.server_ms() > invite.expiry_ms:
            raise PairingError(
                "the other device did not accept in time: start again with a new code"
            )
        await remote.transport.clock.sleep(POLL_SECONDS)


async def _mail(call: Awaitable[T]) -> T:
    try:
        return await call
    except RemoteError as error:
        if error.reason in _OVER:
            raise PairingError(str(error)) from None
        raise
