"""`rookery task` as a process beside a real relay, and parties' counters. A helper of tests.

A counter is what a party's daemon serves to publishers, on a real file, without the rest.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from client import keyfile
from mpc.task import Task
from services.call import Clock
from services.listed import Listed
from services.party.config import PartyConfig
from services.party.desk import Desk
from services.party.front import Front
from services.party.store import PartyStore
from services.telemetry import Telemetry, configure
from tests.cli_process import PROGRAM, SECONDS_MAX, Done
from tests.relay_worlds import PARTIES, PUBLISHER, Actor
from tests.served import AUDIENCE, SECRETS, Service
from tests.service_process import environment


@dataclass(slots=True)
class Counter:
    """One party, as a publisher calls it."""

    actor: Actor
    address: str

    @property
    def option(self) -> str:
        """As --party wants it."""
        return f"{self.address}={self.actor.public.hex()}"


async def any_task(task: Task, k_min: int) -> None:
    """No policy: every task will do."""


@asynccontextmanager
async def counter(
    folder: Path, actor: Actor, *, publishers: Sequence[Actor] = (PUBLISHER,), address: str = ""
) -> AsyncIterator[Counter]:
    """The counter of one of the parties, for the time of the block."""
    store = PartyStore.open(folder / f"{actor.public.hex()[:8]}.db")
    config = PartyConfig(audience=AUDIENCE, listen=address or "127.0.0.1:0")
    desk = Desk(
        store,
        actor.as_party,
        config,
        [one.public for one in PARTIES if one is not actor],
        random_bytes=os.urandom,
        on_round=lambda _: None,
        shares_ms=lambda: config.retention_ms,
        check_task=any_task,
    )

    async def no_link(*_: object) -> None:
        """It has no peers here."""

    front = Front(
        config,
        desk.routes(),
        [Listed(one.public) for one in publishers],
        no_link,
        options=(),
        telemetry=Telemetry(configure("error", "json")),
        clock=Clock.system(),
    )
    try:
        yield Counter(actor, await front.start())
    finally:
        await front.stop()
        store.close()


@dataclass(slots=True)
class Desktop:
    """Somebody with a key file and `rookery task`, or another `program` of keys."""

    folder: Path
    key: Path
    environ: dict[str, str]
    program: str = "task"

    @classmethod
    def of(cls, folder: Path, service: Service, seed: bytes, name: str = "own.key") -> Desktop:
        """Whose key has this seed."""
        keyfile.create(folder / name, seed)
        return cls(
            folder,
            folder / name,
            environment(
                ROOKERY_SERVER=service.server.address,
                ROOKERY_AUDIENCE=AUDIENCE,
                ROOKERY_SERVER_KEY=SECRETS.server_key.public.hex(),
            ),
        )

    async def start(self, verb: str, *more: str, key: bool = True) -> asyncio.subprocess.Process:
        """Starts it."""
        keys = ("--key", str(self.key)) if key else ()
        return await asyncio.create_subprocess_exec(
            *PROGRAM, self.program, verb, *keys, *more,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            cwd=self.folder, env=self.environ,
        )  # fmt: skip

    async def run(self, verb: str, *more: str, code: int = 0, key: bool = True) -> Done:
        """Runs it to its end."""
        process = await self.start(verb, *more, key=key)
        async with asyncio.timeout(SECONDS_MAX):
            out, err = await process.communicate()
        done = Done(process.returncode or 0, out.decode(), err.decode())
        assert "Traceback" not in done.err, done.err
        assert done.code == code, done
        return done


def task_file(folder: Path, **other: str) -> str:
    """A task, as a person writes it; others in the place of its usual fields, as in TOML."""
    fields = {
        "id": '"cuisine"',
        "title": '"Favourite cuisine"',
        "purpose": '"product"',
        "window_ms": '"1h"',
        "grace_ms": "0",
        "reports_max": "10_000",
        "k_min": "2",
        "expires_ms": "2200-01-01T00:00:00Z",
        "kind": '{ name = "histogram", bins = 3, labels = ["thai", "italian", "other"] }',
        "caps": "{ device_micro_rho = 1_000_000, period_ms = '1d', task_micro_rho = 10_000_000 }",
        "parties": "{ m = 3, t = 1 }",
        "tail": '{ name = "none" }',
        "sigma_milli": "4_000",
        **other,
    }
    fields["noise"] = f'{{ mechanism = "gaussian", sigma_milli = {fields.pop("sigma_milli")} }}'
    path = folder / "task.toml"
    path.write_text("".join(f"{name} = {value}\n" for name, value in fields.items()))
    return str(path)
