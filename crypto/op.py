"""Ops: sealed, signed records (docs/protocol.md, 1.5).

`seal` makes one; `parse` reads the form, `verify` the author's signature, `open_` the
content. A stub is what is left of a superseded op: still verifiable, no longer readable.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from crypto import heads, labels, names
from crypto.epoch import EpochKeys
from crypto.errors import FormatError, OpenError
from crypto.heads import Head
from crypto.ids import AccountId, DeviceId, LinkHash, OpHash, Tag
from crypto.keys import Identity
from crypto.names import u16_prefixed
from crypto.padding import BUCKETS, OP_BUCKET, pad, unpad
from crypto.primitives import (
    AEAD_NONCE_BYTES,
    AEAD_TAG_BYTES,
    SIG_BYTES,
    aead_open,
    aead_seal,
    equal,
    hash_,
    need,
    pack,
    prf,
    verify as verify_sig,
)

HEADER_BYTES = 184
STUB_BYTES = HEADER_BYTES + 32 + SIG_BYTES
OP_BYTES_MIN = HEADER_BYTES + BUCKETS[0] + AEAD_TAG_BYTES + SIG_BYTES
OP_BYTES_MAX = HEADER_BYTES + BUCKETS[-1] + AEAD_TAG_BYTES + SIG_BYTES
CT_SIZES = frozenset(size + AEAD_TAG_BYTES for size in BUCKETS)
LAMPORT_STEP_MAX = 4096

HEADER = struct.Struct(">4sBBH32sI16sQ32sQ16s24s32sI")
"""magic, suite, kind, flags, account, epoch, device, dev_seq, prev, lamport, tag, nonce, kc,
length of ct."""
_TAG_END = 124
_KC_START = 148
_MAGIC, _SUITE = b"PSO1", 1
_PLAIN_HEAD = struct.Struct(">BBQQ32sB")
_PLAIN_VERSION = 1
_VEC = struct.Struct(">BQ")
_U32 = struct.Struct(">I")
_U64_MAX = (1 << 64) - 1


class Kind(IntEnum):
    """Whether an op carries a record or serves the protocol."""

    RECORD = 1
    CONTROL = 2


class Verb(IntEnum):
    """What an op does to its record, or which control op it is."""

    PUT = 1
    TOMBSTONE = 2
    COVER = 3
    CHECKPOINT = 4


_KIND_OF = {
    Verb.PUT: Kind.RECORD,
    Verb.TOMBSTONE: Kind.RECORD,
    Verb.COVER: Kind.CONTROL,
    Verb.CHECKPOINT: Kind.CONTROL,
}


class Header(NamedTuple):
    """The 184 bytes that the service can read."""

    kind: int
    account_id: AccountId
    epoch: int
    device_id: DeviceId
    dev_seq: int
    prev: OpHash
    lamport: int
    tag: Tag
    nonce: bytes
    kc: bytes
    ct_bytes: int


class Order(NamedTuple):
    """Last-writer-wins order of ops with one tag: the greater one stays."""

    lamport: int
    device_id: DeviceId


@dataclass(frozen=True, slots=True)
class SealedOp:
    """A parsed op or stub (`ct` is None). `raw` are the bytes that came."""

    raw: bytes
    header: Header
    ct: bytes | None
    ct_hash: bytes
    op_hash: OpHash

    @property
    def sig(self) -> bytes:
        """The author's signature, 64 bytes."""
        return self.raw[-SIG_BYTES:]

    @property
    def order(self) -> Order:
        """Where it stands among the ops with its tag."""
        return Order(self.header.lamport, self.header.device_id)

    @property
    def stub(self) -> bytes:
        """The 280 bytes that are kept when the payload goes."""
        return self.raw[:HEADER_BYTES] + self.ct_hash + self.sig


class Vector(NamedTuple):
    """Which op of each device the author held: (device index, seq) rows and their digest."""

    seqs: tuple[tuple[int, int], ...]
    digest: bytes

    @classmethod
    def of(cls, held: tuple[Head, ...]) -> Vector:
        """The vector of somebody who holds these heads."""
        rows = heads.ascending(held)
        return cls(tuple((row.device_index, row.seq) for row in rows), heads.digest(rows))


@dataclass(frozen=True, slots=True)
class Payload:
    """An op's plaintext. repr hides name and value."""

    verb: Verb
    wall_ms: int
    chain_seq: int
    chain_head: LinkHash
    vector: Vector
    collection: bytes = b""
    key: bytes = b""
    value: bytes = b""

    def __repr__(self) -> str:
        return f"Payload({self.verb.name}, content hidden)"


