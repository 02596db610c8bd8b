"""Keys of governance in Redis that belong to no account, and how rows are written there."""

from __future__ import annotations

import struct
from typing import Final

import cbor2

from crypto.ids import DeviceId
from services.store.governance import NOTHING, AuditEntry, ConsentRow, ConsentState, Head, PolicyRow

POLICY_HEAD: Final = b"{policy}h"
POLICIES: Final = b"{policy}b"
AUDIT_HEAD: Final = b"{audit}h"
AUDIT_ANCHOR: Final = b"{audit}a"
AUDIT_ENTRIES: Final = b"{audit}e"
NEWEST: Final = b"h"
"""Beside the tags of an account, which are of 32 bytes."""
_HEAD = struct.Struct(">Q32s")
_END = struct.Struct(">Q32sQ")
_TIME = struct.Struct(">Q")
_ENTRY = struct.Struct(">Q32s32s")
_STATE = struct.Struct(">Q?")


def seq_name(seq: int) -> bytes:
    """A number as Redis has it."""
    return seq.to_bytes(8, "big")


def pack_head(head: Head) -> bytes:
    """Empty for NOTHING."""
    return b"" if head == NOTHING else _HEAD.pack(*head)


def unpack_head(raw: bytes | None) -> Head:
    """What `pack_head` wrote."""
    return Head(*_HEAD.unpack(raw)) if raw else NOTHING


def pack_end(head: Head, at_ms: int) -> bytes:
    """Where the audit log ends, or begins."""
    return b"" if head == NOTHING else _END.pack(*head, at_ms)


def unpack_end(raw: bytes | None) -> tuple[Head, int]:
    """What `pack_end` wrote."""
    if not raw:
        return NOTHING, 0
    seq, digest, at_ms = _END.unpack(raw)
    return Head(seq, digest), at_ms


def pack_policy(row: PolicyRow) -> tuple[bytes, int]:
    """The row, and how many bytes at its start are not the same when it comes again."""
    fields = (row.previous, row.hash, row.data, row.sig, row.key)
    return _TIME.pack(row.at_ms) + cbor2.dumps(fields), _TIME.size


def policy_of(sequence: int, raw: bytes) -> PolicyRow:
    """What `pack_policy` wrote."""
    (at_ms,) = _TIME.unpack_from(raw)
    previous, digest, data, sig, key = cbor2.loads(raw[_TIME.size :])
    return PolicyRow(sequence, previous, digest, data, sig, key, at_ms)


def pack_consent(row: ConsentRow) -> tuple[bytes, int]:
    """As `pack_policy`."""
    fields = (row.prev, row.hash, row.tag, row.granted, bytes(row.device_id), row.entry, row.sig)
    return _TIME.pack(row.at_ms) + cbor2.dumps(fields), _TIME.size


def consent_of(seq: int, raw: bytes) -> ConsentRow:
    """What `pack_consent` wrote."""
    (at_ms,) = _TIME.unpack_from(raw)
    prev, digest, tag, granted, device_id, entry, sig = cbor2.loads(raw[_TIME.size :])
    return ConsentRow(seq, prev, digest, tag, granted, DeviceId(device_id), entry, sig, at_ms)


def pack_state(row: ConsentRow | ConsentState) -> bytes:
    """What counts under the entry's tag."""
    return _STATE.pack(row.seq, row.granted)


def pack_entry(entry: AuditEntry) -> bytes:
    """All but its seq."""
    return _ENTRY.pack(entry.at_ms, entry.prev, entry.hash) + entry.body


def unpack_entry(seq: int, raw: bytes) -> AuditEntry:
    """What `pack_entry` wrote."""
    at_ms, prev, digest = _ENTRY.unpack_from(raw)
    return AuditEntry(seq, at_ms, prev, raw[_ENTRY.size :], digest)
