"""`python -m client.canary`: plays the scenario against what standard input says, for
`rookery-server audit --canary` and nobody else."""

from __future__ import annotations

import asyncio
import json
import os
import sys

from client.canary.scenario import Scenario


def main() -> None:
    """One line of JSON on standard input: addresses and keys."""
    asyncio.run(Scenario(json.loads(sys.stdin.readline())).run())


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    main()
