"""What the relay serves, and to whom."""

from __future__ import annotations

from services.call import AnyUnary, KeyRole, KeyStream, KeyUnary, Lane, Route, SignedUnary
from services.config import Config
from services.hub import Hub
from services.policy.current import CurrentPolicy
from services.rounds.boxes import StreamBoxes
from services.rounds.collect import Collect
from services.rounds.contribute import Contribute
from services.rounds.desk import RoundDesk
from services.rounds.results import Results
from services.rounds.tasks import Tasks
from services.sync.desk import Desk

_ROUNDS = "/rookery.v1.Rounds/"
_PARTIES = "/rookery.v1.Parties/"
# What a contribution has beside its boxes, generously.
_REQUEST_BYTES = 4 << 10


def relay_routes(desk: Desk, hub: Hub, policy: CurrentPolicy, config: Config) -> list[Route]:
    """All of Rounds, and of Parties what parties ask the relay for."""
    rounds = RoundDesk(desk, policy)
    tasks = Tasks(rounds, contribution_bytes_max=config.receive_bytes_max - _REQUEST_BYTES)
    collect = Collect(rounds)
    results = Results(rounds)
    stream = StreamBoxes(
        rounds, stall_s=config.stall_s, is_draining=lambda: hub.draining, farewell=hub.farewell
    )
    return [
        KeyUnary(_ROUNDS + "PublishTask", tasks.publish, KeyRole.PUBLISHER),
        AnyUnary(_ROUNDS + "ListTasks", tasks.list, Lane.PULL),
        KeyUnary(_ROUNDS + "CollectRound", collect.collect, KeyRole.PUBLISHER),
        AnyUnary(_ROUNDS + "GetRound", collect.get, Lane.PULL),
        SignedUnary(_ROUNDS + "Contribute", Contribute(rounds), Lane.PUSH),
        AnyUnary(_ROUNDS + "GetResult", results.get, Lane.PULL),
        KeyUnary(_PARTIES + "PublishResult", results.publish, KeyRole.PARTY),
        KeyStream(_PARTIES + "StreamBoxes", stream, KeyRole.PARTY),
    ]
