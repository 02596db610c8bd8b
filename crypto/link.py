"""Links of a device chain as bytes: parse, build, sign (docs/protocol.md, 1.2).

A link alone says nothing; `crypto.chain` decides whether it may follow the links before it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

from crypto import labels
from crypto.cert import CERT_BYTES, DeviceCert
from crypto.errors import FormatError
from crypto.ids import AccountId, DeviceId, LinkHash, OpHash
from crypto.keys import Identity
from crypto.primitives import SIG_BYTES, hash_, need, pack, refuse_low_order

LINK_BYTES_MAX = 165 + 56 * 255
_MAGIC = b"PSL1"
_SUITE = 1
_HEAD = struct.Struct(">4sBBH32sQ32s16s")
_CERT_BODY = struct.Struct(f">{CERT_BYTES}sI32s")
_ROTATE = struct.Struct(">I32s32sB")
_CUT = struct.Struct(">16sQ32s")
_REBOX = struct.Struct(">32sI")
ADD_BYTES = _HEAD.size + _CERT_BODY.size
"""Of a link that adds a device."""


class LinkType(IntEnum):
    """What a link does."""

    GENESIS = 1
    ADD = 2
    ROTATE = 3
    REBOX = 4


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a revoked device ends: its last op that counts. seq 0: it wrote none."""

    device_id: DeviceId
    seq: int
    op_hash: OpHash


@dataclass(frozen=True, slots=True)
class Genesis:
    """The first link: the account's first device and epoch 1's commitment."""

    cert: DeviceCert
    ek_commit: bytes


@dataclass(frozen=True, slots=True)
class Add:
    """A new device. `grants_digest` commits to the epoch keys it is given."""

    cert: DeviceCert
    epoch: int
    grants_digest: bytes


@dataclass(frozen=True, slots=True)
class Rotate:
    """A new epoch, and the devices that don't get its key."""

    epoch: int
    ek_commit: bytes
    grants_digest: bytes
    cuts: tuple[Cut, ...]


@dataclass(frozen=True, slots=True)
class Rebox:
    """The signer's own new box key."""

    box_pk: bytes
    box_gen: int


Body = Genesis | Add | Rotate | Rebox
_TYPE_OF = {
    Genesis: LinkType.GENESIS,
    Add: LinkType.ADD,
    Rotate: LinkType.ROTATE,
    Rebox: LinkType.REBOX,
}


@dataclass(frozen=True, slots=True)
class Link:
    """A parsed link. `raw` are the bytes that came, and the bytes that are verified."""

    raw: bytes
    account_id: AccountId
    seq: int
    prev: LinkHash
    signer: DeviceId
    body: Body

    @property
    def link_hash(self) -> LinkHash:
        """`H("pss1/link-hash", link)`."""
        return LinkHash(hash_(labels.LINK_HASH, self.raw))


@dataclass(frozen=True, slots=True)
class SignedLink:
    """A link's bytes with the signatures it travels with; `pop` only for ADD."""

    raw: bytes
    sig: bytes
    pop: bytes = b""


def account_id(genesis: bytes) -> AccountId:
    """`H("pss1/account-id", genesis link)`."""
    return AccountId(hash_(labels.ACCOUNT_ID, genesis))


def parse(raw: bytes) -> Link:
    """Strict: exact lengths, suite, type, flags, order of cuts; FormatError otherwise."""
    if len(raw) < _HEAD.size:
        raise FormatError("length", "link is cut off")
    magic, suite, kind, flags, account, seq, prev, signer = _HEAD.unpack_from(raw)
    if magic != _MAGIC:
        raise FormatError("magic", "not a link")
    if suite != _SUITE:
        raise FormatError("suite", "unknown suite; there is no fallback")
    if flags:
        raise FormatError("flags", "flags of a link must be zero")
    return Link(
        raw=bytes(raw),
        account_id=AccountId(account),
        seq=seq,
        prev=LinkHash(prev),
        signer=DeviceId(signer),
        body=_parse_body(kind, raw[_HEAD.size :]),
    )


def _parse_body(kind: int, body: bytes) -> Body:
    if kind in (LinkType.GENESIS, LinkType.ADD):
        need("link body", body, _CERT_BODY.size)
        cert, epoch, digest = _CERT_BODY.unpack(body)
        decoded = DeviceCert.decode(cert)
        if kind == LinkType.ADD:
            return Add(decoded, epoch, digest)
        if epoch != 1:
            raise FormatError("epoch", "an account starts with epoch 1")
        return Genesis(decoded, digest)
    if kind == LinkType.ROTATE:
        return _parse_rotate(body)
    if kind == LinkType.REBOX:
        need("link body", body, _REBOX.size)
        box_pk, box_gen = _REBOX.unpack(body)
        refuse_low_order(box_pk)
        return Rebox(box_pk, box_gen)
    raise FormatError("type", "unknown type of link")


def _parse_rotate(body: bytes) -> Rotate:
    if len(body) < _ROTATE.size:
        raise FormatError("length", "link body is cut off")
    epoch, commit, digest, count = _ROTATE.unpack_from(body)
    need("link body", body, _ROTATE.size + count * _CUT.size)
    cuts = tuple(
        Cut(DeviceId(device), seq, OpHash(op_hash))
        for device, seq, op_hash in _CUT.iter_unpack(body[_ROTATE.size :])
    )
    if any(a.device_id >= b.device_id for a, b in pairwise(cuts)):
        raise FormatError("order", "cuts must ascend by device id")
    return Rotate(epoch, commit, digest, cuts)


def build(
    signer: Identity,
    body: Body,
    *,
    account: AccountId | None = None,
    seq: int = 0,
    prev: LinkHash | None = None,
) -> SignedLink:
    """Encodes and signs a link; an ADD still wants its `pop` (see `prove_possession`).

    Without `account` and `prev` it is a GENESIS link.
    """
    raw = pack(
        _HEAD,
        _MAGIC,
        _SUITE,
        _TYPE_OF[type(body)],
        0,
        account if account is not None else bytes(AccountId.size),
        seq,
        prev if prev is not None else bytes(LinkHash.size),
        signer.device_id,
    ) + _encode_body(body)
    return SignedLink(raw=raw, sig=signer.sign(labels.LINK, raw))


def _encode_body(body: Body) -> bytes:
    match body:
        case Genesis():
            return pack(_CERT_BODY, body.cert.encode(), 1, body.ek_commit)
        case Add():
            return pack(_CERT_BODY, body.cert.encode(), body.epoch, body.grants_digest)
        case Rotate():
            return pack(
                _ROTATE, body.epoch, body.ek_commit, body.grants_digest, len(body.cuts)
            ) + _encode_cuts(body.cuts)
        case Rebox():
            return pack(_REBOX, body.box_pk, body.box_gen)


def _encode_cuts(cuts: Sequence[Cut]) -> bytes:
    ordered = sorted(cuts, key=lambda cut: cut.device_id)
    return b"".join(pack(_CUT, cut.device_id, cut.seq, cut.op_hash) for cut in ordered)


def prove_possession(new_device: Identity, raw: bytes) -> bytes:
    """The new device's `pop` over an ADD link, 64 bytes."""
    return new_device.sign(labels.LINK_POP, raw)


def check_sizes(signed: SignedLink) -> None:
    """FormatError unless sig is 64 bytes, and pop 64 (ADD) or empty (others)."""
    need("sig", signed.sig, SIG_BYTES)
    if signed.pop:
        need("pop", signed.pop, SIG_BYTES)
