"""`python -m bench`: every benchmark, each ratio against its floor in the same run."""

from __future__ import annotations

import sys

from bench import aggregate, growth, mesh, overload, policy, subscribers, sync, telemetry
from bench.report import run

MODULES = (sync, aggregate, telemetry, mesh, subscribers, overload, growth, policy)
PARTS = {name: part for module in MODULES for name, part in module.PARTS.items()}

if __name__ == "__main__":
    sys.exit(run("python -m bench", __doc__, PARTS, None))
