"""Pairing: one code, one attempt, five minutes."""

from __future__ import annotations

import pytest

from client.errors import CodeExpired, CodeWrong, PairingError
from client.governed.holding import Holding
from client.pairing import Inviter, Joiner, Phase
from crypto.cert import DeviceCert
from crypto.pairing import LIFETIME_MS, Invite, PairingKeys
from tests.client_worlds import Phone, Service, first_phone
from tests.judge_worlds import NOW_MS, SeededRand, World, identity

RAND = SeededRand("pairing")


@pytest.fixture
def a() -> Phone:
    return first_phone(Service())


def both(a: Phone) -> tuple[Inviter, Joiner]:
    inviter = Inviter(a.device, now_ms=NOW_MS, rand=RAND)
    return inviter, Joiner(Invite.from_text(inviter.invite.text()), now_ms=NOW_MS, rand=RAND)


def to_code(inviter: Inviter, joiner: Joiner) -> None:
    m2 = inviter.on_m1(joiner.m1(now_ms=NOW_MS, rand=RAND), now_ms=NOW_MS, rand=RAND)
    inviter.on_m3(joiner.on_m2(m2, now_ms=NOW_MS, rand=RAND), now_ms=NOW_MS)


def test_the_typed_code_adds_the_device(a: Phone) -> None:
    """Both sides agree on six digits."""
    inviter, joiner = both(a)
    to_code(inviter, joiner)
    assert len(joiner.code) == 6
    inviter.enter(f" {joiner.code[:3]} {joiner.code[3:]}", now_ms=NOW_MS)
    assert inviter.phase is Phase.CONFIRMED
    a.sync()
    phone = Phone(joiner.join(now_ms=NOW_MS), a.service, "b")
    phone.sync()
    assert len(phone.device.chain.active) == 2
    assert phone.device.aggregation_key == a.device.aggregation_key


def test_a_wrong_code_ends_the_pairing(a: Phone) -> None:
    """There is one attempt: the right code afterwards is refused too."""
    inviter, joiner = both(a)
    to_code(inviter, joiner)
    wrong = f"{(int(joiner.code) + 1) % 1_000_000:06d}"
    with pytest.raises(CodeWrong):
        inviter.enter(wrong, now_ms=NOW_MS)
    with pytest.raises(PairingError):
        inviter.enter(joiner.code, now_ms=NOW_MS)
    a.sync()
    assert a.service.chain.seq == 0


def test_an_expired_code_is_refused_at_every_step(a: Phone) -> None:
    """Five minutes, then a new code."""
    late = NOW_MS + LIFETIME_MS
    inviter, joiner = both(a)
    to_code(inviter, joiner)
    with pytest.raises(CodeExpired):
        inviter.enter(joiner.code, now_ms=late)
    inviter = Inviter(a.device, now_ms=NOW_MS, rand=RAND)
    with pytest.raises(CodeExpired):
        Joiner(inviter.invite, now_ms=late, rand=RAND)


def test_replayed_messages_are_refused(a: Phone) -> None:
    """A message counts once, and only in its pairing."""
    inviter, joiner = both(a)
    m1 = joiner.m1(now_ms=NOW_MS, rand=RAND)
    inviter.on_m1(m1, now_ms=NOW_MS, rand=RAND)
    with pytest.raises(PairingError):
        inviter.on_m1(m1, now_ms=NOW_MS, rand=RAND)
    other = Inviter(a.device, now_ms=NOW_MS, rand=RAND)
    with pytest.raises(PairingError):
        other.on_m1(m1, now_ms=NOW_MS, rand=RAND)


def test_a_stolen_qr_is_not_enough(a: Phone) -> None:
    """A thief with the QR pairs first; the code that the victim reads is another one."""
    inviter, victim = both(a)
    thief = Joiner(inviter.invite, now_ms=NOW_MS, rand=RAND)
    to_code(inviter, thief)
    m1 = victim.m1(now_ms=NOW_MS, rand=RAND)
    with pytest.raises(PairingError):
        inviter.on_m1(m1, now_ms=NOW_MS, rand=RAND)
    a.sync()
    assert a.service.chain.seq == 0


