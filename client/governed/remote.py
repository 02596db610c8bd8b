"""The Policy service as Python calls; what an answer means, `client.governed.holding` says."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from client import methods
from client.governed.holding import Shown, SignedPolicy
from client.remote import IDLE_SECONDS
from client.transport import Signer, Transport
from rookery.v1 import policy_pb2


async def get_policy(transport: Transport, after: int) -> Shown:
    """The newest bundle, if it is newer than `after`. Unsigned: the text is public. RemoteError."""
    message = policy_pb2.GetPolicyRequest(after=after)
    return _shown((await transport.call(methods.GET_POLICY, message)).message)


async def watch_policy(
    transport: Transport, signer: Signer, after: int
) -> AsyncGenerator[Shown, None]:
    """The same, then each newer one, with heartbeats in between. RemoteError when it breaks."""
    message = policy_pb2.WatchPolicyRequest(after=after)
    stream = transport.stream(methods.WATCH_POLICY, message, signer, idle_seconds=IDLE_SECONDS)
    async for frame in stream:
        yield _shown(frame)


def _shown(answer: policy_pb2.GetPolicyResponse | policy_pb2.WatchPolicyResponse) -> Shown:
    policy = answer.policy
    signed = SignedPolicy(policy.bundle, policy.sig, policy.publisher)
    return Shown(answer.sequence, answer.hash, signed if answer.HasField("policy") else None)
