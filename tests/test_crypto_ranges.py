"""Numbers and texts that don't fit a format are refused like everything else: CryptoError."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given, strategies as st

from crypto import checkpoint, enrol, epoch, grant, heads, link, names, op, recovery, request
from crypto.cert import DeviceCert, Role
from crypto.errors import CryptoError
from crypto.heads import Head
from crypto.ids import AccountId, DeviceId, LinkHash, OpHash
from crypto.keys import Identity
from crypto.link import Add, Cut, Genesis, Rebox, Rotate
from crypto.op import Payload, Vector, Verb
from crypto.pairing import Invite, PairingKeys, TypedInvite
from crypto.receipt import Receipt, ServerKey
from crypto.request import CallKind

ACCOUNT, DEVICE = AccountId(bytes(32)), DeviceId(bytes(16))
HEAD, OP = LinkHash(bytes(32)), OpHash(bytes(32))


@cache
def own() -> Identity:
    """Some device."""
    return Identity(b"\1" * 32, b"\2" * 32)


@cache
def keys() -> epoch.EpochKeys:
    """Some epoch."""
    return epoch.EpochKeys(ACCOUNT, 1, bytes(32))


def cert(gen: int = 1) -> DeviceCert:
    """A certificate of this generation."""
    return DeviceCert(own().ik_pk, own().box_pk, gen, Role.FULL)


def link_with(body: Any, seq: int = 1) -> bytes:
    """The bytes of a link."""
    return link.build(own(), body, account=ACCOUNT, seq=seq, prev=HEAD).raw


def payload(wall_ms: int = 0, chain_seq: int = 0, vector: Vector | None = None) -> Payload:
    """A cover's payload."""
    return Payload(Verb.COVER, wall_ms, chain_seq, HEAD, vector or Vector((), bytes(32)))


def sealed(dev_seq: int = 1, lamport: int = 1, content: Payload | None = None) -> bytes:
    """An op with these numbers."""
    return op.seal(
        own(),
        keys(),
        content or payload(),
        dev_seq=dev_seq,
        prev=OP,
        lamport=lamport,
        rand=bytes(32),
    ).raw


def made_grant(seq: int) -> Any:
    """A grant for a link with this seq."""
    from crypto.chain import Device

    device = Device(0, DEVICE, bytes(32), own().box_pk, 1, Role.FULL, 0, DEVICE)
    return grant.make(own(), device, keys(), link_seq=seq, link_prev=HEAD)


def receipt(chain_seq: int = 0, server_ms: int = 0) -> bytes:
    """A receipt with these numbers."""
    stated = Receipt(ACCOUNT, chain_seq, HEAD, bytes(32), server_ms, bytes(16))
    return ServerKey(bytes(32)).sign(stated)


def invite(expiry_ms: int = 0, chain_seq: int = 0) -> Invite:
    """An invite with these numbers."""
    return Invite(ACCOUNT, DEVICE, bytes(16), bytes(32), expiry_ms, chain_seq, HEAD)


def signed_request(ts_ms: int = 0, method: str = "/m", audience: str = "a") -> bytes:
    """A request with these fields."""
    return request.sign(
        own(),
        kind=CallKind.UNARY,
        method=method,
        audience=audience,
        account_id=ACCOUNT,
        ts_ms=ts_ms,
        nonce=bytes(16),
        payload=b"",
    )


def token(expiry_ms: int) -> bytes:
    """A token that lasts until then."""
    return enrol.TokenKey(bytes(32)).issue(enrol.Token(HEAD, bytes(32), expiry_ms), "a")


U64: dict[str, Callable[[int], object]] = {
    "link seq": lambda n: link_with(Add(cert(), 1, bytes(32)), n),
    "cut seq": lambda n: link_with(Rotate(2, bytes(32), bytes(32), (Cut(DEVICE, n, OP),))),
    "op dev_seq": lambda n: sealed(dev_seq=n),
    "op lamport": lambda n: sealed(lamport=n),
    "op wall_ms": lambda n: sealed(content=payload(wall_ms=n)),
    "op chain_seq": lambda n: sealed(content=payload(chain_seq=n)),
    "op vector": lambda n: sealed(content=payload(vector=Vector(((0, n),), bytes(32)))),
    "grant link seq": made_grant,
    "head seq": lambda n: heads.digest([Head(0, n, OP)]),
    "receipt chain_seq": lambda n: receipt(chain_seq=n),
    "receipt server_ms": lambda n: receipt(server_ms=n),
    "invite expiry": lambda n: invite(expiry_ms=n).encode(),
    "invite chain_seq": lambda n: invite(chain_seq=n).encode(),
    "invite keys": lambda n: PairingKeys(invite(expiry_ms=n)),
    "request time": lambda n: signed_request(ts_ms=n),
    "token expiry": token,
    "work hour": lambda n: enrol.check_work(HEAD, n, 0, 0),
    "work counter": lambda n: enrol.check_work(HEAD, 0, n, 0),
}
U32: dict[str, Callable[[int], object]] = {
    "certificate generation": lambda n: cert(n).encode(),
    "genesis generation": lambda n: link.build(own(), Genesis(cert(n), bytes(32))),
    "ADD epoch": lambda n: link_with(Add(cert(), n, bytes(32))),
    "ROTATE epoch": lambda n: link_with(Rotate(n, bytes(32), bytes(32), ())),
    "REBOX generation": lambda n: link_with(Rebox(own().box_pk, n)),
    "epoch": lambda n: epoch.EpochKeys(ACCOUNT, n, bytes(32)),
    "commitment": lambda n: epoch.commitment(n, bytes(32)),
    "checkpoint epoch": lambda n: checkpoint.Checkpoint(n, (), 0, bytes(32)).encode(),
    "checkpoint count": lambda n: checkpoint.Checkpoint(1, (), n, bytes(32)).encode(),
}


