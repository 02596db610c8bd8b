"""What a publisher of policies asks of the service, as Python calls."""

from __future__ import annotations

from typing import Final

from client import remoteerrors as reasons
from client.analyst.errors import KeyRefused
from client.errors import UserError
from client.policykit.bundlefile import BundleFile
from client.remoteerrors import ProtocolBreach, RemoteError
from client.transport import Method, Signer, Transport
from mpc.keys import PublisherKey
from rookery.v1 import policy_pb2

SETTING: Final = "policy_keys"
_PUBLISH: Final = Method(
    "/rookery.v1.Policy/PublishPolicy", policy_pb2.PublishPolicyResponse.FromString, seconds=30.0
)


async def publish(transport: Transport, key: PublisherKey, file: BundleFile) -> None:
    """Makes it the one in force; again is fine. UserError, KeyRefused, RemoteError."""
    if file.publisher != key.public:
        raise UserError("the file is not signed by this key: build it with --key")
    message = policy_pb2.PublishPolicyRequest(
        policy=policy_pb2.SignedPolicy(
            bundle=file.bundle.encoded, sig=file.sig, publisher=key.public
        )
    )
    try:
        answer = (await transport.call(_PUBLISH, message, Signer(key))).message
    except RemoteError as error:
        raise _explained(error, key.public, file) from None
    if (answer.sequence, answer.hash) != (file.bundle.sequence, file.bundle.hash):
        raise ProtocolBreach("the service says that it took another policy than it was given")


def _explained(error: RemoteError, public: bytes, file: BundleFile) -> Exception:
    match error.reason:
        case reasons.UNAUTHENTICATED:
            return KeyRefused(
                f"the service does not know this key: its setting `{SETTING}` must have"
                f" {public.hex()}; or --audience is not the service's"
            )
        case reasons.ROLE_MISSING:
            return KeyRefused(
                "the service knows this key, but it may not publish policies: its setting"
                f" `{SETTING}` must have {public.hex()}"
            )
        case reasons.POLICY_CONFLICT:
            newest = error.metadata.get("sequence", "")
            number = newest if newest.isdecimal() else "another one"
            return UserError(
                f"the newest policy there is number {number}, and this one is number"
                f" {file.bundle.sequence}: build on that one, with --previous"
            )
        case reasons.POLICY_INVALID:
            rule = error.metadata.get("rule", "")
            said = f" (rule {rule})" if rule.isascii() and rule.isprintable() and rule else ""
            return UserError(f"the service refuses this policy{said}: update one of the two")
        case _:
            return error
