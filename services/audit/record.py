"""What one entry of the audit log says: who, what, how it ended. Pure.

Deterministic CBOR (`crypto.canonical`). Nobody is named: a key is its id, a workload a hash of
its SPIFFE id. No name or value of a signal and no bytes of a request are in it; the hash of the
request lets whoever has one show that it was this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from crypto import canonical, labels
from crypto.errors import FormatError
from crypto.keys import device_id
from crypto.primitives import hash_

VERSION: Final = 1
BEGUN: Final = "BEGUN"
"""Of an entry that was written before a change: its outcome is an entry of its own."""
OPENED: Final = "OPENED"
"""Of a stream."""
DONE: Final = "OK"
_WHO: Final = frozenset(("key", "workload", "local"))
_TEXT_MAX: Final = 128


@dataclass(frozen=True, slots=True)
class Record:
    """One privileged action."""

    who: str
    """`key:ID` (16 bytes as hex), `workload:HASH` (the same), or `local:UID` of a command."""
    what: str
    """`/package.Service/Method`, or `rookery-server COMMAND`."""
    outcome: str
    """OK, BEGUN, OPENED, or the reason on the wire (proto/rookery/v1)."""
    request: str = ""
    """H("pss1/audit-request", raw request) as hex; of a service that starts, or takes up other
    lists of keys, `lists_hash`; empty of other commands."""
    begun: int = 0
    """seq of the entry that was written before; 0: none was."""
    workload: str = ""
    """Hash of the SPIFFE id that the call came from beside its key, 16 bytes as hex."""

    def encode(self) -> bytes:
        """The entry's body."""
        fields: dict[str, Any] = {
            "v": VERSION, "who": self.who, "what": self.what, "outcome": self.outcome,
        }  # fmt: skip
        if self.request:
            fields["request"] = self.request
        if self.begun:
            fields["begun"] = self.begun
        if self.workload:
            fields["workload"] = self.workload
        return canonical.encode(fields)

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """FormatError for anything but what `encode` makes."""
        fields = canonical.decode(body)
        if fields.pop("v", None) != VERSION:
            raise FormatError("audit-version", "an entry of a version that is not known; update")
        try:
            record = cls(**fields)
        except TypeError:
            raise FormatError("audit-fields", "fields are missing or unknown") from None
        texts = (record.who, record.what, record.outcome, record.request, record.workload)
        if (
            not all(type(text) is str and len(text) <= _TEXT_MAX for text in texts)
            or type(record.begun) is not int
            or record.who.partition(":")[0] not in _WHO
            or record.encode() != body
        ):
            raise FormatError("audit-fields", "a field is not of its kind")
        return record


def of_key(public: bytes) -> str:
    """Who, for an Ed25519 key without an account: the id that its calls bear."""
    return f"key:{device_id(public).hex()}"


def of_workload(spiffe_id: str) -> str:
    """The hash that stands for a workload."""
    return hash_(labels.AUDIT_WORKLOAD, spiffe_id.encode())[:16].hex()


def lists_hash(lists: Mapping[str, Sequence[str]]) -> str:
    """The hash that stands for lists of keys that a service trusts: by the setting's name, as
    they are written there."""
    said = {name: list(rows) for name, rows in lists.items()}
    return hash_(labels.AUDIT_LISTS, canonical.encode(said)).hex()


def request_hash(raw: bytes) -> str:
    """The hash that stands for a request."""
    return hash_(labels.AUDIT_REQUEST, raw).hex()
