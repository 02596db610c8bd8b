"""Names of records, and the tags that the service sees instead (docs/protocol.md, 1.4, 7)."""

from __future__ import annotations

import re
import struct

from crypto import labels
from crypto.epoch import EpochKeys
from crypto.errors import FormatError
from crypto.ids import DeviceId, Tag
from crypto.primitives import prf

_NAME = re.compile(rb"[a-z0-9._/-]{1,128}")
# A score's part is named `key#index`: '#' is the protocol's, so that no name that an app
# chooses can collide with it (docs/adr).
_PART = re.compile(rb"([a-z0-9._/-]{1,128})#(0|[1-9][0-9]{0,2})")
_U16 = struct.Struct(">H")


def u16_prefixed(data: bytes) -> bytes:
    """`u16 len || data`; FormatError if it doesn't fit."""
    if len(data) > 0xFFFF:
        raise FormatError("length", "name is longer than 65,535 bytes")
    return _U16.pack(len(data)) + data


def check_name(name: bytes) -> bytes:
    """`name`, if an app may use it: `[a-z0-9._/-]{1,128}`. FormatError otherwise."""
    if not _NAME.fullmatch(name):
        raise FormatError("name", "names are 1 to 128 characters of a-z 0-9 . _ / -")
    return name


def score_part(key: bytes, device_index: int) -> bytes:
    """The key that one device writes its share of a score to: `key#index`."""
    if not 0 <= device_index < 255:
        raise FormatError("range", "device index is 0 to 254")
    return check_name(key) + b"#" + str(device_index).encode("ascii")


def split_part(key: bytes) -> tuple[bytes, int] | None:
    """(score's key, device index) of a part's key; None for every other valid key.

    FormatError if it is neither.
    """
    if b"#" not in key:
        check_name(key)
        return None
    match = _PART.fullmatch(key)
    if match is None or int(match[2]) > 254:
        raise FormatError("name", "'#' only marks a score's part: key#index")
    return match[1], int(match[2])


def tag(keys: EpochKeys, collection: bytes, key: bytes) -> Tag:
    """A record's tag, 16 bytes: equal names give equal tags inside one epoch only."""
    return Tag(prf(keys.tag, labels.TAG, u16_prefixed(collection) + u16_prefixed(key), Tag.size))


def control_tag(keys: EpochKeys, device_id: DeviceId) -> Tag:
    """The tag of a device's control ops (covers and checkpoints)."""
    return Tag(prf(keys.tag, labels.TAG_CONTROL, DeviceId.of(device_id), Tag.size))
