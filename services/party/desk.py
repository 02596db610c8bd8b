"""PrepareRound and SignManifest (rookery/v1/parties.proto): what a publisher asks of a party.

Both are signed calls by a pinned publisher, and may be repeated. A party gives one box key and
one signature for a round, and refuses a second round or manifest for a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.message import Message

from crypto.errors import CryptoError, FormatError
from crypto.keys import Identity, device_id
from crypto.primitives import box_public
from crypto.request import METADATA_KEY, NO_ACCOUNT, SKEW_MS_MAX, CallKind
from mpc import manifest as manifests, task as tasks
from mpc.budget import Cap
from mpc.keys import PartyKey
from mpc.manifest import Manifest
from rookery.v1 import parties_pb2
from services import errors
from services.auth import Context, check_context, check_key, parse as parse_auth
from services.call import KeyRole, KnownKey
from services.errors import (
    BudgetExhausted,
    ClockSkew,
    Malformed,
    ManifestInvalid,
    RoleMissing,
    TaskInvalid,
    Unauthenticated,
)
from services.party.cost import task_cap
from services.party.store import PartyStore, Round, Window
from services.store.errors import RoundClosed, RoundUnknown

_PARTIES = "rookery.v1.Parties"


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
        peers: Iterable[bytes],
        *,
        wall_ms: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        on_round: Callable[[bytes], None],
    ) -> None:
        self._store = store
        self._identity = identity
        self._key = PartyKey(identity.ik_seed)
        self._config = config
        self._publishers = {
            device_id(key): KnownKey(key, frozenset({KeyRole.PUBLISHER})) for key in publishers
        }
        self._peers = frozenset(peers)
        self._wall_ms = wall_ms
        self._random = random_bytes
        self._on_round = on_round

    def prepare(self, publisher: bytes, raw: bytes) -> Message:
        """Keeps the round and its new box key, or gives the key that there is."""
        asked = parties_pb2.PrepareRoundRequest.FromString(raw)
        if asked.task.publisher != publisher:
            raise RoleMissing(KeyRole.PUBLISHER.value)
        try:
            task = tasks.open_(asked.task.task + asked.task.sig, publisher)
        except CryptoError as error:
            raise TaskInvalid(error.rule) from None
        if len(asked.round_id) != 16:
            raise Malformed("round_id")
        if asked.close_ms - asked.open_ms != task.window_ms or asked.close_ms > task.expires_ms:
            raise ManifestInvalid("round-window")
        if asked.close_ms <= self._wall_ms():
            raise RoundClosed(asked.close_ms)
        cap = task_cap(task, self._config.task_micro_rho_max)
        left = cap - self._store.spent(task.spec_hash)
        if task.cost_micro_rho > left:
            raise BudgetExhausted(Cap.TASK, max(0, left))
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
            raise RoundClosed(asked.close_ms)
        return parties_pb2.PrepareRoundResponse(
            ik=self._identity.ik_pk, box_key=box_public(there.box_sk)
        )

    def sign(self, publisher: bytes, raw: bytes) -> Message:
        """Signs the manifest of a prepared round, once."""
        try:
            manifest = manifests.parse(parties_pb2.SignManifestRequest.FromString(raw).manifest)
            there = self._store.round(manifest.round_id)
            if there.window.publisher != publisher:
                raise RoundUnknown("no such round here")
            self._check(manifest, there)
        except CryptoError as error:
            raise ManifestInvalid(error.rule) from None
        sig = self._store.accept(
            manifest.round_id, manifest.encoded, manifest.digest, manifest.sign(self._key)
        )
        self._on_round(manifest.round_id)
        return parties_pb2.SignManifestResponse(sig=sig)

    def _check(self, manifest: Manifest, there: Round) -> None:
        """It is what was prepared, and the others are this party's peers."""
        window = there.window
        manifest.check_task(tasks.open_(window.task + window.task_sig, window.publisher))
        if (manifest.open_ms, manifest.close_ms) != (window.open_ms, window.close_ms):
            raise FormatError("round-window", "the round was prepared for another window")
        others = {party.ik_pk: party.box_pk for party in manifest.parties}
        mine = others.pop(self._identity.ik_pk, None)
        if mine is None or not self._peers >= set(others):
            raise FormatError("party-set", "the parties are not this one and its peers")
        if there.box_sk is not None and mine != box_public(there.box_sk):
            raise FormatError("party-keys", "another key of this party's stands in the manifest")

    def _publisher(self, method: str, raw: bytes, metadata: Any) -> bytes:
        auth = parse_auth([value for key, value in metadata if key == METADATA_KEY])
        now_ms = self._wall_ms()
        if abs(auth.ts_ms - now_ms) > SKEW_MS_MAX:
            raise ClockSkew(now_ms)
        check_context(auth, Context.of(CallKind.UNARY, method, self._config.audience))
        if auth.account_id != NO_ACCOUNT:
            raise Unauthenticated
        return check_key(auth, raw, self._publishers.get(auth.device_id)).ik_pk

    def handler(self) -> grpc.GenericRpcHandler:
        """Serves both methods on raw bytes, as they were signed."""

        def served(name: str, answer: Callable[[bytes, bytes], Message]) -> Any:
            async def handle(raw: bytes, context: Any) -> bytes:
                try:
                    method = f"/{_PARTIES}/{name}"
                    publisher = self._publisher(method, raw, context.invocation_metadata())
                    return answer(publisher, raw).SerializeToString()
                except Exception as error:
                    said = errors.failure(error)
                    await context.abort(said.code, said.message, said.trailing)
                    raise

            return grpc.unary_unary_rpc_method_handler(handle)

        handlers = {
            "PrepareRound": served("PrepareRound", self.prepare),
            "SignManifest": served("SignManifest", self.sign),
        }
        made: grpc.GenericRpcHandler = grpc.method_handlers_generic_handler(_PARTIES, handlers)
        return made
