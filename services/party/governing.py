"""The policy bundle that a party holds, and what it therefore refuses.

Its publishers' keys are the party's own settings; the relay hands bundles on and is not believed.
What is held outlives the process, and no older one ever takes its place: so a relay that was put
back, or that lies, can't make a party compute what has been stopped.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from crypto.errors import CryptoError
from crypto.policy import Bundle, open_
from crypto.policy.succession import Verdict, judge
from mpc.task import Task
from rookery.v1 import policy_pb2
from services.errors import TaskUndeclared
from services.listed import Listed
from services.party.relay import Relay, RelayDown, RelayRefused
from services.party.store import HeldPolicy, PartyStore
from services.telemetry import Telemetry

NO_POLICY: Final = "no-policy"
"""Governed, and no bundle yet: may become right by itself."""


class Governing:
    """`bundle` is the one in force: None if there is none yet, or the party is not governed."""

    def __init__(self, store: PartyStore, keys: Iterable[Listed], telemetry: Telemetry) -> None:
        self._store = store
        self._telemetry = telemetry
        self._stored = store.policy()
        self._opened = None if self._stored is None else _opened(self._stored)
        self._told: tuple[str, int] | None = None
        self._keys: frozenset[bytes] = frozenset()
        self.pin(keys)

    def pin(self, keys: Iterable[Listed]) -> None:
        """Bundles of these publishers count from now on. One that has ended signs nothing new
        that is trusted by the service; what it signed before still counts here."""
        self._keys = frozenset(row.key for row in keys)

    @property
    def governed(self) -> bool:
        """Whether a policy publisher is pinned."""
        return bool(self._keys)

    @property
    def bundle(self) -> Bundle | None:
        """The one in force."""
        return self._opened if self._held is not None else None

    @property
    def sequence(self) -> int:
        """Of the one in force; 0: none."""
        bundle = self.bundle
        return 0 if bundle is None else bundle.sequence

    @property
    def _held(self) -> HeldPolicy | None:
        held = self._stored
        return held if held is not None and held.publisher in self._keys else None

    # --- what is refused ---

    def stops(self, task: Task, k_min: int) -> str | None:
        """By which rule this task may not be computed now, for rounds of so many contributions
        at least; None: it may."""
        if not self.governed:
            return None
        bundle = self.bundle
        if bundle is None:
            return NO_POLICY
        try:
            bundle.check_task(
                task.task_id,
                purpose=task.purpose,
                kind=task.kind.name,
                k_min=k_min,
                micro_rho=task.cost_micro_rho,
            )
        except CryptoError as error:
            return error.rule
        return None

    async def check(self, task: Task, k_min: int, relay: Relay) -> None:
        """TaskUndeclared if it may not. What was published a moment ago is asked for first."""
        if self.stops(task, k_min) is not None:
            await self.refresh(relay)
        rule = self.stops(task, k_min)
        if rule is not None:
            raise TaskUndeclared(rule)

    # --- what keeps it current ---

    async def refresh(self, relay: Relay) -> None:
        """Takes what the relay has that is newer. A relay that can't be asked changes nothing."""
        if not self.governed:
            return
        held = self._held
        try:
            answer = await relay.policy(0 if held is None else held.sequence)
        except (RelayDown, RelayRefused) as error:
            self._tell("policy_not_asked", 0, why=str(error))
            return
        if answer.HasField("policy"):
            self._take(answer.policy)
        elif held is not None and answer.sequence < held.sequence:
            self._tell("policy_refused", answer.sequence, rule=Verdict.ROLLBACK.value)
        elif held is not None and answer.hash != held.hash:
            self._tell("policy_refused", answer.sequence, rule=Verdict.FORK.value)

    def _take(self, signed: policy_pb2.SignedPolicy) -> None:
        if signed.publisher not in self._keys:
            self._tell("policy_refused", 0, rule="publisher")
            return
        try:
            bundle = open_(signed.bundle, signed.sig, signed.publisher)
        except CryptoError as error:
            self._tell("policy_refused", 0, rule=error.rule)
            return
        held = self._held
        verdict = Verdict.NEWER if held is None else judge(held.sequence, held.hash, bundle)
        if verdict is Verdict.NEWER:
            made = HeldPolicy(
                bundle.sequence, bundle.hash, signed.bundle, signed.sig, signed.publisher
            )
            self._store.keep_policy(made)
            self._stored, self._opened = made, bundle
            self._tell("policy_taken", bundle.sequence)
        elif verdict is Verdict.SAME:
            self._opened = bundle
        else:
            self._tell("policy_refused", bundle.sequence, rule=verdict.value)

    def _tell(self, event: str, sequence: int, **why: str) -> None:
        """Once, however often it is found out in a row."""
        told = (event + why.get("rule", ""), sequence)
        if told != self._told:
            self._told = told
            self._telemetry.event(event, sequence=sequence, **why)


def _opened(held: HeldPolicy) -> Bundle | None:
    """None for what another version held: it is not in force, and still a floor."""
    try:
        return open_(held.data, held.sig, held.publisher)
    except CryptoError:
        return None
