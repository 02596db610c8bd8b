"""What broke elsewhere ("Cryptography and membership" of the design's list), and holds here.

A test a row, named for it; its docstring quotes the row and the rule that it gave.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.integrity import State, Verdict, judge
from client.vectors.sealed import seal_with
from crypto import enrol, grant, labels, link, names, op, primitives, request
from crypto.cert import DeviceCert
from crypto.epoch import EpochKeys
from crypto.errors import ChainError, CryptoError, FormatError, OpenError, SignatureError
from crypto.grant import SealedGrant
from crypto.ids import AccountId, DeviceId, LinkHash, OpHash, Tag
from crypto.keys import Identity
from crypto.link import SignedLink
from crypto.padding import pad
from crypto.pairing import Invite, PairingKeys
from crypto.primitives import sign_keypair
from crypto.request import CallKind
from tests.vectors.badlinks import Builder, ghost
from tests.vectors.badops import forge, put, signed, split
from tests.vectors.story import grant_plain, seeded, story

ROOT = Path(__file__).resolve().parent.parent


def sources(*packages: str) -> list[Path]:
    """The Python files of some packages."""
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def test_a_device_id_taken_for_a_key_id() -> None:
    """Matrix, CVE-2022-39250, "a device id taken for a key id": ids are label-typed hashes
    and distinct types; a test feeds one where another is due."""
    kinds = (AccountId, DeviceId, LinkHash, OpHash, Tag)
    for due in kinds:
        for given in kinds:
            if given is not due:
                with pytest.raises(FormatError, match=r"id-type|length"):
                    due.of(given(bytes(given.size)))
    own: Any = story().people["A"]
    wrong: Any = Tag(bytes(16))
    other: Any = OpHash(bytes(32))
    attempts: list[Callable[[], object]] = [
        lambda: op.init_hash(story().chain.account, wrong),
        lambda: op.init_hash(other, own.device_id),
        lambda: names.control_tag(story().keys[1], wrong),
        lambda: EpochKeys(other, 1, bytes(32)),
        lambda: enrol.check_work(other, 0, 0, 1),
        lambda: grant.digest([SealedGrant(wrong, 1, bytes(292))]),
    ]
    for attempt in attempts:
        with pytest.raises(FormatError, match="id-type"):
            attempt()
    key = seeded("one input")
    found = [value for name, value in vars(labels).items() if name.isupper()]
    assert len({primitives.hash_(label, key, 16) for label in found}) == len(found)


SIGNED_LABELS = (
    labels.LINK,
    labels.LINK_POP,
    labels.GRANT,
    labels.OP,
    labels.REQUEST,
    labels.RECEIPT,
    labels.RECEIPT_DELETED,
    labels.ENROL_TOKEN,
)


@pytest.mark.parametrize("label", SIGNED_LABELS, ids=bytes.decode)
def test_a_message_from_another_protocols_channel(label: bytes) -> None:
    """Matrix, CVE-2022-39251, "message accepted from another protocol's channel": a label per
    object; cross-label signatures refused."""
    own = story().people["A"]
    public, secret = sign_keypair(own.ik_seed)
    for other in SIGNED_LABELS:
        if other != label:
            with pytest.raises(SignatureError):
                primitives.verify(public, label, b"bytes", primitives.sign(secret, other, b"bytes"))
    header, ct, _ = split(story().ops["A1"])
    raw = b"".join(signed(own, header, ct, label))
    if label != labels.OP:
        with pytest.raises(SignatureError):
            op.verify(op.parse(raw), own.ik_pk)
    if label != labels.LINK:
        true = story().signed[4]
        with pytest.raises(SignatureError):
            story().chains[4].apply(replace(true, sig=own.sign(label, true.raw)))


def _grant_for_c(sender: Identity, keys: EpochKeys, seq: int = 5) -> bytes:
    own = story().people["C"]
    plain = grant_plain(
        sender,
        own.device_id,
        own.box_pk,
        keys,
        link_seq=seq,
        link_prev=story().chains[seq].head,
    )
    return seal_with(seeded("esk"), own.box_pk, plain)


def test_unrequested_key_forwards() -> None:
    """Matrix, CVE-2022-39246/39257, "unrequested key forwards accepted": a grant is taken only
    with its link and only if the key matches the commitment."""
    own, parsed = story().people["C"], link.parse(story().signed[5].raw)
    after = story().chains[6]
    adder, other, keys = story().people["B"], story().people["A"], story().keys[2]
    assert grant.open_(own, _grant_for_c(adder, keys), parsed, after).secret == keys.secret
    another_key = EpochKeys(keys.account_id, 2, seeded("another key"))
    for bad in (
        _grant_for_c(other, keys),  # a member, but not the one whose link it came with
        _grant_for_c(adder, another_key),  # the right member with another key
        _grant_for_c(adder, keys, seq=4),  # the right key for another link
    ):
        with pytest.raises((ChainError, SignatureError)):
            grant.open_(own, bad, parsed, after)


def test_a_ghost_device() -> None:
    """WhatsApp, Matrix groups, "the server controls membership": device chain; ghost-device
    test."""
    stranger = ghost()
    b = Builder(story(), 5)
    with pytest.raises(ChainError, match="signer"):
        b.chain.apply(b.add(stranger, stranger))
    true = b.add(story().people["A"], stranger)
    forged = replace(true, sig=stranger.sign(labels.LINK, true.raw))
    with pytest.raises(SignatureError):  # the service names a member as signer
        b.chain.apply(forged)
    with pytest.raises(SignatureError):  # a member adds a key that its owner doesn't prove
        b.chain.apply(replace(true, pop=bytes(64)))
    written = op.seal(
        stranger,
        story().keys[1],
        story().payloads["A1"],
        dev_seq=1,
        prev=op.init_hash(story().chain.account, stranger.device_id),
        lamport=1,
        rand=seeded("ghost op"),
    )
    state = State(story().chains[4], story().keys)
    assert judge(written.raw, state).verdict is Verdict.REJECT


def test_fields_swapped_between_ciphertexts() -> None:
    """Password managers (2026 studies), "fields swapped between ciphertexts; enrolment into an
    attacker's key; downgrade to legacy modes": header bound into key and AD, name in the
    plaintext equals the tag; no public key is ever taken from the server unsigned; unknown
    suite refused, no fallback."""
    own, keys = story().people["A"], story().keys[1]
    header, ct, _ = split(story().ops["A1"])
    other_header, other_ct, _ = split(story().ops["A3"])
    for parts in ((header, other_ct), (other_header, ct)):
        swapped = op.parse(b"".join(signed(own, *parts)))
        with pytest.raises(OpenError):
            op.open_(swapped, keys)
    wrong_name = put(header, tag=bytes(names.tag(keys, b"ui", b"other")))
    padded = pad(op.encode_payload(story().payloads["A1"]), 512)
    with pytest.raises(FormatError, match="tag"):
        op.open_(op.parse(b"".join(forge(own, keys, wrong_name, padded))), keys)


def test_enrolment_into_an_attackers_key() -> None:
    """Password managers (2026 studies), the same row: every box key that is sealed to stands
    in a signed link; one bit of it changed is noticed."""
    true = story().signed[1]
    raw = bytearray(true.raw)
    raw[128:160] = ghost().box_pk
    with pytest.raises(SignatureError):
        story().chains[1].apply(replace(true, raw=bytes(raw)))
    rebox = story().signed[3]
    raw = bytearray(rebox.raw)
    raw[96:128] = ghost().box_pk
    with pytest.raises(SignatureError):
        story().chains[3].apply(SignedLink(bytes(raw), rebox.sig))


@pytest.mark.parametrize("suite", [0, 2, 255])
def test_an_unknown_suite(suite: int) -> None:
    """Password managers (2026 studies), the same row: unknown suite refused, no fallback."""

    def other(raw: bytes) -> bytes:
        return raw[:4] + bytes((suite,)) + raw[5:]

    auth = request.sign(
        story().people["A"],
        kind=CallKind.UNARY,
        method="/m",
        audience="a",
        account_id=story().chain.account,
        ts_ms=1,
        nonce=bytes(16),
        payload=b"",
    )
    for attempt in (
        lambda: link.parse(other(story().signed[0].raw)),
        lambda: op.parse(other(story().ops["A1"].raw)),
        lambda: op.parse_stub(other(story().ops["A1"].stub)),
        lambda: request.parse(other(auth)),
    ):
        with pytest.raises(FormatError):
            attempt()


def test_unauthenticated_keys_and_error_oracles() -> None:
    """E2EE cloud storage in the wild (2024), Nextcloud, MEGA, "unauthenticated keys and files,
    error oracles": every key committed in a signed chain; one error for all open failures."""
    assert {1, 2, 3, 4} == set(story().chain.commits)
    for epoch, keys in story().keys.items():
        assert story().chain.commits[epoch] == keys.commitment
    own, keys = story().people["A"], story().keys[1]
    header, ct, _ = split(story().ops["A1"])
    bad = [
        op.parse(b"".join(signed(own, put(header, kc=bytes(32)), ct))),
        op.parse(b"".join(signed(own, header, bytes(len(ct))))),
        op.parse(b"".join(signed(own, put(header, nonce=bytes(24)), ct))),
    ]
    texts = set()
    for sealed in bad:
        with pytest.raises(OpenError) as caught:
            op.open_(sealed, keys)
        texts.add(repr(caught.value))
    with pytest.raises(OpenError) as caught:
        own.open(bytes(292))
    texts.add(repr(caught.value))
    with pytest.raises(OpenError) as caught:
        primitives.aead_open(bytes(32), bytes(24), b"", b"short")
    texts.add(repr(caught.value))
    assert len(texts) == 1


