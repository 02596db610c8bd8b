"""Results: one form, of one task, signed by enough parties; the tail decides what is told."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, strategies as st

from crypto import canonical, labels
from crypto.errors import CryptoError, FormatError
from crypto.field import FIELD31, FIELD61
from mpc import result as results
from mpc.kinds import Experiment, Histogram, Mean, Quantile
from mpc.manifest import quorum
from mpc.noise import Law, Mechanism
from mpc.oracle import aggregate, truth
from mpc.result import Bins, Comparisons, Counted, Quantiles, RoundResult, Sums, Undecided
from mpc.tail import Ranked, Verdict
from mpc.tail_params import AsTheyAre, AtQuantiles, Threshold, Top, Welch
from mpc.task import Task
from tests.mpc_samples import manifest, party, task

COUNTED = Counted(160, 7, 3, ({}, {"open": 2}, {"open": 1, "elsewhere": 1}))


def made(of: Task, sums: list[int], counted: Counted = COUNTED, **other: Any) -> RoundResult:
    """A result of three parties, checked."""
    return results.make(of, sums, counted, **{"noise_of": (1, 2, 3), "checked": True, **other})


def signed(data: bytes, of: Task, signers: tuple[int, ...] = (1, 2, 3)) -> dict[int, bytes]:
    """These parties' signatures of it."""
    digest = manifest(of).digest
    return {at: party(at).sign(labels.RESULT, digest + data) for at in signers}


def refused(data: bytes, sigs: dict[int, bytes], of: Task) -> str:
    """The rule by which a reader refuses it."""
    with pytest.raises(CryptoError) as caught:
        results.open_(data, sigs, manifest(of), of)
    return caught.value.rule


def altered(data: bytes, **fields: Any) -> bytes:
    """The same map with other fields, in its deterministic form."""
    return canonical.encode(canonical.decode(data) | fields)


def test_a_signed_result_comes_back_and_says_what_it_cost() -> None:
    """Two of three signatures suffice; counts, noise, cost and sums are in the signed bytes."""
    of = task()
    data = made(of, [100, 40, -3]).encode(of)
    opened = results.open_(data, signed(data, of, (1, 3)), manifest(of), of)
    assert opened == RoundResult(COUNTED, (1, 2, 3), True, Sums((100, 40, -3)))
    assert opened.counted.valid == 150
    said = canonical.decode(data)
    assert said["micro_rho"] == of.cost_micro_rho > 0
    assert said["sigma_milli"] == 20_000
    assert (said["valid"], said["tail"]) == (150, "none")


def test_signatures_must_be_enough_and_of_this_round_and_each_must_hold() -> None:
    """One signature, a party that there is not, another round's bytes: each is refused."""
    of = task()
    data = made(of, [1, 2, 3]).encode(of)
    good = signed(data, of)
    assert refused(data, {1: good[1]}, of) == "signatures"
    assert refused(data, good | {4: good[1]}, of) == "party"
    assert refused(data, good | {3: good[1]}, of) == "signature"
    assert refused(altered(data, invalid=4, valid=149), good, of) == "signature"
    other = task(title="Another")
    with pytest.raises(FormatError, match="another task"):
        results.open_(data, good, manifest(of), other)
    elsewhere = replace(manifest(of), round_id=b"\x02" * 16)
    with pytest.raises(CryptoError, match=r"\[signature\]"):
        results.open_(data, good, elsewhere, of)


