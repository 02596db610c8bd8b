"""A result is believed for pinned keys only, and a file of it proves as much as the service."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from client.analyst import abandoned, evidence
from client.analyst.errors import NotVerified
from client.analyst.evidence import Evidence, Pins
from client.errors import UserError
from client.rounds import GivenUp, SignedTask
from crypto import canonical, labels
from crypto.field import FIELD31
from mpc.keys import PublisherKey
from mpc.kinds import Histogram
from mpc.manifest import Manifest
from mpc.task import Task
from tests.analyst_samples import result, roomy
from tests.mpc_samples import PUBLISHER, manifest, party, pinned, signed

OF = roomy(kind=Histogram(FIELD31, 3, ("thai", "italian", "other")))
ROUND = manifest(OF)
PINS = Pins(frozenset({PUBLISHER.public}), tuple(pinned()))
RIVAL = PublisherKey(b"\x51" * 32)


def signed_task(of: Task, by: PublisherKey = PUBLISHER) -> SignedTask:
    """As the service gives it out."""
    return SignedTask(of.encoded, by.sign(labels.TASK_SIG, of.encoded), by.public)


def kept(
    of: Task = OF, round_: Manifest = ROUND, signers: tuple[int, ...] = (1, 3), **other: Any
) -> Evidence:
    """A result of ten reports, signed by these parties."""
    said = result(of, [0] * 9 + [2], seed=1).encode(of)
    sigs = {at: party(at).sign(labels.RESULT, round_.digest + said) for at in signers}
    made = Evidence(signed_task(of), signed(round_), said, sigs)
    return replace(made, **other)


def refused(made: Evidence, pins: Pins = PINS) -> str:
    """The rule by which it is not believed."""
    with pytest.raises(NotVerified) as caught:
        made.open(pins)
    return caught.value.rule


def test_what_is_signed_by_pinned_keys_is_believed_also_from_a_file() -> None:
    """Two of three parties suffice."""
    read = Evidence.decode(kept().encode())
    assert read == kept()
    opened, told = read.open(PINS)
    assert (opened.task, opened.manifest) == (OF, ROUND)
    assert told == result(OF, [0] * 9 + [2], seed=1)


def test_a_publisher_that_is_not_pinned_is_none() -> None:
    """Whatever it signed; and nobody signs in another's name."""
    by_rival = kept(task=signed_task(OF, RIVAL))
    assert refused(by_rival) == "publisher"
    passed_off = replace(by_rival.task, publisher=PUBLISHER.public)
    assert refused(kept(task=passed_off)) == "signature"


def test_parties_are_the_pinned_ones_in_their_order() -> None:
    """Others, fewer or swapped ones are no panel."""
    keys = PINS.parties or ()
    for other in ((party(9).public, *keys[1:]), tuple(reversed(keys))):
        assert refused(kept(), replace(PINS, parties=other)) == "party-set"
    assert refused(kept(), replace(PINS, parties=keys[:2])) == "length"


def test_a_result_needs_enough_good_signatures_of_its_own_bytes() -> None:
    """Too few, a bad one, changed bytes: each is refused by its rule."""
    good = kept()
    assert refused(kept(signers=(2,))) == "signatures"
    assert refused(replace(good, sigs={**good.sigs, 2: good.sigs[1]})) == "signature"
    assert refused(replace(good, sigs={**good.sigs, 4: good.sigs[1]})) == "party"
    assert refused(replace(good, sigs={1: good.sigs[1], 3: b""})) == "signature"
    fields = canonical.decode(good.result)
    more = canonical.encode(fields | {"sums": [fields["sums"][0] + 1, *fields["sums"][1:]]})
    assert refused(replace(good, result=more)) == "signature"


def test_another_rounds_result_is_not_this_ones() -> None:
    """Signatures are of one round, with its windows and its parties."""
    other = kept(round_=manifest(OF, round_id=b"\x02" * 16))
    assert refused(replace(kept(), sigs=other.sigs)) == "signature"


