"""SPIFFE ids, and the patterns that a policy names workloads by (SPIFFE-ID, 2).

A pattern is an id, or ends in `*` inside its path: `spiffe://example.org/ns/tools/*`. The
trust domain is always whole: a pattern over it would let somebody else's authority in.
"""

from __future__ import annotations

import re
from typing import Final

BYTES_MAX: Final = 2048
_ID: Final = re.compile(
    r"spiffe://[a-z0-9._-]{1,255}(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+)*\Z", re.ASCII
)


def is_id(text: str) -> bool:
    """Whether it is a SPIFFE id in its one form."""
    return len(text) <= BYTES_MAX and _ID.match(text) is not None


def matches(pattern: str, workload: str) -> bool:
    """Whether a workload is one of those that the pattern names. A pattern that has no whole
    trust domain names nobody."""
    if not is_id(workload):
        return False
    if not pattern.endswith("*"):
        return pattern == workload
    start = pattern[:-1]
    # Behind `spiffe://domain/`: a star that begins before the path's first slash is none.
    return start.count("/") >= 3 and workload.startswith(start)
