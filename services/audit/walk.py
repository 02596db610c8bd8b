"""Walks the audit log from its start and says whether it is the chain that it claims to be.

The hashes show whatever was altered, taken out of the middle, put in or reordered. What is gone
from the start must be older than the policy keeps it, or be gone up to an anchor that was noted
before. Whoever can write the store can still cut the end off, or write all of it anew: that
shows against a head that was noted somewhere else before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from crypto.errors import FormatError
from services.audit.record import Record
from services.store.governance import AuditEntry, Head, first_broken

ROWS_MAX: Final = 512
HASH_BYTES: Final = 32


class Log(Protocol):
    """What of a store is read (`services.store.governance`)."""

    async def read_audit(self, after: int, *, rows_max: int) -> Sequence[AuditEntry]: ...
    async def audit_head(self) -> Head: ...
    async def audit_anchor(self) -> Head: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it."""

    entries: int
    """That are held and were walked."""
    anchor: Head
    """The last one that was trimmed: seq 0, none was."""
    head: Head
    """The last one that the walk came to."""
    broken_at: int | None = None
    """seq of the first entry that is not what it must be, or is not there."""
    why: str = ""
    """What is wrong; empty: nothing is."""

    @property
    def holds(self) -> bool:
        """Whether nothing was found."""
        return not self.why


class EntryMissing(Exception):
    """The log goes on behind an entry that is not there."""

    def __init__(self, seq: int) -> None:
        super().__init__(f"entry {seq} is missing")
        self.seq = seq


async def pages(log: Log, after: int = 0) -> AsyncIterator[Sequence[AuditEntry]]:
    """All entries behind a seq, up to the head. EntryMissing."""
    while True:
        rows = await log.read_audit(after, rows_max=ROWS_MAX)
        if not rows:
            if (await log.audit_head()).seq <= after:
                return
            # It may have grown since, or been trimmed. Otherwise there is a hole.
            rows = await log.read_audit(after, rows_max=ROWS_MAX)
            if not rows:
                raise EntryMissing(max(after, (await log.audit_anchor()).seq) + 1)
        yield rows
        after = rows[-1].seq


async def verify(
    log: Log,
    noted: Head | None = None,
    *,
    noted_anchor: Head | None = None,
    gone_before_ms: int | None = None,
) -> Verdict:
    """The log against itself, from its anchor to its head, and against a head that was noted
    earlier (seq 0: only its hash was). Entries from before `gone_before_ms` may be trimmed
    (`services.audit.trimming`; None: no entry may), and those up to an anchor that was noted."""
    while True:
        anchor = await log.audit_anchor()
        verdict = await _walk(log, anchor, noted)
        if verdict.holds and anchor.seq and not (noted_anchor and _is(noted_anchor, anchor)):
            first = await log.read_audit(anchor.seq, rows_max=1)
            verdict = replace(verdict, why=untimely(anchor, first, gone_before_ms))
        # What was trimmed meanwhile is not missing.
        if verdict.holds or await log.audit_anchor() == anchor:
            return verdict


async def _walk(log: Log, anchor: Head, noted: Head | None) -> Verdict:
    end, count, met = anchor, 0, noted is None or _is(noted, anchor)

    def broken(why: str, at: int | None = None) -> Verdict:
        return Verdict(count, anchor, end, at, why)

    try:
        async for rows in pages(log):
            seq = first_broken(rows, end)
            if seq is not None:
                return broken(f"entry {seq} is altered, missing or not in its place", seq)
            for row in rows:
                try:
                    Record.decode(row.body)
                except FormatError as error:
                    return broken(f"entry {row.seq}: {error.message}", row.seq)
                end = Head(row.seq, row.hash)
                count += 1
                met = met or (noted is not None and _is(noted, end))
    except EntryMissing as missing:
        return broken(str(missing), missing.seq)
    if not await _ends_at(log, end):
        return broken("the head that the store names is not the last entry")
    if met or noted is None:
        return broken("")
    if 0 < noted.seq < anchor.seq:
        return broken(f"entry {noted.seq} was trimmed: note a head newer than entry {anchor.seq}")
    return broken(
        "the head that was noted is not in the log: entries behind it are gone, or it was"
        " written anew"
    )


def untimely(anchor: Head, first: Sequence[AuditEntry], gone_before_ms: int | None) -> str:
    """Why the log may not begin behind this anchor, by the first entry that is there; empty: it
    may."""
    if first and gone_before_ms is not None and first[0].at_ms < gone_before_ms:
        return ""
    return (
        f"the entries up to {anchor.seq} are gone, and no policy let them go: what follows on them"
        " is younger than it keeps the log (an anchor that was noted earlier would vouch for it)"
    )


async def _ends_at(log: Log, end: Head) -> bool:
    """Whether the store's head is this one, or follows on it if the log has grown since."""
    head = await log.audit_head()
    if head.seq <= end.seq:
        return head == end
    rows = await log.read_audit(end.seq, rows_max=1)
    return bool(rows) and first_broken(rows, end) is None


def _is(noted: Head, found: Head) -> bool:
    return noted.hash == found.hash and noted.seq in (0, found.seq)


def parse_head(text: str) -> Head:
    """A head as `audit` shows it: `SEQ:HASH`, or the hash alone; ValueError."""
    seq, marked, digits = text.rpartition(":")
    digest = bytes.fromhex(digits)
    if len(digest) != HASH_BYTES or (marked and not (seq.isascii() and seq.isdigit())):
        raise ValueError
    return Head(int(seq) if marked else 0, digest)


def show_head(head: Head) -> str:
    """What `parse_head` takes."""
    return f"{head.seq}:{head.hash.hex()}"
