"""Tasks as people write them: what is taken, and what is said of what is not."""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from client.analyst import draft, offer
from client.analyst.errors import DraftError
from client.analyst.times import duration_ms, instant_ms, show_duration, show_instant
from client.errors import UserError
from crypto.field import FIELD61
from mpc import privacy, task as tasks
from mpc.kinds import Experiment, Mean
from mpc.noise import Law, Mechanism
from tests.analyst_samples import roomy
from tests.relay_worlds import manifest, report, task as relay_task

TEXT = """
id = "cuisine"
title = "Favourite cuisine"
purpose = "statistics"
window_ms = "1d"
grace_ms = 3_600_000
reports_max = 100_000
k_min = 100
expires_ms = 2027-12-31T01:00:00+01:00
kind = { name = "histogram", bins = 3, labels = ["thai", "italian", "other"] }
noise = { mechanism = "gaussian", sigma_milli = 20_000 }
caps = { device_micro_rho = 50_000, period_ms = "1w", task_micro_rho = 500_000 }
parties = { m = 3, t = 1 }
tail = { name = "none" }
"""
FIELDS: dict[str, Any] = {
    "id": "cuisine",
    "title": "Favourite cuisine",
    "purpose": "statistics",
    "window_ms": "1d",
    "grace_ms": 3_600_000,
    "reports_max": 100_000,
    "k_min": 100,
    "expires_ms": "2027-12-31T00:00Z",
    "kind": {"name": "histogram", "bins": 3, "labels": ["thai", "italian", "other"]},
    "noise": {"mechanism": "gaussian", "sigma_milli": 20_000},
    "caps": {"device_micro_rho": 50_000, "period_ms": "1w", "task_micro_rho": 500_000},
    "parties": {"m": 3, "t": 1},
    "tail": {"name": "none"},
}


def changed(**other: Any) -> dict[str, Any]:
    """The fields with others in their place; `__` goes down, and None takes one away."""
    fields = deepcopy(FIELDS)
    for name, value in other.items():
        *way, last = name.split("__")
        inner = fields
        for part in way:
            inner = inner[part]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
    return fields


def test_toml_and_json_make_one_task(tmp_path: Path) -> None:
    """With durations and a date in words, and the smallest field with its kappa."""
    (tmp_path / "a.toml").write_text(TEXT)
    (tmp_path / "a.json").write_text(json.dumps(FIELDS))
    task = draft.read(tmp_path / "a.toml")
    assert draft.read(tmp_path / "a.json") == task
    assert (task.window_ms, task.grace_ms, task.caps.period_ms) == (
        86_400_000, 3_600_000, 604_800_000,
    )  # fmt: skip
    assert task.expires_ms == int(datetime(2027, 12, 31, tzinfo=UTC).timestamp()) * 1000
    assert (task.field.bits, task.kappa) == (31, 2)
    assert tasks.decode(task.encoded) == task


def test_what_is_given_is_not_replaced() -> None:
    """A larger field and another kappa stand."""
    task = draft.task_of(changed(field=61, kappa=2, version=1))
    assert (task.field.bits, task.kappa) == (61, 2)


def test_sums_that_could_wrap_take_the_larger_field() -> None:
    """And kappa 1, which is enough there."""
    kind = {"name": "mean", "low": 0, "high": 10_000, "variance": True}
    task = draft.task_of(
        changed(kind=kind, noise__sigma_milli=10**12, caps__device_micro_rho=10**9,
                caps__task_micro_rho=10**9)
    )  # fmt: skip
    assert isinstance(task.kind, Mean)
    assert (task.field.bits, task.kappa) == (61, 1)


