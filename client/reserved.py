"""The library's own records in a profile: the collections that stand for something.

An app can name none of them. What the library writes past the gate goes into these alone, so
that nothing can be recorded past a policy by making up a name.
"""

from __future__ import annotations

from typing import Final

from client.errors import BadName
from client.profile import Name
from crypto.errors import FormatError
from crypto.names import check_name

COLLECTIONS: Final = frozenset({
    ".rookery/consent", ".rookery/entries", ".rookery/experiments", ".rookery/given",
    ".rookery/ledger", ".rookery/opened", ".rookery/paused", ".rookery/receipts",
    ".rookery/rounds", ".rookery/withdrawn",
})  # fmt: skip
"""What `Device.put_reserved` writes. `.rookery` itself and `.rookery/reset` are written by the core
alone."""


def check(name: Name) -> None:
    """BadName for any other collection, and for a key that is none."""
    try:
        check_name(name.key.encode())
    except (FormatError, UnicodeEncodeError):
        raise BadName from None
    if name.collection not in COLLECTIONS:
        raise BadName
