"""One run of the canary: stage, scenario, search."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from crypto.marks import Mark
from services.canary.processes import PROGRAM, CanaryError, environment
from services.canary.search import DELETED, Leak, Search
from services.canary.stage import Stage, key_marks, staged

LINE_BYTES_MAX: Final = 1 << 20
SCENARIO_S: Final = 120.0
ERASED_S: Final = 30.0
"""So long the stores may take to be free of a deleted account: parties ask for it by and by."""
MET: Final = "met"
LIVED: Final = "lived"
# The module by name: services may not import the client.
SCENARIO: Final = (sys.executable, "-m", "client.canary")
Tell = Callable[[str], None]
"""Takes a line for each part of a run, as it begins."""


def _untold(line: str) -> None:
    """Nobody watches."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run found."""

    leaks: tuple[Leak, ...]
    left: tuple[Leak, ...]
    """Of a deleted account, in a store."""
    blind: tuple[tuple[str, str], ...]
    """(sort, place) of what must be there and was not seen."""
    marks: int
    patterns: int
    bytes_searched: int
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether nothing stands where it must not, and the canary saw what it had to."""
        return not (self.leaks or self.left or self.blind)

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "ok": self.holds,
            "leaks": [one.as_data() for one in self.leaks],
            "left_after_deletion": [one.as_data() for one in self.left],
            "not_seen": [{"sort": sort, "place": place} for sort, place in self.blind],
            "marks": self.marks,
            "patterns": self.patterns,
            "bytes_searched": self.bytes_searched,
            "seconds": round(self.seconds, 1),
        }

    def lines(self) -> list[str]:
        """For people."""
        searched = f"{self.bytes_searched / 1e6:.1f} MB"
        return [
            *(f"LEAK  {one}" for one in self.leaks),
            *(f"LEFT  {one}" for one in self.left),
            *(f"BLIND {sort}: had to be seen in {place}" for sort, place in self.blind),
            f"{self.marks} marks, {self.patterns:,} forms, {searched}, {self.seconds:.0f} s",
            self.summary(),
        ]

    def summary(self) -> str:
        """The verdict in a line."""
        if self.holds:
            return "ok: nothing found"
        counts = (
            (len(self.leaks), "leaked"),
            (len(self.left), "left after the deletion"),
            (len(self.blind), "had to be seen and were not"),
        )
        return "found: " + ", ".join(f"{count} {what}" for count, what in counts if count)


async def run(
    *,
    redis_program: str = "",
    service_command: Sequence[str] = PROGRAM,
    device_command: Sequence[str] = SCENARIO,
    tell: Tell = _untold,
) -> Verdict:
    """Stages, plays and searches; all that it made is removed again. CanaryError."""
    tell("starting a service, three parties, a push gateway and a collector of traces")
    begun_s = time.monotonic()
    search = Search()
    with tempfile.TemporaryDirectory(prefix="rookery-canary-") as name:
        folder = Path(name)
        async with staged(
            folder, redis_program=redis_program, service_command=service_command
        ) as stage:
            for sort, raw in key_marks(stage.seeds):
                search.add(Mark(sort, raw), is_own=False)
            left = await _play(stage, search, device_command, tell)
            tell("ending all of them, and searching every store, log, trace and frame")
            await stage.stop()
            await asyncio.to_thread(_look, search, stage, "stopped")
    return Verdict(
        tuple(search.leaks), tuple(left), tuple(search.blind()),
        sum(map(len, search.marks.values())), search.patterns, search.bytes_searched,
        time.monotonic() - begun_s,
    )  # fmt: skip


async def _play(stage: Stage, search: Search, command: Sequence[str], tell: Tell) -> list[Leak]:
    """Runs the client's part, and looks at its moments. What a deletion left."""
    tell("playing the scenario: three people, their devices, rounds and consent")
    with (stage.folder / "scenario.err").open("wb") as errors:
        child = await asyncio.create_subprocess_exec(
            *command, env=environment({}), stdin=PIPE, stdout=PIPE, stderr=errors,
            limit=LINE_BYTES_MAX,
        )  # fmt: skip
    try:
        async with asyncio.timeout(SCENARIO_S):
            await _say(child, json.dumps(stage.told()))
            # What the loss of a phone takes along is looked for before it is lost.
            await _moment(child, search, MET)
            tell("searching the stores before a phone is lost")
            await asyncio.to_thread(lambda: search.look(stage.stores(), MET))
            await _say(child, "")
            tell("playing on: a stolen device, pause, reset and undo, an operator")
            await _moment(child, search, LIVED)
            tell("searching stores and metrics before an account is deleted")
            pieces = [*await stage.metrics(), *await asyncio.to_thread(lambda: [*stage.stores()])]
            await asyncio.to_thread(search.look, pieces, LIVED)
            await _say(child, "")
            await _moment(child, search, DELETED)
            tell("searching what the deletion left")
            left = await _erased(stage, search)
            pieces = await stage.metrics()
            await asyncio.to_thread(search.look, pieces, DELETED)
            await _say(child, "")
            if await child.wait():
                raise CanaryError(_why(stage, "ended badly"))
    except TimeoutError:
        raise CanaryError(_why(stage, f"took more than {SCENARIO_S:.0f} s")) from None
    except EOFError:
        raise CanaryError(_why(stage, "ended early")) from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return left


def _why(stage: Stage, what: str) -> str:
    said = (stage.folder / "scenario.err").read_text(errors="replace").strip().splitlines()
    return f"the scenario {what}: {said[-1] if said else 'it said nothing'}"


async def _say(child: Process, line: str) -> None:
    assert child.stdin is not None
    child.stdin.write(line.encode() + b"\n")
    await child.stdin.drain()


async def _moment(child: Process, search: Search, name: str) -> None:
    """Takes marks up to this moment. EOFError."""
    assert child.stdout is not None
    while line := await child.stdout.readline():
        said = json.loads(line)
        if "moment" in said:
            assert said["moment"] == name, said["moment"]
            return
        search.add(Mark(said["sort"], bytes.fromhex(said["hex"])), is_own=said["own"])
    raise EOFError


async def _erased(stage: Stage, search: Search) -> list[Leak]:
    """Waits until nothing of the deleted account is in a store; what is after so long."""
    if stage.redis is not None:
        await asyncio.to_thread(stage.redis.pass_time)
        await asyncio.to_thread(stage.redis.rewrite)
    end_s = time.monotonic() + ERASED_S
    while True:
        left = await asyncio.to_thread(lambda: search.left(stage.stores()))
        if not left or time.monotonic() > end_s:
            return left
        await asyncio.sleep(0.25)


def _look(search: Search, stage: Stage, moment: str) -> None:
    search.look([*stage.stores(), *stage.written()], moment)
