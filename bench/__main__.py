"""`python -m bench`: every benchmark, each ratio against its floor in the same run."""

from __future__ import annotations

import sys

from bench import aggregate, mesh, sync, telemetry
from bench.report import run

PARTS = {**sync.PARTS, **aggregate.PARTS, **telemetry.PARTS, **mesh.PARTS}

if __name__ == "__main__":
    sys.exit(run("python -m bench", __doc__, PARTS, None))