@pytest.mark.parametrize(("m", "t", "least"), [(3, 1, 2), (4, 1, 3), (5, 1, 3), (5, 2, 3)])
def test_two_groups_of_a_quorum_share_a_party(m: int, t: int, least: int) -> None:
    """A quorum can interpolate, and is a majority."""
    assert quorum(m, t) == least > max(t, m // 2)
    assert manifest(task(m=m, t=t)).quorum == least


@pytest.mark.parametrize(
    "fields",
    [
        {"sigma_milli": 1},
        {"micro_rho": 1},
        {"tail": "top"},
        {"valid": 151},
        {"reports": 100_001, "valid": 99_991},
        {"reports": 109, "valid": 99},
        {"invalid": -1, "valid": 154},
        {"sums": [1, 2]},
        {"sums": [1, 2, FIELD31.p]},
        {"sums": [1, 2, True]},
        {"sums": 5},
        {"bins": [[0, 5]]},
        {"undecided": True},
        {"refused": []},
        {"refused": [{}, {}, {"open": 0}]},
        {"refused": [{}, {}, {"a\nb": 1}]},
        {"refused": [{}, {}, 7]},
        {"noise_of": [1]},
        {"noise_of": [2, 1, 3]},
        {"noise_of": [1, 2, 4]},
        {"checked": 1},
        {"more": 1},
        {"version": 2},
        {"reports": "160"},
    ],
)
def test_what_no_honest_round_gives_is_refused_even_if_it_is_signed(fields: dict[str, Any]) -> None:
    """Wrong cost, sigma, tail, counts, lengths, ranges, types, parties and unknown fields."""
    of = task()
    data = altered(made(of, [1, 2, 3]).encode(of), **fields)
    assert refused(data, signed(data, of), of)


def test_bytes_that_are_no_result_are_refused() -> None:
    """Empty, no map, a map of something else, another form of the same map."""
    of = task()
    for data in (b"", b"\xff", b"\x80", canonical.encode({"version": 1})):
        with pytest.raises(FormatError):
            results.parse(data, of)
    data = made(of, [1, 2, 3]).encode(of)
    with pytest.raises(FormatError, match="deterministic"):
        results.parse(data[:-1] + b"\x18" + data[-1:], of)


def test_fewer_valid_reports_than_k_min_make_no_result() -> None:
    """Whatever was opened."""
    of = task()
    made(of, [1, 2, 3], Counted(103, 2, 1, ({}, {}, {})))
    with pytest.raises(FormatError, match="valid reports must be a whole number from 100"):
        made(of, [1, 2, 3], Counted(103, 2, 2, ({}, {}, {})))


def test_a_threshold_and_a_rank_keep_the_other_bins_back() -> None:
    """What the tail withholds is nowhere in the signed bytes."""
    of = task(tail=Threshold(90))
    low = made(of, [100, 40, -3])
    assert low.outcome == Bins((Ranked(0, 100),))
    assert low.statistics(of) is None
    assert canonical.decode(low.encode(of))["bins"] == [[0, 100]]
    assert "sums" not in canonical.decode(low.encode(of))
    assert results.parse(low.encode(of), of) == low
    of = task(tail=Top(2))
    top = made(of, [10, 40, 70])
    assert top.outcome == Bins((Ranked(2, 70), Ranked(1, 40)))
    assert results.parse(top.encode(of), of) == top


def test_a_quantile_gives_bins_or_says_that_noise_hides_it() -> None:
    """The bin with what it lies between; undecided where the total is in the noise."""
    of = task(kind=Quantile(FIELD31, (0, 10, 20, 30)), tail=AtQuantiles((500_000,)))
    opened = made(of, [1000, 3000, 1000])
    assert isinstance(opened.outcome, Quantiles)
    assert opened.outcome.quantiles[0].bin == 1
    assert results.parse(opened.encode(of), of) == opened
    hidden = made(of, [10, 20, 10])
    assert hidden.outcome == Undecided()
    assert results.parse(hidden.encode(of), of) == hidden


def test_an_experiment_gives_its_verdict_only() -> None:
    """The sums of the variants are nowhere in the signed bytes."""
    of = task(
        kind=Experiment(FIELD61, 2, ("a", "b"), 0, 20),
        kappa=1,
        tail=Welch(50_000),
        caps=replace(task().caps, device_micro_rho=10**9, task_micro_rho=10**9),
        noise=Law(Mechanism.GAUSSIAN, 2_000_000),
    )
    rng = random.Random(3)
    values = [
        (at % 2, min(20, max(0, round(rng.gauss(8 + 3 * (at % 2), 4))))) for at in range(4000)
    ]
    sums = aggregate(of.kind, values).sums
    counted = Counted(4000, 0, 0, ({}, {}, {}))
    opened = made(of, list(sums), counted)
    assert isinstance(opened.outcome, Comparisons)
    assert opened.outcome.comparisons[0].verdict is Verdict.HIGHER
    assert "sums" not in canonical.decode(opened.encode(of))
    assert results.parse(opened.encode(of), of) == opened


def test_statistics_and_their_noise_are_told_in_what_was_measured() -> None:
    """A mean's sums decode to count, mean and variance; each one's noise has its scale out."""
    of = task(kind=Mean(FIELD61, 0, 10, True), kappa=1, caps=replace(
        task().caps, device_micro_rho=10**9, task_micro_rho=10**9))  # fmt: skip
    values = [at % 11 for at in range(150)]
    opened = made(of, list(aggregate(of.kind, values).sums))
    assert opened.statistics(of) == truth(of.kind, values)
    per_sum = Fraction(400 * 3, 2)
    assert opened.variances(of) == tuple(per_sum / scale**2 for scale in of.kind.scales)
    assert of.kind.scales[0] > 1


@given(st.lists(st.integers(-(FIELD31.p // 2), FIELD31.p // 2), min_size=3, max_size=3))
def test_any_sums_survive_the_form(sums: list[int]) -> None:
    """Signed bytes hold all that the field can."""
    of = task()
    opened = made(of, sums)
    assert results.parse(opened.encode(of), of) == opened


def test_sums_of_another_task_are_refused() -> None:
    """As many as the kind opens, no more and no fewer."""
    with pytest.raises(FormatError, match="opens 3 sums"):
        made(task(), [1, 2])
    four = task(kind=Histogram(FIELD31, 4, ()), tail=AsTheyAre())
    with pytest.raises(FormatError, match="opens 4 sums"):
        made(four, [1, 2, 3])