def test_a_nonce_that_was_not_committed_to_is_refused(a: Phone) -> None:
    """Without the commitment a thief would grind six digits."""
    inviter, joiner = both(a)
    m2 = inviter.on_m1(joiner.m1(now_ms=NOW_MS, rand=RAND), now_ms=NOW_MS, rand=RAND)
    joiner._n_nonce = bytes(32)
    m3 = joiner.on_m2(m2, now_ms=NOW_MS, rand=RAND)
    with pytest.raises(PairingError):
        inviter.on_m3(m3, now_ms=NOW_MS)


def test_a_link_for_somebody_else_is_not_signed(a: Phone) -> None:
    """The new device proves possession only for the link that adds itself."""
    inviter, joiner = both(a)
    joiner.m1(now_ms=NOW_MS, rand=RAND)
    stranger = a.device.build_add(DeviceCert.of(identity("stranger")))
    m2 = joiner._keys.seal_m2(bytes(32), stranger.raw, aead_nonce=RAND(24))
    with pytest.raises(PairingError):
        joiner.on_m2(m2, now_ms=NOW_MS, rand=RAND)
    with pytest.raises(PairingError):
        _ = joiner.code
    with pytest.raises(PairingError):
        joiner.join(now_ms=NOW_MS)
    assert inviter.phase is Phase.SHOWING


def test_a_service_with_another_chain_is_not_believed(a: Phone) -> None:
    """The code pins account and head: enrolment into an attacker's key fails."""
    inviter, joiner = both(a)
    to_code(inviter, joiner)
    inviter.enter(joiner.code, now_ms=NOW_MS)
    device = joiner.join(now_ms=NOW_MS)
    other = first_phone(Service("evil"), seed="evil")
    device.on_chain(other.service.items, lamport_max=0, more=False, now_ms=NOW_MS)
    assert [notice.rule for notice in device.notices] == ["chain-pin"]
    assert device.chain.seq == -1


def test_the_new_device_is_under_the_policy_of_the_one_that_adds_it(a: Phone) -> None:
    """From the write that makes it a device, with the keys in their order; of a device that is
    not governed it learns none."""
    for keys in ((b"k" * 32, b"l" * 32), ()):
        inviter = Inviter(a.device, policy_keys=keys, now_ms=NOW_MS, rand=RAND)
        joiner = Joiner(inviter.invite, now_ms=NOW_MS, rand=RAND)
        to_code(inviter, joiner)
        rows = joiner.join(now_ms=NOW_MS).take_changes()
        stored = {name: row for name, row in rows.items() if row is not None}
        assert Holding(stored).keys == joiner.policy_keys == keys
        inviter.enter(joiner.code, now_ms=NOW_MS)
        a.sync()


def test_who_stole_the_qr_takes_nobody_out_of_a_policy(a: Phone) -> None:
    """The thief can open and seal the message, and put in other keys or none; the digits are
    others then."""
    for told in ((), (b"t" * 32,)):
        inviter = Inviter(a.device, policy_keys=(b"k" * 32,), now_ms=NOW_MS, rand=RAND)
        joiner = Joiner(inviter.invite, now_ms=NOW_MS, rand=RAND)
        m2 = inviter.on_m1(joiner.m1(now_ms=NOW_MS, rand=RAND), now_ms=NOW_MS, rand=RAND)
        thief = PairingKeys(inviter.invite)
        nonce, link, _ = thief.open_m2(m2)
        forged = thief.seal_m2(nonce, link, policy_keys=told, aead_nonce=RAND(24))
        inviter.on_m3(joiner.on_m2(forged, now_ms=NOW_MS, rand=RAND), now_ms=NOW_MS)
        with pytest.raises(CodeWrong):
            inviter.enter(joiner.code, now_ms=NOW_MS)


def test_secrets_stay_out_of_reprs(a: Phone) -> None:
    """Neither the QR secret nor the code."""
    inviter, joiner = both(a)
    to_code(inviter, joiner)
    shown = repr(inviter) + repr(joiner) + repr(inviter.invite)
    assert joiner.code not in shown
    assert inviter.invite.secret.hex()[:8] not in shown
    assert World.of("x").account != a.device.account_id
