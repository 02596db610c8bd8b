"""No object of crypto/ shows a secret, a name or a value in repr, str, format or an error."""

from __future__ import annotations

import base64
import dataclasses
import traceback
from collections.abc import Callable, Iterator
from functools import cache

import pytest

from crypto import enrol, grant, link, op, recovery, request
from crypto.cert import DeviceCert
from crypto.enrol import Token, TokenKey
from crypto.epoch import EpochKeys
from crypto.errors import CryptoError
from crypto.keys import Identity, Recipient
from crypto.op import Payload, Verb
from crypto.pairing import Invite, PairingKeys, TypedInvite
from crypto.primitives import sign_keypair
from crypto.receipt import ServerKey
from tests.vectors.story import seeded, story

NAME, KEY, VALUE = b"secret-collection", b"secret-key", b"a very private value indeed"


@cache
def payload() -> Payload:
    """A payload with a name and a value."""
    return dataclasses.replace(
        story().payloads["A1"], collection=NAME, key=KEY, value=VALUE, verb=Verb.PUT
    )


@cache
def invite() -> Invite:
    """A pairing code."""
    chain = story().chain
    return Invite(
        chain.account,
        chain.devices[0].device_id,
        seeded("rendezvous", 16),
        seeded("qr"),
        1,
        chain.seq,
        chain.head,
    )


@cache
def secrets() -> dict[str, bytes]:
    """Everything that no log may hold."""
    keys, own = story().keys[1], story().people["A"]
    okm = PairingKeys(invite())
    found = {
        "ik seed": own.ik_seed,
        "ik secret key": sign_keypair(own.ik_seed)[1],
        "box key": own.box_sk,
        "epoch key": keys.secret,
        "record key": keys.record,
        "tag key": keys.tag,
        "nonce key": keys.nonce,
        "QR secret": invite().secret,
        "typed secret": seeded("typed", 16),
        "recovery secret": seeded("r20", 20),
        "server seed": seeded("server"),
        "token seed": seeded("issuer"),
        "collection": NAME,
        "key": KEY,
        "value": VALUE,
    }
    found |= {f"pairing key {name}": getattr(okm, name) for name in ("_k_ne", "_k_en")}
    return found


@cache
def objects() -> dict[str, object]:
    """One of every type in crypto/ that is made from a secret or beside one."""
    sealed = op.seal(
        story().people["A"],
        story().keys[1],
        payload(),
        dev_seq=1,
        prev=op.init_hash(story().chain.account, story().people["A"].device_id),
        lamport=1,
        rand=seeded("rand"),
    )
    auth = request.sign(
        story().people["A"],
        kind=request.CallKind.UNARY,
        method="/m",
        audience="a",
        account_id=story().chain.account,
        ts_ms=1,
        nonce=bytes(16),
        payload=VALUE,
    )
    device = story().chain.devices[0]
    made = grant.make(
        story().people["A"], device, story().keys[1], link_seq=1, link_prev=story().chain.head
    )
    return {
        "Identity": story().people["A"],
        "recovery Identity": recovery.identity(seeded("r20", 20)),
        "Recipient": Recipient(story().people["A"].box_pk),
        "DeviceCert": DeviceCert.of(story().people["A"]),
        "EpochKeys": story().keys[1],
        "Payload": payload(),
        "SealedOp": sealed,
        "Header": sealed.header,
        "opened Payload": op.open_(sealed, story().keys[1]),
        "Chain": story().chain,
        "Device": device,
        "Link": link.parse(story().signed[0].raw),
        "SignedLink": story().signed[0],
        "SealedGrant": made,
        "opened grant": opened_grant(),
        "RequestAuth": request.parse(auth),
        "Invite": invite(),
        "PairingKeys": PairingKeys(invite()),
        "TypedInvite": TypedInvite(seeded("typed", 16)),
        "ServerKey": ServerKey(seeded("server")),
        "TokenKey": TokenKey(seeded("issuer")),
        "Token": Token(story().chain.hashes[0], enrol.subject(seeded("salt"), "me@example"), 1),
    }