def init_hash(account_id: AccountId, device_id: DeviceId) -> OpHash:
    """`prev` of a device's first op."""
    return OpHash(hash_(labels.OP_INIT, AccountId.of(account_id) + DeviceId.of(device_id)))


def ct_hash(ct: bytes) -> bytes:
    """`H("pss1/op-ct", ct)`."""
    return hash_(labels.OP_CT, ct)


def op_hash(header: bytes, ciphertext_hash: bytes) -> OpHash:
    """`H("pss1/op-hash", header || ct_hash)`."""
    return OpHash(hash_(labels.OP_HASH, header + ciphertext_hash))


def parse_header(data: bytes) -> Header:
    """The first 184 bytes; FormatError on another suite, kind, flag, size or a zero count."""
    if len(data) < HEADER_BYTES:
        raise FormatError("length", "op is cut off")
    (
        magic, suite, kind, flags, account, epoch, device, dev_seq, prev, lamport, tag,
        nonce, kc, ct_bytes,
    ) = HEADER.unpack_from(data)  # fmt: skip
    if magic != _MAGIC:
        raise FormatError("magic", "not an op")
    if suite != _SUITE:
        raise FormatError("suite", "unknown suite; there is no fallback")
    if kind not in (Kind.RECORD, Kind.CONTROL):
        raise FormatError("kind", "unknown kind of op")
    if flags:
        raise FormatError("flags", "flags of an op must be zero")
    if ct_bytes not in CT_SIZES:
        raise FormatError("bucket", "ciphertext size is not a bucket")
    if epoch < 1 or dev_seq < 1 or lamport < 1:
        raise FormatError("range", "epoch, dev_seq and lamport start at 1")
    return Header(
        kind, AccountId(account), epoch, DeviceId(device), dev_seq, OpHash(prev), lamport,
        Tag(tag), nonce, kc, ct_bytes,
    )  # fmt: skip


def parse(raw: bytes) -> SealedOp:
    """An op, `header[184] | ct | sig[64]`; FormatError otherwise."""
    header = parse_header(raw)
    need("op", raw, HEADER_BYTES + header.ct_bytes + SIG_BYTES)
    ct = raw[HEADER_BYTES:-SIG_BYTES]
    digest = ct_hash(ct)
    return SealedOp(bytes(raw), header, ct, digest, op_hash(raw[:HEADER_BYTES], digest))


def parse_stub(raw: bytes) -> SealedOp:
    """A stub, `header[184] | ct_hash[32] | sig[64]`; FormatError otherwise."""
    need("stub", raw, STUB_BYTES)
    header = parse_header(raw)
    digest = raw[HEADER_BYTES:-SIG_BYTES]
    return SealedOp(bytes(raw), header, None, digest, op_hash(raw[:HEADER_BYTES], digest))


def parse_any(raw: bytes) -> SealedOp:
    """An op or a stub: the length tells."""
    return parse_stub(raw) if len(raw) == STUB_BYTES else parse(raw)


def verify(sealed: SealedOp, ik_pk: bytes) -> None:
    """SignatureError unless the author with this key signed it."""
    verify_sig(ik_pk, labels.OP, sealed.raw[:HEADER_BYTES] + sealed.ct_hash, sealed.sig)


def _op_keys(keys: EpochKeys, header: bytes) -> tuple[bytes, bytes]:
    okm = prf(keys.record, labels.OP_KEY, header[:_KC_START], 64)
    return okm[:32], okm[32:]


def open_(sealed: SealedOp, keys: EpochKeys) -> Payload:
    """The plaintext of a verified op (checks C8, C9, C10).

    Key commitment first, then AEAD over the whole header, then padding, then the tag
    against the name inside. OpenError if the first two fail, FormatError if the content is
    not in form or not what the header says.
    """
    header = sealed.header
    if sealed.ct is None or (keys.account_id, keys.epoch) != (header.account_id, header.epoch):
        raise OpenError
    raw_header = sealed.raw[:HEADER_BYTES]
    k_enc, kc = _op_keys(keys, raw_header)
    if not equal(kc, header.kc):
        raise OpenError
    payload = decode_payload(unpad(aead_open(k_enc, header.nonce, raw_header, sealed.ct)))
    if _KIND_OF[payload.verb] != header.kind:
        raise FormatError("kind", "verb and kind don't belong together")
    if not equal(header.tag, _tag(keys, payload, header.device_id)):
        raise FormatError("tag", "the tag is not that of the name inside")
    return payload


