"""A contribution to a joint aggregate: its header, shares and boxes (aggregates, section 3).

A device makes one, a relay sees its sizes, and each party opens its own box. Nobody here
knows what is measured, only the number of elements. That a share is in form does not make
it true: whether shares belong together and what they hold is for `mpc.batch` to find out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field as attribute
from typing import NamedTuple

from crypto import labels
from crypto.errors import FormatError
from crypto.field import Array, Field
from crypto.ids import Nullifier, ReportId
from crypto.primitives import (
    KEY_BYTES,
    SEAL_BYTES,
    box_public,
    hash_,
    need,
    pack,
    prf,
    seal,
    seal_open,
)
from crypto.shares import (
    ELEMENTS,
    PARTIES_MAX,
    SEED,
    SEED_BYTES,
    Share,
    check_parties,
    seeded,
    split,
)

HEADER_BYTES = 88
SHARE_HEAD_BYTES = 46
LENGTH_MAX = 1 << 20
"""Elements in one contribution: 8 MiB in field 61, more than any kind needs."""
_HEADER = struct.Struct(">4sBBBB32s16s32s")
_SHARE = struct.Struct(">4sBBBB32sBBI")
_HEADER_MAGIC, _SHARE_MAGIC, _SUITE, _AUTHENTICATED = b"PSA1", b"PSS1", 1, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a round fixes for all contributions to it: its parties, field and vector length."""

    round_digest: bytes
    m: int
    t: int
    field: Field
    length: int

    def __post_init__(self) -> None:
        need("round digest", self.round_digest, 32)
        check_parties(self.m, self.t)
        if not 1 <= self.length <= LENGTH_MAX:
            raise FormatError("elements", f"a contribution has 1 to {LENGTH_MAX} elements")

    def form(self, report_id: ReportId, party: int) -> int:
        """Whether this party's share of that report is elements or a seed."""
        is_seed = party in seeded(self.m, self.t, _rotation(report_id, self.m))
        return SEED if is_seed else ELEMENTS

    def box_bytes(self, form: int) -> int:
        """The one size that a box with a share of that form has."""
        payload = SEED_BYTES if form == SEED else self.length * self.field.element_bytes
        return SEAL_BYTES + SHARE_HEAD_BYTES + payload

    @property
    def report_bytes(self) -> int:
        """What all boxes of one report take together."""
        return self.t * self.box_bytes(SEED) + (self.m - self.t) * self.box_bytes(ELEMENTS)


def _rotation(report_id: ReportId, m: int) -> int:
    """Spreads seeds over the parties, so that each one's boxes are as long as the others'."""
    return int.from_bytes(report_id, "big") % m


class Header(NamedTuple):
    """What the relay and all parties see of a contribution (mode 1: its sender is signed for)."""

    m: int
    round_digest: bytes
    report_id: ReportId
    nullifier: Nullifier
    hash: bytes
    """Of all its bytes: what binds shares to it."""


def encode_header(
    m: int, round_digest: bytes, report_id: ReportId, account_nullifier: Nullifier
) -> bytes:
    """The 88 bytes."""
    return pack(
        _HEADER,
        _HEADER_MAGIC,
        _SUITE,
        _AUTHENTICATED,
        m,
        0,
        round_digest,
        report_id,
        account_nullifier,
    )


def parse_header(data: bytes) -> Header:
    """Strict; FormatError `length`, `header`, `mode` or `parties`."""
    need("header of a contribution", data, HEADER_BYTES)
    magic, suite, mode, m, zero, digest, report_id, account = _HEADER.unpack(data)
    if (magic, suite, zero) != (_HEADER_MAGIC, _SUITE, 0):
        raise FormatError("header", "not the header of a contribution of this suite")
    if mode != _AUTHENTICATED:
        raise FormatError("mode", "only contributions that are signed for are taken (mode 1)")
    if not 3 <= m <= PARTIES_MAX:
        raise FormatError("parties", f"a contribution is for 3 to {PARTIES_MAX} parties")
    report_hash = hash_(labels.REPORT, data)
    return Header(m, digest, ReportId(report_id), Nullifier(account), report_hash)


def nullifier(aggregation_key: bytes, round_digest: bytes) -> Nullifier:
    """The same for all devices of an account in one round: `PRF(K_agg, "pss1/nullifier", ...)`."""
    need("round digest", round_digest, 32)
    return Nullifier(prf(aggregation_key, labels.NULLIFIER, round_digest))


@dataclass(frozen=True, slots=True)
class Contribution:
    """What is uploaded: the header's bytes, and party i's box at i - 1."""

    header: bytes
    boxes: tuple[bytes, ...] = attribute(repr=False)

    @property
    def upload_bytes(self) -> int:
        """Header and boxes together."""
        return len(self.header) + sum(map(len, self.boxes))


