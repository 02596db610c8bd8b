"""Successions of a service's identity key: who is followed, and who is not."""

from __future__ import annotations

import pytest

from crypto import succession
from crypto.errors import ChainError, CryptoError, FormatError, SignatureError
from crypto.primitives import sign_keypair
from tests.vectors import successions as vectors

AUDIENCE = "test.rookery"
SEEDS = [bytes((number,)) * 32 for number in range(1, 6)]
KEYS = [sign_keypair(seed)[0] for seed in SEEDS]


def step(old: int, new: int, *, audience: str = AUDIENCE, made_ms: int = 5) -> bytes:
    """One key names another."""
    return succession.make(
        SEEDS[old], SEEDS[new], audience=audience, made_ms=made_ms, until_ms=made_ms + 5
    )


def news(pinned: int, *statements: bytes) -> list[bytes]:
    """The keys that lead on from a pinned one."""
    return [row.new for row in succession.follow(KEYS[pinned], statements, audience=AUDIENCE)]


def test_a_client_follows_from_wherever_it_stands() -> None:
    """Through every key since its own, in whatever order the statements come; who is at the end,
    and who pinned something else, stays."""
    chain = [step(0, 1), step(1, 2), step(2, 3)]
    assert news(0, *reversed(chain)) == [KEYS[1], KEYS[2], KEYS[3]]
    assert news(2, *chain) == [KEYS[3]]
    assert news(3, *chain) == []
    assert news(4, *chain) == []
    assert news(0) == []


def test_a_key_with_two_successors_is_followed_nowhere() -> None:
    """A thief of the old key names one of his own: which is right can't be told from here. Who
    has gone further does not look back."""
    both = [step(0, 1), step(0, 4), step(1, 2)]
    with pytest.raises(ChainError, match="two successors"):
        news(0, *both)
    assert news(1, *both) == [KEYS[2]]
    assert news(0, step(0, 1), step(0, 1, made_ms=6)) == [KEYS[1]]


def test_a_key_never_comes_back() -> None:
    """Successions in a ring lead nowhere."""
    with pytest.raises(ChainError, match="follows itself"):
        news(0, step(0, 1), step(1, 0))


def test_statements_on_the_way_must_verify() -> None:
    """Of another deployment, forged, cut off; and no more of them than anybody has."""
    with pytest.raises(FormatError, match="another deployment"):
        news(0, step(0, 1), step(1, 2, audience="else"))
    forged = step(0, 1)[:-1] + b"\0"
    with pytest.raises(SignatureError):
        news(0, forged)
    assert news(1, forged, step(1, 2)) == [KEYS[2]]
    with pytest.raises(FormatError, match="232 bytes"):
        news(0, b"")
    with pytest.raises(FormatError, match="more than 64"):
        news(0, *[step(0, 1)] * 65)


def test_what_nobody_must_follow_is_refused_by_its_rule() -> None:
    """Not by another that happens to come first: `why` names it."""
    for row in vectors.negatives(vectors.positives()["successions"][0]):
        with pytest.raises(CryptoError) as refused:
            succession.open_(bytes.fromhex(row["succession"]), audience=row["audience"])
        assert refused.value.rule == row["why"], row["name"]
