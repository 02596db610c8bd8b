"""PrepareRound and SignManifest (rookery/v1/parties.proto): what a publisher asks of a party.

Both may be repeated. A party gives one box key and one signature for a round, and refuses a
second round or manifest for a window.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from crypto.errors import CryptoError, FormatError
from crypto.primitives import box_public
from mpc import manifest as manifests, task as tasks
from mpc.budget import Cap
from mpc.keys import PartyKey
from mpc.manifest import ROUND_ID_BYTES, Manifest
from mpc.task import Task
from rookery.v1 import parties_pb2
from services.call import KeyCall, KeyRole, KeyUnary, Route
from services.errors import (
    BudgetExhausted,
    Malformed,
    ManifestInvalid,
    RoleMissing,
    TaskInvalid,
)
from services.party.config import PartyConfig
from services.party.records import Round, Window
from services.party.store import PartyStore
from services.store.errors import RoundClosed, RoundUnknown
from services.sync.desk import parse

_PARTIES = "/rookery.v1.Parties/"


class Desk:
    """The publisher's counter of one party."""

    def __init__(
        self,
        store: PartyStore,
        key: PartyKey,
        config: PartyConfig,
        peers: Collection[bytes],
        *,
        random_bytes: Callable[[int], bytes],
        on_round: Callable[[bytes], None],
        shares_ms: Callable[[], int],
        check_task: Callable[[Task, int], Awaitable[None]],
    ) -> None:
        """`shares_ms`: how long a round that is prepared now is kept with its shares.
        `check_task`: TaskUndeclared for a task, and a k_min, that the policy does not allow."""
        self._store = store
        self._key = key
        self._config = config
        self._peers = peers
        self._random = random_bytes
        self._on_round = on_round
        self._shares_ms = shares_ms
        self._check_task = check_task

    def routes(self) -> list[Route]:
        """Both methods, for publishers."""
        return [
            KeyUnary(_PARTIES + "PrepareRound", self.prepare, KeyRole.PUBLISHER),
            KeyUnary(_PARTIES + "SignManifest", self.sign, KeyRole.PUBLISHER),
        ]

    async def prepare(self, raw: bytes, call: KeyCall) -> bytes:
        """Keeps the round and its new box key, or gives the key that there is."""
        asked = parse(parties_pb2.PrepareRoundRequest.FromString, raw)
        publisher = call.key.ik_pk
        if asked.task.publisher != publisher:
            raise RoleMissing(KeyRole.PUBLISHER.value)
        if len(asked.round_id) != ROUND_ID_BYTES:
            raise Malformed("round_id")
        task = self._task(asked.task.task + asked.task.sig, publisher)
        if asked.close_ms - asked.open_ms != task.window_ms or asked.close_ms > task.expires_ms:
            raise ManifestInvalid("round-window")
        if asked.close_ms <= call.now_ms:
            raise RoundClosed(asked.close_ms)
        await self._check_task(task, task.k_min)
        left = self._config.cap_of(task) - self._store.spent(task.spec_hash)
        if task.cost_micro_rho > left:
            raise BudgetExhausted(Cap.TASK, max(0, left))
        window = Window(
            round_id=asked.round_id,
            spec_hash=task.spec_hash,
            open_ms=asked.open_ms,
            close_ms=asked.close_ms,
            retain_until_ms=asked.close_ms + task.grace_ms + self._shares_ms(),
            task=asked.task.task,
            task_sig=asked.task.sig,
            publisher=publisher,
        )
        box_sk = self._store.prepare(window, self._random(32))
        return parties_pb2.PrepareRoundResponse(
            ik=self._key.public, box_key=box_public(box_sk)
        ).SerializeToString()

    def _task(self, published: bytes, publisher: bytes) -> Task:
        try:
            return tasks.open_(published, publisher)
        except CryptoError as error:
            raise TaskInvalid(error.rule) from None

    async def sign(self, raw: bytes, call: KeyCall) -> bytes:
        """Signs the manifest of a prepared round, once."""
        asked = parse(parties_pb2.SignManifestRequest.FromString, raw)
        try:
            manifest = manifests.parse(asked.manifest)
        except CryptoError as error:
            raise ManifestInvalid(error.rule) from None
        there = self._store.round(manifest.round_id)
        if there.window.publisher != call.key.ik_pk:
            raise RoundUnknown("no such round here")
        await self._check_task(tasks.decode(there.window.task), manifest.k_min)
        try:
            self._check(manifest, there)
            sig = manifest.sign(self._key)
        except CryptoError as error:
            raise ManifestInvalid(error.rule) from None
        sig = self._store.accept(manifest.round_id, manifest.encoded, manifest.digest, sig)
        self._on_round(manifest.round_id)
        return parties_pb2.SignManifestResponse(sig=sig).SerializeToString()

    def _check(self, manifest: Manifest, there: Round) -> None:
        """It is what was prepared, and the others are this party's peers."""
        window = there.window
        manifest.check_task(tasks.decode(window.task))
        if (manifest.open_ms, manifest.close_ms) != (window.open_ms, window.close_ms):
            raise FormatError("round-window", "the round was prepared for another window")
        keys = {party.ik_pk: party.box_pk for party in manifest.parties}
        mine = keys.pop(self._key.public, None)
        if mine is None or not all(ik in self._peers for ik in keys):
            raise FormatError("party-set", "the parties are not this one and its peers")
        if there.box_sk is not None and mine != box_public(there.box_sk):
            raise FormatError("party-keys", "another key of this party's stands in the manifest")
