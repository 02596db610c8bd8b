"""What the devices of an account tell each other about rounds, as records of the profile.

Each device writes records of its own name and reads everybody's, so that two that write at the
same time lose nothing. What can't be read is left out: it may be a newer version's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from client.device import Device
from client.measure.errors import Ineligible
from client.profile import Name
from crypto.errors import CryptoError
from mpc import manifest as manifests
from mpc.budget import DeviceLedger
from mpc.manifest import Manifest

LEDGERS: Final = ".rookery/ledger"
"""By device id: the ledger of that device."""
ROUNDS: Final = ".rookery/rounds"
"""By `spec_hash/device id`: the manifests that this device was shown of the task."""
GIVEN: Final = ".rookery/given"
"""By device id: the rounds that this device answered of each source, as long as they count."""
GIVEN_MAX: Final = 120
_BYTES_MAX: Final = 24_000
_KEPT_MIN: Final = 4


@dataclass(frozen=True)
class Shown:
    """A manifest that a device was shown, as its parties signed it."""

    published: bytes
    manifest: Manifest

    @classmethod
    def read(cls, published: bytes) -> Shown | None:
        """None for what is not signed by all parties that it names: it proves nothing."""
        try:
            manifest, sigs = manifests.split(published)
            manifest.signed(sigs)
        except CryptoError:
            return None
        return cls(published, manifest)


class Given(NamedTuple):
    """A round that a device answered, as one of a source: of a task in any of its versions."""

    source: str
    digest: bytes
    open_ms: int
    close_ms: int
    until_ms: int
    """How long it counts: at least until its window is over."""
    micro_rho: int

    @classmethod
    def of(cls, value: object) -> Given | None:
        """None for what is none."""
        match value:
            case [str(source), bytes(digest), int(begin), int(end), int(until), int(cost)]:
                return cls(source, digest, begin, end, until, cost)
            case _:
                return None

    def overlaps(self, manifest: Manifest) -> bool:
        """Whether its window and that of a round have a moment in common."""
        return self.open_ms < manifest.close_ms and manifest.open_ms < self.close_ms


class Records:
    """The records of one account, as one of its devices sees them."""

    def __init__(self, device: Device) -> None:
        self._device = device

    # -- ledgers ------------------------------------------------------------------------

    def others_ledgers(self) -> list[DeviceLedger]:
        """Of all other devices, those too that were removed: what they spent is spent.
        Ineligible if that of a device of the account can't be read."""
        mine = self._device.identity.device_id.hex()
        active = {row.device_id.hex() for row in self._device.devices if row.active}
        ledgers = []
        for key, value in self._device.list(LEDGERS).items():
            if key != mine and isinstance(value, bytes):
                try:
                    ledgers.append(DeviceLedger.from_bytes(value))
                except CryptoError:
                    if key not in active:
                        continue  # or who was removed could stop the others for good
                    # What can't be read may have spent anything.
                    raise Ineligible(
                        "budget",
                        "what another of your devices has spent can't be read here: update this"
                        " device",
                    ) from None
        return ledgers

    def put_ledger(self, ledger: DeviceLedger, *, now_ms: int) -> None:
        """This device's own."""
        name = Name(LEDGERS, self._device.identity.device_id.hex())
        self._device.put_reserved(name, ledger.to_bytes(), now_ms=now_ms)

    # -- what was given to a source -----------------------------------------------------

    def given(self, source: str, *, now_ms: int) -> list[Given]:
        """What still counts of a source, by all devices, those too that were removed. Ineligible
        if that of a device of the account can't be read."""
        active = {row.device_id.hex() for row in self._device.devices if row.active}
        found = []
        for key, value in self._device.list(GIVEN).items():
            rows = [Given.of(row) for row in value] if isinstance(value, list) else [None]
            if None in rows and key in active:
                raise Ineligible(
                    "budget",
                    "what another of your devices has answered can't be read here: update this"
                    " device",
                )
            found += [row for row in rows if row is not None]
        return [one for one in found if one.source == source and now_ms < one.until_ms]

    def put_given(self, one: Given, *, now_ms: int) -> None:
        """Tells the other devices what this one answered. Ineligible, and nothing is told, if
        there is too much that still counts."""
        name = Name(GIVEN, self._device.identity.device_id.hex())
        value = self._device.get(*name)
        rows = [Given.of(row) for row in value] if isinstance(value, list) else []
        kept = [row for row in rows if row is not None and now_ms < row.until_ms]
        kept = [row for row in kept if row.digest != one.digest]
        if len(kept) >= GIVEN_MAX:
            raise Ineligible("budget", f"it answered {GIVEN_MAX} rounds that still count: wait")
        value = [list(row) for row in (*kept, one)]
        self._device.put_reserved(name, value, now_ms=now_ms)

    # -- manifests ----------------------------------------------------------------------

    def shown(self, spec_hash: bytes) -> dict[bytes, Shown]:
        """All rounds of a task that any active device was shown, by digest."""
        active = {row.device_id.hex() for row in self._device.devices if row.active}
        found = {}
        for key, value in self._device.list(ROUNDS).items():
            task, _, device = key.partition("/")
            if task == spec_hash.hex() and device in active:
                for one in _readable(value):
                    if one.manifest.spec_hash == spec_hash:
                        found[one.manifest.digest] = one
        return found

    def tasks(self) -> set[bytes]:
        """spec_hash of every task with rounds that a device was shown."""
        found = set()
        for key in self._device.list(ROUNDS):
            try:
                found.add(bytes.fromhex(key.partition("/")[0]))
            except ValueError:
                continue
        return found

    def put_shown(self, one: Shown, *, now_ms: int) -> bool:
        """Tells the other devices what this one was shown. False: it has told it before."""
        spec_hash = one.manifest.spec_hash
        name = Name(ROUNDS, f"{spec_hash.hex()}/{self._device.identity.device_id.hex()}")
        mine = list(_readable(self._device.get(*name)))
        if any(other.manifest.digest == one.manifest.digest for other in mine):
            return False
        kept = _newest([*mine, one], now_ms)
        self._device.put_reserved(name, [row.published for row in kept], now_ms=now_ms)
        return True


def _readable(value: object) -> Iterator[Shown]:
    for published in value if isinstance(value, list) else ():
        one = Shown.read(published) if isinstance(published, bytes) else None
        if one is not None:
            yield one


def _newest(rows: Iterable[Shown], now_ms: int) -> list[Shown]:
    """Those that are not over and a few before them, newest first, as many as fit a record."""
    kept: list[Shown] = []
    size = 0
    for one in sorted(rows, key=lambda row: row.manifest.close_ms, reverse=True):
        size += len(one.published)
        over = one.manifest.close_ms < now_ms and len(kept) >= _KEPT_MIN
        if size > _BYTES_MAX or over:
            break
        kept.append(one)
    return kept


def conflicting(shown: Iterable[Shown]) -> list[tuple[Shown, Shown]]:
    """Pairs of rounds for one window of a task: its parties signed both, or lost their keys."""
    rows = sorted(shown, key=lambda row: (row.manifest.open_ms, row.manifest.digest))
    pairs = []
    for at, one in enumerate(rows):
        for other in rows[at + 1 :]:
            if other.manifest.open_ms >= one.manifest.close_ms:
                break
            if one.manifest.conflicts(other.manifest):
                pairs.append((one, other))
    return pairs
