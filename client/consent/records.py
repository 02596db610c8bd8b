"""What the devices of an account tell each other about consent, as records of the profile.

Receipts are written by whoever had them recorded, under the number that the service gave out.
Withdrawals are written by each device under its own name, so that two that write at the same
time lose nothing. What can't be read is left out: it may be a newer version's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from client.device import Device
from client.profile import Name
from client.values import Value
from crypto import consent
from crypto.cert import Role
from crypto.consent import Entry, Receipt
from crypto.errors import CryptoError
from crypto.ids import DeviceId

RECEIPTS: Final = ".rookery/receipts"
"""By seq: `[entry, sig, device_id, receipt, answers, [text, benefit]]`."""
WITHDRAWN: Final = ".rookery/withdrawn"
"""By device id: `{purpose: [id, at_ms]}`, what was last withdrawn there."""
ENTRIES: Final = ".rookery/entries"
"""By seq: `[entry, sig, device_id]`, entries that were built on before their receipts came."""
OPENED: Final = ".rookery/opened"
"""By purpose: true once something was contributed for it."""
PAUSED: Final = Name(".rookery/paused", "all")
ID_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Recorded:
    """A receipt with the entry that the service took for it. Its repr hides what it says."""

    entry: Entry
    sig: bytes
    device_id: DeviceId
    receipt: Receipt
    answers: frozenset[bytes]
    """Ids of the withdrawals that were known when a grant was given: it is newer than these."""
    words: tuple[str, str] = field(repr=False)
    """Text and benefit of the purpose, as they were read."""

    def as_value(self) -> Value:
        """The record's value."""
        answers: list[Value] = []
        answers += sorted(self.answers)
        return [
            self.entry.encode(),
            self.sig,
            bytes(self.device_id),
            self.receipt.encode(),
            answers,
            list(self.words),
        ]

    @classmethod
    def of(cls, value: Value, device: Device) -> Recorded | None:
        """None unless a device of the account signed it, whether it is still one or not."""
        match value:
            case [
                bytes() as raw, bytes() as sig, bytes() as signer, bytes() as receipt,
                list() as answers, [str() as text, str() as benefit],
            ]:  # fmt: skip
                pass
            case _:
                return None
        opened = opened_by(device, signer, raw, sig)
        said = _read(receipt)
        if opened is None or said is None:
            return None
        known = frozenset(one for one in answers if isinstance(one, bytes))
        return cls(opened, sig, DeviceId(signer), said, known, (text, benefit))


@dataclass(frozen=True, slots=True)
class Stub:
    """An entry that the service has and whose receipt is not here, if it ever comes: its place in
    the chain is known, by its hash, and what it says is not."""

    entry: Entry
    sig: bytes
    device_id: DeviceId


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A purpose that was switched off on one device."""

    purpose: str
    id: bytes
    at_ms: int

    def __repr__(self) -> str:
        return "Withdrawal(purpose hidden)"


def _place(seq: int) -> str:
    return f"{seq:012d}"


def opened_by(device: Device, signer: bytes, raw: bytes, sig: bytes) -> Entry | None:
    """The entry, if this device of the account signed it, and it is the account's."""
    if len(signer) != DeviceId.size:
        return None
    found = device.chain.find(DeviceId(signer))
    if found is None or found.role is not Role.FULL:
        return None
    entry = _verified(raw, sig, found.ik_pk)
    return entry if entry is not None and entry.account == device.account_id else None


@lru_cache(maxsize=4_096)
def _verified(raw: bytes, sig: bytes, ik_pk: bytes) -> Entry | None:
    # Every write of a governed app asks: a signature that held once holds for good.
    try:
        return consent.verify(raw, sig, ik_pk)
    except CryptoError:
        return None


@lru_cache(maxsize=4_096)
def _read(receipt: bytes) -> Receipt | None:
    try:
        return Receipt.decode(receipt)
    except CryptoError:
        return None


