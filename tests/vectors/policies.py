"""Policy bundles: positives of the section `more`, and bundles that nobody may take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from crypto import canonical
from crypto.policy import Bundle, flags
from crypto.policy.access import Access, Grant, Role
from crypto.policy.cohorts import CohortRule, Comparison, Op, When
from crypto.policy.document import DEPTH, FIRST
from crypto.policy.experiments import ExperimentRule
from crypto.policy.flags import Flag
from crypto.policy.generalise import Bucket, Day, Round, TopK
from crypto.policy.purposes import Purpose
from crypto.policy.retention import ServiceRetention
from crypto.policy.signals import Reach, Signal
from crypto.policy.tasks import TaskRule
from crypto.policy.values import Choices, Delta, Members, Number, Values, Whole
from mpc.keys import PublisherKey
from tests.vectors.story import START_MS, Row, seeded

KEY: Final = PublisherKey(seeded("policy/publisher"))
MICRO: Final = 1_000_000
_PURPOSES: Final = (
    Purpose("ranking", "Orders what you see.", "What you like comes first.", False),
    Purpose("statistics", "Counts, of many — together.", "The menu gets better.", True),
)


def bundles() -> tuple[Bundle, Bundle]:
    """The least that there can be, and one that follows with every noun in it."""
    least = Bundle(
        sequence=1, previous=FIRST, title="Nothing yet", issued_ms=START_MS,
        purposes=(), signals=(), tasks=(), flags=(),
        access=Access((), (Grant("anyone", "/rookery.v1.Policy/GetPolicy", ("*",)),)),
        cohorts=(), experiments=(), retention=ServiceRetention(1, 1, 0, 1, 1),
    )  # fmt: skip
    return least, _whole(least.hash)


def _whole(previous: bytes) -> Bundle:
    return Bundle(
        sequence=2,
        previous=previous,
        title="Cuisines",
        issued_ms=START_MS + 1,
        purposes=_PURPOSES,
        signals=(
            _signal("region", "setting", Choices(("north", "süd")), reach=Reach.AGGREGATE),
            _signal("age", "setting", Whole(0, 120), Bucket((0, 18 * MICRO, 65 * MICRO))),
            _signal("seen", "setting", Whole(0, 4_000_000_000_000), Day()),
            _signal("far", "setting", Number(-500_000, 50 * MICRO), Round(500_000)),
            _signal("taste", "score", Delta(-MICRO, MICRO, 9 * MICRO), TopK(5), keys=("*",),
                    reach=Reach.AGGREGATE, half_life_days=30),
            _signal("saved", "set", Members(50), keys=("soup", "cake"), reach=Reach.DEVICE),
        ),
        tasks=(
            TaskRule("app/region", ("region", "taste"), "statistics", "histogram", 50, 100_000, 180,
                     "coast", "How many live where."),
            TaskRule("ab/order", ("region",), "statistics", "experiment", 50, 100_000, 180,
                     None, "Which order is better."),
        ),
        flags=(
            Flag("stop", "kill", ("signal", "region"), False, 100, None),
            Flag("winter", "feature", ("feature", "winter"), True, 25, ("coast", "sea")),
        ),
        access=Access(
            (Role("reader", ("spiffe://example.org/ns/read/*",), ("ab" * 32,)),),
            (
                Grant("device", "/rookery.v1.Sync/*", ("*",)),
                Grant("reader", "/rookery.v1.Rounds/GetResult", ("statistics",)),
            ),
        ),
        cohorts=(
            CohortRule(
                "coast", 3,
                (When("sea", False, (Comparison("region", Op.IN, ("north",)),
                                     Comparison("taste", Op.AT_LEAST, 2, "fish"))),),
                "land", "By the sea, or of a taste for fish.",
            ),
        ),
        experiments=(ExperimentRule("order", "ab/order", ("old", "new"), 50, 4_000, "Order."),),
        retention=ServiceRetention(365, 730, 30, 90, 14),
        assessment=seeded("policy/assessment"),
    )  # fmt: skip


def _signal(name: str, kind: str, values: Values, *coarser: Any, **changes: Any) -> Signal:
    fields: dict[str, Any] = {
        "collection": f"app/{name}", "keys": (name,), "generalise": coarser,
        "purposes": ("ranking", "statistics"), "reach": Reach.SYNC, "retention_days": 400,
        "half_life_days": None, "text": f"What {name} is.",
    }  # fmt: skip
    return Signal(name=name, kind=kind, values=values, **fields | changes)


def positives() -> dict[str, list[Row]]:
    """Both, with what follows from them; draws of flags; values made coarser."""
    return {
        "policies": [_row(one) for one in bundles()],
        "policy_flags": list(_flags()),
        "policy_values": list(_values()),
    }


def _row(bundle: Bundle) -> Row:
    return {
        "seed": seeded("policy/publisher").hex(),
        "publisher": KEY.public.hex(),
        "bundle": bundle.encoded.hex(),
        "sig": bundle.sign(KEY).hex(),
        "sequence": bundle.sequence,
        "hash": bundle.hash.hex(),
        "text_hashes": {one.name: one.text_hash.hex() for one in bundle.purposes},
        "fields": canonical.decode(bundle.encoded, depth=DEPTH),
    }


def _flags() -> Iterator[Row]:
    for at in range(8):
        secret, percent = seeded(f"policy/flag/{at}"), (0, 1, 25, 50, 75, 99, 100, 30)[at]
        flag = Flag("winter", "feature", ("feature", "winter"), True, percent, None)
        yield {
            "name": flag.name,
            "secret": secret.hex(),
            "percent": percent,
            "on": flags.is_on(flag, secret, {}),
        }


def _values() -> Iterator[Row]:
    """Whole numbers alone: how a float is written is no part of the format."""
    for one, values in (
        (Bucket((0, 18 * MICRO, 65 * MICRO)), (-1, 0, 17, 18, 64, 65, 1_000)),
        (Round(10 * MICRO), (-15, -5, -4, 0, 4, 5, 14, 15)),
        (Day(), (0, 86_399_999, 86_400_000, START_MS)),
    ):
        for value in values:
            yield {"step": one.as_map(), "value": value, "becomes": one.apply(value)}


def _changed(change: Callable[[Any], object]) -> bytes:
    said = canonical.decode(bundles()[1].encoded, depth=DEPTH)
    change(said)
    return canonical.encode(said, depth=DEPTH)


def negatives() -> Iterator[Row]:
    """Each is signed by the publisher, and refused for what it says; then the signatures."""
    whole = bundles()[1]
    changes: dict[str, tuple[str, Callable[[Any], object]]] = {
        "another version": ("policy-version", lambda b: b.update(version=2)),
        "number 0": ("policy-range", lambda b: b.update(sequence=0)),
        "the first with one before": ("policy-previous", lambda b: b.update(sequence=1)),
        "the second with none before": (
            "policy-previous", lambda b: b.update(previous="00" * 32),
        ),
        "a hash in capital digits": ("policy-hex", lambda b: b.update(previous="AB" * 32)),
        "a field too many": ("policy-fields", lambda b: b.update(more=1)),
        "a field too few": ("policy-fields", lambda b: b.pop("cohorts")),
        "a signal's field too many": ("policy-fields", lambda b: b["signals"][0].update(more=1)),
        "a truth for a number": (
            "policy-range", lambda b: b["signals"][0].update(retention_days=True),
        ),
        "two purposes of one name": (
            "policy-twice", lambda b: b["purposes"].append(b["purposes"][0]),
        ),
        "two signals of one name": (
            "signal-overlap",
            lambda b: b["signals"][1].update(collection="app/region", keys=["*"]),
        ),
        "a purpose that is not there": (
            "purpose-unknown", lambda b: b["signals"][0].update(purposes=["other"]),
        ),
        "a task over a signal that is not there": (
            "signal-unknown", lambda b: b["tasks"][1].update(signals=["other"]),
        ),
        "a task over a signal that only syncs": (
            "task-reach", lambda b: b["tasks"][1].update(signals=["age"]),
        ),
        "a task for what its signal is not for": (
            "signal-purpose", lambda b: b["signals"][0].update(purposes=["ranking"]),
        ),
        "a result kept longer than the service keeps any": (
            "task-retention", lambda b: b["tasks"][0].update(result_days=366),
        ),
        "a kill for some": ("flag-kill", lambda b: b["flags"][0].update(percent=99)),
        "a switch about nothing": (
            "signal-unknown", lambda b: b["flags"][0].update(about=["signal", "other"]),
        ),
        "a grant to nobody": (
            "access-role", lambda b: b["access"]["grants"][0].update(role="nobody"),
        ),
        "a range upside down": (
            "policy-range", lambda b: b["signals"][1]["values"].update(low=121),
        ),
        "edges that fall": (
            "policy-order",
            lambda b: b["signals"][1]["generalise"][0].update(edges_micro=[MICRO, 0]),
        ),
        "an experiment without a task": (
            "task-unknown", lambda b: b["experiments"][0].update(task="ab/other"),
        ),
        "a cohort of a signal that is not there": (
            "signal-unknown",
            lambda b: b["cohorts"][0]["cohorts"][0]["any"][0].update(signal="other"),
        ),
    }  # fmt: skip
    for name, (why, change) in changes.items():
        yield _refused(name, why, _changed(change))
    yield _refused("cut off", "cbor", whole.encoded[:-1])
    yield _refused("prolonged", "cbor-form", whole.encoded + b"\0")
    other = PublisherKey(seeded("policy/other"))
    signed = _refused("signed by another key", "signature", whole.encoded)
    yield signed | {"sig": whole.sign(other).hex()}
    relabelled = _refused("signed as a task", "signature", whole.encoded)
    yield relabelled | {"sig": KEY.sign(b"pss1/task-sig", whole.encoded).hex()}
    flipped = bytes((whole.encoded[0] ^ 1,)) + whole.encoded[1:]
    yield _refused("a bit flipped", "signature", flipped) | {"sig": whole.sign(KEY).hex()}


def _refused(name: str, why: str, data: bytes) -> Row:
    return {
        "name": f"policy: {name}",
        "kind": "policy",
        "expect": "reject",
        "why": why,
        "publisher": KEY.public.hex(),
        "bundle": data.hex(),
        "sig": KEY.sign(b"pss1/policy-sig", data).hex(),
    }
