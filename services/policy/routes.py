"""What of the Policy service is served, and to whom."""

from __future__ import annotations

from collections.abc import Callable

from services.call import KeyRole, KeyUnary, Lane, OpenUnary, Route, SignedStream
from services.hub import Hub
from services.policy.bundles import Bundles
from services.policy.consents import Consents
from services.policy.current import CurrentPolicy
from services.policy.watch import WatchPolicy
from services.rounds.desk import RoundDesk
from services.sync.desk import Desk

_POLICY = "/rookery.v1.Policy/"


def policy_routes(
    desk: Desk, hub: Hub, current: CurrentPolicy, recorded: Callable[[bool], None]
) -> list[Route]:
    """Bundles, and consent. `hub`: of those who watch them. `recorded`: see `Consents`."""
    bundles = Bundles(desk, current)
    return [
        *Consents(desk, RoundDesk(desk, current), recorded).routes(),
        OpenUnary(_POLICY + "GetPolicy", bundles.get),
        SignedStream(_POLICY + "WatchPolicy", WatchPolicy(desk, hub, current), Lane.WATCH),
        KeyUnary(_POLICY + "PublishPolicy", bundles.publish, KeyRole.POLICY),
    ]