def test_one_key_in_two_protocols() -> None:
    """Threema, Telegram (2022-23), "one key in two protocols, replay, reorder, compression leak,
    timing before MAC check": separate keys, op chain, gRPC compression off, signature before
    decryption."""
    for name, own in story().people.items():
        row = story().devices[name]
        every = [value for field, value in row.items() if field != "device_id"]
        assert len(set(every)) == len(every)
        assert own.ik_pk != own.box_pk
    keys = story().keys[1]
    assert len({keys.record, keys.tag, keys.nonce, keys.secret}) == 4
    state = State(story().chains[4], {})  # no epoch key is at hand: nothing can be decrypted
    flipped = story().ops["A1"].raw[:-1] + b"\0"
    assert judge(flipped, state).rule == "signature"
    assert judge(story().ops["A1"].raw, state).rule == "key"
    assert judge(story().ops["A2"].raw, state).verdict is Verdict.HOLD  # reordered


def test_compression_stays_off() -> None:
    """Threema, Telegram (2022-23), the same row: no gRPC compression is ever switched on."""
    switched_on = re.compile(r"Compression\.(Gzip|Deflate)|import (zlib|gzip|lzma|bz2)")
    for path in sources("crypto", "client", "services"):
        assert not switched_on.search(path.read_text()), path


