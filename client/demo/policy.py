"""The demo's policy: the shipped one, with this run's keys, regions and items.

`shipped.policy` is deploy/policy, compiled (`make policy-demo`). Real ratings have regions and
items of their own: the data dictionary gets theirs, and what is said of the shipped ones goes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from client.demo import measures
from client.demo.people import ABOUT, RATINGS
from client.demo.ratings import Population, RatingsError
from client.endpoint import Endpoint
from client.policykit import bundlefile
from client.policykit.bundlefile import BundleFile
from client.policykit.publish import publish
from client.transport import Transport
from crypto.policy import FIRST, Bundle
from crypto.policy.signals import ANY, KEYS_MAX, Signal
from crypto.policy.values import CHOICES_MAX, Choices
from mpc.keys import PublisherKey

SHIPPED: Final = Path(__file__).with_name("shipped.policy")
PURPOSES: Final = ("ranking", measures.PURPOSE)
"""What everybody of the demo says yes to."""
OPERATOR: Final = "operator"


@dataclass(slots=True)
class Governor:
    """Who publishes the demo's policy, and the operator's key that it lists."""

    endpoint: Endpoint
    key: PublisherKey
    operator: PublisherKey
    published: list[Bundle] = field(default_factory=list)

    @property
    def newest(self) -> Bundle:
        """The one in force."""
        return self.published[-1]

    async def begin(self, population: Population) -> Bundle:
        """Publishes the first one."""
        return await self._publish(of(population, self.operator.public))

    async def switch(self, flag: str, *, on: bool) -> Bundle:
        """Publishes the next one, in which a switch stands so."""
        flags = tuple(replace(one, on=on) if one.name == flag else one for one in self.newest.flags)
        return await self._publish(
            replace(
                self.newest,
                sequence=self.newest.sequence + 1,
                previous=self.newest.hash,
                issued_ms=_now_ms(),
                flags=flags,
            )
        )

    async def _publish(self, made: Bundle) -> Bundle:
        await publish(Transport(self.endpoint), self.key, BundleFile.signed(made, self.key))
        self.published.append(made)
        return made


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def of(population: Population, operator: bytes) -> Bundle:
    """The first bundle of a run. RatingsError: there is more in the file than a policy can list."""
    shipped = bundlefile.read(SHIPPED).bundle
    people = len(population.people)
    made: dict[str, Any] = {
        "sequence": 1,
        "previous": FIRST,
        "issued_ms": _now_ms(),
        "access": replace(
            shipped.access,
            roles=tuple(
                replace(role, keys=(operator.hex(),)) if role.name == OPERATOR else role
                for role in shipped.access.roles
            ),
        ),
        # Of very few people the demo's tasks ask for fewer answers than the shipped policy lets.
        "tasks": tuple(
            replace(task, k_min_at_least=min(task.k_min_at_least, measures.k_min(people)))
            for task in shipped.tasks
        ),
    }
    return replace(shipped, **made | _dictionary(shipped, population, made["tasks"]))


def _dictionary(shipped: Bundle, population: Population, tasks: Iterable[Any]) -> dict[str, Any]:
    """Of a population with other regions and items than the shipped policy has."""
    regions = sorted({person.region for person in population.people})
    items = sorted({item for person in population.people for item in person.ratings})
    signals = tuple(_widened(signal, regions, items) for signal in shipped.signals)
    if signals == shipped.signals:
        return {}
    # Rules for cohorts speak of items that are not there.
    return {
        "signals": signals,
        "cohorts": (),
        "tasks": tuple(task for task in tasks if task.cohort is None),
        "flags": tuple(flag for flag in shipped.flags if flag.cohort is None),
    }


def _widened(signal: Signal, regions: list[str], items: list[str]) -> Signal:
    if signal.collection == ABOUT and isinstance(signal.values, Choices):
        if set(regions) <= set(signal.values.choices):
            return signal
        if len(regions) > CHOICES_MAX:
            raise RatingsError(
                f"a policy lists {CHOICES_MAX} regions at most, and there are {len(regions)}"
            )
        return replace(signal, values=Choices(tuple(regions)))
    if signal.collection == RATINGS and not set(items) <= set(signal.keys):
        if len(items) <= KEYS_MAX:
            return replace(signal, keys=tuple(items))
        if any("/" in item for item in items):
            raise RatingsError(f"of more than {KEYS_MAX} items none may have a slash in its name")
        return replace(signal, keys=(ANY,))
    return signal
