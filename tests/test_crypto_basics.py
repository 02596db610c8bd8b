"""Primitives, ids, keys, certificates, epochs, names, padding and heads."""

from __future__ import annotations

import struct
from dataclasses import replace
from functools import cache
from hashlib import blake2b
from typing import Any

import pytest
from hypothesis import given, strategies as st
from nacl.signing import SigningKey

from crypto import heads, ids, labels, names, padding, primitives
from crypto.cert import CERT_BYTES, DeviceCert, Role
from crypto.epoch import EpochKeys, commitment
from crypto.errors import (
    ChainError,
    CryptoError,
    FormatError,
    OpenError,
    SignatureError,
)
from crypto.heads import Head
from crypto.ids import AccountId, DeviceId, Id, LinkHash, Nullifier, OpHash, ReportId, Tag
from crypto.keys import Identity, Recipient, device_id
from crypto.padding import BUCKETS

ID_TYPES = (AccountId, DeviceId, LinkHash, OpHash, Tag, ReportId, Nullifier)


@cache
def own() -> Identity:
    """Some device."""
    return Identity(b"\1" * 32, b"\2" * 32)


@cache
def keys(epoch: int = 1) -> EpochKeys:
    """Some epoch."""
    return EpochKeys(AccountId(bytes(32)), epoch, b"\3" * 32)


# --- primitives


@given(st.binary(max_size=300), st.integers(16, 64), st.binary(min_size=32, max_size=32))
def test_hash_and_prf_are_blake2b_behind_a_label(data: bytes, size: int, key: bytes) -> None:
    """H and PRF are plain BLAKE2b over u8 length, label, message."""
    prefixed = b"\x09pss1/test" + data
    expected = blake2b(prefixed, digest_size=size).digest()
    assert primitives.hash_(b"pss1/test", data, size) == expected
    keyed = blake2b(prefixed, digest_size=size, key=key).digest()
    assert primitives.prf(key, b"pss1/test", data, size) == keyed


def test_labels_can_be_told_apart() -> None:
    """Every label is ASCII, starts with pss1/, and no two objects share one."""
    every = [value for name, value in vars(labels).items() if name.isupper()]
    assert len(set(every)) == len(every)
    for label in every:
        assert label.isascii()
        assert label.startswith(b"pss1/")
        assert len(label) < 256


@given(st.binary(max_size=200))
def test_signatures_are_plain_ed25519_behind_a_label(data: bytes) -> None:
    """SIG is what any Ed25519 gives over label and message."""
    public, secret = primitives.sign_keypair(b"\1" * 32)
    sig = primitives.sign(secret, b"pss1/test", data)
    assert sig == SigningKey(b"\1" * 32).sign(b"\x09pss1/test" + data).signature
    primitives.verify(public, b"pss1/test", data, sig)
    with pytest.raises(SignatureError):
        primitives.verify(public, b"pss1/other", data, sig)


def test_verification_follows_libsodium() -> None:
    """S beyond the group order, small-order keys and non-canonical keys are refused."""
    public, secret = primitives.sign_keypair(b"\1" * 32)
    sig = primitives.sign(secret, b"pss1/test", b"")
    order = 2**252 + 27742317777372353535851937790883648493
    larger = (int.from_bytes(sig[32:], "little") + order).to_bytes(32, "little")
    small_orders = (
        b"\1" + bytes(31),
        bytes(32),
        b"\xec" + b"\xff" * 30 + b"\x7f",
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    )
    with pytest.raises(SignatureError):
        primitives.verify(public, b"pss1/test", b"", sig[:32] + larger)
    for point in small_orders:
        with pytest.raises(SignatureError):
            primitives.verify(point, b"pss1/test", b"", b"\1" + bytes(63))
    with pytest.raises(SignatureError):
        primitives.verify(b"\xee" + b"\xff" * 30 + b"\x7f", b"pss1/test", b"", sig)


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_aead_opens_what_it_sealed(plain: bytes, ad: bytes) -> None:
    """With the same key, nonce and associated data, and with no other."""
    key, nonce = b"\1" * 32, b"\2" * 24
    ct = primitives.aead_seal(key, nonce, ad, plain)
    assert primitives.aead_open(key, nonce, ad, ct) == plain
    for wrong in (
        (b"\3" * 32, nonce, ad, ct),
        (key, b"\3" * 24, ad, ct),
        (key, nonce, ad + b"x", ct),
        (key, nonce, ad, ct[:-1]),
    ):
        with pytest.raises(OpenError):
            primitives.aead_open(*wrong)


