"""`python -m bench`: every benchmark, each ratio against its floor in the same run."""

from __future__ import annotations

import sys

from bench.sync import main

if __name__ == "__main__":
    sys.exit(main())
