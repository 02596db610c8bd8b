"""Kinds, values, tasks and rounds that must be refused, each named; `why` is the rule."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import cbor2

from crypto import labels
from crypto.primitives import box_public
from mpc.keys import PublisherKey
from mpc.manifest import Party
from tests.vectors.aggregates import PUBLISHER_SEED, RoundOf, published, tasks
from tests.vectors.badlinks import LOW_ORDER
from tests.vectors.story import Row, seeded

PUBLISHER = PublisherKey(PUBLISHER_SEED)
LIMIT = 1 << 53


def negatives() -> Iterator[Row]:
    """All of them."""
    yield from _kinds()
    yield from _values()
    yield from _tasks()
    yield from _task_bytes()
    yield from _rounds()
    yield from _round_bytes()


def row(kind: str, name: str, why: str, **fields: Any) -> Row:
    """One negative."""
    return {"name": f"{kind}: {name}", "kind": kind, "expect": "reject", "why": why, **fields}


# Kinds and values


def _histogram(**other: Any) -> dict[str, Any]:
    return {"name": "histogram", "bins": 4, "labels": [], **other}


def _experiment(**other: Any) -> dict[str, Any]:
    return {"name": "experiment", "variants": 2, "labels": [], "low": -10, "high": 10, **other}


def _kinds() -> Iterator[Row]:
    cases: list[tuple[str, str, dict[str, Any]]] = [
        ("unknown name", "kind", _histogram(name="median")),
        ("no name", "kind", {"bins": 4, "labels": []}),
        ("a parameter missing", "kind-params", {"name": "histogram", "bins": 4}),
        ("a parameter too many", "kind-params", _histogram(most=1)),
        ("count with parameters", "kind-params", {"name": "count", "bins": 1}),
        ("one bin", "kind-params", _histogram(bins=1)),
        ("4,097 bins", "kind-params", _histogram(bins=4097)),
        ("true bins", "kind-params", _histogram(bins=True)),
        ("text bins", "kind-params", _histogram(bins="4")),
        ("a label missing", "labels", _histogram(labels=["a", "b", "c"])),
        ("a label twice", "labels", _histogram(labels=["a", "b", "c", "a"])),
        ("an empty label", "labels", _histogram(labels=["a", "b", "c", ""])),
        ("a label of 65 characters", "labels", _histogram(labels=["a", "b", "c", "d" * 65])),
        ("a label with a line break", "labels", _histogram(labels=["a", "b", "c", "d\n"])),
        ("a label that is a number", "labels", _histogram(labels=["a", "b", "c", 4])),
        ("multihot of none", "kind-params",
         {"name": "multihot", "bins": 4, "most": 0, "labels": []}),
        ("multihot of more than its bins", "kind-params",
         {"name": "multihot", "bins": 4, "most": 5, "labels": []}),
        ("bounds that are equal", "bounds", {"name": "sum", "low": 4, "high": 4}),
        ("bounds that descend", "bounds", {"name": "sum", "low": 5, "high": 4}),
        ("a bound beyond 2^53", "bounds", {"name": "sum", "low": -LIMIT - 2, "high": 4}),
        ("variance that is a number", "kind-params",
         {"name": "mean", "low": 0, "high": 4, "variance": 1}),
        ("squares that could wrap", "field",
         {"name": "mean", "low": 0, "high": 1 << 17, "variance": True}),
        ("coordinates of one bit", "kind-params",
         {"name": "vector", "size": 2, "bits": 1, "norm2_max": 1}),
        ("coordinates of 25 bits", "kind-params",
         {"name": "vector", "size": 2, "bits": 25, "norm2_max": 1}),
        ("a norm of 0", "kind-params", {"name": "vector", "size": 2, "bits": 4, "norm2_max": 0}),
        ("a norm beyond the cube", "kind-params",
         {"name": "vector", "size": 2, "bits": 4, "norm2_max": 129}),
        ("a vector of more than 65,536 elements", "kind-length",
         {"name": "vector", "size": 4096, "bits": 16, "norm2_max": 1}),
        ("one variant", "kind-params", _experiment(variants=1)),
        ("65 variants", "kind-params", _experiment(variants=65)),
        ("two edges", "edges", {"name": "quantile", "edges": [0, 1]}),
        ("edges that repeat", "edges", {"name": "quantile", "edges": [0, 1, 1]}),
        ("an edge beyond 2^53", "kind-params", {"name": "quantile", "edges": [0, 1, LIMIT + 2]}),
        ("an edge that is a text", "kind-params", {"name": "quantile", "edges": [0, 1, "2"]}),
    ]  # fmt: skip
    for name, why, params in cases:
        yield row("kind", name, why, of=params, field=31)
    yield row("kind", "a field of 32 bits", "field", of=_histogram(), field=32)


def _values() -> Iterator[Row]:
    multihot = {"name": "multihot", "bins": 4, "most": 2, "labels": []}
    mean = {"name": "mean", "low": -3, "high": 6, "variance": True}
    vector = {"name": "vector", "size": 2, "bits": 4, "norm2_max": 50}
    quantile = {"name": "quantile", "edges": [-5, 0, 10]}
    cases: list[tuple[str, dict[str, Any], Any]] = [
        ("count of 1", {"name": "count"}, 1),
        ("count of nothing", {"name": "count"}, None),
        ("a bin below the first", _histogram(), -1),
        ("a bin above the last", _histogram(), 4),
        ("a bin that is true", _histogram(), True),
        ("a bin between two", _histogram(), 1.5),
        ("a bin by its text", _histogram(), "1"),
        ("three of two bins", multihot, [0, 1, 2]),
        ("a bin twice", multihot, [1, 1]),
        ("no collection", multihot, 1),
        ("a bin that there is not", multihot, [4]),
        ("below the range", mean, -4),
        ("above the range", mean, 7),
        ("no whole number", mean, 2.5),
        ("a coordinate beyond its bits", vector, [8, 0]),
        ("a coordinate below its bits", vector, [-9, 0]),
        ("squares beyond the bound", vector, [5, 6]),
        ("a coordinate missing", vector, [1]),
        ("a coordinate too many", vector, [1, 1, 1]),
        ("a coordinate that is true", vector, [True, 1]),
        ("a variant that there is not", _experiment(), [2, 0]),
        ("a number beyond the range", _experiment(), [0, 11]),
        ("no number", _experiment(), [0]),
        ("a variant alone", _experiment(), 0),
        ("below the first edge", quantile, -6),
        ("at the last edge", quantile, 10),
    ]
    for name, params, value in cases:
        yield row("value", name, "value", of=params, field=31, value=value)


# Tasks


def _task_row(name: str, why: str, data: bytes, pk: bytes = PUBLISHER.public) -> Row:
    return row("task", name, why, published=data.hex(), publisher_pk=pk.hex())


def _signed(data: bytes, label: bytes = labels.TASK_SIG) -> bytes:
    return data + PUBLISHER.sign(label, data)


def _changed(fields: dict[str, Any], path: str, value: Any) -> bytes:
    """The map with one value in the place of another, in its deterministic form."""
    changed = deepcopy(fields)
    *outer, last = path.split(".")
    inner = changed
    for key in outer:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return cbor2.dumps(changed, canonical=True)


def _tasks() -> Iterator[Row]:
    fields = cbor2.loads(tasks()[0].encoded)
    cases: list[tuple[str, str, str, Any]] = [
        ("version 2", "task-version", "version", 2),
        ("version missing", "task-fields", "version", ...),
        ("a field missing", "task-fields", "grace_ms", ...),
        ("a field unknown", "task-fields", "comment", "hello"),
        ("a field of noise unknown", "task-fields", "noise.seed", 1),
        ("a field of caps missing", "task-fields", "caps.period_ms", ...),
        ("parties that are a list", "task-fields", "parties", [3, 1]),
        ("an id with a capital", "name", "id", "Food"),
        ("no id", "name", "id", ""),
        ("a purpose of 129 characters", "name", "purpose", "p" * 129),
        ("an id that is a number", "task-type", "id", 7),
        ("no title", "title", "title", ""),
        ("a title of 201 characters", "title", "title", "t" * 201),
        ("a title with a tab", "title", "title", "a\tb"),
        ("a title that turns round", "title", "title", "a\u202eb"),
        ("a kind that is a text", "kind", "kind", "histogram"),
        ("a kind with a wrong parameter", "kind-params", "kind.bins", 1),
        ("field 32", "field", "field", 32),
        ("field true", "field", "field", True),
        ("kappa 1 in field 31", "task-range", "kappa", 1),
        ("kappa 5", "task-range", "kappa", 5),
        ("a window of nothing", "task-range", "window_ms", 0),
        ("a window beyond a year", "task-range", "window_ms", 367 * 86_400_000),
        ("grace below 0", "task-range", "grace_ms", -1),
        ("one report at most", "task-range", "reports_max", 1),
        ("sums that could wrap", "wrap", "reports_max", 1_073_741_500),
        ("k_min 1", "task-range", "k_min", 1),
        ("k_min above all reports", "task-range", "k_min", 100_001),
        ("k_min true", "task-range", "k_min", True),
        ("noise of another law", "noise", "noise.mechanism", "uniform"),
        ("sigma 0", "noise", "noise.sigma_milli", 0),
        ("shares of noise too narrow", "noise", "noise.sigma_milli", 2_828),
        ("no noise, with a sigma", "task-range", "noise.mechanism", "none"),
        ("no noise", "noise-none", "noise", {"mechanism": "none", "sigma_milli": 0}),
        ("a cap of 0", "task-range", "caps.task_micro_rho", 0),
        ("a device's cap below the cost", "caps", "caps.device_micro_rho", 2_500),
        ("the task's cap below the cost", "caps", "caps.task_micro_rho", 2_500),
        ("two parties", "parties", "parties.m", 2),
        ("seventeen parties", "task-range", "parties.m", 17),
        ("t 0", "task-range", "parties.t", 0),
        ("t that m does not bear", "parties", "parties.t", 2),
        ("an unknown tail", "tail", "tail", {"name": "median"}),
        ("a tail with a parameter too many", "tail-params", "tail", {"name": "none", "tau": 1}),
        ("tau 0", "tail-params", "tail", {"name": "threshold", "tau": 0}),
        ("the top of all bins", "tail-params", "tail", {"name": "top", "count": 3}),
        ("quantiles of a histogram", "tail-kind", "tail",
         {"name": "quantile", "at_micro": [500_000]}),
        ("Welch of a histogram", "tail-kind", "tail", {"name": "welch", "alpha_micro": 50_000}),
        ("expired at 0", "task-range", "expires_ms", 0),
        ("a number with a fraction", "cbor-type", "k_min", 100.5),
        ("nothing in the place of a number", "cbor-type", "k_min", None),
        ("bytes in the place of a text", "cbor-type", "title", b"Cuisine"),
        ("a number of 65 bits", "cbor-type", "expires_ms", 1 << 64),
        ("maps too deep", "cbor-type", "kind.labels", [[["a"]]]),
    ]  # fmt: skip
    for name, why, path, value in cases:
        yield _task_row(name, why, _signed(_changed(fields, path, value)))
    quantiles = cbor2.loads(tasks()[3].encoded)
    for name, points in {
        "no quantile": [],
        "quantiles that descend": [500_000, 250_000],
        "the quantile 1": [1_000_000],
    }.items():
        data = _changed(quantiles, "tail.at_micro", points)
        yield _task_row(name, "tail-params", _signed(data))


def _task_bytes() -> Iterator[Row]:
    task = tasks()[0]
    data, whole = task.encoded, published(task)
    fields = cbor2.loads(data)
    other = PublisherKey(seeded("another publisher"))
    for name, made, why in (
        ("signature zero", data + bytes(64), "signature"),
        ("signature cut off", whole[:-1], "signature"),
        ("signature alone", whole[-64:], "length"),
        ("nothing", b"", "length"),
        ("one bit flipped", bytes((whole[0] ^ 1,)) + whole[1:], "signature"),
        ("signed by another", data + other.sign(labels.TASK_SIG, data), "signature"),
        ("signed under the label of rounds", _signed(data, labels.ROUND_SIG), "signature"),
        ("a byte more", _signed(data + b"\0"), "cbor-form"),
        ("a byte less", _signed(data[:-1]), "cbor"),
        ("a list", _signed(b"\x80"), "cbor"),
        ("keys in another order", _signed(cbor2.dumps(_reversed(fields))), "cbor-form"),
        ("a map of indefinite length", _signed(b"\xbf" + data[1:] + b"\xff"), "cbor-form"),
        ("a number in a longer form", _signed(_longer(data)), "cbor-form"),
        ("a key twice", _signed(_twice(data)), "cbor-form"),
    ):
        yield _task_row(name, why, made)
    yield _task_row("another publisher is pinned", "signature", whole, other.public)


def _reversed(fields: dict[str, Any]) -> dict[str, Any]:
    return dict(reversed(fields.items()))


def _longer(data: bytes) -> bytes:
    """`kappa: 2` as 0x18 0x02."""
    assert data.count(b"\x65kappa\x02") == 1
    return data.replace(b"\x65kappa\x02", b"\x65kappa\x18\x02")


def _twice(data: bytes) -> bytes:
    """`kappa` twice, with the count of keys that fits."""
    again = data.replace(b"\x65kappa\x02", b"\x65kappa\x02\x65kappa\x02")
    return bytes((data[0] + 1,)) + again[1:]


# Rounds


def _round_row(
    round_: RoundOf, name: str, why: str, data: bytes | None = None, **pinned: list[bytes]
) -> Row:
    own = [party.ik_pk for party in round_.manifest.parties]
    data = round_.manifest.signed(round_.sigs) if data is None else data
    keys = pinned.get("pinned", own)
    return row(
        "round", name, why,
        of_task=round_.at, published=data.hex(), pinned=[key.hex() for key in keys],
    )  # fmt: skip


def _rounds() -> Iterator[Row]:
    """Signed by all, and yet no round of the task by the parties that are pinned."""
    task = tasks()[0]
    right = RoundOf.make(0, task)
    own = [party.ik_pk for party in right.manifest.parties]
    stranger = PublisherKey(seeded("a stranger")).public
    for name, why, keys in (
        ("pinned in another order", "party-set", [own[1], own[0], own[2]]),
        ("another party is pinned", "party-set", [*own[:2], stranger]),
        ("fewer parties are pinned", "length", own[:2]),
        ("more parties are pinned", "length", [*own, stranger]),
    ):
        yield _round_row(right, name, why, pinned=keys)
    open_ms, close_ms = right.manifest.open_ms, right.manifest.close_ms
    for name, why, other in (
        ("of another task", "round-task", {"spec_hash": tasks()[1].spec_hash}),
        ("closing later", "round-window", {"close_ms": close_ms + 1}),
        ("closing earlier", "round-window", {"close_ms": close_ms - 1}),
        ("with a smaller k_min", "round-k-min", {"k_min": task.k_min - 1}),
        ("closing after the task expired", "task-expired",
         {"open_ms": task.expires_ms - task.window_ms + 1, "close_ms": task.expires_ms + 1}),
        ("closing before it opens", "window", {"open_ms": close_ms, "close_ms": open_ms}),
    ):  # fmt: skip
        yield from _unsound(right, name, why, **other)
    first, second, third = right.manifest.parties
    point = Party(third.ik_pk, first.box_pk)
    yield from _unsound(right, "one box key twice", "party-keys", parties=(first, second, point))
    same = Party(third.ik_pk, second.ik_pk)
    yield from _unsound(
        right, "an identity key as a box key", "party-keys", parties=(first, second, same)
    )
    for name, low in LOW_ORDER.items():
        parties = (first, second, Party(third.ik_pk, low))
        yield from _unsound(right, f"a box key of low order: {name}", "low-order", parties=parties)
    five = RoundOf.make(1, tasks()[1])
    yield from _at(five, "t less than the task's", "round-parties", 6, b"\1")


def _unsound(right: RoundOf, name: str, why: str, **other: Any) -> Iterator[Row]:
    """A manifest that differs, laid out by hand, for some can't be made."""
    m = right.manifest
    fields = {
        "spec_hash": m.spec_hash, "open_ms": m.open_ms, "close_ms": m.close_ms,
        "k_min": m.k_min, "parties": m.parties, **other,
    }  # fmt: skip
    data = (
        m.encoded[:24]
        + fields["spec_hash"]
        + fields["open_ms"].to_bytes(8, "big")
        + fields["close_ms"].to_bytes(8, "big")
        + fields["k_min"].to_bytes(4, "big")
        + b"".join(party.ik_pk + party.box_pk for party in fields["parties"])
    )
    yield _round_row(right, name, why, _all_sign(right, data))


