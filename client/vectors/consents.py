"""Consent: entries with their receipts, and what no reader of a chain may take."""

from __future__ import annotations

from client.vectors.fields import Entry as Row, data, expect, number, text
from client.vectors.world import World
from crypto import consent
from crypto.consent import Entry, Receipt
from crypto.errors import SignatureError
from crypto.ids import AccountId
from crypto.keys import Identity


def read(_: World, row: Row) -> tuple[Entry, Receipt]:
    """As a device reads a chain: signature, form, place, tag."""
    entry = consent.verify(data(row, "entry"), data(row, "sig"), data(row, "ik_pk"))
    receipt = Receipt.decode(data(row, "receipt"))
    consent.follow(entry, receipt, before=_before(row))
    salt = consent.salt(data(row, "aggregation_key"), receipt.purpose)
    if entry.tag != consent.tag(entry.account, salt, receipt.purpose):
        raise SignatureError("tag", "the tag stands for another purpose")
    return entry, receipt


def _before(row: Row) -> Entry | None:
    return None if row.get("before") is None else Entry.parse(data(row, "before"))


def check(world: World, row: Row) -> None:
    """What the row says, what its bytes say, and the same bytes made again."""
    entry, receipt = read(world, row)
    stated = Receipt(
        account=AccountId.of(data(row, "account")),
        purpose=text(row, "purpose"),
        policy_sequence=number(row, "policy"),
        text_hash=data(row, "text"),
        granted=bool(row.get("granted")),
        at_ms=number(row, "at_ms"),
        prev=receipt.prev,
        blind=data(row, "blind"),
    )
    expect("receipt", receipt, stated)
    expect("seq", entry.seq, number(row, "seq"))
    key = data(row, "aggregation_key")
    again, linked = consent.next_pair(stated, aggregation_key=key, before=_before(row))
    expect("receipt again", linked.encode(), data(row, "receipt"))
    expect("entry again", again.encode(), data(row, "entry"))
    expect("receipt_hash", linked.hash, data(row, "receipt_hash"))
    expect("entry_hash", again.hash, data(row, "entry_hash"))
    expect("salt", consent.salt(key, stated.purpose), data(row, "salt"))
    expect("tag", again.tag, data(row, "tag"))
    signer = Identity(data(row, "seed"), bytes(31) + b"\1")
    expect("ik_pk", signer.ik_pk, data(row, "ik_pk"))
    expect("sig again", consent.sign(signer, again), data(row, "sig"))
