"""Receipts and entries of consent: one form, one chain, and nothing said to who only stores it."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given, strategies as st

from client.vectors import consents as reader
from client.vectors.world import World
from crypto import consent
from crypto.consent import Entry, Proof, Receipt
from crypto.errors import CryptoError, FormatError, SignatureError
from crypto.ids import AccountId
from crypto.keys import Identity
from tests.vectors import consents as vectors

BYTES32 = st.binary(min_size=32, max_size=32)
NUMBERS = st.integers(1, (1 << 63) - 1)
NAMES = st.text("abcxyz019._/-", min_size=1, max_size=128)
RECEIPTS = st.builds(
    Receipt,
    account=BYTES32.map(AccountId),
    purpose=NAMES,
    policy_sequence=NUMBERS,
    text_hash=BYTES32,
    granted=st.booleans(),
    at_ms=NUMBERS,
    prev=BYTES32,
    blind=BYTES32,
)
KEY = b"\x07" * 32


@given(RECEIPTS)
def test_a_receipt_has_one_form(receipt: Receipt) -> None:
    """What is read is what was written, and no other bytes say it."""
    data = receipt.encode()
    assert Receipt.decode(data) == receipt
    for bad in (data[:-1], data + b"\0", data[:1] + data):
        with pytest.raises(CryptoError):
            Receipt.decode(bad)


@given(RECEIPTS, st.data())
def test_every_field_of_a_receipt_is_in_its_hash(receipt: Receipt, data: st.DataObject) -> None:
    """Two receipts that differ in anything are two receipts."""
    other = data.draw(RECEIPTS)
    for field in fields(Receipt):
        changed = replace(receipt, **{field.name: getattr(other, field.name)})
        assert (changed.hash == receipt.hash) == (changed == receipt)


@given(st.lists(RECEIPTS, min_size=1, max_size=6))
def test_a_chain_follows_and_no_step_can_be_left_out_or_moved(receipts: list[Receipt]) -> None:
    """However many purposes it is about."""
    account = receipts[0].account
    pairs: list[tuple[Entry, Receipt]] = []
    for said in receipts:
        receipt = replace(said, account=account)
        before = pairs[-1][0] if pairs else None
        pairs.append(consent.next_pair(receipt, aggregation_key=KEY, before=before))
    for at, (entry, receipt) in enumerate(pairs):
        assert Entry.parse(entry.encode()) == entry
        for place, before in enumerate([None, *(one for one, _ in pairs)]):
            if place == at:
                consent.follow(entry, receipt, before=before)
            else:
                with pytest.raises(SignatureError):
                    consent.follow(entry, receipt, before=before)


def test_what_must_be_refused_is_refused_by_its_rule() -> None:
    """Not by another that happens to come first: `why` names it."""
    world = World({})
    rows = list(vectors.negatives())
    for row in rows:
        with pytest.raises(CryptoError) as refused:
            reader.read(world, row)
        assert refused.value.rule == row["why"], row["name"]
    assert len(rows) > 20


def test_only_who_has_the_accounts_secret_can_tell_which_purpose_a_tag_is() -> None:
    """The service knows all purposes by name; without the salt each fits as well as another."""
    account = AccountId(b"\1" * 32)
    purposes = ("statistics", "ranking", "nearby")
    tags = {consent.tag(account, consent.salt(KEY, name), name) for name in purposes}
    guessed = {consent.tag(account, bytes(32), name) for name in purposes}
    others = {consent.tag(account, consent.salt(b"\x08" * 32, name), name) for name in purposes}
    assert len(tags | guessed | others) == 9


def test_a_proof_opens_one_tag_of_one_account_for_one_purpose() -> None:
    """Carried to another account or another purpose it opens nothing that stands there."""
    mine, other = AccountId(b"\1" * 32), AccountId(b"\2" * 32)
    salt = consent.salt(KEY, "statistics")
    tag = consent.tag(mine, salt, "statistics")
    proof = Proof(salt, 1)
    assert proof.tag(mine, "statistics") == tag
    assert proof.tag(other, "statistics") != tag
    assert proof.tag(mine, "ranking") != tag


def test_a_receipt_can_not_be_guessed_from_its_hash() -> None:
    """All but `blind` is on a short list that the service knows too: time, text, purpose."""
    entry, receipt = vectors.chain()[0]
    assert entry.receipt_hash == receipt.hash
    assert replace(receipt, blind=bytes(32)).hash != receipt.hash


def test_an_entry_counts_only_as_its_device_signed_it() -> None:
    """Every single bit of it."""
    entry, _ = vectors.chain()[1]
    raw, sig = entry.encode(), consent.sign(vectors.DEVICE, entry)
    assert consent.verify(raw, sig, vectors.DEVICE.ik_pk) == entry
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit >> 3] ^= 0x80 >> (bit & 7)
        with pytest.raises(CryptoError):
            consent.verify(bytes(flipped), sig, vectors.DEVICE.ik_pk)


def test_a_first_entry_follows_on_nothing_and_no_other_does() -> None:
    """Else a chain could begin in its middle."""
    entry, _ = vectors.chain()[0]
    for bad in (replace(entry, seq=2), replace(entry, prev=b"\1" * 32), replace(entry, seq=0)):
        with pytest.raises(FormatError):
            bad.encode()


def test_reprs_tell_neither_purpose_nor_salt() -> None:
    """They come into logs and tracebacks."""
    entry, receipt = vectors.chain()[0]
    salt = consent.salt(vectors.AGGREGATION_KEY, receipt.purpose)
    shown = f"{entry!r} {receipt!r} {Proof(salt, 1)!r}"
    assert receipt.purpose not in shown
    assert entry.tag.hex()[:8] not in shown
    assert repr(salt)[2:10] not in shown


def test_a_purpose_is_a_name() -> None:
    """Whatever an app or a bundle says."""
    for bad in ("", "Ranking", "a b", "ü", "a" * 129):
        with pytest.raises(FormatError):
            consent.salt(KEY, bad)


def test_a_device_signs_with_a_label_of_its_own() -> None:
    """A signature of an entry is none of anything else."""
    entry, _ = vectors.chain()[0]
    device = Identity(b"\3" * 32, b"\4" * 32)
    with pytest.raises(SignatureError):
        consent.verify(entry.encode(), device.sign(b"pss1/link", entry.encode()), device.ik_pk)
