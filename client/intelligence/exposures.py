"""What a device keeps of an experiment: the variant that was shown, when, and what came of it.

Sealed records of the profile in a collection of the library's own, one for each device, so that
two devices never write the same one. No arithmetic in here: removing them must cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from client.device import Device
from client.errors import UserError
from client.profile import Name
from client.values import Value
from crypto.policy.generalise import DAY_MS

COLLECTION: Final = ".rookery/experiments"
NAME_CHARS_MAX: Final = 120
"""Of an experiment's name: a device's number is put behind it."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """One device's record."""

    variant: str
    shown_ms: int
    outcome: int

    def __repr__(self) -> str:
        return "Exposure(content hidden)"

    def value(self) -> Value:
        """As it is stored."""
        return [self.variant, self.shown_ms, self.outcome]

    def is_over(self, days: int, *, now_ms: int) -> bool:
        """Whether it was shown so many days ago."""
        return now_ms >= self.shown_ms + days * DAY_MS

    @classmethod
    def of(cls, value: Value) -> Exposure | None:
        """None for what is no record."""
        if not isinstance(value, list) or len(value) != 3:
            return None
        variant, shown_ms, outcome = value
        if type(variant) is not str or type(shown_ms) is not int or type(outcome) is not int:
            return None
        return cls(variant, shown_ms, outcome)


def own(device: Device, experiment: str) -> Exposure | None:
    """This device's record of an experiment."""
    key = _key(device, experiment)
    return None if key is None else Exposure.of(device.get(COLLECTION, key))


def put(device: Device, experiment: str, exposure: Exposure, *, now_ms: int) -> None:
    """Keeps it. UserError for a name that is too long."""
    key = _key(device, experiment)
    if key is not None:
        device.put_reserved(Name(COLLECTION, key), exposure.value(), now_ms=now_ms)


def every(device: Device, experiment: str) -> Iterator[Exposure]:
    """The records of all the account's devices."""
    for key, found in records(device):
        if experiment_of(key) == experiment:
            yield found


def forget(device: Device, which: Callable[[str], bool], *, now_ms: int) -> list[str]:
    """Removes the records of these experiments, on all devices. Their keys."""
    gone = [key for key in device.list(COLLECTION) if which(experiment_of(key))]
    for key in gone:
        remove(device, key, now_ms=now_ms)
    return gone


def expire(device: Device, days: Callable[[str], int | None], *, now_ms: int) -> list[str]:
    """Removes the records that are over, on all devices. Their keys. `days`: how long those of an
    experiment are kept; None: it is not for this to say."""
    gone = [
        key
        for key, one in records(device)
        if (kept := days(experiment_of(key))) is not None and one.is_over(kept, now_ms=now_ms)
    ]
    for key in gone:
        remove(device, key, now_ms=now_ms)
    return gone


def records(device: Device) -> Iterator[tuple[str, Exposure]]:
    """All that is kept of experiments, by key."""
    for key, value in device.list(COLLECTION).items():
        found = Exposure.of(value)
        if found is not None:
            yield key, found


def device_of(key: str) -> int | None:
    """The number of the device whose record it is."""
    number = key.rpartition("/")[2]
    return int(number) if number.isascii() and number.isdigit() else None


def remove(device: Device, key: str, *, now_ms: int) -> None:
    """Removes one record, on all devices."""
    device.put_reserved(Name(COLLECTION, key), None, now_ms=now_ms)


def experiment_of(key: str) -> str:
    """Of a record's key."""
    return key.rpartition("/")[0]


def _key(device: Device, experiment: str) -> str | None:
    """None on a device that is not part of the account yet."""
    if len(experiment) > NAME_CHARS_MAX:
        raise UserError(f"an experiment's name has {NAME_CHARS_MAX} characters at most")
    me = next((one for one in device.devices if one.this_device), None)
    return None if me is None else f"{experiment}/{me.index}"