def opened_grant() -> EpochKeys:
    """What the recipient of a grant gets."""
    row = next(row for row in story().grants if row["link_seq"] == 5 and row["epoch"] == 1)
    parsed, after = link.parse(story().signed[5].raw), story().chains[6]
    return grant.open_(story().people["C"], bytes.fromhex(row["sealed"]), parsed, after)


def shapes(secret: bytes) -> Iterator[str]:
    """How a secret could look in text; 8 bytes of it are enough."""
    for part in (secret, secret[:8]) if len(secret) > 8 else (secret,):
        yield part.hex()
        yield part.hex().upper()
        yield repr(part)[2:-1]
        yield base64.b64encode(part).decode().rstrip("=")[:-1]
        yield base64.urlsafe_b64encode(part).decode().rstrip("=")[:-1]
        yield base64.b32encode(part).decode().rstrip("=")[:-1]
        yield str(list(part))
        yield str(int.from_bytes(part, "big"))
        yield str(int.from_bytes(part, "little"))


def shown(text: str) -> list[str]:
    """The secrets that a text gives away."""
    return [
        name for name, secret in secrets().items() if any(shape in text for shape in shapes(secret))
    ]


def test_the_search_finds_what_is_there() -> None:
    """A secret in any usual form is noticed."""
    secret = secrets()["epoch key"]
    for text in (secret.hex(), repr(secret), base64.b64encode(secret).decode(), f"x{list(secret)}"):
        assert "epoch key" in shown(text)


@pytest.mark.parametrize(
    "show", [repr, str, lambda x: f"{x}", lambda x: f"{[x]}", "{!r:>9}".format]
)
def test_no_object_shows_a_secret(show: Callable[[object], str]) -> None:
    """repr, str, format, and repr inside a list."""
    for name, thing in objects().items():
        assert shown(show(thing)) == [], name


def test_objects_with_secrets_have_no_dict() -> None:
    """`vars()` of a key type would give everything away to a careless logger."""
    for name in ("Identity", "EpochKeys", "PairingKeys", "TypedInvite", "ServerKey", "TokenKey"):
        assert not hasattr(objects()[name], "__dict__"), name


def failures() -> Iterator[Callable[[], object]]:
    """Ways to fail with secrets at hand."""
    own, keys = story().people["A"], story().keys[1]
    sealed = story().ops["A1"]
    yield lambda: op.open_(sealed, story().keys[2])
    yield lambda: Identity(own.ik_seed[:-1], own.box_sk)
    yield lambda: Identity(own.ik_seed, own.box_sk + b"\0")
    yield lambda: EpochKeys(keys.account_id, 1, keys.secret[:-1])
    yield lambda: own.open(bytes(292))
    yield lambda: TypedInvite(seeded("typed", 16) + b"\0")
    yield lambda: recovery.identity(seeded("r20", 20)[:-1])
    yield lambda: recovery.from_paper(recovery.to_paper(seeded("r20", 20))[:-1] + "0")
    yield lambda: PairingKeys(dataclasses.replace(invite(), secret=invite().secret[:-1]))
    yield lambda: PairingKeys(invite()).open_m1(bytes(200))
    yield lambda: op.encode_payload(dataclasses.replace(payload(), wall_ms=-1))
    yield lambda: op.decode_payload(op.encode_payload(payload())[:-1])
    yield lambda: op.encode_payload(dataclasses.replace(payload(), key=KEY * 9999))


def test_no_error_shows_a_secret() -> None:
    """Neither in its text nor in the trace of those that it was raised from."""
    for number, attempt in enumerate(failures()):
        with pytest.raises(CryptoError) as caught:
            attempt()
        lines = traceback.format_exception(caught.value)
        assert shown(f"{caught.value!r} {caught.value} {''.join(lines)}") == [], number


def test_no_sealed_bytes_hold_a_name_or_a_value() -> None:
    """What the service stores has no plaintext name, value or epoch key in it."""
    stored = [sealed.raw for sealed in story().ops.values()]
    stored += [bytes.fromhex(row["sealed"]) for row in story().grants]
    stored += [signed.raw for signed in story().signed]
    for data in stored:
        for hidden in (b"theme", b"palette", b"music", b"a" * 16):
            assert hidden not in data
        for keys in story().keys.values():
            assert keys.secret not in data
