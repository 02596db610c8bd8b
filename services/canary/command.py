"""`rookery-server audit --canary`: what it is given, and what it says."""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import sys

from services.canary.processes import PROGRAM
from services.canary.run import SCENARIO, run
from services.keeping.errors import KeepingError


def canary(arguments: argparse.Namespace) -> None:
    """Runs it. KeepingError, and with it exit code 1, for anything that is where it must not
    be; CanaryError if it could not run."""
    verdict = asyncio.run(
        run(
            redis_program=arguments.redis_server if arguments.store == "redis" else "",
            service_command=shlex.split(arguments.service_command) or PROGRAM,
            device_command=shlex.split(arguments.device_command) or SCENARIO,
            tell=lambda line: print(f"canary: {line}", file=sys.stderr, flush=True),
        )
    )
    print(json.dumps(verdict.as_data()) if arguments.json else "\n".join(verdict.lines()))
    if not verdict.holds:
        raise KeepingError("the canary found what must not be: see above")