def test_a_manifest_is_its_tasks() -> None:
    """One of another task, of another window, or without a signature is refused."""
    other = roomy(title="Another")
    assert refused(kept(manifest=signed(manifest(other)))) == "round-task"
    longer = manifest(OF, close_ms=ROUND.close_ms + 1)
    assert refused(kept(manifest=signed(longer))) == "round-window"
    spoilt = bytearray(signed(ROUND))
    spoilt[-1] ^= 1
    assert refused(kept(manifest=bytes(spoilt))) == "signature"
    assert refused(kept(manifest=b"")) == "length"


def test_the_round_is_the_one_that_was_asked_for() -> None:
    """A service can't answer with another one of the same task."""
    opened, _ = kept().open(PINS)
    evidence.check_id(opened, ROUND.round_id)
    with pytest.raises(NotVerified, match="another round"):
        evidence.check_id(opened, b"\x02" * 16)


def test_unpinned_evidence_must_still_fit_together() -> None:
    """It is taken at its own word, and that word must hold."""
    free = Pins(None, None)
    opened, _ = kept(task=signed_task(OF, RIVAL)).open(free)
    assert opened.publisher == RIVAL.public
    assert refused(kept(signers=(2,)), free) == "signatures"
    assert refused(kept(manifest=b"\x00" * 300), free) == "manifest"


def test_a_task_without_noise_is_refused() -> None:
    """However well it is signed."""
    of = roomy(kind=OF.kind, noise=None)
    assert refused(kept(of, manifest(of))) == "noise-none"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda fields: fields.pop("sigs"),
        lambda fields: fields.update(version=2),
        lambda fields: fields.update(format="other"),
        lambda fields: fields.update(task="é"),
        lambda fields: fields.update(task=5),
        lambda fields: fields.update(sigs=[1]),
        lambda fields: fields.update(sigs={"one": "AAAA"}),
        lambda fields: fields.update(publisher="zz"),
    ],
)
def test_a_file_of_another_form_is_said_to_be_none(spoil: Callable[[dict[str, Any]], Any]) -> None:
    """Whatever is missing or of another type."""
    fields = json.loads(kept().encode())
    spoil(fields)
    with pytest.raises(UserError, match="this is no file"):
        Evidence.decode(json.dumps(fields).encode())
    for data in (b"", b"[]", b"\xff", b"[" * 100_000):
        with pytest.raises(UserError, match="this is no file"):
            Evidence.decode(data)


# --- rounds that were given up ---


def given_up(at: int, reason: object, round_: Manifest = ROUND, **other: Any) -> GivenUp:
    """A party's signed word."""
    statement = canonical.encode({"version": 1, "reason": reason, **other})
    sig = party(at).sign(labels.ABANDONMENT, round_.digest + statement)
    return GivenUp(at, statement, sig)


def test_a_partys_word_that_it_gave_up_is_its_own_and_of_this_round() -> None:
    """Reasons that are known get words, others are shown as they are."""
    words = [given_up(1, "too_few_valid"), given_up(3, "comet\x1b[2J")]
    by_party = abandoned.reasons(words, ROUND)
    said = abandoned.sentence(by_party, ROUND)
    assert by_party == {1: "too_few_valid", 3: "comet\x1b[2J"}
    assert "party 1: fewer valid reports than the task's k_min, so nothing was opened" in said
    assert "party 3: comet?[2J" in said
    assert abandoned.is_final(by_party, ROUND)
    assert not abandoned.is_final({1: "budget"}, ROUND)
    assert abandoned.sentence({1: "budget"}, ROUND).endswith("The others may still end it")


@pytest.mark.parametrize(
    "word",
    [
        replace(given_up(1, "budget"), party=2),
        replace(given_up(1, "budget"), party=0),
        replace(given_up(1, "budget"), statement=b"\xa0"),
        given_up(1, "budget", manifest(OF, round_id=b"\x02" * 16)),
        given_up(1, "budget", version=2),
        given_up(1, 5),
    ],
)
def test_a_forged_word_is_not_believed(word: GivenUp) -> None:
    """Of another party or round, or in a form that is not known."""
    with pytest.raises(NotVerified, match="gave up"):
        abandoned.reasons([word], ROUND)
