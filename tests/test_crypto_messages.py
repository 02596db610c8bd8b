"""Requests, receipts, checkpoints, pairing, recovery keys and enrolment."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings, strategies as st

from crypto import enrol, pairing, receipt, recovery, request
from crypto.cert import DeviceCert
from crypto.checkpoint import Checkpoint, state_hash
from crypto.enrol import Token, TokenKey
from crypto.errors import CryptoError, FormatError, OpenError, SignatureError
from crypto.heads import Head
from crypto.ids import AccountId, DeviceId, LinkHash, OpHash, Tag
from crypto.keys import Identity
from crypto.link import ADD_BYTES
from crypto.pairing import Invite, PairingKeys, TypedInvite, base45_decode, base45_encode
from crypto.receipt import Receipt, ServerKey
from crypto.request import CallKind, RequestAuth

METHOD, AUDIENCE = "/rookery.v1.Sync/Push", "sync.example.org"
ACCOUNT = AccountId(b"\1" * 32)


@cache
def own() -> Identity:
    """Some device."""
    return Identity(b"\1" * 32, b"\2" * 32)


# --- requests


def signed(
    kind: CallKind = CallKind.UNARY,
    method: str = METHOD,
    audience: str = AUDIENCE,
    payload: bytes = b"payload",
) -> RequestAuth:
    """A parsed request of ours."""
    return request.parse(
        request.sign(
            own(),
            kind=kind,
            method=method,
            audience=audience,
            account_id=ACCOUNT,
            ts_ms=5,
            nonce=b"\3" * 16,
            payload=payload,
        )
    )


def test_a_request_says_who_what_when_and_to_whom() -> None:
    """208 bytes from which the service reads everything that it checks."""
    auth = signed()
    assert len(auth.raw) == request.AUTH_BYTES == 208
    assert (auth.account_id, auth.device_id) == (ACCOUNT, own().device_id)
    assert (auth.ts_ms, auth.nonce, auth.kind) == (5, b"\3" * 16, CallKind.UNARY)
    request.check_context(auth, kind=CallKind.UNARY, method=METHOD, audience=AUDIENCE)
    request.verify(auth, own().ik_pk, b"payload")


@pytest.mark.parametrize(
    "auth",
    [
        signed(method="/rookery.v1.Sync/Pull"),
        signed(audience="sync.example.net"),
        signed(kind=CallKind.STREAM),
    ],
    ids=["method", "audience", "kind of call"],
)
def test_a_request_counts_for_one_call_only(auth: RequestAuth) -> None:
    """Replayed to another method, deployment or kind of call it is refused."""
    with pytest.raises(SignatureError, match="context"):
        request.check_context(auth, kind=CallKind.UNARY, method=METHOD, audience=AUDIENCE)


@given(st.binary(max_size=100).filter(lambda data: data != b"payload"))
def test_a_request_counts_for_its_very_bytes(payload: bytes) -> None:
    """A message that a proxy changed or re-serialised doesn't match."""
    with pytest.raises(SignatureError, match="body"):
        request.verify(signed(), own().ik_pk, payload)


def test_a_request_of_another_device_is_refused() -> None:
    """The signature is checked under the device's own key."""
    other = Identity(b"\4" * 32, b"\5" * 32)
    with pytest.raises(SignatureError):
        request.verify(signed(), other.ik_pk, b"payload")


@pytest.mark.parametrize("at", [0, 4, 5, 6, 7])
def test_an_unknown_form_of_request_is_refused(at: int) -> None:
    """Magic, suite, kind and flags are exact."""
    raw = bytearray(signed().raw)
    raw[at] ^= 0x80
    with pytest.raises(FormatError):
        request.parse(bytes(raw))


# --- receipts


@cache
def server() -> ServerKey:
    """Some service."""
    return ServerKey(b"\6" * 32)


STATED = Receipt(ACCOUNT, 3, LinkHash(b"\7" * 32), b"\x08" * 32, 9, b"\3" * 16)


@pytest.mark.parametrize("deleted", [False, True])
def test_a_receipt_opens_under_the_pinned_key(deleted: bool) -> None:
    """200 bytes, and what was stated comes out."""
    data = server().sign(STATED, deleted=deleted)
    opened = receipt.open_(data, server().public, nonce=STATED.nonce, deleted=deleted)
    assert len(data) == receipt.RECEIPT_BYTES == 200
    assert opened == STATED


def test_a_receipt_of_deletion_is_no_other_receipt() -> None:
    """Neither can be shown in the other's place: labels differ."""
    for deleted in (False, True):
        data = server().sign(STATED, deleted=deleted)
        with pytest.raises(SignatureError):
            receipt.open_(data, server().public, nonce=STATED.nonce, deleted=not deleted)


