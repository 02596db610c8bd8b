"""The service's list of entries beside the account's receipts: what is missing, and whose lie.

Pure. The list is judged from its start each time: whatever a service that was restored, or one
that lies, leaves out or alters then shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from client.consent.records import Recorded, Stub, opened_by
from client.device import Device
from crypto import consent
from crypto.consent import Entry
from crypto.errors import CryptoError
from crypto.ids import DeviceId


class Listed(NamedTuple):
    """An entry as the service gives it: nothing of it is verified."""

    raw: bytes
    sig: bytes
    device_id: bytes


@dataclass(frozen=True, slots=True)
class Alarm:
    """What can't be right, in words, with what proves it."""

    rule: str
    sentence: str
    evidence: tuple[bytes, ...]
    about: bytes


@dataclass(slots=True)
class Comparison:
    """What came out. `head` is the newest entry that holds at the service."""

    head: Entry | None = None
    lost: list[Recorded | Stub] = field(default_factory=list)
    """What the service no longer has, in order: to be uploaded again as it was signed."""
    unknown: list[Stub] = field(default_factory=list)
    """Entries of the account's devices whose receipts are not here (yet)."""
    now: dict[bytes, Entry] = field(default_factory=dict)
    """By tag: the newest entry at the service."""
    alarms: list[Alarm] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """The service's list is a chain of this account that contradicts no receipt."""
        return not any(one.rule == "consent-forged" for one in self.alarms)


_MISSING = (
    "The service no longer has a consent that it had recorded: it lost data, or went back to an"
    " older state. It is recorded there again, as you gave it."
)
_FORGED = (
    "The service shows a record of consent that none of your devices made, or that is not the one"
    " you gave. Nothing is contributed until this is cleared up: tell who runs the service."
)


def compare(
    device: Device, chain: Sequence[Recorded | Stub], listed: Sequence[Listed]
) -> Comparison:
    """`chain`: the account's entries, as far as they are known here; `listed`: all that the
    service gives."""
    found = Comparison()
    for at, row in enumerate(listed):
        entry = opened_by(device, row.device_id, row.raw, row.sig)
        if entry is None or not _follows(entry, found.head):
            found.alarms.append(_forged(row.raw))
            return found
        if at < len(chain):
            mine = chain[at]
            if mine.entry != entry:
                found.alarms.append(_forged(row.raw, mine.entry.encode(), mine.sig))
                return found
        if at >= len(chain) or isinstance(chain[at], Stub):
            found.unknown.append(Stub(entry, row.sig, DeviceId(row.device_id)))
        found.now[entry.tag] = found.head = entry
    found.lost = list(chain[len(listed) :])
    if found.lost:
        first = found.lost[0]
        about = first.entry.hash
        found.alarms.append(
            Alarm("consent-missing", _MISSING, (first.entry.encode(), first.sig), about)
        )
    return found


def _follows(entry: Entry, head: Entry | None) -> bool:
    try:
        consent.follow_entry(entry, head)
    except CryptoError:
        return False
    return True


def _forged(raw: bytes, *mine: bytes) -> Alarm:
    return Alarm("consent-forged", _FORGED, (raw, *mine), raw[:256])
