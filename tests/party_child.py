"""A party's process that does what a test asks for, and else what `rookery-server party` does.

A task of the name `lies/PARTY/HOW` is one in which that party lies: about the set, by another
share in a step, by a pickle or by silence. TEST_DIES_AT names the state in which it does nothing
more, as soon as that is in its file, and kills itself: at once, or after TEST_DIES_AFTER_S, when
what it had said has gone out. A helper.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from crypto import labels
from crypto.primitives import hash_
from mpc.keys import PartyKey
from services import cli, commands, keys
from services.party import config as party_config
from services.party.daemon import Daemon
from services.party.driver import Driver
from services.party.jobs import Jobs
from services.party.messages import Agreed, Message
from services.party.states import State
from services.party.store import PartyStore
from tests.lying_job import LIES

STEPS = {
    "coin": ("coin", "share"),
    "shares": ("consistent", "share"),
    "validity": ("zeros", "share"),
    "sum": ("open_sum", "share"),
    "pickle": ("coin", "pickle"),
    "stall": ("open_sum", "stall"),
}


class Puppet(Daemon):
    """A party of which a test pulls the strings."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.jobs = Jobs(self._send_shares, module="tests.lying_job")

    def _drive(self, round_id: bytes) -> None:
        super()._drive(round_id)
        driver = self._drivers[round_id]
        name = driver._assignment.task.task_id.split("/")
        if name[0] != "lies" or int(name[1]) != driver._assignment.terms.me:
            return
        if name[2] == "set":
            _lie_about_the_set(driver)
            return
        file = Path(LIES)
        said = json.loads(file.read_text()) if file.exists() else {}
        said[driver._assignment.digest.hex()] = STEPS[name[2]]
        file.write_text(json.dumps(said))


def _lie_about_the_set(driver: Driver) -> None:
    honest, assignment = driver._parley.tell_all, driver._assignment

    def tell_all(message: Message) -> None:
        if isinstance(message, Agreed):
            other = hash_(labels.PARTY_SET, message.digest)
            message = Agreed(other, assignment.sign(labels.PARTY_SET, other))
        honest(message)

    driver._parley.tell_all = tell_all  # type: ignore[method-assign]


class Mortal(PartyStore):
    """Kills its process once a round's file is at a state."""

    dies_at: State | None = None

    def add_batch(self, *arguments: Any, **more: Any) -> int:
        """Boxes are taken in while a round is OPEN."""
        new = super().add_batch(*arguments, **more)
        self._die(State.OPEN)
        return new

    def advance(self, *arguments: Any, **more: Any) -> Any:
        """Every other state."""
        after = super().advance(*arguments, **more)
        self._die(after.state)
        return after

    def _die(self, state: State) -> None:
        if state is not self.dies_at:
            return
        after_s = float(os.environ.get("TEST_DIES_AFTER_S", "0"))
        if not after_s:
            os.kill(os.getpid(), signal.SIGKILL)
        asyncio.get_running_loop().call_later(after_s, os.kill, os.getpid(), signal.SIGKILL)
        # Ends the round's driver, and leaves the rest of the process as it is.
        raise asyncio.CancelledError


async def _open(config: party_config.PartyConfig) -> Daemon:
    store = Mortal.open(Path(config.database))
    if state := os.environ.get("TEST_DIES_AT"):
        store.dies_at = State[state]
    key = PartyKey(keys.read(Path(config.identity_key_file)))
    daemon = Puppet(config, key, store)
    await daemon.start()
    return daemon


def main() -> None:
    """With the arguments and settings of `rookery-server party`."""
    arguments = cli._parser().parse_args(sys.argv[1:])
    config = party_config.load(
        None, os.environ, {"listen": arguments.listen, "database": arguments.database}
    )
    asyncio.run(commands._run_party(_open(config), arguments))


if __name__ == "__main__":
    main()
