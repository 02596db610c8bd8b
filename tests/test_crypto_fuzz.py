"""Every function that takes bytes or text from outside: CryptoError and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given, settings, strategies as st

from crypto import (
    enrol,
    grant,
    heads,
    ids,
    link,
    names,
    op,
    padding,
    pairing,
    primitives,
    receipt,
    recovery,
    request,
)
from crypto.cert import DeviceCert
from crypto.chain import EMPTY
from crypto.checkpoint import Checkpoint
from crypto.epoch import EpochKeys
from crypto.errors import CryptoError
from crypto.ids import LinkHash
from crypto.keys import Identity, Recipient
from crypto.link import SignedLink
from crypto.pairing import Invite, PairingKeys, TypedInvite
from tests.vectors.generate import build
from tests.vectors.story import Row, story


@cache
def rest() -> Row:
    """One true thing of every other kind."""
    more: Row = build()["more"]
    return more


def pairing_keys() -> PairingKeys:
    """The keys of the story's pairing."""
    return PairingKeys(Invite.decode(true("pairing", "invite")))


def true(part: str, field: str) -> bytes:
    """A field of the first row of a part."""
    return bytes.fromhex(rest()[part][0][field])


def open_op(data: bytes) -> None:
    """Parses, verifies and opens."""
    sealed = op.parse(data)
    op.verify(sealed, story().people["A"].ik_pk)
    op.open_(sealed, story().keys[1])


def verify_request(data: bytes) -> None:
    """Parses and verifies."""
    auth = request.parse(data)
    request.verify(auth, story().people["A"].ik_pk, b"\n\3abc")


def apply_link(seq: int) -> Callable[[bytes], object]:
    """Applies a link's bytes, with the signatures of the true one, to the chain before it."""
    signed = story().signed[seq]
    return lambda data: story().chains[seq].apply(SignedLink(data, signed.sig, signed.pop))


def open_grant(data: bytes) -> None:
    """Opens a sealed grant as C."""
    parsed = link.parse(story().signed[5].raw)
    grant.open_(story().people["C"], data, parsed, story().chains[6])


def server_pk() -> bytes:
    """The service's key."""
    return true("receipts", "server_pk")


def open_token(data: bytes) -> None:
    """Opens a token for the story's account."""
    enrol.open_token(
        data,
        true("tokens", "issuer_pk"),
        audience="sync.example.org",
        genesis=story().chain.hashes[0],
        now_ms=0,
    )


SIGNED: dict[str, tuple[Callable[[], bytes], Callable[[bytes], object]]] = {
    "op": (lambda: story().ops["B2"].raw, lambda data: op.verify(op.parse(data), ik("B"))),
    "stub": (
        lambda: story().ops["B2"].stub,
        lambda data: op.verify(op.parse_stub(data), ik("B")),
    ),
    "genesis": (lambda: story().signed[0].raw, lambda data: apply_link(0)(data)),
    "add": (lambda: story().signed[1].raw, lambda data: apply_link(1)(data)),
    "rebox": (lambda: story().signed[3].raw, lambda data: apply_link(3)(data)),
    "rotate": (lambda: story().signed[7].raw, lambda data: apply_link(7)(data)),
    "grant": (lambda: sealed_grant(), open_grant),
    "request": (lambda: signed_request(), verify_request),
    "receipt": (
        lambda: true("receipts", "receipt"),
        lambda data: receipt.open_(data, server_pk(), nonce=true("receipts", "nonce")),
    ),
    "token": (lambda: true("tokens", "token"), open_token),
    "m1": (lambda: true("pairing", "m1"), lambda data: pairing_keys().open_m1(data)),
    "m2": (lambda: true("pairing", "m2"), lambda data: pairing_keys().open_m2(data)),
    "m3": (
        lambda: true("pairing", "m3"),
        lambda data: pairing_keys().open_m3(data, true("pairing", "commitment")),
    ),
    "refusal": (
        lambda: pairing_keys().seal_refusal(aead_nonce=bytes(24)),
        lambda data: pairing_keys().open_refusal(data),
    ),
}


def ik(name: str) -> bytes:
    """A device's identity key."""
    return story().people[name].ik_pk


def sealed_grant() -> bytes:
    """C's grant of epoch 2."""
    rows = [row for row in story().grants if row["link_seq"] == 5]
    return bytes.fromhex(rows[1]["sealed"])


