"""Tasks: one form, signed by the pinned publisher, sound as a whole or refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings, strategies as st

from crypto import canonical, labels
from crypto.errors import FormatError, SignatureError
from crypto.field import FIELD31, FIELD61
from crypto.primitives import hash_, sign_keypair, verify
from mpc import task as tasks
from mpc.keys import PartyKey, PublisherKey
from mpc.kinds import Count, Experiment, Histogram, Kind, Mean, Multihot, Quantile, Sum, Vector
from mpc.noise import Law, Mechanism
from mpc.tail_params import AsTheyAre, AtQuantiles, Tail, Threshold, Top, Welch
from mpc.task import Caps
from tests.mpc_samples import PUBLISHER, task

WITH_TAILS: list[tuple[Kind, Tail]] = [
    (Count(FIELD31), AsTheyAre()),
    (Histogram(FIELD61, 3, ("a", "b", "ü")), Threshold(50)),
    (Histogram(FIELD31, 1024, ()), Top(10)),
    (Multihot(FIELD31, 5, 2, ()), Top(4)),
    (Sum(FIELD31, -10, 10), AsTheyAre()),
    (Mean(FIELD31, 1, 5, True), AsTheyAre()),
    (Vector(FIELD61, 8, 8, 4096), AsTheyAre()),
    (Experiment(FIELD31, 2, ("old", "new"), 0, 20), Welch(50_000)),
    (Quantile(FIELD31, (0, 10, 100, 1000)), AtQuantiles((250_000, 500_000, 950_000))),
]


def changed(**other: Any) -> bytes:
    """The sample's map with some fields other, or dropped where they are None."""
    fields = cbor2.loads(task().encoded) | other
    return cbor2.dumps({k: v for k, v in fields.items() if v is not None}, canonical=True)


def refused(data: bytes) -> str:
    """The rule by which it is refused."""
    with pytest.raises(FormatError) as caught:
        tasks.decode(data)
    return caught.value.rule


@pytest.mark.parametrize(("kind", "tail"), WITH_TAILS)
def test_a_task_comes_back_byte_for_byte(kind: Kind, tail: Tail) -> None:
    """Every kind and tail: decoded it is the same task, encoded again the same bytes."""
    made = task(kind=kind, tail=tail, caps=Caps(10**9, 1, 10**9))
    again = tasks.decode(made.encoded)
    assert again == made
    assert again.encoded == made.encoded
    assert again.spec_hash == hash_(b"pss1/task", made.encoded)
    assert tasks.open_(made.sign(PUBLISHER), PUBLISHER.public) == made


def test_the_signature_is_over_label_and_map() -> None:
    """`cbor | SIG(publisher, "pss1/task-sig", cbor)`, and no other key or label will do."""
    signed = task().sign(PUBLISHER)
    body, sig = signed[:-64], signed[-64:]
    assert body == task().encoded
    verify(PUBLISHER.public, b"pss1/task-sig", body, sig)
    other, _ = sign_keypair(b"\x51" * 32)
    with pytest.raises(SignatureError):
        tasks.open_(signed, other)
    with pytest.raises(SignatureError):
        tasks.open_(body + PUBLISHER.sign(labels.TASK, body), PUBLISHER.public)
    with pytest.raises(SignatureError):
        tasks.open_(changed(k_min=101) + sig, PUBLISHER.public)


def test_the_form_of_a_task_stands() -> None:
    """The sample's hash, worked out once: a task that was published keeps its name for ever."""
    assert (
        task().spec_hash.hex() == "eef2f8cc1033b0b16e704240f3d8f70956ad45cf7c26e336b3aaaa522958d9a7"
    )


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_byte_can_be_changed(at: int, by: int) -> None:
    """A published task with any byte other is refused."""
    signed = bytearray(task().sign(PUBLISHER))
    signed[at % len(signed)] ^= by
    with pytest.raises(SignatureError):
        tasks.open_(bytes(signed), PUBLISHER.public)


def test_a_change_is_a_new_task() -> None:
    """Any field that differs gives another spec hash; the object itself can't be changed."""
    made = task()
    assert task(title="Favourite cuisines").spec_hash != made.spec_hash
    with pytest.raises(AttributeError):
        made.k_min = 1  # type: ignore[misc]


def test_a_task_without_noise_is_for_tests() -> None:
    """`open_` refuses it unless it is told that this is a test."""
    signed = task(noise=None).sign(PUBLISHER)
    with pytest.raises(FormatError, match="noise-none"):
        tasks.open_(signed, PUBLISHER.public)
    assert tasks.open_(signed, PUBLISHER.public, noiseless=True).noise is None


