"""Whether the person agrees that their values are used for a purpose.

Off unless switched on. The account's devices agree: the switch is a setting in the profile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from client.device import Device
from client.errors import UserError
from client.measure.errors import Ineligible
from client.profile import Name
from crypto.consent import Proof
from crypto.errors import FormatError
from crypto.names import check_name
from crypto.primitives import utf8

if TYPE_CHECKING:  # whoever only switches a purpose needs no arithmetic
    from mpc.task import Task

COLLECTION: Final = ".rookery/consent"


class Consent(Protocol):
    """What the library asks before a value is used."""

    def allows(self, purpose: str) -> bool:
        """Whether values may be used for this purpose now."""
        ...

    def refusal(self, task: Task) -> Ineligible | None:
        """Why this task is not answered, as far as that is the person's or the policy's to say."""
        ...

    def proof(self, purpose: str) -> Proof | None:
        """What a contribution for this purpose carries; None: nothing."""
        ...

    def opening(self, purpose: str, *, now_ms: int) -> None:
        """A contribution for this purpose is about to be sent. To be stored before it is."""
        ...


class ConsentSettings:
    """Consent as settings of the profile: of a device that is under no policy."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def allows(self, purpose: str) -> bool:
        """Only what was switched on, and not off again."""
        return self._device.get(COLLECTION, purpose) is True

    def refusal(self, task: Task) -> Ineligible | None:
        """Its purpose is off."""
        if self.allows(task.purpose):
            return None
        return Ineligible(
            "consent",
            f"its purpose is not allowed: `rookery device allow {task.purpose}` allows it",
        )

    def proof(self, purpose: str) -> Proof | None:
        """There are no receipts without a policy."""
        del purpose
        return None

    def opening(self, purpose: str, *, now_ms: int) -> None:
        """Without receipts there is nothing to remember."""
        del purpose, now_ms

    @property
    def allowed(self) -> tuple[str, ...]:
        """All purposes that are switched on, sorted."""
        return tuple(sorted(filter(self.allows, self._device.list(COLLECTION))))

    def allow(self, purpose: str, *, now_ms: int) -> None:
        """From now on, on all devices of the account. UserError for what is no purpose's name."""
        self._device.put_reserved(_name(purpose), True, now_ms=now_ms)

    def disallow(self, purpose: str, *, now_ms: int) -> None:
        """From now on, on all devices. What was sent before can't be taken back."""
        self._device.put_reserved(_name(purpose), False, now_ms=now_ms)


def _name(purpose: str) -> Name:
    try:
        check_name(utf8(purpose))
    except FormatError:
        raise UserError("a purpose is 1 to 128 characters of a-z 0-9 . _ / -") from None
    return Name(COLLECTION, purpose)