@pytest.mark.parametrize(
    ("other", "field", "rule"),
    [
        ({"kmin": 3}, "kmin", "task-fields"),
        ({"k_min": None}, "k_min", "task-fields"),
        ({"noise__sigma": 3}, "noise.sigma", "task-fields"),
        ({"noise__sigma_milli": None}, "noise.sigma_milli", "task-fields"),
        ({"noise": "much"}, "noise", "task-fields"),
        ({"caps__period_ms": "a week"}, "caps.period_ms", "task-range"),
        ({"window_ms": "1 d"}, "window_ms", "task-range"),
        ({"window_ms": 1.5}, "window_ms", "cbor-type"),
        ({"expires_ms": "soon"}, "expires_ms", "task-range"),
        ({"expires_ms": "2027-12-31"}, "expires_ms", "task-range"),
        ({"noise__sigma_milli": 0.5}, "noise.sigma_milli", "cbor-type"),
        ({"kind__labels": ["a", 1.5, "c"]}, "kind.labels[1]", "cbor-type"),
        ({"id": "Cuisine!"}, "id", "name"),
        ({"purpose": 5}, "purpose", "name"),
        ({"title": ""}, "title", "title"),
        ({"kind": "histogram"}, "kind.name", "kind"),
        ({"kind__name": "median"}, "kind.name", "kind"),
        ({"kind__bins": None}, "kind", "kind-params"),
        ({"kind__labels": ["thai", "thai", "other"]}, "kind.labels", "labels"),
        ({"field": 32}, "field", "field"),
        ({"field": True}, "field", "field"),
        ({"field": 31, "reports_max": 1 << 31}, "reports_max", "wrap"),
        ({"kappa": 9}, "", "task-range"),
        ({"k_min": 1}, "", "task-range"),
        ({"noise__mechanism": "uniform"}, "noise", "noise"),
        ({"noise": {"mechanism": "none", "sigma_milli": 0}}, "noise.mechanism", "noise-none"),
        ({"noise__sigma_milli": 4_000, "caps__device_micro_rho": 5}, "", "caps"),
        ({"parties__m": 2}, "parties", "parties"),
        ({"tail": "none"}, "tail.name", "tail"),
        ({"tail": {"name": "threshold"}}, "tail", "tail-params"),
        ({"tail": {"name": "welch", "alpha_micro": 5}}, "tail", "tail-kind"),
        ({"version": 2}, "version", "task-version"),
    ],
)  # fmt: skip
def test_each_mistake_is_named_by_its_field_and_rule(
    other: dict[str, Any], field: str, rule: str
) -> None:
    """Rules are those of docs/aggregation.md; where a sentence names the field, it need not
    be named again."""
    with pytest.raises(DraftError) as caught:
        draft.task_of(changed(**other))
    assert (caught.value.field, caught.value.rule) == (field, rule)
    assert str(caught.value).endswith(f"(rule {rule})")
    if not field:
        named = {"caps": "cap"}.get(rule) or next(iter(other))
        assert named in str(caught.value)


def test_a_misspelt_field_gets_the_one_that_is_meant() -> None:
    """What is near is offered."""
    with pytest.raises(DraftError, match="did you mean reports_max"):
        draft.task_of(changed(report_max=5))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.toml", b"id = ", "is not TOML"),
        ("a.json", b"{", "is not JSON"),
        ("a.json", b"[]", "holds no task"),
        ("a.toml", b"\xff", "is not in UTF-8"),
    ],
)
def test_a_file_that_is_none_is_named(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    """With what is wrong with it."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        draft.read(tmp_path / name)
    with pytest.raises(UserError, match="can't be read"):
        draft.read(tmp_path / "missing.toml")


def test_times_are_whole_numbers_with_a_unit_and_dates_with_an_offset() -> None:
    """Nothing is guessed."""
    assert [duration_ms(text) for text in ("5ms", "2s", "90m", "36h", "1d", "2w")] == [
        5, 2_000, 5_400_000, 129_600_000, 86_400_000, 1_209_600_000,
    ]  # fmt: skip
    for text in ("", "1", "d", "1.5d", "-1d", "01d", "1D", "1d2h", "٣d"):
        with pytest.raises(ValueError, match="a duration is"):
            duration_ms(text)
    assert instant_ms("1970-01-02T01:00+01:00") == 86_400_000
    for text in ("2027-01-31", "2027-01-31T00:00", "tomorrow"):
        with pytest.raises(ValueError, match="offset"):
            instant_ms(text)
    assert [show_duration(ms) for ms in (0, 5, 90_000, 86_400_000)] == ["0ms", "5ms", "90s", "1d"]
    assert show_instant(86_400_000) == "1970-01-02 00:00:00Z"
    assert show_instant(1 << 60) == f"{1 << 60} ms after 1970"


def test_an_offer_says_cost_noise_and_room() -> None:
    """rho and epsilon of a round, how many fit in the caps, each statistic's noise."""
    task = draft.task_of(FIELDS)
    data = offer.as_data(task)
    assert data["rho"] == task.cost_micro_rho / 1e6
    assert data["epsilon_at_delta_1e-6"] == privacy.epsilon_of(task.cost_micro_rho, 1e-6) / 1e6
    assert data["task_rounds_max"] == 500_000 // task.cost_micro_rho
    assert offer.rows(task) == [("each of 3 counts", "20", "24", "28", "20.00% of 100 reports")]
    said = "\n".join(offer.sentences(task))
    assert f"has room for {data['task_rounds_max']} rounds" in said
    assert "epsilon = 0.298" in said


def test_noise_of_a_statistic_is_sigma_over_its_scale() -> None:
    """An experiment's counts, sums and squares have one sigma, and different noise."""
    kind = Experiment(FIELD61, 2, (), 0, 100)
    of = roomy(kind=kind, kappa=1, noise=Law(Mechanism.GAUSSIAN, 8_000_000))
    sigmas = {one.statistic: one.sigma for one in offer.noises(of)}
    assert sigmas == {
        "each of 2 counts": 8_000 / 2_500,
        "each of 2 sums": 8_000 / 50,
        "each of 2 sums of squares": 8_000,
    }


def test_a_report_is_as_long_as_the_offer_says() -> None:
    """Header and boxes, as they are sealed."""
    made = relay_task()
    message = report(manifest(made, 0), 1, made)
    assert offer.report_bytes(made) == len(message.header) + sum(map(len, message.boxes))
