"""What of Operations is served, and to whom; and which roles each route takes by itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from services.access.guard import Guard
from services.call import AnyUnary, KeyRole, KeyStream, KeyUnary, OpenUnary, Route
from services.config import Config
from services.operations.health import Counted
from services.operations.views import Views
from services.sync.desk import Desk

_OPERATIONS: Final = "/rookery.v1.Operations/"
KNOWN_KEY: Final = "known-key"
"""Of a route that takes any key that the service knows, also of a role of the policy's own."""
_ANY: Final = frozenset(("device", KNOWN_KEY, *(role.value for role in KeyRole)))


def operations_routes(
    desk: Desk, guard: Guard, config: Config, counted: Counted, others: Iterable[Route]
) -> list[Route]:
    """All of Operations. `others`: the other routes of the process, whose readers are told."""
    taken: dict[str, frozenset[str]] = {route.method: roles_of(route) for route in others}
    views = Views(desk, guard, config, counted, taken)
    made: list[Route] = [
        KeyUnary(_OPERATIONS + name, handler, KeyRole.OPERATOR, reads=True)
        for name, handler in (
            ("GetPrivacyHealth", views.health),
            ("GetExposure", views.exposure),
            ("ListAudit", views.audit),
            ("GetRoundsOverview", views.rounds),
        )
    ]
    taken |= {route.method: roles_of(route) for route in made}
    return made


def roles_of(route: Route) -> frozenset[str]:
    """Which roles a route takes, whatever a matrix says."""
    if isinstance(route, OpenUnary):
        return frozenset(("anyone",))
    if isinstance(route, KeyUnary | KeyStream):
        return frozenset((route.role.value,))
    return _ANY if isinstance(route, AnyUnary) else frozenset(("device",))