def test_a_stolen_ciphertext_re_attributed() -> None:
    """iMessage 2016, "signature stripped and replaced": author inside the key derivation;
    "stolen ciphertext re-attributed" fails."""
    thief, keys = story().people["B"], story().keys[1]
    header, ct, _ = split(story().ops["A1"])
    with pytest.raises(SignatureError):
        op.verify(op.parse(b"".join(signed(thief, header, ct))), story().people["A"].ik_pk)
    init = bytes(op.init_hash(story().chain.account, thief.device_id))
    stolen = op.parse(
        b"".join(signed(thief, put(header, device=bytes(thief.device_id), prev=init), ct))
    )
    op.verify(stolen, thief.ik_pk)
    with pytest.raises(OpenError):
        op.open_(stolen, keys)


def test_the_victim_scans_an_attackers_code() -> None:
    """Signal and WhatsApp QR phishing (2023-26), "the victim scans an attacker's code": the
    existing device shows the QR, the code is typed on it, all devices announce a new one."""
    chain = story().chain
    fields = {"account_id", "inviter", "rendezvous", "secret"}
    shown = Invite(
        chain.account,
        chain.devices[0].device_id,
        seeded("r", 16),
        seeded("s"),
        1,
        chain.seq,
        chain.head,
    )
    # It says what the existing device invites to, and holds nothing of a device to be let in.
    assert fields <= set(Invite.__dataclass_fields__)
    assert story().people["C"].ik_pk not in shown.encode()
    keys = PairingKeys(shown)
    m1 = keys.seal_m1(DeviceCert.of(ghost()), seeded("n"), aead_nonce=bytes(24))
    _, committed = keys.open_m1(m1)
    # Who has stolen the QR sees E's nonce, and grinds one of its own for the code it wants.
    wanted = keys.code(m1, seeded("e"), seeded("n"))
    found = next(
        nonce
        for nonce in (seeded(f"grind {at}") for at in range(10_000))
        if keys.code(m1, seeded("e"), nonce)[:2] == wanted[:2]
    )
    m3 = keys.seal_m3(found, bytes(64), aead_nonce=bytes(24))
    with pytest.raises(SignatureError, match="pair-commit"):
        keys.open_m3(m3, committed)
    assert all(chain.find(device.added_by) for device in chain.devices)


def test_a_cloned_device_goes_unseen() -> None:
    """Signal clone detection (2020), "a cloned device goes unseen": one dev_seq, two hashes:
    DEVICE_FORKED."""
    state = State(story().chains[4], story().keys)
    from client.integrity import apply

    apply(judge(story().ops["A1"].raw, state), state)
    clone = op.seal(
        story().people["A"],
        story().keys[1],
        replace(story().payloads["A1"], value=b"by the clone"),
        dev_seq=1,
        prev=story().ops["A1"].header.prev,
        lamport=1,
        rand=seeded("clone"),
    )
    verdict = judge(clone.raw, state)
    assert verdict.verdict is Verdict.FORK
    assert clone.op_hash != story().ops["A1"].op_hash


def test_plaintext_names() -> None:
    """LastPass 2022, "plaintext names": no plaintext names anywhere."""
    for sealed in story().ops.values():
        for name in (b"theme", b"palette", b"genre", b"music", b"jazz"):
            assert name not in sealed.raw
            assert name not in sealed.stub
    tags = {names.tag(keys, b"ui", b"theme") for keys in story().keys.values()}
    assert len(tags) == len(story().keys)  # another one in each epoch
    assert "theme" not in repr(story().payloads["A1"])


def test_hashed_phone_numbers_reversed() -> None:
    """Contact discovery (NDSS 2021), "hashed phone numbers reversed": no hash of e-mail or
    phone anywhere; identifiers are hashes of random keys, salted per account and epoch."""
    number = "+15550100"
    subject = enrol.subject(seeded("salt"), number)
    guesses = {primitives.hash_(labels.SUBJECT, guess.encode()) for guess in (number, number[1:])}
    assert subject not in guesses
    with pytest.raises(CryptoError):
        enrol.subject(b"", number)
    assert enrol.subject(seeded("another salt"), number) != subject
    for path in sources("crypto"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.arg):
                assert not re.search(r"e?mail|phone", node.arg), path
