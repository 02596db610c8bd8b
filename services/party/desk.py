"""PrepareRound and SignManifest (rookery/v1/parties.proto): what a publisher asks of a party.

Both are signed calls by a pinned publisher, and may be repeated. A party gives one box key and
one signature for a round, and refuses a second round or manifest for a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from crypto import request
from crypto.errors import CryptoError, FormatError, SignatureError
from crypto.keys import Identity, device_id
from crypto.primitives import box_public
from crypto.request import METADATA_KEY, SKEW_MS_MAX, CallKind
from mpc import manifest as manifests, task as tasks
from mpc.budget import Cap, OverBudget
from mpc.keys import PartyKey
from rookery.v1 import parties_pb2
from services.auth import NO_ACCOUNT
from services.party.cost import task_cap
from services.party.store import PartyStore, RoundAbsent, RoundConflict, RoundEnded, Window
from services.store.errors import StoreError

_PARTIES = "rookery.v1.Parties"
_REST = (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
_CODES: dict[type[Exception], tuple[grpc.StatusCode, str]] = {
    OverBudget: (grpc.StatusCode.FAILED_PRECONDITION, "BUDGET_EXHAUSTED"),
    RoundAbsent: (grpc.StatusCode.NOT_FOUND, "ROUND_UNKNOWN"),
    RoundConflict: (grpc.StatusCode.ABORTED, "ROUND_CONFLICT"),
    RoundEnded: (grpc.StatusCode.FAILED_PRECONDITION, "ROUND_CLOSED"),
    SignatureError: (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
    FormatError: (grpc.StatusCode.INVALID_ARGUMENT, "INVALID"),
    DecodeError: (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED"),
}


class Settings(Protocol):
    """What of the configuration matters here."""

    @property
    def audience(self) -> str: ...
    @property
    def retention_ms(self) -> int: ...
    @property
    def task_micro_rho_max(self) -> int: ...


class Desk:
    """The publisher's counter of one party."""

    def __init__(
        self,
        store: PartyStore,
        identity: Identity,
        config: Settings,
        publishers: Iterable[bytes],
        *,
        wall_ms: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        on_round: Callable[[bytes], None],
    ) -> None:
        self._store = store
        self._identity = identity
        self._key = PartyKey(identity.ik_seed)
        self._config = config
        self._publishers = {device_id(key): key for key in publishers}
        self._wall_ms = wall_ms
        self._random = random_bytes
        self._on_round = on_round

    def prepare(self, publisher: bytes, raw: bytes) -> Message:
        """Keeps the round and its new box key, or gives the key that there is."""
        asked = parties_pb2.PrepareRoundRequest.FromString(raw)
        if asked.task.publisher != publisher:
            raise SignatureError("publisher", "the task is another publisher's")
        task = tasks.open_(asked.task.task + asked.task.sig, publisher)
        if len(asked.round_id) != 16:
            raise FormatError("length", "a round id has 16 bytes")
        if asked.close_ms - asked.open_ms != task.window_ms or asked.close_ms > task.expires_ms:
            raise FormatError("round-window", "the window is not the task's")
        if asked.close_ms <= self._wall_ms():
            raise RoundEnded("the window is over")
        cap = task_cap(task, self._config.task_micro_rho_max)
        left = cap - self._store.spent(task.spec_hash)
        if task.cost_micro_rho > left:
            raise OverBudget(
                Cap.TASK, task.spec_hash, wanted=task.cost_micro_rho, left=max(0, left)
            )
        window = Window(
            round_id=asked.round_id,
            spec_hash=task.spec_hash,
            open_ms=asked.open_ms,
            close_ms=asked.close_ms,
            retain_until_ms=asked.close_ms + task.grace_ms + self._config.retention_ms,
            task=asked.task.task,
            task_sig=asked.task.sig,
            publisher=publisher,
        )
        there = self._store.prepare(window, self._random(32))
        if there.box_sk is None:
            raise RoundEnded("the round has ended")
        return parties_pb2.PrepareRoundResponse(
            ik=self._identity.ik_pk, box_key=box_public(there.box_sk)
        )

    def sign(self, publisher: bytes, raw: bytes) -> Message:
        """Signs the manifest of a prepared round, once."""
        manifest = manifests.parse(parties_pb2.SignManifestRequest.FromString(raw).manifest)
        there = self._store.round(manifest.round_id)
        window = there.window
        if window.publisher != publisher:
            raise RoundAbsent("no such round here")
        manifest.check_task(tasks.open_(window.task + window.task_sig, publisher))
        if (manifest.open_ms, manifest.close_ms) != (window.open_ms, window.close_ms):
            raise FormatError("round-window", "the round was prepared for another window")
        if there.box_sk is not None and (self._identity.ik_pk, box_public(there.box_sk)) not in [
            (party.ik_pk, party.box_pk) for party in manifest.parties
        ]:
            raise FormatError("party-set", "this party's keys are not in the manifest")
        sig = self._store.accept(
            manifest.round_id, manifest.encoded, manifest.digest, manifest.sign(self._key)
        )
        self._on_round(manifest.round_id)
        return parties_pb2.SignManifestResponse(sig=sig)

    def _publisher(self, method: str, raw: bytes, metadata: Any) -> bytes:
        values = [value for key, value in metadata if key == METADATA_KEY]
        if len(values) != 1:
            raise SignatureError("auth", "the call is not signed")
        auth = request.parse(values[0])
        request.check_context(
            auth, kind=CallKind.UNARY, method=method, audience=self._config.audience
        )
        publisher = self._publishers.get(auth.device_id)
        if publisher is None or auth.account_id != NO_ACCOUNT:
            raise SignatureError("auth", "no publisher of this party signed the call")
        if abs(auth.ts_ms - self._wall_ms()) > SKEW_MS_MAX:
            raise SignatureError("skew", "the clock of the signer is more than 120 s off")
        request.verify(auth, publisher, raw)
        return publisher

    def handler(self) -> grpc.GenericRpcHandler:
        """Serves both methods on raw bytes, as they were signed."""

        def served(name: str, answer: Callable[[bytes, bytes], Message]) -> Any:
            async def handle(raw: bytes, context: Any) -> bytes:
                try:
                    method = f"/{_PARTIES}/{name}"
                    publisher = self._publisher(method, raw, context.invocation_metadata())
                    return answer(publisher, raw).SerializeToString()
                except (CryptoError, StoreError, DecodeError) as error:
                    code, reason = next(
                        (row for kind, row in _CODES.items() if isinstance(error, kind)), _REST
                    )
                    rule = getattr(error, "rule", "")
                    await context.abort(code, f"{reason} {rule}".strip())
                    raise

            return grpc.unary_unary_rpc_method_handler(handle)

        handlers = {
            "PrepareRound": served("PrepareRound", self.prepare),
            "SignManifest": served("SignManifest", self.sign),
        }
        made: grpc.GenericRpcHandler = grpc.method_handlers_generic_handler(_PARTIES, handlers)
        return made