def test_a_field_of_bytes_is_never_filled_up() -> None:
    """`pack` refuses what `struct` would cut off or pad in silence."""
    form = struct.Struct(">4sI")
    assert primitives.pack(form, b"abcd", 1) == b"abcd\0\0\0\1"
    for values in ((b"abc", 1), (b"abcde", 1), (b"abcd", -1), (b"abcd", 1 << 32)):
        with pytest.raises(FormatError):
            primitives.pack(form, *values)


def test_one_family_of_errors() -> None:
    """Whoever catches CryptoError catches everything, and knows the rule."""
    for error in (FormatError("r", "m"), SignatureError("r", "m"), ChainError("r", "m")):
        assert isinstance(error, CryptoError)
        assert error.rule == "r"
        assert str(error) == "m [r]"
    assert isinstance(OpenError(), CryptoError)
    assert OpenError().rule == "open"


# --- ids and keys


@pytest.mark.parametrize("kind", ID_TYPES)
def test_an_id_is_bytes_of_one_length(kind: type[Id]) -> None:
    """It equals its bytes, and other lengths are refused."""
    raw = bytes(range(kind.size))
    assert kind.of(raw) == raw
    assert kind.of(kind(raw)) == raw
    for size in (0, kind.size - 1, kind.size + 1):
        with pytest.raises(FormatError):
            kind.of(bytes(size))


@pytest.mark.parametrize("kind", ID_TYPES)
def test_an_id_shows_only_its_start(kind: type[Id]) -> None:
    """repr, str and format tell two ids apart and don't fill a log."""
    made = kind(bytes(range(kind.size)))
    assert repr(made) == str(made) == f"{made}" == f"{kind.__name__}(00010203…)"


def test_ids_come_from_labelled_hashes() -> None:
    """A device id is not a plain hash of the key, and not its prefix."""
    assert device_id(own().ik_pk) == primitives.hash_(labels.DEVICE_ID, own().ik_pk, 16)
    assert device_id(own().ik_pk) != blake2b(own().ik_pk, digest_size=16).digest()
    assert own().device_id == device_id(own().ik_pk)


def test_a_new_box_key_keeps_the_device() -> None:
    """REBOX changes the box key only."""
    renewed = own().with_box_key(b"\x09" * 32)
    assert (renewed.device_id, renewed.ik_pk) == (own().device_id, own().ik_pk)
    assert renewed.box_pk != own().box_pk


@given(st.binary(max_size=300))
def test_a_recipient_seals_for_its_device(plain: bytes) -> None:
    """Only the device opens it, and each box is another."""
    recipient = Recipient(own().box_pk)
    first, second = recipient.seal(plain), recipient.seal(plain)
    assert first != second
    assert own().open(first) == own().open(second) == plain
    with pytest.raises(OpenError):
        own().with_box_key(b"\x09" * 32).open(first)


# --- certificates


def test_a_certificate_survives_encoding() -> None:
    """76 bytes, both roles, any generation."""
    for role in Role:
        cert = replace(DeviceCert.of(own(), role), box_gen=7)
        assert len(cert.encode()) == CERT_BYTES
        assert DeviceCert.decode(cert.encode()) == cert
        assert cert.device_id == own().device_id


@pytest.mark.parametrize("at", range(68, CERT_BYTES))
def test_no_byte_of_a_certificate_is_left_to_chance(at: int) -> None:
    """Role, KEM and reserved bytes have the values of today's suite or are refused."""
    raw = bytearray(DeviceCert.of(own()).encode())
    allowed = {1, 2} if at == 68 else {0}
    for value in range(256):
        raw[at] = value
        if value in allowed:
            DeviceCert.decode(bytes(raw))
        else:
            with pytest.raises(FormatError):
                DeviceCert.decode(bytes(raw))


# --- epochs


def test_three_keys_come_from_an_epoch_key() -> None:
    """They differ from each other, by epoch and by account."""
    made = [keys(1), keys(2), EpochKeys(AccountId(b"\1" * 32), 1, b"\3" * 32)]
    derived = [part for one in made for part in (one.record, one.tag, one.nonce, one.secret)]
    assert len(set(derived)) == 9 + 1
    assert keys().commitment == commitment(1, b"\3" * 32) != commitment(2, b"\3" * 32)


