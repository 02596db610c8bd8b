"""Grants and ops: open what the file sealed, and seal the same bytes again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import nacl.bindings as sodium

from client.vectors.fields import (
    Entry,
    Malformed,
    Mismatch,
    data,
    entry,
    expect,
    expect_data,
    items,
    number,
    rows,
    unhex,
)
from client.vectors.report import Report
from client.vectors.world import World
from crypto import grant, op
from crypto.epoch import EpochKeys
from crypto.errors import CryptoError, FormatError
from crypto.heads import Head
from crypto.ids import LinkHash, OpHash
from crypto.keys import Identity, device_id
from crypto.op import Payload, SealedOp, Vector, Verb
from crypto.primitives import AEAD_TAG_BYTES, SIG_BYTES


def grants(world: World, report: Report) -> None:
    """The recipient opens each grant and finds the stated key in it."""
    for place, row in rows(world.file.get("grants")):
        report.holds(f"grants{place}", partial(_grant, world, row))


def _grant(world: World, value: object) -> None:
    row = entry(value)
    parsed, after = world.link_at(number(row, "link_seq"))
    sealed = data(row, "sealed")
    recipients = world.identities(row.get("recipient"))
    recipient, keys = _open_with_any(
        recipients, lambda own: grant.open_(own, sealed, parsed, after)
    )
    expect("ek", keys.secret, data(row, "ek"))
    if row.get("epoch") is not None:
        expect("epoch", keys.epoch, number(row, "epoch"))
    plain = recipient.open(sealed)
    expect_data(row, "plain", plain)
    if row.get("sender") is not None:
        expect("sender", bytes(parsed.signer), bytes(device_id(world.public_key(row["sender"]))))
    if row.get("esk") is not None:
        expect("sealed again", seal_with(data(row, "esk"), recipient.box_pk, plain), sealed)


def _open_with_any(
    recipients: Sequence[Identity], open_with: Callable[[Identity], EpochKeys]
) -> tuple[Identity, EpochKeys]:
    """The newest box key that opens it, and what it gave; the newest key's refusal if none."""
    refusal: CryptoError | None = None
    for recipient in recipients:
        try:
            return recipient, open_with(recipient)
        except CryptoError as error:
            refusal = refusal or error
    raise refusal or Malformed("malformed: the recipient has no box key")


def seal_with(ephemeral_sk: bytes, recipient_pk: bytes, plain: bytes) -> bytes:
    """`crypto_box_seal` with a chosen ephemeral key, so that it can be repeated.

    Only for vectors: who chooses that key can open the box.
    """
    if len(ephemeral_sk) != sodium.crypto_box_SECRETKEYBYTES:
        raise Malformed("malformed: esk is not 32 bytes")
    ephemeral_pk = sodium.crypto_scalarmult_base(ephemeral_sk)
    nonce = sodium.crypto_generichash_blake2b_salt_personal(
        ephemeral_pk + recipient_pk, digest_size=sodium.crypto_box_NONCEBYTES
    )
    return ephemeral_pk + sodium.crypto_box(plain, nonce, recipient_pk, ephemeral_sk)


def ops(world: World, report: Report) -> None:
    """Each op verifies, opens, and seals to the same bytes again."""
    for place, row in rows(world.file.get("ops")):
        report.holds(f"ops{place}", partial(_op, world, row))


def sealed_op(row: Entry) -> SealedOp:
    """The op of header, ct and sig; FormatError if one of them has a wrong length."""
    header, ct, sig = data(row, "header"), data(row, "ct"), data(row, "sig")
    if len(header) != op.HEADER_BYTES or len(sig) != SIG_BYTES:
        raise FormatError("length", "header or signature has a wrong length")
    return op.parse(header + ct + sig)


def _op(world: World, value: object) -> None:
    row = entry(value)
    author = row.get("author")
    public, keys = world.public_key(author), world.keys(number(row, "epoch"))
    sealed = sealed_op(row)
    op.verify(sealed, public)
    expect("author", bytes(sealed.header.device_id), bytes(device_id(public)))
    opened = op.open_(sealed, keys)
    payload = _payload(row)
    _expect_payload(opened, payload)
    expect_data(row, "plain", op.encode_payload(opened))
    _expect_header(row, sealed)
    _seal_again(world.identity(author), keys, payload, row, sealed)
    op.verify(op.parse_stub(sealed.stub), public)
    expect_data(row, "stub", sealed.stub)


def _payload(row: Entry) -> Payload:
    verb = number(row, "verb")
    if verb not in {verb.value for verb in Verb}:
        raise Malformed("malformed: there is no such verb")
    return Payload(
        verb=Verb(verb),
        wall_ms=number(row, "wall"),
        chain_seq=number(row, "chain_seq"),
        chain_head=LinkHash.of(data(row, "chain_head")),
        vector=Vector.of(head_rows(items(row, "vec"))),
        collection=data(row, "collection", b""),
        key=data(row, "key", b""),
        value=data(row, "value", b""),
    )


def head_rows(value: Sequence[object]) -> tuple[Head, ...]:
    """Heads written as [device index, seq, op_hash]."""
    heads = []
    for row in value:
        if not isinstance(row, list) or len(row) != 3:
            raise Malformed("malformed: a head is [device index, seq, op_hash]")
        index, seq, op_hash = row
        if not isinstance(index, int) or not isinstance(seq, int):
            raise Malformed("malformed: device index and seq are numbers")
        heads.append(Head(index, seq, OpHash.of(unhex(op_hash, "op_hash"))))
    return tuple(heads)


def _expect_payload(opened: Payload, stated: Payload) -> None:
    if opened != stated:
        raise Mismatch("the payload inside is not the one that the file states")


def _expect_header(row: Entry, sealed: SealedOp) -> None:
    header = sealed.header
    for name, got in (
        ("kind", header.kind),
        ("dev_seq", header.dev_seq),
        ("lamport", header.lamport),
        ("epoch", header.epoch),
    ):
        if row.get(name) is not None:
            expect(name, got, number(row, name))
    for name, value in (
        ("tag", header.tag),
        ("prev", header.prev),
        ("nonce", header.nonce),
        ("kc", header.kc),
        ("ct_hash", sealed.ct_hash),
        ("op_hash", sealed.op_hash),
    ):
        expect_data(row, name, value)


def _seal_again(
    author: Identity, keys: EpochKeys, payload: Payload, row: Entry, sealed: SealedOp
) -> None:
    again = op.seal(
        author,
        keys,
        payload,
        dev_seq=number(row, "dev_seq"),
        prev=sealed.header.prev,
        lamport=number(row, "lamport"),
        rand=data(row, "rnd"),
        bucket=sealed.header.ct_bytes - AEAD_TAG_BYTES,
    )
    expect("header sealed again", again.raw[: op.HEADER_BYTES], data(row, "header"))
    expect("ct sealed again", again.ct, data(row, "ct"))
    expect("sig sealed again", again.sig, data(row, "sig"))
    expect("op_hash sealed again", again.op_hash, sealed.op_hash)