def make(
    shape: Shape,
    values: Array,
    *,
    box_keys: Sequence[bytes],
    aggregation_key: bytes,
    rand: Callable[[int], bytes],
) -> Contribution:
    """Shares the kind's encoding of a value out and seals each share to its party.

    `box_keys` are the parties' box public keys of this round, in their order. `rand` must be
    a CSPRNG. FormatError for a vector or number of keys that is not the round's.
    """
    if values.shape != (shape.length,):
        raise FormatError("elements", f"this round takes {shape.length} elements")
    if len(box_keys) != shape.m:
        raise FormatError("parties", f"this round takes one box key for each of {shape.m} parties")
    report_id = ReportId.of(rand(ReportId.size))
    mine = nullifier(aggregation_key, shape.round_digest)
    header = encode_header(shape.m, shape.round_digest, report_id, mine)
    parsed = parse_header(header)
    offset = _rotation(report_id, shape.m)
    shares = split(shape.field, values, shape.m, shape.t, rand, offset)
    boxes = [
        seal(key, encode_share(shape, parsed, share))
        for key, share in zip(box_keys, shares, strict=True)
    ]
    return Contribution(header, tuple(boxes))


def check_upload(shape: Shape, header: bytes, boxes: Sequence[bytes]) -> Header:
    """What can be known of a contribution without opening it: FormatError as `open` gives."""
    parsed = parse_header(header)
    _check_round(shape, parsed)
    if len(boxes) != shape.m:
        raise FormatError("parties", f"a contribution has one box for each of {shape.m} parties")
    for party, box in enumerate(boxes, 1):
        need("box", box, shape.box_bytes(shape.form(parsed.report_id, party)))
    return parsed


def _check_round(shape: Shape, header: Header) -> None:
    if header.round_digest != shape.round_digest:
        raise FormatError("round", "the contribution is for another round")
    if header.m != shape.m:
        raise FormatError("parties", "the contribution is for another number of parties")


def encode_share(shape: Shape, header: Header, share: Share) -> bytes:
    """`head[46] | payload`, what is sealed. The hash binds it to its header."""
    head = pack(
        _SHARE,
        _SHARE_MAGIC,
        _SUITE,
        share.party,
        shape.m,
        shape.t,
        header.hash,
        share.form,
        shape.field.bits,
        shape.length,
    )
    return head + share.payload


def parse_share(data: bytes, shape: Shape, header: Header, party: int) -> Share:
    """The share that `party` must have of the contribution with this header.

    FormatError `length`, `share` (no share of this suite), `report` (of another
    contribution), `party`, `parties`, `field`, `elements` (another number of them), `form`
    (a seed where elements are due, or the reverse) or `range` (one is not below p).
    """
    share = _read_share(data, shape, header, party, shape.form(header.report_id, party))
    share.check(shape.field, shape.length)
    return share


def _read_share(data: bytes, shape: Shape, header: Header, party: int, due: int) -> Share:
    """All but the payload's length and range are checked."""
    if len(data) < SHARE_HEAD_BYTES:
        raise FormatError("length", f"a share has {SHARE_HEAD_BYTES} bytes at least")
    magic, suite, to, m, t, report, form, bits, length = _SHARE.unpack_from(data)
    if (magic, suite) != (_SHARE_MAGIC, _SUITE):
        raise FormatError("share", "not a share of this suite")
    if report != header.hash:
        raise FormatError("report", "the share belongs to another contribution")
    if to != party:
        raise FormatError("party", "the share is for another party")
    if (m, t) != (shape.m, shape.t):
        raise FormatError("parties", "the share is one of other parties")
    if bits != shape.field.bits:
        raise FormatError("field", "the share is in another field")
    if length != shape.length:
        raise FormatError("elements", "the share has another number of elements")
    if form != due:
        raise FormatError("form", "the report id gives this party the other form of share")
    return Share(party, form, data[SHARE_HEAD_BYTES:])


class PartyBox:
    """A party's box key of one round; it is destroyed after. repr shows the public half only."""

    __slots__ = ("_sk", "party", "public")

    def __init__(self, party: int, secret_key: bytes) -> None:
        self.party = party
        self._sk = need("box key", secret_key, KEY_BYTES)
        self.public = box_public(secret_key)

    def open(self, shape: Shape, header: bytes, box: bytes) -> tuple[Header, Share]:
        """This party's share of a contribution, in form; FormatError or OpenError.

        FormatError as of `parse_header` and `parse_share`, `round` for another round, `length`
        for a box of another size than the round's.
        """
        parsed, share = self.unseal(shape, header, box)
        share.check(shape.field, shape.length)
        return parsed, share

    def unseal(self, shape: Shape, header: bytes, box: bytes) -> tuple[Header, Share]:
        """As `open`, but elements may be out of range: for who looks at many shares at once."""
        parsed = parse_header(header)
        _check_round(shape, parsed)
        due = shape.form(parsed.report_id, self.party)
        need("box", box, shape.box_bytes(due))
        data = seal_open(self._sk, self.public, box)
        return parsed, _read_share(data, shape, parsed, self.party, due)

    def __repr__(self) -> str:
        return f"PartyBox(party {self.party}, public {self.public.hex()}, secret hidden)"