def _tag(keys: EpochKeys, payload: Payload, device_id: DeviceId) -> Tag:
    if _KIND_OF[payload.verb] is Kind.CONTROL:
        return names.control_tag(keys, device_id)
    return names.tag(keys, payload.collection, payload.key)


def seal(
    author: Identity,
    keys: EpochKeys,
    payload: Payload,
    *,
    dev_seq: int,
    prev: OpHash,
    lamport: int,
    rand: bytes,
    bucket: int = OP_BUCKET,
) -> SealedOp:
    """Seals and signs one op. `rand` is 32 random bytes, never used twice.

    `bucket` is the smallest padded size to use.

    The nonce is hedged: a repeated `rand` still gives different nonces for different
    headers or plaintexts. FormatError if a number or the payload doesn't fit.
    """
    if not (1 <= dev_seq <= _U64_MAX and 1 <= lamport <= _U64_MAX):
        raise FormatError("range", "dev_seq and lamport are 1 to 2^64-1")
    padded = pad(encode_payload(payload), bucket)
    ct_bytes = len(padded) + AEAD_TAG_BYTES
    fields = (
        _MAGIC, _SUITE, _KIND_OF[payload.verb], 0, keys.account_id, keys.epoch,
        author.device_id, dev_seq, OpHash.of(prev), lamport,
        _tag(keys, payload, author.device_id),
    )  # fmt: skip
    draft = HEADER.pack(*fields, bytes(AEAD_NONCE_BYTES), bytes(32), ct_bytes)[:_TAG_END]
    nonce = prf(
        keys.nonce,
        labels.OP_NONCE,
        need("rand", rand, 32) + draft + hash_(labels.OP_PT, padded),
        AEAD_NONCE_BYTES,
    )
    k_enc, kc = _op_keys(keys, draft + nonce)
    header = HEADER.pack(*fields, nonce, kc, ct_bytes)
    ct = aead_seal(k_enc, nonce, header, padded)
    return parse(header + ct + author.sign(labels.OP, header + ct_hash(ct)))


def encode_payload(payload: Payload) -> bytes:
    """P of docs/protocol.md, 1.5."""
    seqs, digest = payload.vector
    heads.check_ascending([index for index, _ in seqs])
    return (
        pack(
            _PLAIN_HEAD,
            _PLAIN_VERSION,
            payload.verb,
            payload.wall_ms,
            payload.chain_seq,
            payload.chain_head,
            len(seqs),
        )
        + b"".join(pack(_VEC, index, seq) for index, seq in seqs)
        + need("heads digest", digest, 32)
        + u16_prefixed(payload.collection)
        + u16_prefixed(payload.key)
        + _U32.pack(len(payload.value))
        + payload.value
    )


def decode_payload(plain: bytes) -> Payload:
    """Strict: known version and verb, ascending vector, no trailing bytes."""
    if len(plain) < _PLAIN_HEAD.size:
        raise FormatError("length", "payload is cut off")
    version, verb, wall_ms, chain_seq, chain_head, count = _PLAIN_HEAD.unpack_from(plain)
    if version != _PLAIN_VERSION:
        raise FormatError("version", "unknown version of the payload")
    if verb not in _KIND_OF:
        raise FormatError("verb", "unknown verb")
    at = _PLAIN_HEAD.size
    rows, at = _take(plain, at, count * _VEC.size)
    seqs = tuple((index, seq) for index, seq in _VEC.iter_unpack(rows))
    heads.check_ascending([index for index, _ in seqs])
    digest, at = _take(plain, at, 32)
    collection, at = _take_prefixed(plain, at, 2)
    key, at = _take_prefixed(plain, at, 2)
    value, at = _take_prefixed(plain, at, 4)
    if at != len(plain):
        raise FormatError("trailing", "bytes behind the payload")
    return Payload(
        verb=Verb(verb),
        wall_ms=wall_ms,
        chain_seq=chain_seq,
        chain_head=LinkHash(chain_head),
        vector=Vector(seqs, digest),
        collection=collection,
        key=key,
        value=value,
    )


def _take(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    if len(data) < at + size:
        raise FormatError("length", "payload is cut off")
    return data[at : at + size], at + size


def _take_prefixed(data: bytes, at: int, width: int) -> tuple[bytes, int]:
    size, at = _take(data, at, width)
    return _take(data, at, int.from_bytes(size, "big"))
