"""What is agreed to now: the `Consent` of a governed device, and what its gate asks.

A purpose is on if the newest receipt for it is a grant, given to the words that the held policy
has for it, if no withdrawal is newer than that grant, and if its switch in the profile is on. A
grant counts once the service has its entry; a withdrawal counts as soon as this device knows it.
No I/O, clock or chance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from client.consent.records import Recorded, Records, Withdrawal
from client.device import Device
from client.measure.consent import COLLECTION
from client.measure.errors import Ineligible
from crypto import consent
from crypto.consent import Proof
from crypto.policy.document import Bundle
from crypto.policy.purposes import Purpose

if TYPE_CHECKING:  # whoever only records something needs no arithmetic
    from mpc.task import Task


_DOUBTED: Final = (
    "the service's record of your consent is not what you gave: see the alarm in"
    " `rookery device status`"
)


class Standing(Enum):
    """What a person has said to a purpose, by what this device knows."""

    NEVER = "never"
    """Nothing: it is off."""
    GRANTED = "granted"
    WITHDRAWN = "withdrawn"
    OUTDATED = "outdated"
    """Granted, to other words than the policy has by now: it is off until it is granted anew."""
    UNDECLARED = "undeclared"
    """Granted, and the policy has no such purpose any more: it is off."""


@dataclass(frozen=True, slots=True)
class PurposeState:
    """A purpose, and what counts of what was said to it. Its repr hides which."""

    name: str
    standing: Standing
    purpose: Purpose | None
    """As the held policy has it."""
    newest: Recorded | None
    withdrawn: frozenset[bytes]
    """Withdrawals that no grant has answered yet."""

    def as_map(self) -> dict[str, Any]:
        """For people: the words that the policy has for it now, and what was said to it."""
        words, newest = self.purpose, self.newest
        return {
            "purpose": self.name,
            "standing": self.standing.value,
            "text": words.text if words is not None else None,
            "benefit": words.benefit if words is not None else None,
            "intrusive": words.intrusive if words is not None else None,
            "since_ms": newest.receipt.at_ms if newest is not None else None,
        }

    def __repr__(self) -> str:
        return f"PurposeState({self.standing.value}, purpose hidden)"


class ConsentLedger:
    """The account's consent, as one of its devices sees it."""

    def __init__(self, device: Device, policy: Callable[[], Bundle | None]) -> None:
        """`policy` is asked anew each time; None: there is none yet, and nothing is allowed."""
        self.device = device
        self.records = Records(device)
        self._policy = policy
        self.doubted = False
        """The service's list contradicts what was agreed to: nothing is contributed."""

    @property
    def policy(self) -> Bundle | None:
        """The newest bundle that this device holds."""
        return self._policy()

    def allows(self, purpose: str) -> bool:
        """Whether values may be used for this purpose now."""
        return not self.paused and self.state(purpose).standing is Standing.GRANTED

    @property
    def paused(self) -> bool:
        """Whether the person has stopped all recording and all contributions for now."""
        return self.records.paused

    def state(self, name: str) -> PurposeState:
        """What stands of one purpose."""
        newest = None
        for one in self.records.chain():
            if one.receipt.purpose == name:
                newest = one
        known = newest.answers if newest is not None and newest.entry.granted else frozenset()
        said = frozenset(one.id for one in self.records.withdrawals() if one.purpose == name)
        bundle = self.policy
        purpose = bundle.purpose(name) if bundle is not None else None
        is_off = bool(said - known) or self.device.get(COLLECTION, name) is not True
        is_off |= newest is not None and self.records.withdrawn_behind(name, newest.entry.seq)
        standing = _standing(newest, purpose, is_off=is_off)
        return PurposeState(name, standing, purpose, newest, said - known)

    def states(self) -> list[PurposeState]:
        """Every purpose that the policy has, or that something was said to; by name."""
        bundle = self.policy
        names = {one.receipt.purpose for one in self.records.chain()}
        names |= {one.purpose for one in self.records.withdrawals()}
        names |= {one.name for one in bundle.purposes} if bundle is not None else set()
        return [self.state(name) for name in sorted(names)]

    def unreceipted(self) -> list[tuple[PurposeState, Withdrawal]]:
        """Purposes whose withdrawal has no receipt yet, with the newest such withdrawal."""
        newest: dict[str, Withdrawal] = {}
        for one in self.records.withdrawals():
            if one.purpose not in newest or one.at_ms > newest[one.purpose].at_ms:
                newest[one.purpose] = one
        found = []
        for name in sorted(newest):
            state = self.state(name)
            if state.newest is not None and state.newest.entry.granted and state.withdrawn:
                found.append((state, newest[name]))
        return found

    # -- joint aggregates ---------------------------------------------------------------

    def refusal(self, task: Task) -> Ineligible | None:
        """Why a task that the policy declares is not answered all the same."""
        if self.doubted:
            return Ineligible("consent-forged", _DOUBTED)
        if self.paused:
            return Ineligible("paused", "everything is paused: `rookery device resume` goes on")
        if self.allows(task.purpose):
            return None
        return Ineligible(
            "consent",
            f"its purpose is not allowed: `rookery device consent grant {task.purpose}` allows it",
        )

    def opening(self, purpose: str, *, now_ms: int) -> None:
        """The service is about to learn which purpose a tag stands for: a withdrawal may say it,
        too, and have what was contributed taken back."""
        self.records.open(purpose, now_ms=now_ms)

    def proof(self, purpose: str) -> Proof | None:
        """What a contribution for this purpose carries; None if it is off."""
        state, key = self.state(purpose), self.device.aggregation_key
        if key is None or state.newest is None or state.standing is not Standing.GRANTED:
            return None
        return Proof(consent.salt(key, purpose), state.newest.entry.seq)


def _standing(newest: Recorded | None, purpose: Purpose | None, *, is_off: bool) -> Standing:
    """`is_off`: a withdrawal is newer than the grant, or the switch is off."""
    if newest is None:
        return Standing.NEVER
    if not newest.entry.granted or is_off:
        return Standing.WITHDRAWN
    if purpose is None:
        return Standing.UNDECLARED
    is_same = newest.receipt.text_hash == purpose.text_hash
    return Standing.GRANTED if is_same else Standing.OUTDATED
