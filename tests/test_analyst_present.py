"""What people read of a result: table, plot, sentences; and what programs read."""

from __future__ import annotations

import json
from fractions import Fraction

from client.analyst import present
from client.analyst.estimates import Estimate
from client.analyst.plot import ABOVE, BAR, BELOW, MARK, POINT, SPAN, ZERO, plot
from client.cli.output import table
from crypto.field import FIELD31
from mpc.kinds import Histogram, Mean, Multihot
from mpc.noise import Law, Mechanism
from mpc.result import Counted, RoundResult, Sums, Undecided
from mpc.tail_params import Threshold, Top
from tests.analyst_samples import result, roomy
from tests.mpc_samples import manifest

BINS = Histogram(FIELD31, 3, ("thai", "italian", "other"))
OF = roomy(kind=BINS, noise=Law(Mechanism.GAUSSIAN, 9_000))
COUNTED = Counted(1_005, 2, 3, ({}, {"open": 2, "header": 1}, {}))
RESULT = RoundResult(COUNTED, (1, 3), True, Sums((600, 390, 12)))


def test_a_table_shows_each_count_with_its_noise_and_interval() -> None:
    """Noise of two parties where one would do: sigma times the root of two."""
    shown = present.table(OF, RESULT)
    assert table(shown.head, shown.rows, right=shown.right).splitlines() == [
        "         statistic  estimate  ± noise  95 %        of valid",
        "thai     count           600       13  575 to 625     60.0%",
        "italian  count           390       13  365 to 415     39.0%",
        "other    count            12       13  -13 to 37       1.2%",
    ]
    assert shown.more == 0


def test_estimates_have_as_many_digits_as_their_noise() -> None:
    """Two digits of sigma, and the estimate to the same place."""
    of = roomy(kind=Mean(FIELD31, 0, 10, False), noise=Law(Mechanism.GAUSSIAN, 20_000))
    said = RoundResult(COUNTED, (1, 2, 3), True, Sums((-345,)))
    [row] = present.table(of, said).rows
    assert row[2:5] == ("4.655", "0.024", "4.607 to 4.703")


def test_long_tables_are_cut_and_say_so() -> None:
    """Thousands of bins don't flood a terminal."""
    of = roomy(kind=Multihot(FIELD31, 100, 3, ()), noise=None)
    shown = present.table(of, result(of, [[1, 2], [3]]))
    assert (len(shown.rows), shown.more) == (present.ROWS_MAX, 60)
    assert len(present.draw(of, result(of, [[1, 2], [3]])).splitlines()) == present.ROWS_MAX + 2


def test_bars_end_at_the_estimate_and_are_open_through_the_interval() -> None:
    """Solid up to the interval, dark up to the estimate, light up to the interval's end."""
    rows = [
        Estimate("a", "count", Fraction(100), 1.0, 80.0, 120.0),
        Estimate("bb", "count", Fraction(-10), 1.0, -20.0, 0.0),
        Estimate("c", "count", None, note="suppressed: below 5"),
    ]
    lines = plot(rows, width=4 + 28).splitlines()
    assert lines[0] == "a       " + BAR * 16 + BELOW * 5 + ABOVE * 3
    assert lines[1] == "bb  " + ABOVE * 2 + BELOW * 3
    assert lines[2] == "c   suppressed: below 5"
    assert lines[3].split() == ["-20", "120"]


def test_points_show_zero_only_if_it_lies_between_them() -> None:
    """Means are not drawn from zero."""
    rows = [Estimate("a", "mean", Fraction(5), 1.0, 4.0, 6.0)]
    [line, *_] = plot(rows, width=3 + 16).splitlines()
    assert line == "a  " + SPAN * 8 + POINT + SPAN * 7
    rows = [Estimate("a", "mean", Fraction(-1), 1.0, -2.0, 0.5), *rows]
    assert ZERO in plot(rows).splitlines()[1]


def test_a_known_truth_is_marked_in_its_row() -> None:
    """For demonstrations, which know all values."""
    drawn = present.draw(OF, RESULT, truth=[590.0, 400.0, None]).splitlines()
    assert [MARK in line for line in drawn] == [True, True, False, False, True]


def test_nothing_to_draw_is_no_plot() -> None:
    """Of a single number, or of none."""
    of = roomy(kind=Mean(FIELD31, 0, 10, False), noise=None)
    assert present.draw(of, result(of, [1, 2])) == ""
    assert present.draw(OF, RoundResult(COUNTED, (1, 2), True, Undecided())) == ""


def test_sentences_say_what_was_left_out_what_it_costs_and_who_signed() -> None:
    """By reason, with epsilon at a delta, and whether a lie would have shown."""
    said = "\n".join(present.sentences(OF, RESULT, [3, 1]))
    assert "1,000 valid of 1,005 reports that all parties could use (2 inconsistent, 3 inv" in said
    assert "Party 2 left out before, by its own word: header 1, open 2." in said
    assert "rho = 0.012346 of zCDP, epsilon = 0.696 at delta = 10^-6" in said
    assert "Signed by parties 1 and 3 of 3. The opening of the sums was checked" in said
    unchecked = RoundResult(COUNTED, (1, 3), False, Sums((600, 390, 12)))
    assert "was not checked" in " ".join(present.sentences(OF, unchecked, [1, 3]))


def test_sentences_explain_what_the_tail_keeps_back() -> None:
    """Suppressed bins, bins that are not among the largest, and a question left open."""
    for tail, word in ((Threshold(20), "Bins below 20 are suppressed"), (Top(2), "The 2 largest")):
        of = roomy(kind=BINS, noise=OF.noise, tail=tail)
        assert present.sentences(of, result(of, [0] * 300), [1, 2])[0].startswith(word)
    undecided = RoundResult(COUNTED, (1, 2), True, Undecided())
    assert present.sentences(OF, undecided, [1, 2])[0].startswith("Undecided")


def test_programs_get_the_same_and_it_is_json() -> None:
    """Values, their noise, what was rejected, cost and signers."""
    data = json.loads(json.dumps(present.as_data(OF, manifest(OF), RESULT, [3, 1])))
    first = data["estimates"][0]
    assert (first["label"], first["value"], first["share"]) == ("thai", 600, 0.6)
    assert first["low"] < 600 < first["high"]
    assert data["rejected"] == {
        "inconsistent": 2,
        "invalid": 3,
        "left_out_by_party": [{}, {"header": 1, "open": 2}, {}],
    }
    assert (data["sigma"], data["rho"], data["signed_by"]) == (9.0, 0.012346, [1, 3])
    assert data["epsilon_at_delta_1e-6"] == present.epsilon(OF)
    assert data["round_id"] == manifest(OF).round_id.hex()
