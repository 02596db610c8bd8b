"""Ops: what is sealed opens again, and nothing else does."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from crypto import heads, names, op
from crypto.epoch import EpochKeys
from crypto.errors import CryptoError, FormatError, OpenError, SignatureError
from crypto.heads import Head
from crypto.ids import AccountId, DeviceId, LinkHash, OpHash
from crypto.op import Kind, Order, Payload, SealedOp, Vector, Verb
from crypto.padding import BUCKETS, PLAIN_BYTES_MAX
from tests.vectors import badops
from tests.vectors.badops import put, split
from tests.vectors.story import Row, seeded, story


def sealed(payload: Payload, **other: Any) -> SealedOp:
    """A's op with this payload."""
    fields: dict[str, Any] = {
        "dev_seq": 1,
        "prev": OpHash(bytes(32)),
        "lamport": 1,
        "rand": seeded("rand"),
        **other,
    }
    return op.seal(story().people["A"], story().keys[1], payload, **fields)


def put_of(value: bytes, **other: Any) -> Payload:
    """A put of this value."""
    return replace(story().payloads["A1"], value=value, **other)


names_ = st.from_regex(rb"[a-z0-9._/-]{1,128}", fullmatch=True)
vectors = st.dictionaries(st.integers(0, 254), st.integers(1, 2**64 - 1), max_size=20).map(
    lambda rows: Vector.of(tuple(Head(i, seq, OpHash(seeded(str(i)))) for i, seq in rows.items()))
)
payloads = st.builds(
    Payload,
    verb=st.sampled_from(Verb),
    wall_ms=st.integers(0, 2**64 - 1),
    chain_seq=st.integers(0, 2**64 - 1),
    chain_head=st.binary(min_size=32, max_size=32).map(LinkHash),
    vector=vectors,
    collection=names_,
    key=names_,
    value=st.binary(max_size=3000),
)


@settings(max_examples=60)
@given(payload=payloads, lamport=st.integers(1, 2**64 - 1), dev_seq=st.integers(1, 2**64 - 1))
def test_what_is_sealed_opens_again(payload: Payload, lamport: int, dev_seq: int) -> None:
    """Every payload comes out as it went in, under the numbers that it went in with."""
    made = sealed(payload, lamport=lamport, dev_seq=dev_seq)
    parsed = op.parse(made.raw)
    op.verify(parsed, story().people["A"].ik_pk)
    assert op.open_(parsed, story().keys[1]) == payload
    assert (parsed.header.lamport, parsed.header.dev_seq) == (lamport, dev_seq)
    assert parsed.header.kind == (Kind.RECORD if payload.verb <= 2 else Kind.CONTROL)


@given(payloads)
def test_payloads_survive_encoding(payload: Payload) -> None:
    """Decoding is the inverse of encoding."""
    assert op.decode_payload(op.encode_payload(payload)) == payload


@pytest.mark.parametrize("bucket", BUCKETS)
def test_ops_come_in_few_sizes(bucket: int) -> None:
    """The service sees a bucket and nothing of the length within it."""
    room = bucket - 4 - len(op.encode_payload(put_of(b"")))
    made = sealed(put_of(bytes(room)), bucket=256)
    assert made.header.ct_bytes == bucket + 16
    assert len(made.raw) == 184 + bucket + 16 + 64
    if bucket < BUCKETS[-1]:
        assert sealed(put_of(bytes(room + 1)), bucket=256).header.ct_bytes > bucket + 16
    else:
        with pytest.raises(FormatError, match="too-long"):
            sealed(put_of(bytes(room + 1)))


def test_small_ops_look_alike() -> None:
    """A setting, a tombstone and a cover have one size."""
    sizes = {story().ops[name].header.ct_bytes for name in ("A1", "A2", "A3", "D1", "D2")}
    assert sizes == {512 + 16}
    assert PLAIN_BYTES_MAX == 32764


def test_a_repeated_random_draw_gives_no_repeated_nonce() -> None:
    """Same rand, other plaintext or header: another nonce and another key (hedging)."""
    first = sealed(put_of(b"1"))
    for other in (sealed(put_of(b"2")), sealed(put_of(b"1"), lamport=2)):
        assert other.header.nonce != first.header.nonce
        assert other.header.kc != first.header.kc
    assert sealed(put_of(b"1")).raw == first.raw


def test_the_vector_is_bound_by_its_digest() -> None:
    """The digest covers op hashes, which the rows leave out."""
    one, two = (Vector.of((Head(0, 1, OpHash(seeded(name))),)) for name in "ab")
    assert one.seqs == two.seqs
    assert one.digest != two.digest
    assert Vector.of((Head(2, 1, OpHash(bytes(32))), Head(1, 1, OpHash(bytes(32))))).seqs == (
        (1, 1),
        (2, 1),
    )


@pytest.mark.parametrize("name", ["A1", "B2", "A3", "A5", "A6"])
def test_a_stub_still_verifies_and_no_longer_opens(name: str) -> None:
    """280 bytes keep hash, place and signature; the content is gone."""
    whole = story().ops[name]
    stub = op.parse_any(whole.stub)
    assert len(whole.stub) == op.STUB_BYTES == 280
    assert (stub.op_hash, stub.order, stub.stub) == (whole.op_hash, whole.order, whole.stub)
    op.verify(stub, story().people[name[0]].ik_pk)
    with pytest.raises(OpenError):
        op.open_(stub, story().keys[whole.header.epoch])


