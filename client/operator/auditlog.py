"""The audit log as its reader judges it: a chain of hashes, whose bodies say who did what.

Pure (docs/access.md). The service's word for the head is compared with a head that the reader
noted before, if there is one: else an end that was cut off would not show. Where the log begins
is judged by what the policy lets go, or by an anchor that was noted.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from crypto import canonical, labels
from crypto.errors import FormatError
from crypto.primitives import hash_

ZEROS: Final = bytes(32)
_FIELDS: Final = struct.Struct(">QQ32s")


class ChainHead(NamedTuple):
    """An entry's place and hash; (0, zeros) stands before the first."""

    seq: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash.hex()}"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """An entry as it is chained."""

    seq: int
    at_ms: int
    prev: bytes
    body: bytes
    hash: bytes

    @property
    def said(self) -> dict[str, Any]:
        """`who`, `what`, `outcome`, and maybe `request`, `begun` (a seq) and `workload`;
        FormatError."""
        return canonical.decode(self.body)

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        try:
            said = {key: value for key, value in self.said.items() if key != "v"}
        except FormatError:
            said = {"unreadable": True}
        return {"seq": self.seq, "at_ms": self.at_ms, **said, "hash": self.hash.hex()}


class LogBroken(Exception):
    """The log is not the chain that it claims to be; the message says where."""


def follow(after: ChainHead, entries: Sequence[AuditEntry]) -> ChainHead:
    """The head after these entries, which must follow on `after`; LogBroken."""
    for entry in entries:
        digest = hash_(labels.AUDIT, _FIELDS.pack(entry.seq, entry.at_ms, entry.prev) + entry.body)
        if (entry.seq, entry.prev, entry.hash) != (after.seq + 1, after.hash, digest):
            raise LogBroken(f"entry {after.seq + 1} is altered, missing or not in its place")
        after = ChainHead(entry.seq, entry.hash)
    return after


@dataclass(frozen=True, slots=True)
class Start:
    """Where a log may begin, as its reader knows it. Without either, anywhere."""

    anchor: ChainHead | None = None
    """One that was noted earlier: the log begins there still."""
    gone_before_ms: int | None = None
    """What is older, the policy lets go by now."""

    @property
    def is_known(self) -> bool:
        """Whether a start that was cut off would show."""
        return self.anchor is not None or self.gone_before_ms is not None

    def check(self, anchor: ChainHead, entries: Sequence[AuditEntry]) -> None:
        """LogBroken unless the log may begin behind this anchor with these entries. Trimming
        leaves one that is past its time, so that its own time, which is chained, shows it."""
        if not self.is_known or not anchor.seq or anchor == self.anchor:
            return
        bound_ms = self.gone_before_ms
        if bound_ms is None or not entries or entries[0].at_ms >= bound_ms:
            raise LogBroken(
                f"the entries up to {anchor.seq} are gone, and neither the policy lets them go"
                " yet, nor was this anchor noted"
            )


ANYWHERE: Final = Start()


def parse_head(text: str) -> ChainHead:
    """A head as it is shown, `SEQ:HASH`; ValueError."""
    seq, _, digits = text.partition(":")
    digest = bytes.fromhex(digits)
    if not (seq.isascii() and seq.isdigit()) or len(digest) != len(ZEROS):
        raise ValueError("a head is SEQ:HASH")
    return ChainHead(int(seq), digest)
