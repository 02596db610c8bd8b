"""Consent: what a person said to a purpose, and what of it the service holds (protocol.md, 11).

A *receipt* is the whole of it, and stays among the account's devices. An *entry* is what one of
them signs and the service keeps: the account's next step, a tag that stands for the purpose, yes
or no, and the receipt's hash. Neither tells the service which purpose it is. A *proof* does, once
a contribution has to say its purpose anyway.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Any, Final

from crypto import canonical, labels
from crypto.errors import FormatError, SignatureError
from crypto.ids import AccountId
from crypto.keys import Identity
from crypto.names import check_name
from crypto.primitives import hash_, need, pack, prf, utf8, verify as verify_sig

ENTRY_BYTES: Final = 144
RECEIPT_BYTES_MAX: Final = 1_024
BLIND_BYTES: Final = 32
FIRST: Final = bytes(32)
"""What the first entry, and the first receipt, name as the hash of the one before."""
_ENTRY = struct.Struct(">4sBBH32sQ32s32s32s")
_MAGIC, _SUITE = b"PSN1", 1
_U63_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a person said, when, and to which words. Its repr hides the purpose.

    `blind` is drawn at random: all else in it can be guessed, and the service has its hash.
    """

    account: AccountId
    purpose: str
    policy_sequence: int
    text_hash: bytes
    """Of the purpose's words in that bundle (`crypto.policy`), 32 bytes."""
    granted: bool
    at_ms: int
    prev: bytes
    """Hash of the account's receipt before, of whichever purpose; `FIRST` before any."""
    blind: bytes

    def encode(self) -> bytes:
        """Deterministic CBOR; FormatError for what no receipt may say."""
        check_name(utf8(self.purpose))
        for what, number, low in (
            ("policy_sequence", self.policy_sequence, 1),
            ("at_ms", self.at_ms, 0),
        ):
            if not low <= number <= _U63_MAX:
                raise FormatError("range", f"{what} of a receipt is out of range")
        return canonical.encode(
            {
                "version": 1,
                "account": AccountId.of(self.account).hex(),
                "purpose": self.purpose,
                "policy": self.policy_sequence,
                "text": need("text hash", self.text_hash, 32).hex(),
                "granted": self.granted,
                "at_ms": self.at_ms,
                "prev": need("hash of the receipt before", self.prev, 32).hex(),
                "blind": need("blind", self.blind, BLIND_BYTES).hex(),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Receipt:
        """Strict: other bytes than `encode` gives are a FormatError."""
        if len(data) > RECEIPT_BYTES_MAX:
            raise FormatError("length", f"a receipt has {RECEIPT_BYTES_MAX} bytes at most")
        said = canonical.decode(data)
        if said.get("version") != 1:
            raise FormatError("receipt", "a receipt of consent of another version")
        made = cls(
            AccountId.of(_bytes(said, "account")),
            _typed(said, "purpose", str),
            _typed(said, "policy", int),
            _bytes(said, "text"),
            _typed(said, "granted", bool),
            _typed(said, "at_ms", int),
            _bytes(said, "prev"),
            _bytes(said, "blind"),
        )
        if made.encode() != data:
            raise FormatError("receipt", "not a receipt of consent in its one form")
        return made

    @property
    def hash(self) -> bytes:
        """`H("pss1/consent-receipt", receipt)`, 32 bytes."""
        return hash_(labels.CONSENT_RECEIPT, self.encode())

    def __repr__(self) -> str:
        return f"Receipt(policy {self.policy_sequence}, purpose hidden)"


def _typed(said: dict[str, Any], name: str, kind: type) -> Any:
    value = said.get(name)
    if type(value) is not kind:
        raise FormatError("receipt", f"{name} of a receipt is missing or of another type")
    return value


def _bytes(said: dict[str, Any], name: str) -> bytes:
    try:
        return bytes.fromhex(_typed(said, name, str))
    except ValueError:
        raise FormatError("receipt", f"{name} of a receipt is not hexadecimal") from None


@dataclass(frozen=True, slots=True)
class Entry:
    """One step of an account's chain of consent, as the service keeps it."""

    account: AccountId
    seq: int
    """From 1, without gaps."""
    prev: bytes
    """Hash of the entry before; `FIRST` at seq 1."""
    tag: bytes
    """Stands for the purpose, 32 bytes."""
    granted: bool
    receipt_hash: bytes

    def encode(self) -> bytes:
        """The 144 signed bytes."""
        if not 1 <= self.seq <= _U63_MAX:
            raise FormatError("range", "the seq of an entry starts at 1")
        if (self.seq == 1) != (self.prev == FIRST):
            raise FormatError("prev", "the first entry, and no other, follows on nothing")
        return pack(
            _ENTRY,
            _MAGIC,
            _SUITE,
            int(self.granted),
            0,
            AccountId.of(self.account),
            self.seq,
            self.prev,
            self.tag,
            self.receipt_hash,
        )

    @classmethod
    def parse(cls, data: bytes) -> Entry:
        """Strict; FormatError otherwise. Nothing is verified yet."""
        need("entry of consent", data, ENTRY_BYTES)
        magic, suite, state, zero, account, seq, prev, tag, receipt_hash = _ENTRY.unpack(data)
        if (magic, suite, zero) != (_MAGIC, _SUITE, 0):
            raise FormatError("consent", "not an entry of consent of this suite")
        if state > 1:
            raise FormatError("state", "an entry is a grant or a withdrawal")
        entry = cls(AccountId(account), seq, prev, tag, state == 1, receipt_hash)
        entry.encode()
        return entry

    @property
    def hash(self) -> bytes:
        """`H("pss1/consent-hash", entry)`, 32 bytes."""
        return hash_(labels.CONSENT_HASH, self.encode())

    def __repr__(self) -> str:
        return f"Entry(seq {self.seq}, {'grant' if self.granted else 'withdrawal'})"


def sign(identity: Identity, entry: Entry) -> bytes:
    """`SIG(ik, "pss1/consent", entry)`, 64 bytes."""
    return identity.sign(labels.CONSENT, entry.encode())


def verify(data: bytes, sig: bytes, ik_pk: bytes) -> Entry:
    """The entry, if this key signed exactly these bytes. FormatError, SignatureError."""
    entry = Entry.parse(data)
    verify_sig(ik_pk, labels.CONSENT, data, sig)
    return entry


def salt(aggregation_key: bytes, purpose: str) -> bytes:
    """`PRF(K_agg, "pss1/consent-salt", purpose)`, 32 bytes: one for each account and purpose."""
    return prf(aggregation_key, labels.CONSENT_SALT, check_name(utf8(purpose)))


def tag(account: AccountId, salt_: bytes, purpose: str) -> bytes:
    """`H("pss1/consent-tag", account ‖ salt ‖ purpose)`, 32 bytes."""
    bound = AccountId.of(account) + need("salt", salt_, 32)
    return hash_(labels.CONSENT_TAG, bound + check_name(utf8(purpose)))


def follow(entry: Entry, receipt: Receipt, *, before: Entry | None) -> None:
    """SignatureError unless the two belong together and follow on the entry before. `rule`:
    `account`, `seq`, `prev`, `receipt` or `receipt-prev`. Signature and tag are checked apart."""
    follow_entry(entry, before)
    if entry.account != receipt.account:
        raise SignatureError("account", "the entry is of another account")
    if entry.receipt_hash != receipt.hash or entry.granted != receipt.granted:
        raise SignatureError("receipt", "the entry was made for another receipt")
    if receipt.prev != (before.receipt_hash if before is not None else FIRST):
        raise SignatureError("receipt-prev", "the receipt follows on another one")


def follow_entry(entry: Entry, before: Entry | None) -> None:
    """What can be said without the receipt: `account`, `seq`, `prev`."""
    if before is not None and entry.account != before.account:
        raise SignatureError("account", "the entry is of another account")
    if entry.seq != (before.seq + 1 if before is not None else 1):
        raise SignatureError("seq", "an entry of consent is missing before this one")
    if entry.prev != (before.hash if before is not None else FIRST):
        raise SignatureError("prev", "the entry follows on another one")


def next_pair(
    receipt: Receipt, *, aggregation_key: bytes, before: Entry | None
) -> tuple[Entry, Receipt]:
    """The entry that goes behind the last one, and the receipt with its `prev` put right."""
    linked = replace(receipt, prev=before.receipt_hash if before is not None else FIRST)
    entry = Entry(
        account=linked.account,
        seq=before.seq + 1 if before is not None else 1,
        prev=before.hash if before is not None else FIRST,
        tag=tag(linked.account, salt(aggregation_key, linked.purpose), linked.purpose),
        granted=linked.granted,
        receipt_hash=linked.hash,
    )
    return entry, linked


@dataclass(frozen=True, slots=True)
class Proof:
    """Opens a tag: what a contribution carries. Its repr hides the salt."""

    salt: bytes
    seq: int
    """Of the newest entry under the tag."""

    def tag(self, account: AccountId, purpose: str) -> bytes:
        """The tag that it opens, if the contribution is for this purpose. FormatError."""
        return tag(account, self.salt, purpose)

    def __repr__(self) -> str:
        return f"Proof(seq {self.seq}, salt hidden)"