def signed_request() -> bytes:
    """A's request."""
    row = build()["request"]
    return bytes.fromhex(row["header"] + row["sig"])


@pytest.mark.parametrize("what", SIGNED)
def test_the_true_bytes_pass(what: str) -> None:
    """What the other tests corrupt is right to begin with."""
    make, check = SIGNED[what]
    check(make())


@pytest.mark.parametrize("what", SIGNED)
def test_every_single_bit_is_protected(what: str) -> None:
    """Any one bit flipped in a signed or sealed object makes it refused."""
    make, check = SIGNED[what]
    data = bytearray(make())
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CryptoError):
            check(bytes(data))
        data[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize("what", SIGNED)
def test_every_truncation_is_refused(what: str) -> None:
    """Cut off anywhere, or longer by a byte, it is refused."""
    make, check = SIGNED[what]
    data = make()
    for size in range(len(data)):
        with pytest.raises(CryptoError):
            check(data[:size])
    with pytest.raises(CryptoError):
        check(data + b"\0")


@pytest.mark.parametrize("seq", range(10))
@pytest.mark.parametrize("part", ["sig", "pop"])
def test_every_bit_of_a_links_signatures_counts(seq: int, part: str) -> None:
    """Signature and proof of possession of every link in the story."""
    signed = story().signed[seq]
    before = story().chains[seq]
    proof = bytearray(getattr(signed, part))
    for bit in range(8 * len(proof)):
        proof[bit // 8] ^= 1 << bit % 8
        sig, pop = (bytes(proof), signed.pop) if part == "sig" else (signed.sig, bytes(proof))
        with pytest.raises(CryptoError):
            before.apply(SignedLink(signed.raw, sig, pop))
        proof[bit // 8] ^= 1 << bit % 8


KEY = b"\7" * 32
PARSERS: dict[str, Callable[[bytes], object]] = {
    "link": link.parse,
    "first link": lambda data: EMPTY.apply(SignedLink(data, bytes(64))),
    "next link": lambda data: story().chain.apply(SignedLink(data, bytes(64), bytes(64))),
    "link's sig": lambda data: EMPTY.apply(SignedLink(story().signed[0].raw, data)),
    "link's pop": lambda data: (
        story().chains[1].apply(SignedLink(story().signed[1].raw, story().signed[1].sig, data))
    ),
    "certificate": DeviceCert.decode,
    "op": op.parse,
    "op or stub": op.parse_any,
    "stub": op.parse_stub,
    "op's header": op.parse_header,
    "payload": op.decode_payload,
    "padding": padding.unpad,
    "request": request.parse,
    "receipt": lambda data: receipt.open_(data, KEY, nonce=bytes(16)),
    "checkpoint": Checkpoint.decode,
    "heads": lambda data: heads.decode_from(data, 0),
    "invite": Invite.decode,
    "m1": lambda data: pairing_keys().open_m1(data),
    "m2": lambda data: pairing_keys().open_m2(data),
    "m3": lambda data: pairing_keys().open_m3(data, bytes(32)),
    "sealed invite": lambda data: TypedInvite(bytes(16)).open(data),
    "token": lambda data: enrol.open_token(
        data, KEY, audience="a", genesis=LinkHash(bytes(32)), now_ms=0
    ),
    "name": names.check_name,
    "name's part": names.split_part,
    "account id": ids.AccountId.of,
    "device id": ids.DeviceId.of,
    "tag": ids.Tag.of,
    "identity": lambda data: Identity(data, data),
    "recipient": lambda data: Recipient(data).seal(b""),
    "low order": primitives.refuse_low_order,
    "sealed box": lambda data: Identity(KEY, KEY).open(data),
    "sealed box key": lambda data: primitives.seal_open(data, KEY, bytes(48)),
    "sealed box public key": lambda data: primitives.seal_open(KEY, data, bytes(48)),
    "aead": lambda data: primitives.aead_open(KEY, bytes(24), b"", data),
    "aead key": lambda data: primitives.aead_open(data, bytes(24), b"", bytes(16)),
    "aead nonce": lambda data: primitives.aead_open(KEY, data, b"", bytes(16)),
    "aead sealing key": lambda data: primitives.aead_seal(data, bytes(24), b"", b""),
    "aead sealing nonce": lambda data: primitives.aead_seal(KEY, data, b"", b""),
    "signature": lambda data: primitives.verify(KEY, b"pss1/test", b"", data),
    "verifying key": lambda data: primitives.verify(data, b"pss1/test", b"", bytes(64)),
    "signing key": lambda data: primitives.sign(data, b"pss1/test", b""),
    "seed": primitives.sign_keypair,
    "box key": primitives.box_public,
    "prf key": lambda data: primitives.prf(data, b"pss1/test", b""),
    "epoch key": lambda data: EpochKeys(story().chain.account, 1, data),
    "recovery secret": recovery.identity,
    "grant": open_grant,
}
NEVER = frozenset(
    {"link", "op", "op or stub", "stub", "request", "receipt", "checkpoint", "invite", "token"}
)
"""Of these, noise is never in form."""


def refused_or_taken(action: Callable[[], object]) -> bool:
    """Whether it was refused; any error but a CryptoError goes through."""
    try:
        action()
    except CryptoError:
        return True
    return False


@pytest.mark.parametrize("what", PARSERS)
def test_bytes_of_every_length_are_taken_or_refused(what: str) -> None:
    """Zeros and ones of every length from 0 to 700."""
    for size in range(700):
        for data in (bytes(size), b"\xff" * size):
            refused = refused_or_taken(lambda data=data: PARSERS[what](data))  # type: ignore[misc]
            assert refused or what not in NEVER


@pytest.mark.parametrize("what", PARSERS)
@settings(max_examples=60)
@given(data=st.binary(max_size=900))
def test_noise_is_taken_or_refused(what: str, data: bytes) -> None:
    """Random bytes of any length."""
    assert refused_or_taken(lambda: PARSERS[what](data)) or what not in NEVER


MAGICS = {
    "link": b"PSL1",
    "op": b"PSO1",
    "request": b"PSR1",
    "checkpoint": b"PSC1",
    "invite": b"PSP1",
}


@pytest.mark.parametrize("what", MAGICS)
@given(st.data())
def test_noise_behind_a_true_start_is_taken_or_refused(what: str, data: st.DataObject) -> None:
    """Magic, suite and type are right; the rest is random."""
    kind = bytes((data.draw(st.integers(0, 5)),))
    noise = data.draw(st.binary(max_size=700))
    refused_or_taken(lambda: PARSERS[what](MAGICS[what] + b"\1" + kind + noise))


@given(st.data())
def test_a_link_with_some_bytes_replaced_is_taken_or_refused(data: st.DataObject) -> None:
    """Splices into true links, also where no signature is checked yet."""
    raw = bytearray(story().signed[data.draw(st.integers(0, 9))].raw)
    at = data.draw(st.integers(0, len(raw) - 1))
    noise = data.draw(st.binary(min_size=1, max_size=40))
    raw[at : at + len(noise)] = noise
    refused_or_taken(lambda: link.parse(bytes(raw)))


@given(st.data())
def test_a_payload_with_some_bytes_replaced_is_taken_or_refused(data: st.DataObject) -> None:
    """What is decoded from an altered payload is encoded to the same bytes again."""
    name = data.draw(st.sampled_from(["A1", "B2", "A3", "A5"]))
    raw = bytearray(op.encode_payload(story().payloads[name]))
    at = data.draw(st.integers(0, len(raw) - 1))
    noise = data.draw(st.binary(min_size=1, max_size=20))
    raw[at : at + len(noise)] = noise
    try:
        payload = op.decode_payload(bytes(raw))
    except CryptoError:
        return
    assert op.encode_payload(payload) == bytes(raw)


TEXTS: dict[str, Callable[[str], object]] = {
    "invite": Invite.from_text,
    "typed invite": TypedInvite.from_text,
    "recovery key": recovery.from_paper,
    "base45": pairing.base45_decode,
    "base64url": pairing.base64url_decode,
    "method": lambda text: request.audience_hash(text),
}
ALPHABETS = st.one_of(
    st.text(max_size=80),
    st.text(alphabet=st.characters(), max_size=80),
    st.text(alphabet="ABCDEFGHIJKLMNOPQRSTUVWXYZ234567- ", min_size=20, max_size=45),
    st.text(alphabet="0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:", max_size=240),
    st.text(alphabet=st.characters(categories=["Cs", "Lu", "Nd"]), max_size=40),
)


@pytest.mark.parametrize("what", TEXTS)
@given(text=ALPHABETS)
def test_any_text_is_taken_or_refused(what: str, text: str) -> None:
    """What a person types or a camera reads, lone surrogates included."""
    refused_or_taken(lambda: TEXTS[what](text))
