"""Consent: entries and receipts of the section `more`, and those that must be refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from crypto import canonical, consent
from crypto.consent import Entry, Receipt
from crypto.ids import AccountId
from crypto.keys import Identity
from tests.vectors.story import START_MS, Row, seeded

ACCOUNT = AccountId(seeded("consent/account"))
AGGREGATION_KEY = seeded("consent/aggregation key")
DEVICE = Identity(seeded("consent/device"), seeded("consent/device box"))
_STEPS = (("statistics", 3, True), ("ranking/nearby", 3, True), ("statistics", 7, False))

Pair = tuple[Entry, Receipt]


def chain() -> list[Pair]:
    """A grant, one of another purpose, and the first one withdrawn under a later bundle."""
    pairs: list[Pair] = []
    for number, (purpose, policy, granted) in enumerate(_STEPS):
        receipt = Receipt(
            account=ACCOUNT,
            purpose=purpose,
            policy_sequence=policy,
            text_hash=seeded(f"consent/text/{purpose}"),
            granted=granted,
            at_ms=START_MS + number,
            prev=consent.FIRST,
            blind=seeded(f"consent/blind/{number}"),
        )
        before = pairs[-1][0] if pairs else None
        pairs.append(consent.next_pair(receipt, aggregation_key=AGGREGATION_KEY, before=before))
    return pairs


def positives() -> dict[str, list[Row]]:
    """The chain, each row with the one before it."""
    pairs = chain()
    befores = [None, *pairs]
    return {"consents": [_row(pair, before) for pair, before in zip(pairs, befores, strict=False)]}


def _row(pair: Pair, before: Pair | None) -> Row:
    entry, receipt = pair
    salt = consent.salt(AGGREGATION_KEY, receipt.purpose)
    return {
        "aggregation_key": AGGREGATION_KEY.hex(),
        "account": ACCOUNT.hex(),
        "seed": DEVICE.ik_seed.hex(),
        "ik_pk": DEVICE.ik_pk.hex(),
        "purpose": receipt.purpose,
        "policy": receipt.policy_sequence,
        "text": receipt.text_hash.hex(),
        "granted": receipt.granted,
        "at_ms": receipt.at_ms,
        "blind": receipt.blind.hex(),
        "seq": entry.seq,
        "salt": salt.hex(),
        "tag": entry.tag.hex(),
        "before": None if before is None else before[0].encode().hex(),
        "entry": entry.encode().hex(),
        "receipt": receipt.encode().hex(),
        "receipt_hash": receipt.hash.hex(),
        "entry_hash": entry.hash.hex(),
        "sig": consent.sign(DEVICE, entry).hex(),
    }


def negatives() -> Iterator[Row]:
    """What neither a service nor another device may take for the second of the chain."""
    first, (entry, receipt), third = chain()
    raw = entry.encode()
    forms = {
        "other magic": ("consent", b"PSN2" + raw[4:]),
        "unknown suite": ("consent", raw[:4] + b"\2" + raw[5:]),
        "neither grant nor withdrawal": ("state", raw[:5] + b"\2" + raw[6:]),
        "reserved bytes set": ("consent", raw[:7] + b"\1" + raw[8:]),
        "seq 0": ("range", raw[:40] + bytes(8) + raw[48:]),
        "first of a chain with one before": ("prev", raw[:47] + b"\1" + raw[48:]),
        "second of a chain with none before": ("prev", raw[:48] + bytes(32) + raw[80:]),
        "cut off": ("length", raw[:-1]),
        "prolonged": ("length", raw + b"\0"),
    }
    for name, (why, bad) in forms.items():
        yield _refused(name, why, bad, receipt.encode(), first)
    said = canonical.decode(receipt.encode())
    texts = {
        "receipt of another version": ("receipt", {**said, "version": 2}),
        "receipt with a field too many": ("receipt", {**said, "more": 1}),
        "receipt without a blind": ("receipt", {k: said[k] for k in said if k != "blind"}),
        "receipt of bundle 0": ("range", {**said, "policy": 0}),
        "receipt with a number for a truth": ("receipt", {**said, "granted": 1}),
        "receipt of a purpose that is no name": ("name", {**said, "purpose": "Ranking"}),
        "receipt in capital digits": ("receipt", {**said, "text": said["text"].upper()}),
    }
    for name, (why, map_) in texts.items():
        yield _refused(name, why, raw, canonical.encode(map_), first)
    elsewhere = AccountId(seeded("consent/elsewhere"))
    others = {
        "receipt of another account": ("account", entry, replace(receipt, account=elsewhere)),
        "one is missing": ("seq", third[0], third[1]),
        "follows on another entry": ("prev", replace(entry, prev=seeded("else")), receipt),
        "made for another receipt": ("receipt", entry, replace(receipt, blind=seeded("else"))),
        "says no, its receipt yes": ("receipt", replace(entry, granted=False), receipt),
        "receipt follows on another": (
            "receipt-prev",
            replace(entry, receipt_hash=replace(receipt, prev=seeded("else")).hash),
            replace(receipt, prev=seeded("else")),
        ),
        "tag of another purpose": ("tag", replace(entry, tag=first[0].tag), receipt),
    }
    for name, (why, bad_entry, bad_receipt) in others.items():
        yield _refused(name, why, bad_entry.encode(), bad_receipt.encode(), first)
    other = Identity(seeded("consent/other"), seeded("consent/other box"))
    row = _refused("signed by another device", "signature", raw, receipt.encode(), first)
    yield {**row, "sig": consent.sign(other, entry).hex()}


def _refused(name: str, why: str, entry: bytes, receipt: bytes, before: Pair) -> Row:
    return {
        "name": f"consent: {name}",
        "kind": "consent",
        "expect": "reject",
        "why": why,
        "aggregation_key": AGGREGATION_KEY.hex(),
        "ik_pk": DEVICE.ik_pk.hex(),
        "entry": entry.hex(),
        "sig": DEVICE.sign(b"pss1/consent", entry).hex(),
        "receipt": receipt.hex(),
        "before": before[0].encode().hex(),
    }
