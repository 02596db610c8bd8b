"""services/party/agreement.py, messages.py: one set for all, whoever holds what in which order."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given, settings, strategies as st

from crypto.errors import FormatError
from services.party import agreement, messages
from services.party.agreement import Agreement, ReportSet, digest_of
from services.party.messages import Abandoned, Agreed, Have, Listed, Message, Ready, Signed

ROUND = b"r" * 32
REPORTS = [bytes((n,)) * 32 for n in range(12)]


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that lists take several messages."""
    monkeypatch.setattr(agreement, "RUN_HASHES", 3)


def side(party: int, hashes: list[bytes], m: int = 3, **refused: int) -> Agreement:
    """One party's."""
    return Agreement(ROUND, me=party, m=m, reports_max=99, hashes=hashes, refused=refused)


def talk(sides: dict[int, Agreement]) -> dict[int, ReportSet]:
    """All say what is due until nothing new can be said; what each takes the set to be."""
    for _ in range(20):
        for speaker, one in sides.items():
            for hearer, other in sides.items():
                if speaker != hearer:
                    other.hear(speaker, one.have_for(hearer))
                    if (run := one.run_for(hearer)) is not None:
                        other.hear(speaker, run)
    found = {party: one.common() for party, one in sides.items()}
    return {party: one for party, one in found.items() if one is not None}


def test_equal_lists_are_never_told() -> None:
    """A digest says it all; the order is the one that all have."""
    sides = {party: side(party, REPORTS) for party in (1, 2, 3)}
    for other in (2, 3):
        sides[1].hear(other, sides[other].have_for(1))
    assert sides[1].run_for(2) is None
    found = talk(sides)
    assert found[1] == found[2] == found[3]
    assert found[1].hashes == tuple(REPORTS)
    assert found[1].refused == ({}, {}, {})


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.sampled_from(REPORTS), unique=True), min_size=3, max_size=5))
def test_whatever_parties_hold_they_come_to_one_set_in_the_order_of_the_first(
    lists: list[list[bytes]],
) -> None:
    """And the counts say what each could use and another could not."""
    m = len(lists)
    sides = {at: side(at, one, m, open=at) for at, one in enumerate(lists, 1)}
    found = talk(sides)
    assert len(found) == m
    assert len({one.digest for one in found.values()}) == 1
    common = set(lists[0]).intersection(*lists)
    assert found[m].hashes == tuple(one for one in lists[0] if one in common)
    for at, counts in enumerate(found[1].refused, 1):
        left = len(lists[at - 1]) - len(common)
        assert dict(counts) == {"open": at, **({"elsewhere": left} if left else {})}


def test_who_tells_two_parties_other_counts_is_found_out_by_their_digests() -> None:
    honest = {party: side(party, REPORTS) for party in (1, 2)}
    for party, other in ((1, 2), (2, 1)):
        honest[party].hear(other, honest[other].have_for(party))
        honest[party].hear(3, Have(12, digest_of(ROUND, REPORTS), {"open": party}, 0))
    ones = [one.common() for one in honest.values()]
    assert None not in ones
    assert len({one.digest for one in ones if one is not None}) == 2


def test_a_list_must_be_the_one_that_was_announced() -> None:
    """Of that length, with that digest, each hash once."""
    for announced, told in (
        (REPORTS[:2], REPORTS[1:3]),
        (REPORTS[:2], REPORTS[:3]),
        ([REPORTS[0]] * 2, [REPORTS[0]] * 2),
    ):
        one = side(1, REPORTS)
        one.hear(2, Have(len(announced), digest_of(ROUND, announced), {}, 0))
        with pytest.raises(FormatError):
            one.hear(2, Listed(0, b"".join(told)))


def test_a_run_that_is_not_due_is_left_alone() -> None:
    """Before the announcement, twice, or from another place: it will be asked for."""
    one, theirs = side(1, REPORTS), REPORTS[:4]
    first, second = Listed(0, b"".join(theirs[:3])), Listed(3, theirs[3])
    one.hear(2, first)
    assert one.have_for(2).heard == 0
    one.hear(2, Have(4, digest_of(ROUND, theirs), {}, 0))
    for run in (second, first, first):
        one.hear(2, run)
    assert one.have_for(2).heard == 3
    one.forget(2)
    assert one.have_for(2).heard == 0
    assert one.wanting == {2, 3}


@pytest.mark.parametrize(
    "have",
    [
        Have(100, bytes(32), {}, 0),
        Have(-1, bytes(32), {}, 0),
        Have(1, bytes(32), {}, -1),
        Have(1, bytes(32), {"elsewhere": 1}, 0),
        Have(1, bytes(32), {"": 1}, 0),
        Have(1, bytes(32), {"open": 0}, 0),
        Have(1, bytes(32), {f"rule{n}": 1 for n in range(32)}, 0),
    ],
)
def test_what_no_honest_party_says_is_refused(have: Have) -> None:
    """More reports than the round takes, counts that are none, rules that are not its own."""
    with pytest.raises(FormatError):
        side(1, REPORTS).hear(2, have)


# --- messages


EVERY: list[Message] = [
    Have(1, b"d", {"open": 2}, 3),
    Listed(0, b"h"),
    Agreed(b"d", b"s"),
    Ready(1, 7, b"t", b"n"),
    Signed(b"r", {1: b"s"}),
    Abandoned(b"t", b"s"),
]


@pytest.mark.parametrize("message", EVERY, ids=lambda one: type(one).__name__)
def test_a_message_comes_back_as_it_was_and_no_field_of_another_type(message: Message) -> None:
    data = messages.encode(message)
    assert messages.decode(data) == message
    kind, *values = cbor2.loads(data)
    for at in range(len(values)):
        others: list[object] = [None, True, "x", 1.5, [], {1: 2}, {"a": "b"}]
        for other in others:
            changed = [*values[:at], other, *values[at + 1 :]]
            with pytest.raises(FormatError):
                messages.decode(cbor2.dumps([kind, *changed]))
    for short in ([kind], [kind, *values, 1], [99, *values], [-1, *values], [True, *values], []):
        with pytest.raises(FormatError):
            messages.decode(cbor2.dumps(short))


@given(st.binary(max_size=60))
def test_other_bytes_are_no_message(data: bytes) -> None:
    """Whatever they are, the answer is FormatError."""
    try:
        found: Any = messages.decode(data)
    except FormatError:
        return
    assert messages.decode(messages.encode(found)) == found