def _all_sign(round_: RoundOf, data: bytes, label: bytes = labels.ROUND_SIG) -> bytes:
    return data + b"".join(round_.sign(at, label, data) for at in range(1, round_.manifest.m + 1))


def _at(round_: RoundOf, name: str, why: str, at: int, value: bytes) -> Iterator[Row]:
    data = round_.manifest.encoded
    changed = data[:at] + value + data[at + len(value) :]
    yield _round_row(round_, name, why, _all_sign(round_, changed))


def _round_bytes() -> Iterator[Row]:
    right = RoundOf.make(0, tasks()[0])
    data, sigs = right.manifest.encoded, right.sigs
    whole = right.manifest.signed(sigs)
    for name, why, at, value in (
        ("other magic", "manifest", 0, b"PSM2"),
        ("unknown suite", "manifest", 4, b"\2"),
        ("reserved byte set", "manifest", 7, b"\1"),
        ("four parties said, three there", "length", 5, b"\4"),
        ("t 0", "parties", 6, b"\0"),
        ("t 2 of 3", "parties", 6, b"\2"),
    ):
        yield from _at(right, name, why, at, value)
    for name, why, made in (
        ("a signature missing", "length", whole[:-64]),
        ("cut off", "length", whole[:-1]),
        ("a byte more", "length", whole + b"\0"),
        ("nothing", "length", b""),
        ("a signature of zeros", "signature", whole[:-64] + bytes(64)),
        ("two signatures changed places", "signature",
         data + b"".join((sigs[1], sigs[0], sigs[2]))),
        ("one party signed for another", "signature", data + b"".join((*sigs[:2], sigs[0]))),
        ("signed under the label of results", "signature",
         _all_sign(right, data, labels.RESULT)),
        ("a bit of the window flipped", "signature",
         whole[:63] + bytes((whole[63] ^ 1,)) + whole[64:]),
    ):  # fmt: skip
        yield _round_row(right, name, why, made)
    assert box_public(right.box_keys[0]) == right.manifest.parties[0].box_pk
