"""Sections whose values must come out byte for byte: primitives, names, chain, requests."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from client.vectors.fields import (
    Entry,
    Malformed,
    data,
    entry,
    expect,
    expect_data,
    items,
    number,
    rows,
    text,
    unhex,
)
from client.vectors.report import Report
from client.vectors.world import World, signed_link
from crypto import labels, link, names, padding, request
from crypto.chain import EMPTY, Chain
from crypto.epoch import EpochKeys, commitment
from crypto.errors import FormatError
from crypto.ids import AccountId, DeviceId
from crypto.keys import device_id
from crypto.link import Add, LinkType, Rotate
from crypto.primitives import KEY_BYTES, box_public, hash_, prf, sign, sign_keypair, verify
from crypto.request import CallKind

_SECRETS = ("ik_seed", "seed", "sk", "secret", "secret_key", "key")


def primitives(world: World, report: Report) -> None:
    """H, PRF and SIG on given inputs."""
    for place, row in rows(world.file.get("primitives")):
        report.holds(f"primitives{place}", partial(_primitive, world, row))


def _primitive(world: World, value: object) -> None:
    row = entry(value)
    label, message = text(row, "label").encode(), data(row, "msg", b"")
    match text(row, "fn"):
        case "H":
            expect("out", hash_(label, message, number(row, "n", 32)), data(row, "out"))
        case "PRF":
            got = prf(data(row, "key"), label, message, number(row, "n", 32))
            expect("out", got, data(row, "out"))
        case "SIG":
            _signature(world, row, label, message)
        case other:
            raise Malformed(f"malformed: no primitive is called {other!r}")


def _signature(world: World, row: Entry, label: bytes, message: bytes) -> None:
    """The signature follows from a secret key; with a public key alone, it verifies.

    The schema doesn't name the key's field: all likely names are taken, a device's too.
    """
    stated = data(row, "sig" if row.get("sig") is not None else "out")
    secret, public = _signer(world, row)
    if secret is not None:
        derived, secret_key = sign_keypair(secret[:KEY_BYTES])
        expect("out", sign(secret_key, label, message), stated)
        if public is not None:
            expect("public key", derived, public)
        public = derived
    if public is None:
        raise Malformed("malformed: whose signature is it?")
    verify(public, label, message, stated)


def _signer(world: World, row: Entry) -> tuple[bytes | None, bytes | None]:
    """(secret or seed, public key), as far as the row gives them."""
    devices = world.file.get("devices")
    for name in ("device", "signer", "author", *_SECRETS):
        named = row.get(name)
        if isinstance(named, str) and isinstance(devices, Mapping) and named in devices:
            device = world.device(named)
            secret = None if device.get("ik_seed") is None else data(device, "ik_seed")
            return secret, world.public_key(named)
    return _first(row, *_SECRETS), _first(row, "ik_pk", "pk", "public", "public_key", "vk")


def _first(row: Entry, *candidates: str) -> bytes | None:
    for name in candidates:
        if row.get(name) is not None:
            return data(row, name)
    return None


def devices(world: World, report: Report) -> None:
    """Public halves and ids follow from the secret halves."""
    for place, row in rows(world.file.get("devices")):
        report.holds(f"devices{place}", partial(_device, row))


def _device(value: object) -> None:
    row = entry(value)
    public = data(row, "ik_pk", b"")
    if row.get("ik_seed") is not None:
        public, _ = sign_keypair(data(row, "ik_seed"))
    elif not public:
        raise Malformed("malformed: ik_seed is missing")
    expect_data(row, "ik_pk", public)
    expect_data(row, "device_id", device_id(public))
    for name in row:
        if name.startswith("bk_sk"):
            expect_data(row, name.replace("bk_sk", "bk_pk"), box_public(data(row, name)))


def account_id(world: World, report: Report) -> None:
    """The account id is the hash of the genesis link."""
    if world.file.get("account_id") is not None and world.file.get("links"):
        report.holds("account_id", partial(_account_id, world))


def _account_id(world: World) -> None:
    genesis = entry(items(world.file, "links")[0])
    expect_data(world.file, "account_id", link.account_id(data(genesis, "link")))


def epochs(world: World, report: Report) -> None:
    """Commitments to epoch keys, and what is derived from each key."""
    for place, _ in rows(world.file.get("ek_commit")):
        report.holds(f"ek_commit{place}", partial(_commitment, world, place[1:]))
    for place, row in rows(world.file.get("epoch_keys")):
        report.holds(f"epoch_keys{place}", partial(_epoch_keys, world, place[1:], row))


def _epoch(name: str) -> int:
    if not name.isascii() or not name.isdecimal() or len(name) > 10:
        raise Malformed("malformed: the epoch is not a number")
    return int(name)


def _commitment(world: World, epoch: str) -> None:
    got = commitment(_epoch(epoch), world.epoch_key(_epoch(epoch)))
    expect("ek_commit", got, data(entry(world.file["ek_commit"]), epoch))


def _epoch_keys(world: World, epoch: str, value: object) -> None:
    row = entry(value)
    keys = world.keys(_epoch(epoch))
    for name, got in (("rec", keys.record), ("tag", keys.tag), ("nonce", keys.nonce)):
        expect(name, got, data(row, name))


def tags(world: World, report: Report) -> None:
    """Tags of records, and of control ops if `device` stands instead of a name."""
    for place, row in rows(world.file.get("tags")):
        report.holds(f"tags{place}", partial(_tag, world, row))


def _tag(world: World, value: object) -> None:
    row = entry(value)
    keys = world.keys(number(row, "epoch"))
    if row.get("device") is not None:
        author = device_id(world.public_key(row["device"]))
        expect("tag", bytes(names.control_tag(keys, author)), data(row, "tag"))
        return
    expect("tag", bytes(_name_tag(keys, row)), data(row, "tag"))


def _name_tag(keys: EpochKeys, row: Entry) -> bytes:
    collection, key = text(row, "collection"), text(row, "key")
    return names.tag(keys, collection.encode(), key.encode())


def links(world: World, report: Report) -> None:
    """Links apply in order from an empty chain and lead to the stated state."""
    chain: Chain | None = EMPTY
    for place, row in rows(world.file.get("links")):
        after: list[Chain] = []
        report.holds(f"links{place}", partial(_link, chain, row, after))
        chain = after[0] if after else None


def _link(before: Chain | None, value: object, after: list[Chain]) -> None:
    row = entry(value)
    if before is None:
        raise Malformed("the link before it was refused")
    chain = before.apply(signed_link(row))
    after.append(chain)
    parsed = link.parse(data(row, "link"))
    expect_data(row, "link_hash", chain.head)
    if row.get("active") is not None:
        stated = sorted(unhex(item, "active") for item in items(row, "active"))
        expect("active", sorted(bytes(device.device_id) for device in chain.active), stated)
    if row.get("epoch") is not None:
        expect("epoch", chain.epoch, number(row, "epoch"))
    if row.get("type") is not None:
        expect("type", LinkType(data(row, "link")[5]).name, text(row, "type"))
    if isinstance(parsed.body, Add | Rotate):
        expect_data(row, "grants_digest", parsed.body.grants_digest)


def paddings(world: World, report: Report) -> None:
    """Buckets, and padded bytes there and back."""
    for place, row in rows(world.file.get("padding")):
        report.holds(f"padding{place}", partial(_padding, row))


def _padding(value: object) -> None:
    row = entry(value)
    size = number(row, "len")
    if row.get("bucket") is None:
        try:
            padding.bucket(size)
        except FormatError:
            return
        raise Malformed("a payload of this length must be refused, and has a bucket")
    expect("bucket", padding.bucket(size), number(row, "bucket"))
    if row.get("padded") is not None:
        padded = data(row, "padded")
        plain = padding.unpad(padded)
        expect("length", len(plain), size)
        expect_data(row, "plain", plain)
        expect("padded", padding.pad(plain), padded)


def requests(world: World, report: Report) -> None:
    """Signed requests: header and signature come out equal, and verify."""
    for name in ("request", "requests"):
        value = world.file.get(name)
        if value is None:
            continue
        for place, row in rows(value if isinstance(value, list) else [value]):
            report.holds(f"{name}{place}", partial(_request, world, row))


def request_header(world: World, row: Entry) -> bytes:
    """The header that follows from a request's fields."""
    call_kind = row.get("kind", row.get("call_kind"))
    return request.header(
        kind=CallKind.STREAM if call_kind in (2, "stream") else CallKind.UNARY,
        method=text(row, "method"),
        audience=text(row, "audience"),
        account_id=AccountId.of(data(row, "account_id", world.account)),
        device_id=DeviceId(device_id(world.public_key(row.get("device")))),
        ts_ms=number(row, "ts_ms"),
        nonce=data(row, "nonce"),
        payload=data(row, "payload", b""),
    )


def _request(world: World, value: object) -> None:
    row = entry(value)
    header, sig = data(row, "header"), data(row, "sig")
    expect("header", request_header(world, row), header)
    auth = request.parse(header + sig)
    device = row.get("device")
    request.verify(auth, world.public_key(device), data(row, "payload", b""))
    request.check_context(
        auth, kind=auth.kind, method=text(row, "method"), audience=text(row, "audience")
    )
    if world.device(device).get("ik_seed") is not None:
        signer = sign_keypair(data(world.device(device), "ik_seed"))[1]
        expect("sig", sign(signer, labels.REQUEST, header), sig)