# --- names


@given(st.binary(max_size=140))
def test_names_are_a_short_alphabet(name: bytes) -> None:
    """1 to 128 of a-z 0-9 . _ / - and nothing else: no question of Unicode."""
    fine = 1 <= len(name) <= 128 and set(name) <= set(b"abcdefghijklmnopqrstuvwxyz0123456789._/-")
    if fine:
        assert names.check_name(name) == name
    else:
        with pytest.raises(FormatError):
            names.check_name(name)


@pytest.mark.parametrize("odd", [b"a\n", b"a\0", b" a", b"A", b"\xc3\xa9", b"a#1", b""])
def test_odd_names_are_refused(odd: bytes) -> None:
    """A newline at the end, zero bytes, capitals, UTF-8 and '#' included."""
    with pytest.raises(FormatError):
        names.check_name(odd)


@pytest.mark.parametrize("odd", [b"k#255", b"k#01", b"k#", b"#1", b"k#-1", b"k#1#2", b"k#1\n"])
def test_odd_parts_of_scores_are_refused(odd: bytes) -> None:
    """One name for one part: no leading zeros, no device that can't be."""
    with pytest.raises(FormatError):
        names.split_part(odd)


def test_tags_dont_slide_between_collection_and_key() -> None:
    """Lengths are hashed too, so that ("ui", "theme") is not ("u", "itheme")."""
    assert names.tag(keys(), b"ui", b"theme") != names.tag(keys(), b"u", b"itheme")
    assert names.tag(keys(1), b"ui", b"theme") == names.tag(keys(1), b"ui", b"theme")
    assert names.tag(keys(1), b"ui", b"theme") != names.tag(keys(2), b"ui", b"theme")


# --- padding


@given(st.binary(max_size=5000))
def test_padding_comes_off_again(plain: bytes) -> None:
    """Into the smallest bucket that holds it, and out of it."""
    padded = padding.pad(plain)
    assert len(padded) == min(size for size in BUCKETS if size >= len(plain) + 4)
    assert padding.unpad(padded) == plain


@given(st.integers(1, 251), st.integers(1, 255), st.data())
def test_padding_is_zero(size: int, value: int, data: st.DataObject) -> None:
    """One byte set behind the payload, anywhere, is refused."""
    padded = bytearray(padding.pad(bytes(size)))
    padded[data.draw(st.integers(4 + size, 255))] = value
    with pytest.raises(FormatError, match="padding"):
        padding.unpad(bytes(padded))


# --- heads

rows = st.dictionaries(st.integers(0, 254), st.integers(1, 2**64 - 1), max_size=255).map(
    lambda found: [Head(at, seq, OpHash(bytes((at,)) * 32)) for at, seq in found.items()]
)


@given(rows, st.randoms(use_true_random=False))
def test_heads_have_one_encoding(found: list[Head], draws: Any) -> None:
    """Whatever their order, the bytes and the digest are the same, and decode again."""
    shuffled = list(found)
    draws.shuffle(shuffled)
    assert heads.encode(found) == heads.encode(shuffled)
    assert heads.digest(found) == heads.digest(shuffled)
    raw = b"xx" + heads.encode(found)
    assert heads.decode_from(raw, 2) == (tuple(sorted(found)), len(raw))


def test_impossible_heads_are_refused() -> None:
    """A device twice, seq 0, or an index that no device has."""
    one = Head(0, 1, OpHash(bytes(32)))
    for bad in ([one, one], [one._replace(seq=0)], [one._replace(device_index=255)]):
        with pytest.raises(FormatError):
            heads.encode(bad)


def test_heads_that_cant_be_encoded_cant_be_decoded() -> None:
    """seq 0 is refused on the way in as well."""
    with pytest.raises(FormatError):
        heads.decode_from(b"\1\0" + bytes(8) + bytes(32), 0)


def test_ids_module_names_all_types() -> None:
    """Nothing in crypto/ids.py is left out of these tests."""
    found = {kind for kind in vars(ids).values() if isinstance(kind, type) and issubclass(kind, Id)}
    assert found - {Id} == set(ID_TYPES)