def test_order_is_by_lamport_then_device() -> None:
    """A later lamport wins; between equals the greater device id does, everywhere alike."""
    low, high = DeviceId(bytes(16)), DeviceId(b"\xff" * 16)
    assert Order(2, low) > Order(1, high)
    assert Order(1, high) > Order(1, low)


@cache
def bad_ops() -> dict[str, Row]:
    """All ops that must be refused, by name."""
    return {row["name"].removeprefix("op: "): row for row in badops.negatives(story())}


SLUGS = {
    "other magic": "magic",
    "unknown suite 2": "suite",
    "suite 0": "suite",
    "kind 3": "kind",
    "last flag set": "flags",
    "epoch 0": "range",
    "dev_seq 0": "range",
    "lamport 0": "range",
    "ciphertext of 300 bytes": "bucket",
    "ciphertext cut off": "length",
    "padding not zero at its end": "padding",
    "padding not zero at its start": "padding",
    "payload length 2^32-1": "padding",
    "payload cut off": "length",
    "payload with trailing bytes": "trailing",
    "payload version 2": "version",
    "verb 5": "verb",
    "control verb in a record": "kind",
    "record verb in a control op": "kind",
    "vector descending": "heads",
    "vector with a device twice": "heads",
    "vector with device index 255": "heads",
    "name inside is not the tag's": "tag",
    "record under a control tag": "tag",
    "tag of another epoch": "tag",
}


@pytest.mark.parametrize("name", SLUGS)
def test_each_fault_is_refused_by_its_rule(name: str) -> None:
    """An op with one fault, signed by its author, is refused by the rule for it."""
    row = bad_ops()[name]
    raw = bytes.fromhex(row["header"] + row["ct"] + row["sig"])
    with pytest.raises(FormatError) as caught:
        op.open_(op.parse(raw), story().keys[1])
    assert caught.value.rule == SLUGS[name]


ALTERED = ("account", "epoch", "kind", "dev_seq", "prev", "lamport", "tag", "nonce", "kc")


@pytest.mark.parametrize("field", ALTERED)
def test_every_header_field_is_bound_to_the_ciphertext(field: str) -> None:
    """An author that signs an altered header gets an op that nobody can open."""
    row = bad_ops()[f"{field} altered and signed again"]
    parsed = op.parse(bytes.fromhex(row["header"] + row["ct"] + row["sig"]))
    op.verify(parsed, story().people["A"].ik_pk)
    with pytest.raises(OpenError):
        op.open_(parsed, story().keys[1])


def test_all_failures_to_open_look_alike() -> None:
    """Wrong epoch, wrong account, wrong key, altered nonce or ciphertext: one error, one text."""
    whole = story().ops["A1"]
    keys = story().keys[1]
    header, ct, _ = split(whole)
    own = story().people["A"]
    altered = op.parse(b"".join(badops.signed(own, header, ct[:-1] + b"\0")))
    recommitted = op.parse(b"".join(badops.signed(own, put(header, kc=bytes(32)), ct)))
    attempts = [
        (whole, story().keys[2]),
        (whole, EpochKeys(AccountId(bytes(32)), 1, keys.secret)),
        (whole, EpochKeys(keys.account_id, 1, bytes(32))),
        (altered, keys),
        (recommitted, keys),
        (op.parse_stub(whole.stub), keys),
    ]
    seen = set()
    for sealed_op, with_keys in attempts:
        with pytest.raises(OpenError) as caught:
            op.open_(sealed_op, with_keys)
        seen.add((type(caught.value), str(caught.value), caught.value.rule))
        assert caught.value.__cause__ is None
    assert len(seen) == 1


def test_another_devices_signature_is_no_signature() -> None:
    """Members can't write in each other's name."""
    with pytest.raises(SignatureError):
        op.verify(story().ops["A1"], story().people["B"].ik_pk)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_random_bytes_must_be_32(size: int) -> None:
    """A short draw is refused, not filled up."""
    with pytest.raises(FormatError):
        sealed(put_of(b""), rand=bytes(size))


def test_a_vector_must_ascend_to_be_encoded() -> None:
    """The author can't write what others would refuse."""
    for rows in (((1, 1), (0, 1)), ((0, 1), (0, 1)), ((255, 1),)):
        with pytest.raises(CryptoError):
            sealed(put_of(b"", vector=Vector(rows, bytes(32))))
    with pytest.raises(FormatError):
        heads.digest([Head(0, 0, OpHash(bytes(32)))])


def test_control_tags_are_one_a_device() -> None:
    """Covers of two devices differ in their tag, those of one don't, inside an epoch."""
    keys = story().keys
    a, b = story().people["A"].device_id, story().people["B"].device_id
    assert names.control_tag(keys[1], a) == story().ops["A3"].header.tag
    assert names.control_tag(keys[1], a) != names.control_tag(keys[1], b)
    assert names.control_tag(keys[1], a) != names.control_tag(keys[2], a)