NOISE = {"mechanism": "gaussian", "sigma_milli": 20_000}
CAPS = {"device_micro_rho": 1, "period_ms": 1, "task_micro_rho": 1}
BINS = {"name": "histogram", "bins": 3, "labels": []}
TEST = {"name": "experiment", "variants": 3, "labels": [], "low": 0, "high": 5}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"version": 2}, "task-version"),
    ({"version": None}, "task-fields"),
    ({"extra": 1}, "task-fields"),
    ({"noise": NOISE | {"seed": 1}}, "task-fields"),
    ({"noise": 3}, "task-fields"),
    ({"caps": {"period_ms": 1}}, "task-fields"),
    ({"parties": {"m": 3, "t": 1, "n": 1}}, "task-fields"),
    ({"id": "Food"}, "name"),
    ({"id": ""}, "name"),
    ({"id": 5}, "task-type"),
    ({"purpose": "a b"}, "name"),
    ({"title": ""}, "title"),
    ({"title": "two\nlines"}, "title"),
    ({"title": "x" * 201}, "title"),
    ({"title": 7}, "title"),
    ({"kind": 3}, "kind"),
    ({"kind": {"name": "median"}}, "kind"),
    ({"kind": BINS | {"extra": 1}}, "kind-params"),
    ({"field": 32}, "field"),
    ({"field": True}, "field"),
    ({"kappa": 1}, "task-range"),
    ({"kappa": 5}, "task-range"),
    ({"kappa": 3, "field": 61}, "task-range"),
    ({"window_ms": 0}, "task-range"),
    ({"window_ms": True}, "task-range"),
    ({"grace_ms": -1}, "task-range"),
    ({"reports_max": 1 << 32}, "task-range"),
    ({"reports_max": (1 << 30) - 1}, "wrap"),
    ({"k_min": 1}, "task-range"),
    ({"k_min": 100_001}, "task-range"),
    ({"noise": NOISE | {"mechanism": "uniform"}}, "noise"),
    ({"noise": NOISE | {"mechanism": ["gaussian"]}}, "noise"),
    ({"noise": NOISE | {"sigma_milli": 0}}, "noise"),
    ({"noise": NOISE | {"sigma_milli": 2_000}}, "noise"),
    ({"noise": NOISE | {"sigma_milli": True}}, "noise"),
    ({"noise": {"mechanism": "none", "sigma_milli": 5}}, "task-range"),
    ({"noise": NOISE | {"sigma_milli": 60_000_000_000}}, "wrap"),
    ({"caps": CAPS | {"task_micro_rho": 0}}, "task-range"),
    ({"caps": CAPS}, "caps"),
    ({"caps": CAPS | {"task_micro_rho": 2_500}}, "caps"),
    ({"caps": CAPS | {"device_micro_rho": 2_500}}, "caps"),
    ({"parties": {"m": 2, "t": 1}}, "parties"),
    ({"parties": {"m": 4, "t": 2}}, "parties"),
    ({"parties": {"m": 17, "t": 1}}, "task-range"),
    ({"parties": {"m": 3, "t": 0}}, "task-range"),
    ({"tail": 1}, "tail"),
    ({"tail": {"name": "best"}}, "tail"),
    ({"tail": {"name": "threshold"}}, "tail-params"),
    ({"tail": {"name": "none", "tau": 1}}, "tail-params"),
    ({"tail": {"name": "threshold", "tau": 0}}, "tail-params"),
    ({"tail": {"name": "top", "count": 3}}, "tail-params"),
    ({"tail": {"name": "welch", "alpha_micro": 50_000}}, "tail-kind"),
    (
        {"tail": {"name": "welch", "alpha_micro": 0}, "kind": TEST},
        "tail-params",
    ),
    ({"tail": {"name": "quantile", "at_micro": [500]}}, "tail-kind"),
    (
        {
            "tail": {"name": "quantile", "at_micro": [500, 500]},
            "kind": {"name": "quantile", "edges": [1, 2, 3]},
        },
        "tail-params",
    ),
    (
        {
            "tail": {"name": "quantile", "at_micro": 500},
            "kind": {"name": "quantile", "edges": [1, 2, 3]},
        },
        "tail-params",
    ),
    ({"tail": {"name": "top", "count": 1}, "kind": {"name": "count"}}, "tail-kind"),
    ({"expires_ms": 0}, "task-range"),
    ({"title": 1.5}, "cbor-type"),
    ({"title": b"bytes"}, "cbor-type"),
    ({"title": {"a": {"b": {"c": {}}}}}, "cbor-type"),
    ({"title": {1: 2}}, "cbor-type"),
    ({"title": 1 << 64}, "cbor-type"),
]


@pytest.mark.parametrize(("other", "rule"), BAD)
def test_what_is_not_sound_is_refused(other: dict[str, Any], rule: str) -> None:
    """A map that the publisher could have signed by mistake, by the rule that it breaks."""
    assert refused(changed(**other)) == rule


@pytest.mark.parametrize("name", sorted(cbor2.loads(task().encoded)))
def test_every_field_is_needed(name: str) -> None:
    """A map that lacks any one is refused; nothing has a default."""
    assert refused(changed(**{name: None})) == "task-fields"


