"""A policy publisher, and bundles under which everybody may call what the routes let them."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any, Final

from client.governed.holding import Shown, SignedPolicy
from client.sync import SyncedDevice
from crypto.policy import FIRST, Bundle
from crypto.policy.access import Access, Grant
from crypto.policy.flags import Flag
from crypto.policy.purposes import Purpose
from crypto.policy.tasks import TaskRule
from mpc.keys import PublisherKey
from rookery.v1 import policy_pb2
from tests import policy_samples

GET: Final = "/rookery.v1.Policy/GetPolicy"
WATCH: Final = "/rookery.v1.Policy/WatchPolicy"
PUBLISH: Final = "/rookery.v1.Policy/PublishPolicy"
SERVICES: Final = ("Accounts", "Pairing", "Sync", "Rounds", "Parties", "Wake", "Policy")
OPEN: Final = Access(
    (), tuple(Grant("anyone", f"/rookery.v1.{name}/*", ("*",)) for name in SERVICES)
)
KEY: Final = PublisherKey(random.Random("policy publisher").randbytes(32))
OTHER_KEY: Final = PublisherKey(random.Random("another policy publisher").randbytes(32))
CUISINE: Final = TaskRule(
    "cuisine", ("region",), "product", "histogram", 2, 1_000_000, 180, None, "Who likes what."
)


def bundle(before: Bundle | None = None, **changes: Any) -> Bundle:
    """One that follows on `before`, or the first. It declares the task of `tests.relay_worlds`."""
    base = policy_samples.bundle()
    signals = tuple(
        replace(one, purposes=(*one.purposes, "product")) if one.name == "region" else one
        for one in base.signals
    )
    made: dict[str, Any] = {
        "sequence": 1 if before is None else before.sequence + 1,
        "previous": FIRST if before is None else before.hash,
        "purposes": (*base.purposes, Purpose("product", "Makes the app better.", "Better.", False)),
        "signals": signals,
        "tasks": (*base.tasks, CUISINE),
        "access": OPEN,
    }
    return policy_samples.bundle(**made | changes)


def killing(subject: str, name: str) -> Flag:
    """A switch that stops it everywhere."""
    return Flag("stop", "kill", (subject, name), True, 100, None)


def signed(made: Bundle, by: PublisherKey = KEY) -> policy_pb2.SignedPolicy:
    """A bundle as it travels."""
    return policy_pb2.SignedPolicy(bundle=made.encoded, sig=made.sign(by), publisher=by.public)


def to_publish(made: Bundle, by: PublisherKey = KEY) -> policy_pb2.PublishPolicyRequest:
    """A bundle on its way to the service."""
    return policy_pb2.PublishPolicyRequest(policy=signed(made, by))


def shown(made: Bundle, by: PublisherKey = KEY) -> Shown:
    """A bundle as a device hears of it."""
    signed_ = SignedPolicy(made.encoded, made.sign(by), by.public)
    return Shown(made.sequence, made.hash, signed_)


def govern(synced: SyncedDevice, made: Bundle, by: PublisherKey = KEY) -> None:
    """Puts a device under a bundle."""
    synced.pin_policy(by.public)
    synced.on_policy(shown(made, by))
