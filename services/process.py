"""How every process of ours begins and ends: the line that says where it listens, and signals."""

from __future__ import annotations

import asyncio
import json
import signal

from services.telemetry import Telemetry


def announce(telemetry: Telemetry, listening: str, metrics: str, **public: str) -> None:
    """One line on standard output: where, and whatever else is `public` of it. `metrics`: where
    these are; empty if nowhere."""
    ready = {"listening": listening, **public, **({"metrics": metrics} if metrics else {})}
    print(json.dumps(ready), flush=True)
    telemetry.event("serving")


async def until_signal() -> None:
    """Returns at the first SIGTERM or SIGINT; the second ends the process at once."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await told.wait()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)
