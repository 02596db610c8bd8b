"""What a publisher asks of the service and of parties, as Python calls."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Final, TypeVar

from client import remoteerrors as reasons
from client.analyst.errors import KeyRefused
from client.errors import NothingThere, UserError
from client.remoteerrors import ProtocolBreach, RemoteError
from client.rounds import SignedTask
from client.transport import Method, Signer, Transport
from crypto import labels
from crypto.primitives import KEY_BYTES, SIG_BYTES
from mpc.keys import PublisherKey
from mpc.manifest import Manifest, Party
from mpc.task import Task
from rookery.v1 import parties_pb2, rounds_pb2

T = TypeVar("T")

_PUBLISH: Final = Method(
    "/rookery.v1.Rounds/PublishTask", rounds_pb2.PublishTaskResponse.FromString, seconds=30.0
)
_COLLECT: Final = Method(
    "/rookery.v1.Rounds/CollectRound", rounds_pb2.CollectRoundResponse.FromString
)
_PREPARE: Final = Method(
    "/rookery.v1.Parties/PrepareRound", parties_pb2.PrepareRoundResponse.FromString
)
_SIGN: Final = Method(
    "/rookery.v1.Parties/SignManifest", parties_pb2.SignManifestResponse.FromString
)


class Publisher:
    """Calls to the service by a key that may publish."""

    def __init__(self, transport: Transport, key: PublisherKey) -> None:
        self._transport = transport
        self._key = key

    def signed(self, task: Task) -> SignedTask:
        """The task with this publisher's signature."""
        sig = self._key.sign(labels.TASK_SIG, task.encoded)
        return SignedTask(task.encoded, sig, self._key.public)

    async def publish(self, task: Task) -> None:
        """Puts a task up for good; again is fine."""
        made = self.signed(task)
        message = rounds_pb2.PublishTaskRequest(task=made.body, sig=made.sig)
        call = self._transport.call(_PUBLISH, message, Signer(self._key))
        answer = (await explained(call, self._key.public, "publishers")).message
        if answer.spec_hash != task.spec_hash:
            raise ProtocolBreach("the service says that it took another task than it was given")

    async def collect(self, manifest: Manifest, sigs: Sequence[bytes]) -> None:
        """Opens a round; again is fine."""
        message = rounds_pb2.CollectRoundRequest(manifest=manifest.encoded, sigs=sigs)
        call = self._transport.call(_COLLECT, message, Signer(self._key))
        answer = (await explained(call, self._key.public, "publishers")).message
        if answer.round_digest != manifest.digest:
            raise ProtocolBreach("the service says that it took another round than it was given")


class PartyLine:
    """Calls to one party. Its answers are judged by who gets them."""

    def __init__(self, transport: Transport, key: PublisherKey) -> None:
        self._transport = transport
        self._signer = Signer(key)

    async def prepare(
        self, task: SignedTask, round_id: bytes, *, open_ms: int, close_ms: int
    ) -> Party:
        """Its keys for a round; the same each time."""
        message = parties_pb2.PrepareRoundRequest(
            task=rounds_pb2.SignedTask(task=task.body, sig=task.sig, publisher=task.publisher),
            round_id=round_id,
            open_ms=open_ms,
            close_ms=close_ms,
        )
        answer = (await self._transport.call(_PREPARE, message, self._signer)).message
        if len(answer.ik) != KEY_BYTES or len(answer.box_key) != KEY_BYTES:
            raise ProtocolBreach("it answers with keys of a wrong size")
        return Party(answer.ik, answer.box_key)

    async def sign(self, manifest: Manifest) -> bytes:
        """Its signature of a manifest; not verified."""
        message = parties_pb2.SignManifestRequest(manifest=manifest.encoded)
        answer = (await self._transport.call(_SIGN, message, self._signer)).message
        if len(answer.sig) != SIG_BYTES:
            raise ProtocolBreach("it answers with a signature of a wrong size")
        return answer.sig


async def explained(call: Awaitable[T], public: bytes, setting: str) -> T:
    """The call's answer. What a key without an account can get wrong is said in its words:
    KeyRefused, NothingThere, UserError."""
    try:
        return await call
    except RemoteError as error:
        match error.reason:
            case reasons.UNAUTHENTICATED:
                raise KeyRefused(
                    f"the service does not know this key: its setting `{setting}` must have"
                    f" {public.hex()}; or --audience is not the service's"
                ) from None
            case reasons.ROLE_MISSING:
                raise KeyRefused(
                    "the service knows this key, but it may not do that: its setting"
                    f" `{setting}` must have {public.hex()}, and a round is its task's"
                    " publisher's to open"
                ) from None
            case reasons.ROUND_UNKNOWN:
                raise NothingThere(str(error)) from None
            case reasons.TASK_INVALID if error.metadata.get("rule") == "report-bytes":
                raise UserError(
                    "a report of this task is larger than the service takes (its setting"
                    " receive_bytes_max): measure less at once"
                ) from None
        raise
