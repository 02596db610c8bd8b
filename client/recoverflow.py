"""Recovery with I/O around `client.recovery`: the paper adds a new device to its account."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from client import remoteerrors as reasons
from client.device import Device
from client.errors import NotAllowed
from client.recovery import Recovery
from client.remote import Remote
from client.remoteerrors import RemoteError
from client.steps import GetChain
from client.transport import Signer, Transport
from crypto.ids import AccountId

STEPS_MAX = 100


async def recover(
    transport: Transport,
    secret: bytes,
    account_id: AccountId,
    store: Callable[[Device], None],
) -> None:
    """Adds a new device to the account. NotAllowed, PeerError, RemoteError.

    `store` gets the device before the link that adds it is sent, and again if that link has
    to be built anew: whatever happens to the answer, its keys are not lost.
    """
    recovery = Recovery(secret, account_id, rand=secrets.token_bytes)
    remote = Remote(transport, Signer(recovery.paper, account_id))
    for _ in range(STEPS_MAX):
        step = recovery.next_step()
        if step is None:
            return
        try:
            if isinstance(step, GetChain):
                page = await remote.get_chain(step.after_seq, all_grants=step.all_grants)
                recovery.on_chain(page.items, more=page.more)
            else:
                store(recovery.device(now_ms=transport.clock.wall_ms()))
                await remote.append_link(step.item)
                recovery.on_appended()
        except RemoteError as error:
            if error.transient:
                raise
            if error.reason == reasons.UNAUTHENTICATED:
                raise NotAllowed(
                    "The service knows no such account with this recovery key: look for a typing"
                    " error in either."
                ) from None
            recovery.on_append_refused(error.reason)
    raise NotAllowed("The device list keeps changing; try again later.")