def test_another_form_of_the_same_map_is_refused() -> None:
    """Unsorted, indefinite, longer heads, doubled keys, tags, trailing bytes: not that map."""
    fields = cbor2.loads(task().encoded)
    body = task().encoded
    assert body[0] == 0xB0  # a map of 16
    unsorted = cbor2.dumps(dict(reversed(fields.items())))
    indefinite = b"\xbf" + body[1:] + b"\xff"
    longer = b"\xb8\x10" + body[1:]
    doubled = b"\xb1" + body[1:] + cbor2.dumps("version") + b"\x01"
    for data in (unsorted, indefinite, longer, doubled):
        assert refused(data) == "cbor-form"
    assert refused(body + b"\x00") in ("cbor", "cbor-form")
    assert refused(b"\xd9\xd9\xf7" + body) in ("cbor", "cbor-form")
    assert refused(body[:-1]) == "cbor"
    assert refused(b"") == "cbor"
    assert refused(b"\x01") == "cbor"
    assert refused(bytes(canonical.BYTES_MAX + 1)) == "length"


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_bytes_of_any_sort_are_a_format_error(data: bytes) -> None:
    """Nothing but FormatError comes out of what is no task."""
    with pytest.raises(FormatError):
        tasks.decode(data)


@settings(max_examples=300)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_task_with_a_byte_changed_is_another_task_or_refused(at: int, by: int) -> None:
    """What decodes encodes to exactly the bytes that came."""
    data = bytearray(task().encoded)
    data[at % len(data)] ^= by
    try:
        read = tasks.decode(bytes(data))
    except FormatError:
        return
    assert read.encoded == bytes(data)


def test_too_short_for_a_signature() -> None:
    """Bytes that hold no more than a signature are no published task."""
    with pytest.raises(FormatError, match="length"):
        tasks.open_(bytes(64), PUBLISHER.public)


def test_what_would_not_encode_cannot_be_made() -> None:
    """Lone surrogates have no UTF-8; a task with one is refused when it is made or encoded."""
    with pytest.raises(FormatError):
        task(title="\ud800")
    with pytest.raises(FormatError):
        task(kind=Histogram(FIELD31, 2, ("a", "\ud800")))
    with pytest.raises(FormatError, match="wrap"):
        replace(task(), kind=Sum(FIELD31, 0, 100_000))
    with pytest.raises(FormatError, match="task-range"):
        task(caps=Caps(1, 1, 0))


def test_keys_hide_their_secrets() -> None:
    """No repr of a key of publisher or party holds a secret byte."""
    for key in (PublisherKey(b"\xab" * 32), PartyKey(b"\xab" * 32)):
        assert "abab" not in repr(key)
        assert "hidden" in str(key)


def test_a_round_costs_what_the_kinds_sensitivity_and_the_noise_make() -> None:
    """Two bins move by one each and sigma is 20: rho = 2 / 2 sigma^2 = 2,500 micro and the
    little that separate shares add. Laplace is measured by the sum of magnitudes."""
    assert task().cost_micro_rho == 2_501
    assert task(noise=None).cost_micro_rho == 0
    # A step by 1 costs 0.0707 at a deviation of 20, so epsilon is 0.1414 and rho its half square.
    assert task(noise=Law(Mechanism.LAPLACE, 20_000)).cost_micro_rho == pytest.approx(9_996, abs=5)
    for noise in (Law(Mechanism.LAPLACE, 20_000), Law(Mechanism.GAUSSIAN, 20_000)):
        made = task(noise=noise)
        assert tasks.decode(made.encoded) == made


def test_the_caps_that_allow_one_round_are_enough() -> None:
    """A task may cost just what it is capped at."""
    assert task(caps=Caps(2_501, 1, 2_501)).cost_micro_rho == 2_501
    with pytest.raises(FormatError, match="caps"):
        task(caps=Caps(2_500, 1, 2_501))


def test_sums_have_room_for_noise_with_the_fewest_parties() -> None:
    """A task fits exactly up to its reports and the reach of the noise of t + 1 parties."""
    law = Law(Mechanism.LAPLACE, 50_000)
    room = FIELD31.p // 2 - law.reach(present=2, t=1)
    assert task(noise=law, reports_max=room).reports_max == room
    with pytest.raises(FormatError, match="wrap"):
        task(noise=law, reports_max=room + 1)


def test_what_clients_import_brings_no_mpyc() -> None:
    """Task, manifest, kinds and budget are pure; MPyC changes the process that imports it."""
    code = "import sys, mpc.task, mpc.manifest, mpc.kinds, mpc.budget, mpc.oracle, mpc.privacy\n"
    code += "sys.exit(any(name.split('.')[0] in ('mpyc', 'asyncio') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_value_that_only_equals_the_right_one_is_refused() -> None:
    """True is 1 to Python and another byte in CBOR: two forms of one task would have two hashes."""
    assert refused(changed(version=True)) == "cbor-form"
