"""Every method of the wire, by its full name: what an access matrix can speak of."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from functools import cache
from importlib import import_module

import rookery.v1
from crypto.policy import Bundle


@cache
def every() -> frozenset[str]:
    """`/rookery.v1.SERVICE/METHOD`, all of them."""
    found = set()
    for module in pkgutil.iter_modules(rookery.v1.__path__):
        if not module.name.endswith("_pb2"):
            continue
        descriptor = import_module(f"rookery.v1.{module.name}").DESCRIPTOR
        for service in descriptor.services_by_name.values():
            found |= {f"/{service.full_name}/{method.name}" for method in service.methods}
    return frozenset(found)


def unknown(bundle: Bundle) -> list[int]:
    """Places, from 0, of grants of a method that there is not."""
    known = every()
    services = {method.rpartition("/")[0] + "/*" for method in known}
    return [
        at
        for at, grant in enumerate(bundle.access.grants)
        if grant.method not in known and grant.method not in services
    ]


def denied_to_all(bundle: Bundle) -> Iterable[str]:
    """Methods that nobody may call, sorted."""
    granted = {grant.method for grant in bundle.access.grants}
    return sorted(
        method
        for method in every()
        if method not in granted and method.rpartition("/")[0] + "/*" not in granted
    )
