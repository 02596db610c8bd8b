"""The policy of the canary: every kind of signal and reach, and two tasks. Its words are public."""

from __future__ import annotations

from typing import Any, Final

from crypto.policy import FIRST, Bundle
from crypto.policy.access import Access, Grant, Role
from crypto.policy.purposes import Purpose
from crypto.policy.retention import ServiceRetention
from crypto.policy.signals import Reach, Signal
from crypto.policy.tasks import TaskRule
from crypto.policy.values import Choices, Delta, Members, Text, Values

MICRO: Final = 1_000_000
ADVICE, COUNTING, LEARNING = "advice", "counting", "learning"
CUISINES: Final = ("thai", "greek", "lao")
FAVOURITE, LEARN, LATER = "food/cuisine", "fl/canary", "food/later"
PURPOSES: Final = (
    Purpose(ADVICE, "Shows what suits you first.", "Less to look through.", False),
    Purpose(COUNTING, "Counts favourites, of many together.", "The menu gets better.", False),
    Purpose(LEARNING, "Trains a shared model.", "Suggestions get better.", True),
)
_ANYBODY: Final = ("Accounts", "Pairing", "Policy", "Sync", "Wake", "Rounds")
_PUBLISHER: Final = ("Rounds", "Parties")


def bundle(*, now_ms: int, operator: bytes) -> Bundle:
    """The first one. `operator`: public key of who may look at the service's health."""
    return Bundle(
        sequence=1,
        previous=FIRST,
        title="A canary",
        issued_ms=now_ms,
        purposes=PURPOSES,
        signals=(
            _signal("note", Text(200), "notes", (ADVICE,)),
            _signal("draft", Text(200), "drafts", (ADVICE,), reach=Reach.DEVICE),
            _signal("liked", Delta(-9 * MICRO, 9 * MICRO, 99 * MICRO), "liked", (ADVICE,)),
            _signal("saved", Members(9), "saved", (ADVICE,)),
            _signal("remark", Text(200), "remarks", (COUNTING,)),
            _signal(
                "cuisine", Choices(CUISINES), "food", (COUNTING, LEARNING), keys=("cuisine",),
                reach=Reach.AGGREGATE,
            ),
        ),
        tasks=(
            _task(FAVOURITE, COUNTING, "histogram"),
            _task(LATER, COUNTING, "histogram"),
            _task(LEARN, LEARNING, "vector"),
        ),
        flags=(),
        access=Access((Role("operator", (), (operator.hex(),)),), tuple(_grants())),
        cohorts=(),
        experiments=(),
        retention=ServiceRetention(30, 30, 0, 30, 1),
    )  # fmt: skip


def _signal(
    name: str,
    values: Values,
    collection: str,
    purposes: tuple[str, ...],
    *,
    keys: tuple[str, ...] = ("*",),
    reach: Reach = Reach.SYNC,
) -> Signal:
    kind = {Delta: "score", Members: "set"}.get(type(values), "setting")
    return Signal(
        name=name, kind=kind, collection=collection, keys=keys, values=values, generalise=(),
        purposes=purposes, reach=reach, retention_days=30, half_life_days=None,
        text=f"What {name} is.",
    )  # fmt: skip


def _task(source: str, purpose: str, kind: str) -> TaskRule:
    return TaskRule(source, ("cuisine",), purpose, kind, 2, 900 * MICRO, 30, None, "A canary's.")


def _grants() -> Any:
    for name in _ANYBODY:
        yield Grant("anyone", f"/rookery.v1.{name}/*", ("*",))
    for name in _PUBLISHER:
        for role in ("publisher", "party"):
            yield Grant(role, f"/rookery.v1.{name}/*", ("*",))
    yield Grant("service", "/rookery.v1.Gateway/*", ("*",))
    yield Grant("operator", "/rookery.v1.Operations/*", ("*",))
