"""The device chain as this device believes it: verified from genesis, and only ever growing.

What contradicts it becomes evidence and changes nothing (C2). Grants become epoch keys only
with their link, and only if the key matches the commitment in the chain (C5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from client.errors import PeerError, ServiceError
from client.rows import Journal, Rows, pack, unpack
from client.steps import ChainItem
from crypto import grant, link
from crypto.chain import EMPTY, Chain
from crypto.epoch import EpochKeys
from crypto.errors import CryptoError
from crypto.grant import SealedGrant
from crypto.ids import AccountId, DeviceId, LinkHash
from crypto.keys import Identity
from crypto.link import Link, Rebox, Rotate, SignedLink


@dataclass(frozen=True, slots=True)
class Pin:
    """What is known of the chain before any of it is read: the account, and links that the
    pairing code and our own ADD link name."""

    account_id: AccountId
    links: tuple[tuple[int, LinkHash], ...] = ()

    @property
    def seq(self) -> int:
        """Up to here the chain must reach before it is trusted; -1: it always is."""
        return max((seq for seq, _ in self.links), default=-1)


@dataclass(slots=True)
class Extension:
    """What an answer of GetChain changed."""

    links: list[Link] = field(default_factory=list)
    new_keys: list[int] = field(default_factory=list)
    evidence: list[PeerError] = field(default_factory=list)


class ChainView:
    """The verified chain with its links, and the epoch keys that came with them."""

    def __init__(self, pin: Pin) -> None:
        self.pin = pin
        self.chain: Chain = EMPTY
        self.items: list[ChainItem] = []
        self.keys: dict[int, EpochKeys] = {}
        self.epoch_starts: dict[int, tuple[int, DeviceId]] = {}
        """Epoch to (seq of the link that began it, its signer)."""
        self.reboxed: dict[DeviceId, int] = {}
        """Device to seq of its newest REBOX."""

    @classmethod
    def load(cls, pin: Pin, rows: Rows) -> ChainView:
        """From the rows `link:...` and `ek:...`; verifies the chain again."""
        view = cls(pin)
        for name in sorted(name for name in rows if name.startswith("link:")):
            item = unpack_item(rows[name])
            view._apply(item, link.parse(item.link.raw))
        for name, row in rows.items():
            if name.startswith("ek:"):
                epoch = int(name[3:])
                view.keys[epoch] = EpochKeys(view.chain.account, epoch, row)
        return view

    def _apply(self, item: ChainItem, parsed: Link) -> None:
        self.chain = self.chain.apply(item.link)
        self.items.append(item)
        if self.chain.epoch not in self.epoch_starts:
            self.epoch_starts[self.chain.epoch] = (self.chain.seq, parsed.signer)
        if isinstance(parsed.body, Rebox):
            self.reboxed[parsed.signer] = parsed.seq

    @property
    def trusted(self) -> bool:
        """The chain reaches the pinned link, so that grants may be opened."""
        return bool(self.chain.hashes) and self.chain.seq >= self.pin.seq

    def extend(self, items: Sequence[ChainItem], me: Identity, journal: Journal) -> Extension:
        """Takes the links that follow; stops at the first that may not."""
        done = Extension()
        for item in items:
            try:
                self._take(item, me, journal, done)
            except PeerError as error:
                done.evidence.append(error)
                break
        return done

    def _take(self, item: ChainItem, me: Identity, journal: Journal, done: Extension) -> None:
        try:
            parsed = link.parse(item.link.raw)
        except CryptoError as error:
            raise ServiceError("chain-" + error.rule, "The service sent a broken device list.",
                               item.link.raw) from None  # fmt: skip
        if parsed.seq <= self.chain.seq:
            self._again(item, parsed, me, journal, done)
            return
        before = (self.chain, dict(self.epoch_starts), dict(self.reboxed))
        try:
            self._apply(item, parsed)
        except CryptoError as error:
            raise ServiceError(
                "chain-" + error.rule,
                "The service sent a device list with an entry that no device of yours could "
                "have made. It was not taken.",
                item.link.raw,
                item.link.sig,
            ) from None
        if not self._fits_pin():
            self.chain, self.epoch_starts, self.reboxed = before
            self.items.pop()
            raise ServiceError(
                "chain-pin",
                "The service shows another device list than the device that invited this one.",
                item.link.raw,
            )
        kept = item
        try:
            grant.check_complete(parsed, self.chain, item.grants)
        except CryptoError as error:
            if isinstance(parsed.body, Rotate | link.Add):
                done.evidence.append(
                    ServiceError(
                        error.rule,
                        "The service did not deliver a new key as its sender sent it.",
                        item.link.raw,
                    )
                )
            kept = ChainItem(item.link)
        self.items[-1] = kept
        journal.set(f"link:{parsed.seq:06d}", pack_item(kept))
        done.links.append(parsed)
        self._open(item, parsed, me, journal, done)

    def _fits_pin(self) -> bool:
        if self.chain.account_id != self.pin.account_id:
            return False
        return all(self.chain.seq != seq or self.chain.head == head for seq, head in self.pin.links)

    def _again(
        self, item: ChainItem, parsed: Link, me: Identity, journal: Journal, done: Extension
    ) -> None:
        if self.chain.hashes[parsed.seq] != parsed.link_hash:
            raise ServiceError(
                "chain-fork",
                "The service showed this device two different device lists.",
                self.items[parsed.seq].link.raw,
                item.link.raw,
                item.link.sig,
            )
        kept, body = self.items[parsed.seq], parsed.body
        if (
            not kept.grants
            and isinstance(body, Rotate | link.Add)
            and grant.digest(item.grants) == body.grants_digest
        ):
            self.items[parsed.seq] = ChainItem(kept.link, item.grants)
            journal.set(f"link:{parsed.seq:06d}", pack_item(self.items[parsed.seq]))
        self._open(item, parsed, me, journal, done)

    def _open(
        self, item: ChainItem, parsed: Link, me: Identity, journal: Journal, done: Extension
    ) -> None:
        if not self.trusted:
            return
        for row in item.grants:
            if row.recipient_id != me.device_id or row.epoch in self.keys:
                continue
            try:
                keys = grant.open_(me, row.sealed, parsed, self.chain)
            except CryptoError as error:
                done.evidence.append(
                    ServiceError(
                        "grant-" + error.rule,
                        "A new key did not reach this device as its sender made it.",
                        item.link.raw,
                        row.sealed,
                    )
                )
                continue
            if keys.epoch == row.epoch:
                self.add_key(keys, journal)
                done.new_keys.append(keys.epoch)

    def add_key(self, keys: EpochKeys, journal: Journal) -> None:
        """Takes an epoch key that was checked against the chain, or that we made."""
        self.keys[keys.epoch] = keys
        journal.set(f"ek:{keys.epoch}", keys.secret)

    def destroy_key(self, epoch: int, journal: Journal) -> None:
        """Forgets an epoch key for good."""
        del self.keys[epoch]
        journal.drop(f"ek:{epoch}")

    def missing_key_after(self) -> int | None:
        """After which seq to read again because the current epoch's grant did not arrive."""
        if not self.chain.hashes or self.chain.epoch in self.keys:
            return None
        return self.epoch_starts[self.chain.epoch][0] - 1


def pack_item(item: ChainItem) -> bytes:
    """A link with its grants as a row."""
    rows = [[bytes(row.recipient_id), row.epoch, row.sealed] for row in item.grants]
    return pack(item.link.raw, item.link.sig, item.link.pop, rows)


def unpack_item(row: bytes) -> ChainItem:
    """What `pack_item` wrote."""
    raw, sig, pop, rows = unpack(row, 4)
    return ChainItem(
        SignedLink(raw, sig, pop),
        tuple(SealedGrant(DeviceId(who), epoch, sealed) for who, epoch, sealed in rows),
    )