class Records:
    """The records of one account, as one of its devices sees them."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._made_of: object = None
        self._chain: list[Recorded] = []
        self._entries: list[Recorded | Stub] = []

    # -- receipts -----------------------------------------------------------------------

    def chain(self) -> list[Recorded]:
        """The receipts among `entries`."""
        self.entries()
        return self._chain

    def entries(self) -> list[Recorded | Stub]:
        """From the first on, as far as each follows on the one before: the rest is on its way,
        or nobody's. Every write of an app asks for it: it is made anew once something changed."""
        device = self._device
        made_of = (
            device.stored(RECEIPTS), device.stored(ENTRIES),
            device.chain.head, device.aggregation_key,
        )  # fmt: skip
        if made_of != self._made_of:
            self._entries, self._made_of = self._follow(), made_of
            self._chain = [one for one in self._entries if isinstance(one, Recorded)]
        return self._entries

    def _follow(self) -> list[Recorded | Stub]:
        found: list[Recorded | Stub] = []
        receipts = self._device.list(RECEIPTS)
        stubs = self._device.list(ENTRIES)
        while True:
            name = _place(len(found) + 1)
            before = found[-1].entry if found else None
            one: Recorded | Stub | None = self._receipt_at(receipts.get(name), before)
            if one is None:
                one = self._stub_at(stubs.get(name), before)
            if one is None:
                return found
            found.append(one)

    def _receipt_at(self, value: Value, before: Entry | None) -> Recorded | None:
        one = Recorded.of(value, self._device)
        try:
            if one is None or not self._is_tagged(one):
                return None
            consent.follow(one.entry, one.receipt, before=before)
        except CryptoError:
            return None
        return one

    def _stub_at(self, value: Value, before: Entry | None) -> Stub | None:
        match value:
            case [bytes() as raw, bytes() as sig, bytes() as signer]:
                entry = opened_by(self._device, signer, raw, sig)
            case _:
                return None
        try:
            if entry is None:
                return None
            consent.follow_entry(entry, before)
        except CryptoError:
            return None
        return Stub(entry, sig, DeviceId(signer))

    def withdrawn_behind(self, purpose: str, seq: int) -> bool:
        """Whether an entry without a receipt takes the purpose back behind this seq: for that its
        tag says enough. Of a grant it does not: nobody here knows the words."""
        stubs = [one.entry for one in self.entries()[seq:] if isinstance(one, Stub)]
        key = self._device.aggregation_key
        if not stubs or key is None:
            return False
        tag = consent.tag(self._device.account_id, consent.salt(key, purpose), purpose)
        return any(one.tag == tag and not one.granted for one in stubs)

    def _is_tagged(self, one: Recorded) -> bool:
        key = self._device.aggregation_key
        if key is None:
            return False
        salt = consent.salt(key, one.receipt.purpose)
        tag = consent.tag(self._device.account_id, salt, one.receipt.purpose)
        return one.entry.tag == tag

    def put(self, one: Recorded, *, now_ms: int) -> None:
        """Tells the other devices of a receipt."""
        name = Name(RECEIPTS, _place(one.entry.seq))
        self._device.put_reserved(name, one.as_value(), now_ms=now_ms)

    def put_stubs(self, unknown: Sequence[Stub], *, now_ms: int) -> None:
        """Tells them of the entries that receipts build on, should their own never come."""
        receipts, stubs = self._device.list(RECEIPTS), self._device.list(ENTRIES)
        for one in unknown:
            place = _place(one.entry.seq)
            if place < max(receipts, default="") and place not in receipts | stubs:
                value: Value = [one.entry.encode(), one.sig, bytes(one.device_id)]
                self._device.put_reserved(Name(ENTRIES, place), value, now_ms=now_ms)

    # -- withdrawals --------------------------------------------------------------------

    def withdrawals(self) -> Iterator[Withdrawal]:
        """Of all devices, those too that were removed."""
        for value in self._device.list(WITHDRAWN).values():
            yield from _withdrawals(value)

    def withdraw(self, purpose: str, id_: bytes, *, now_ms: int) -> None:
        """Tells the other devices that it is off from now on."""
        name = Name(WITHDRAWN, self._device.identity.device_id.hex())
        mine = {one.purpose: one for one in _withdrawals(self._device.get(*name))}
        mine[purpose] = Withdrawal(purpose, id_, max(0, now_ms))
        value: Value = {one.purpose: [one.id, one.at_ms] for one in mine.values()}
        self._device.put_reserved(name, value, now_ms=now_ms)

    # -- what was contributed for ------------------------------------------------------

    def is_opened(self, purpose: str) -> bool:
        """Whether a device of the account contributed for it, or was about to."""
        return self._device.get(OPENED, purpose) is True

    def open(self, purpose: str, *, now_ms: int) -> None:
        """A contribution is about to tell the service which purpose it is for."""
        if not self.is_opened(purpose):
            self._device.put_reserved(Name(OPENED, purpose), True, now_ms=now_ms)

    # -- pause --------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether the person has stopped all recording and all contributions for now."""
        return self._device.get(*PAUSED) is True

    def pause(self, paused: bool, *, now_ms: int) -> None:
        """On all devices."""
        self._device.put_reserved(PAUSED, paused, now_ms=now_ms)


def _withdrawals(value: Value) -> Iterator[Withdrawal]:
    for purpose, said in value.items() if isinstance(value, dict) else ():
        match said:
            case [bytes() as id_, int() as at_ms] if len(id_) == ID_BYTES and at_ms >= 0:
                yield Withdrawal(purpose, id_, at_ms)
