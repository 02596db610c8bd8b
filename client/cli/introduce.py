"""The first words with a service, before a new account is stored: is it the one that is meant?"""

from __future__ import annotations

from client import remoteerrors as reasons
from client.cli.output import Output
from client.device import Device
from client.errors import UserError
from client.governed.remote import get_policy
from client.remote import Remote
from client.remoteerrors import RemoteError
from client.steps import CreateAccount
from client.transport import Signer, Transport
from crypto import receipt
from crypto.errors import CryptoError

_NO_POLICY = (
    "the service takes no account yet: it is governed and has no policy; who publishes it puts the"
    " first one in force (`rookery policy publish`), then run this again"
)


async def introduce(core: Device, transport: Transport, token: bytes | None, out: Output) -> bool:
    """Makes the account and looks at the service's first receipt. False if the service is
    away; UserError if it has another name or key than was given."""
    endpoint = transport.endpoint
    remote = Remote(transport, Signer(core.identity, core.account_id))
    try:
        genesis = core.next_step(now_ms=transport.clock.wall_ms(), rand=bytes)
        assert isinstance(genesis, CreateAccount)
        await remote.create_account(genesis, token=token)
        signed = await remote.get_receipt()
        key = await remote.signer_of(signed.data, signed.nonce)
        receipt.open_(signed.data, key, nonce=signed.nonce)
    except RemoteError as error:
        if error.reason == reasons.UNAUTHENTICATED:
            raise UserError(
                f"the service does not answer to the name {endpoint.audience!r}: check --audience"
            ) from None
        if error.reason == reasons.ACCESS_DENIED and await _is_before_the_first(transport):
            raise UserError(_NO_POLICY) from None
        if not error.transient:
            raise
        out.note(f"rookery: {error}")
        out.note("This device is set up; `rookery device sync` makes the account later.")
        return False
    except CryptoError:
        raise UserError(
            f"the service at {','.join(endpoint.targets)} has another key than --server-key:"
            " check it"
        ) from None
    return True


async def _is_before_the_first(transport: Transport) -> bool:
    """Whether the service has no policy: then it allows nobody anything. It tells that to
    anybody."""
    try:
        return (await get_policy(transport, 0)).sequence == 0
    except RemoteError:
        return False
