"""What must not stand somewhere is found in every form, at every place, and nothing else is."""

from __future__ import annotations

import base64
import hashlib
import itertools
import random
from collections.abc import Callable

import pytest

from crypto.ids import AccountId
from crypto.marks import HASHES, START_BYTES, Finder, Mark

RNG = random.Random("marks")
RAW = RNG.randbytes(32)
MARK = Mark("secret", RAW)
SPELT: dict[str, Callable[[bytes], bytes]] = {
    "raw": bytes,
    "hex": lambda raw: raw.hex().encode(),
    "HEX": lambda raw: raw.hex().upper().encode(),
    "base64": base64.b64encode,
    "base64url": base64.urlsafe_b64encode,
    "base64, second alignment": lambda raw: base64.b64encode(b"x" + raw),
    "base64, third alignment": lambda raw: base64.b64encode(b"xy" + raw),
    "repr": lambda raw: repr(raw).encode(),
}


@pytest.mark.parametrize(
    ("spelling", "of"),
    # Hashes are looked for as bytes, hex and base64.
    [("repr", "itself"), *itertools.product(sorted(SPELT.keys() - {"repr"}), ["itself", *HASHES])],
)
def test_a_mark_is_found_however_it_is_written(spelling: str, of: str) -> None:
    """Itself and each hash of it, in each spelling, wherever it begins."""
    raw = RAW if of == "itself" else HASHES[of](RAW)
    for before in range(9):
        noise = RNG.randbytes(before)
        hits = Finder([MARK]).find(noise + SPELT[spelling](raw) + RNG.randbytes(20))
        assert hits, before
        assert all(hit.mark is MARK for hit in hits)
        assert before <= hits[0].offset <= before + 4


def test_one_that_was_cut_short_is_found() -> None:
    """Eight bytes of it are it; and an id that shows itself is, by four."""
    assert Finder([MARK]).find(b"..." + RAW[:START_BYTES])
    shown = repr(AccountId(RAW)).encode()
    assert [hit.form for hit in Finder([MARK]).find(shown)] == ["short"]


def test_hashes_are_those_of_the_library() -> None:
    """So that a log of `sha256(account)` is known for what it is."""
    for name in ("sha256", "sha1", "md5", "blake2b"):
        assert HASHES[name](RAW) == hashlib.new(name, RAW).digest()


def test_many_marks_are_found_as_one_by_one() -> None:
    """In a long text, over the borders of what is looked at in one step."""
    marks = [Mark("m", RNG.randbytes(16)) for _ in range(50)]
    data = bytearray(RNG.randbytes((1 << 21) + 100))
    placed = [*RNG.sample(range(0, 1 << 21, 40), 50), (1 << 20) - 4, (1 << 21) - 3]
    for mark, at in zip([*marks, *marks], placed, strict=False):
        data[at : at + 16] = mark.raw
    whole = bytes(data)
    expected = {(mark.raw, at) for mark in marks for at in _places(whole, mark.raw[:START_BYTES])}
    found = {(hit.mark.raw, hit.offset) for hit in Finder(marks).find(whole)}
    assert found == expected
    assert len(found) >= 50


def _places(data: bytes, form: bytes) -> list[int]:
    places, at = [], data.find(form)
    while at >= 0:
        places.append(at)
        at = data.find(form, at + 1)
    return places


def test_words_count_whole_only() -> None:
    """One that begins like another is another; short ones are found, too short ones not."""
    word = Mark("word", b"north-harbour", whole=True)
    assert not Finder([word]).find(b"north-hall")
    assert Finder([word]).find(b"the north-harbour is")
    assert Finder([Mark("word", b"polish", whole=True)]).find(b"we polish it")
    tiny = Finder([Mark("word", b"thai", whole=True)])
    assert not tiny.find(b"thai")
    assert tiny.find(b"thai".hex().encode())


def test_nothing_is_found_in_noise_or_in_nothing() -> None:
    """No form is so short that chance makes it."""
    finder = Finder(Mark("m", RNG.randbytes(16)) for _ in range(50))
    assert finder.find(RNG.randbytes(1 << 20)) == []
    assert finder.find(b"") == []
    assert Finder([]).find(b"anything at all") == []


def test_a_mark_hides_what_it_is() -> None:
    """In its repr, and in that of a hit."""
    [hit, *_] = Finder([MARK]).find(RAW)
    for text in (repr(MARK), repr(hit)):
        assert not Finder([MARK]).find(text.encode())