@pytest.mark.parametrize("what", U64)
@pytest.mark.parametrize("number", [-1, 1 << 64, -(1 << 70), 1 << 200])
def test_numbers_beyond_64_bits_are_refused(what: str, number: int) -> None:
    """No struct.error or OverflowError comes out, whatever the number."""
    with pytest.raises(CryptoError):
        U64[what](number)


@pytest.mark.parametrize("what", sorted(U64))
def test_the_largest_number_fits(what: str) -> None:
    """2^64-1 is taken where a number of 64 bits stands."""
    U64[what]((1 << 64) - 1)


@pytest.mark.parametrize("what", U32)
@pytest.mark.parametrize("number", [-1, 1 << 32, 1 << 64])
def test_numbers_beyond_32_bits_are_refused(what: str, number: int) -> None:
    """The same for generations, epochs and counts."""
    with pytest.raises(CryptoError):
        U32[what](number)


@pytest.mark.parametrize("what", U32)
def test_the_largest_short_number_fits(what: str) -> None:
    """2^32-1 is taken where a number of 32 bits stands."""
    U32[what]((1 << 32) - 1)


@pytest.mark.parametrize("bits", [-1, 257, 10_000])
def test_impossible_work_is_refused(bits: int) -> None:
    """A hash has 256 bits; other difficulties are no proof and can't be searched for."""
    with pytest.raises(CryptoError):
        enrol.check_work(HEAD, 0, 0, bits)
    with pytest.raises(CryptoError):
        next(enrol.prove_work(HEAD, 0, bits))


def test_more_than_255_cuts_are_refused() -> None:
    """The count of a ROTATE's cuts is one byte."""
    cuts = tuple(Cut(DeviceId(at.to_bytes(16, "big")), 0, OP) for at in range(256))
    assert len(link_with(Rotate(2, bytes(32), bytes(32), cuts[:255]))) == link.LINK_BYTES_MAX
    with pytest.raises(CryptoError):
        link_with(Rotate(2, bytes(32), bytes(32), cuts))


@pytest.mark.parametrize("size", [0, 15, 31, 33, 64])
def test_hashes_of_a_wrong_length_are_never_padded(size: int) -> None:
    """Fixed fields are neither cut off nor filled up in silence."""
    short: Any = bytes(size)
    bodies = (
        Genesis(DeviceCert(short, own().box_pk, 1, Role.FULL), bytes(32)),
        Genesis(DeviceCert(own().ik_pk, short, 1, Role.FULL), bytes(32)),
        Genesis(cert(), short),
        Add(cert(), 1, short),
        Rotate(2, short, bytes(32), ()),
        Rotate(2, bytes(32), short, ()),
        Rotate(2, bytes(32), bytes(32), (Cut(DEVICE, 1, short),)),
        Rotate(2, bytes(32), bytes(32), (Cut(short, 1, OP),)),
        Rebox(short, 2),
    )
    for body in bodies:
        with pytest.raises(CryptoError):
            link_with(body)


@pytest.mark.parametrize("odd", ["\ud800", "x" * 40 + "\udfff", "é" * 36, "İ" * 36])
def test_texts_that_have_no_bytes_are_refused(odd: str) -> None:
    """Lone surrogates and other typed nonsense are refused, not stumbled over."""
    for action in (
        lambda: recovery.from_paper(odd),
        lambda: recovery.from_paper("A" * 32 + odd[:4].ljust(4, "\ud800")),
        lambda: TypedInvite.from_text(odd),
        lambda: Invite.from_text(odd),
    ):
        with pytest.raises(CryptoError):
            action()


def test_a_method_or_user_without_bytes_is_refused() -> None:
    """Names that can't be written as UTF-8 have no hash."""
    with pytest.raises(CryptoError):
        signed_request(method="\ud800")
    with pytest.raises(CryptoError):
        signed_request(audience="\ud800")
    with pytest.raises(CryptoError):
        enrol.subject(bytes(32), "\ud800")


@given(st.integers())
def test_score_parts_name_a_device(index: int) -> None:
    """A part's index is 0 to 254."""
    if 0 <= index <= 254:
        assert names.split_part(names.score_part(b"k", index)) == (b"k", index)
    else:
        with pytest.raises(CryptoError):
            names.score_part(b"k", index)
