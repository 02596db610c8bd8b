"""Negatives: what must end in a CryptoError, whatever it looks like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from client.vectors.extra import REFUSALS
from client.vectors.fields import Entry, Malformed, data, entry, number, rows, text
from client.vectors.opchecks import OpChecks
from client.vectors.positive import request_header
from client.vectors.report import Report
from client.vectors.sealed import sealed_op
from client.vectors.world import World, signed_link
from crypto import grant, op, request
from crypto.errors import CryptoError, SignatureError
from crypto.ids import DeviceId
from crypto.keys import device_id
from crypto.primitives import equal


def negatives(world: World, report: Report) -> None:
    """Each must be refused with the one error type of `crypto/`."""
    try:
        checks: OpChecks | None = OpChecks(world)
    except (Malformed, CryptoError):
        checks = None
    for place, value in rows(world.file.get("negatives")):
        name = f"negatives{place}"
        try:
            row = entry(value)
            name = f"{name} {row.get('name', '')!s}"
            attempt = _attempt(world, checks, row)
        except Malformed as error:
            report.fail(name, str(error))
            continue
        if row.get("kind") == "op-bitflip":
            report.holds(name, attempt)
        else:
            report.refused(name, attempt)


def _attempt(world: World, checks: OpChecks | None, row: Entry) -> Callable[[], object]:
    kind = text(row, "kind")
    if row.get("expect", "reject") != "reject":
        raise Malformed(f"malformed: a negative expects 'reject', not {row['expect']!r}")
    match kind:
        case "op-server":
            return partial(_server, world, checks, row)
        case "op-client":
            return partial(_client, world, checks, row)
        case "op-bitflip":
            return partial(_bitflips, world, row)
        case "chain":
            return partial(_chain, world, row)
        case "grant":
            return partial(_grant, world, row)
        case "request":
            return partial(_request, world, row)
        case _ if kind in REFUSALS:
            return partial(REFUSALS[kind], world, row)
        case _:
            raise Malformed(f"malformed: unknown kind of negative {kind!r}")


def _author(world: World, row: Entry, author: DeviceId) -> bytes:
    """The key that the op must verify under: the stated author's, who must be its device."""
    if row.get("author") is None:
        public = world.public_key_of(author)
        if public is None:
            raise SignatureError("author", "no device of the account has this id")
        return public
    public = world.public_key(row["author"])
    if device_id(public) != author:
        raise SignatureError("author", "the op names another device than its author")
    return public


def _server(world: World, checks: OpChecks | None, row: Entry) -> op.SealedOp:
    """What needs no epoch key: form, author, signature, and the author's place in the chain."""
    sealed = sealed_op(row)
    op.verify(sealed, _author(world, row, sealed.header.device_id))
    if checks is not None:
        checks.sealed(sealed)
    return sealed


def _client(world: World, checks: OpChecks | None, row: Entry) -> None:
    """Signature first, then opening, then what the op itself shows of C6 to C13."""
    sealed = _server(world, checks, row)
    keys = world.keys(number(row, "epoch", sealed.header.epoch))
    payload = op.open_(sealed, keys)
    if checks is not None:
        checks.opened(sealed, payload)


def _bitflips(world: World, row: Entry) -> None:
    """Every single bit, flipped alone, must be refused by form or signature."""
    public = world.public_key(row.get("author"))
    whole = bytearray(data(row, "header") + data(row, "ct") + data(row, "sig"))
    accepted = [at for at in range(8 * len(whole)) if not _refused(whole, at, public)]
    if accepted:
        raise Malformed(f"accepted with bit {accepted[0]} flipped, and {len(accepted) - 1} more")


def _refused(whole: bytearray, bit: int, public: bytes) -> bool:
    mask = 0x80 >> bit % 8
    whole[bit // 8] ^= mask
    try:
        op.verify(op.parse(bytes(whole)), public)
    except CryptoError:
        return True
    finally:
        whole[bit // 8] ^= mask
    return False


def _chain(world: World, row: Entry) -> None:
    before = world.chain_after(number(row, "prefix"))
    signed = signed_link(row)
    before.apply(signed)


def _grant(world: World, row: Entry) -> None:
    sealed, recipient = data(row, "sealed"), world.identity(row.get("recipient"))
    parsed, after = world.link_at(number(row, "link_seq"))
    grant.open_(recipient, sealed, parsed, after)


def _request(world: World, row: Entry) -> None:
    """The header must be the one that follows from the fields, and the device's own."""
    header, sig = data(row, "header"), data(row, "sig")
    stated = world.file.get("request")
    base = entry(stated[0] if isinstance(stated, list) and stated else stated or {})
    fields = {**base, **_call_fields(row)}
    public = world.public_key(fields.get("device"))
    auth = request.parse(header + sig)
    if not equal(request_header(world, fields), header):
        raise SignatureError("request", "the header is not the one of these fields")
    request.verify(auth, public, data(fields, "payload", b""))


def _call_fields(row: Entry) -> Mapping[str, object]:
    """What a negative says of the call itself: its `kind` is the negative's, not the call's."""
    own = ("method", "audience", "account_id", "device", "ts_ms", "nonce", "payload")
    fields = {name: row[name] for name in own if row.get(name) is not None}
    return fields if row.get("call_kind") is None else {**fields, "kind": row["call_kind"]}