def test_a_receipt_answers_one_request() -> None:
    """An old receipt doesn't pass for today's."""
    with pytest.raises(FormatError, match="nonce"):
        receipt.open_(server().sign(STATED), server().public, nonce=bytes(16))


def test_a_receipt_by_another_server_is_refused() -> None:
    """The key is pinned in the client."""
    other = ServerKey(b"\7" * 32)
    with pytest.raises(SignatureError):
        receipt.open_(other.sign(STATED), server().public, nonce=STATED.nonce)


# --- checkpoints

held_heads = st.dictionaries(st.integers(0, 254), st.integers(1, 2**64 - 1), max_size=20).map(
    lambda rows: tuple(sorted(Head(at, seq, OpHash(bytes(32))) for at, seq in rows.items()))
)


@given(held_heads, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_checkpoint_survives_encoding(held: tuple[Head, ...], epoch: int, count: int) -> None:
    """Heads, count and state hash come out as they went in."""
    value = Checkpoint(epoch, held, count, bytes(32))
    assert Checkpoint.decode(value.encode()) == value


def test_the_state_hash_knows_no_order() -> None:
    """It is over the sorted rows; one other winner gives another hash."""
    rows = [(Tag(bytes((at,)) * 16), OpHash(bytes((9 - at,)) * 32)) for at in range(5)]
    assert state_hash(rows) == state_hash(reversed(rows))
    assert state_hash(rows)[0] == 5
    assert state_hash(rows) != state_hash([*rows[:-1], (rows[-1][0], OpHash(bytes(32)))])


# --- pairing

INVITE = Invite(
    ACCOUNT, DeviceId(b"\2" * 16), b"\3" * 16, b"\4" * 32, 300_000, 7, LinkHash(b"\5" * 32)
)
N_NONCE, E_NONCE, LINK, POP = b"\6" * 32, b"\7" * 32, b"l" * ADD_BYTES, b"\x08" * 64
POLICY_KEYS = (b"\x09" * 32, b"\x0a" * 32)


def transcript(keys: PairingKeys) -> tuple[bytes, bytes, bytes]:
    """M1, M2, M3."""
    nonces = (bytes((at,)) * 24 for at in itertools.count())
    return (
        keys.seal_m1(DeviceCert.of(own()), N_NONCE, aead_nonce=next(nonces)),
        keys.seal_m2(E_NONCE, LINK, aead_nonce=next(nonces)),
        keys.seal_m3(N_NONCE, POP, aead_nonce=next(nonces)),
    )


def test_pairing_goes_through() -> None:
    """Both sides, each with keys made from the QR alone, read each other and see one code."""
    new, existing = PairingKeys(Invite.from_text(INVITE.text())), PairingKeys(INVITE)
    m1, m2, m3 = transcript(new)
    cert, committed = existing.open_m1(m1)
    assert cert == DeviceCert.of(own())
    assert new.open_m2(m2) == (E_NONCE, LINK, ())
    assert existing.open_m3(m3, committed) == (N_NONCE, POP)
    code = new.code(m1, E_NONCE, N_NONCE)
    assert code == existing.code(m1, E_NONCE, N_NONCE)
    assert len(code) == 6
    assert code.isdigit()


@pytest.mark.parametrize(
    "other",
    [
        replace(INVITE, secret=bytes(32)),
        replace(INVITE, rendezvous=bytes(16)),
        replace(INVITE, account_id=AccountId(bytes(32))),
        replace(INVITE, inviter=DeviceId(bytes(16))),
        replace(INVITE, expiry_ms=1),
    ],
    ids=["secret", "rendezvous", "account", "inviter", "expiry"],
)
def test_pairing_is_bound_to_the_whole_invite(other: Invite) -> None:
    """A message made for an invite that differs in one field doesn't open."""
    m1, m2, m3 = transcript(PairingKeys(other))
    keys = PairingKeys(INVITE)
    for attempt in (
        lambda: keys.open_m1(m1),
        lambda: keys.open_m2(m2),
        lambda: keys.open_m3(m3, pairing.commitment(N_NONCE)),
    ):
        with pytest.raises(OpenError):
            attempt()


def test_messages_cant_stand_in_for_each_other() -> None:
    """Neither reflected to its sender nor replayed as another message."""
    keys = PairingKeys(INVITE)
    m1, m2, m3 = transcript(keys)
    for bad in (m2, m3):
        with pytest.raises(OpenError):
            keys.open_m1(bad)
    for bad in (m1, m3):
        with pytest.raises(OpenError):
            keys.open_m2(bad)
    for bad in (m1, m2):
        with pytest.raises(OpenError):
            keys.open_m3(bad, pairing.commitment(N_NONCE))


def test_the_code_is_bound_to_everything() -> None:
    """Another M1, nonce of either side or secret gives another code (here: these do)."""
    keys = PairingKeys(INVITE)
    m1, m2, _ = transcript(keys)
    codes = {
        keys.code(m1, E_NONCE, N_NONCE),
        keys.code(m2, E_NONCE, N_NONCE),
        keys.code(m1, bytes(32), N_NONCE),
        keys.code(m1, E_NONCE, bytes(32)),
        PairingKeys(replace(INVITE, secret=bytes(32))).code(m1, E_NONCE, N_NONCE),
    }
    assert len(codes) == 5


def test_the_new_device_is_told_the_policy_and_the_code_is_bound_to_it() -> None:
    """Other keys, or none, give other digits; what is no list of keys is refused. Without keys
    the message is what it was before there were policies."""
    keys = PairingKeys(INVITE)
    m1, m2, _ = transcript(keys)
    governed = keys.seal_m2(E_NONCE, LINK, policy_keys=POLICY_KEYS, aead_nonce=bytes((1,)) * 24)
    assert keys.open_m2(governed) == (E_NONCE, LINK, POLICY_KEYS)
    assert len(governed) == len(m2) + 5 + 64
    said = ((), POLICY_KEYS, POLICY_KEYS[::-1], POLICY_KEYS[:1])
    assert len({keys.code(m1, E_NONCE, N_NONCE, one) for one in said}) == 4
    assert POLICY_KEYS[0].hex() not in repr(keys.open_m2(governed))
    for bad in ([b"short"], [bytes(32)] * 2, [bytes((at,)) * 32 for at in range(5)]):
        with pytest.raises(FormatError):
            keys.seal_m2(E_NONCE, LINK, policy_keys=bad, aead_nonce=bytes(24))


def test_a_nonce_that_was_not_committed_to_is_refused() -> None:
    """Who holds the QR can't choose a nonce after seeing E's, to match six digits."""
    keys = PairingKeys(INVITE)
    m3 = keys.seal_m3(bytes(32), POP, aead_nonce=bytes(24))
    with pytest.raises(SignatureError, match="pair-commit"):
        keys.open_m3(m3, pairing.commitment(N_NONCE))


def test_a_refusal_counts_for_one_pairing() -> None:
    """It opens with the keys of its QR, whose mailbox it lies in, and is no other message."""
    keys, other = PairingKeys(INVITE), PairingKeys(replace(INVITE, secret=bytes(32)))
    refusal = keys.seal_refusal(aead_nonce=bytes(24))
    keys.open_refusal(refusal)
    with pytest.raises(OpenError):
        other.open_refusal(refusal)
    with pytest.raises(OpenError):
        keys.open_refusal(keys.seal_m2(bytes(32), b"", aead_nonce=bytes(24)))
    assert keys.refusal_rendezvous not in (INVITE.rendezvous, other.refusal_rendezvous)


def test_an_invite_reads_in_both_alphabets() -> None:
    """Base45 from the QR, base64url from a link, with blanks around."""
    import base64

    text = base64.urlsafe_b64encode(INVITE.encode()).decode().rstrip("=")
    assert Invite.from_text(INVITE.text()) == Invite.from_text(f" {text}\n") == INVITE
    assert len(INVITE.encode()) == pairing.INVITE_BYTES == 149


@given(st.binary(max_size=200))
def test_base45_is_that_of_the_rfc(data: bytes) -> None:
    """Encoding and decoding are inverse; RFC 9285's examples come out."""
    assert base45_decode(base45_encode(data)) == data
    assert base45_encode(b"AB") == "BB8"
    assert base45_encode(b"Hello!!") == "%69 VD92EX0"
    assert base45_encode(b"base-45") == "UJCLQE7W581"


@pytest.mark.parametrize("bad", ["A", "AAAA", ":::", "GGW", "aa", "é0", "::"])
def test_base45_that_isnt_is_refused(bad: str) -> None:
    """A single character left over, values beyond two bytes, other alphabets."""
    with pytest.raises(FormatError):
        base45_decode(bad)


@settings(max_examples=30)
@given(st.binary(min_size=16, max_size=16))
def test_the_typed_fallback_carries_the_invite(secret: bytes) -> None:
    """26 characters, in any case and grouping, name the mailbox and open what is in it."""
    typed = TypedInvite(secret)
    again = TypedInvite.from_text(typed.text.lower().replace(" ", "-"))
    assert len(typed.text.replace(" ", "")) == pairing.TYPED_CHARS
    assert again.rendezvous == typed.rendezvous
    message = typed.seal(INVITE, aead_nonce=bytes(24))
    assert again.open(message) == INVITE
    with pytest.raises(OpenError):
        TypedInvite(bytes(b ^ 1 for b in secret)).open(message)
    assert typed.rendezvous not in secret


# --- recovery


@given(st.binary(min_size=20, max_size=20), st.data())
def test_a_recovery_key_is_read_back_or_refused(secret: bytes, data: st.DataObject) -> None:
    """Typed right it gives the secret; one letter wrong is noticed, but for 1 in 2^20."""
    paper = recovery.to_paper(secret)
    assert recovery.from_paper(paper) == recovery.from_paper(paper.lower().replace("-", " "))
    assert recovery.from_paper(paper) == secret
    at = data.draw(st.sampled_from([i for i, char in enumerate(paper) if char != "-"]))
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".replace(paper[at], "")
    wrong = paper[:at] + data.draw(st.sampled_from(letters)) + paper[at + 1 :]
    with contextlib.suppress(FormatError):
        assert recovery.from_paper(wrong) != secret


def test_a_recovery_key_is_a_device() -> None:
    """The same paper gives the same keys everywhere, and other paper others."""
    first, again = recovery.identity(b"\1" * 20), recovery.identity(b"\1" * 20)
    assert (first.ik_seed, first.box_sk) == (again.ik_seed, again.box_sk)
    assert first.ik_seed != first.box_sk
    assert recovery.identity(b"\2" * 20).device_id != first.device_id


# --- enrolment

GENESIS = LinkHash(b"\1" * 32)


@pytest.mark.parametrize("bits", [0, 1, 8, 12])
def test_work_is_found_and_checked(bits: int) -> None:
    """The counter found is a proof for this account and hour, and no other."""
    counter = next(got for got in enrol.prove_work(GENESIS, 5, bits) if got is not None)
    enrol.check_work(GENESIS, 5, counter, bits)
    if bits == 12:
        for genesis, hour, found in (
            (LinkHash(bytes(32)), 5, counter),
            (GENESIS, 6, counter),
            (GENESIS, 5, counter + 1),
        ):
            with pytest.raises(SignatureError, match="proof-of-work"):
                enrol.check_work(genesis, hour, found, bits)


def test_the_search_for_work_can_be_left() -> None:
    """It yields between chunks, so that nobody waits for an impossible one."""
    search = enrol.prove_work(GENESIS, 5, 256)
    assert [next(search), next(search)] == [None, None]


def token(key: TokenKey, **other: object) -> bytes:
    """A token for our account."""
    return key.issue(replace(Token(GENESIS, b"\2" * 32, 100), **other), AUDIENCE)  # type: ignore[arg-type]


def test_a_token_vouches_for_one_account_until_it_expires() -> None:
    """The subject comes out; another deployment, account, issuer or moment is refused."""
    key, other = TokenKey(b"\1" * 32), TokenKey(b"\2" * 32)

    def opened(
        data: bytes,
        issuer: bytes = key.public,
        audience: str = AUDIENCE,
        genesis: LinkHash = GENESIS,
        now_ms: int = 99,
    ) -> Token:
        return enrol.open_token(data, issuer, audience=audience, genesis=genesis, now_ms=now_ms)

    data = token(key)
    assert len(data) == enrol.TOKEN_BYTES == 160
    assert opened(data) == Token(GENESIS, b"\2" * 32, 100)
    with pytest.raises(SignatureError):
        opened(data, audience="elsewhere")
    with pytest.raises(SignatureError):
        opened(data, genesis=LinkHash(bytes(32)))
    with pytest.raises(SignatureError, match="token-expired"):
        opened(data, now_ms=100)
    with pytest.raises(SignatureError):
        opened(data, issuer=other.public)
    with pytest.raises(SignatureError):
        opened(token(other))


def test_subjects_are_keyed_twice() -> None:
    """By the backend's salt on the way, by the service's pepper in the store."""
    one, two = enrol.subject(b"\1" * 32, "user"), enrol.subject(b"\2" * 32, "user")
    assert one != two
    assert enrol.subject_row(b"\1" * 32, one) != enrol.subject_row(b"\2" * 32, one)
    for bad in (b"", b"\1" * 31):
        with pytest.raises(CryptoError):
            enrol.subject(bad, "user")
