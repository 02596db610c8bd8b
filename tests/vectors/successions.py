"""Successions: positives of the section `more`, and statements that nobody follows."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from crypto import labels, succession
from crypto.primitives import sign, sign_keypair
from crypto.request import audience_hash
from tests.vectors.story import START_MS, Row, seeded

AUDIENCE = "sync.example.org"
DAY_MS = 86_400_000
_BODY = struct.Struct(">4sB3s16s32s32sQQ")


def positives() -> dict[str, list[Row]]:
    """Three keys, the second in force for two successions; one without any overlap."""
    return {"successions": [_row(1, 7 * DAY_MS), _row(2, 0)]}


def _row(number: int, overlap_ms: int) -> Row:
    old, new = seeded(f"server key {number}"), seeded(f"server key {number + 1}")
    made_ms = START_MS + number * DAY_MS
    return {
        "audience": AUDIENCE,
        "old_seed": old.hex(),
        "new_seed": new.hex(),
        "old_pk": sign_keypair(old)[0].hex(),
        "new_pk": sign_keypair(new)[0].hex(),
        "made_ms": made_ms,
        "until_ms": made_ms + overlap_ms,
        "succession": succession.make(
            old, new, audience=AUDIENCE, made_ms=made_ms, until_ms=made_ms + overlap_ms
        ).hex(),
    }


def negatives(true: Row) -> Iterator[Row]:
    """`true` is a statement that is followed."""
    whole = bytes.fromhex(true["succession"])
    old, new = bytes.fromhex(true["old_seed"]), bytes.fromhex(true["new_seed"])
    fields: dict[str, bytes | int] = {
        "magic": b"PSK1", "suite": 1, "reserved": bytes(3), "audience": audience_hash(AUDIENCE),
        "old": bytes.fromhex(true["old_pk"]), "new": bytes.fromhex(true["new_pk"]),
        "made_ms": true["made_ms"], "until_ms": true["until_ms"],
    }  # fmt: skip

    def signed(
        *,
        by: tuple[bytes, bytes] = (old, new),
        under: tuple[bytes, bytes] = (labels.SUCCESSION_OLD, labels.SUCCESSION_NEW),
        **other: bytes | int,
    ) -> bytes:
        body = _BODY.pack(*(fields | other).values())
        return body + b"".join(
            sign(sign_keypair(seed)[1], label, body) for seed, label in zip(by, under, strict=True)
        )

    thief = seeded("thief")
    thief_pk = sign_keypair(thief)[0]
    for name, why, data in (
        ("other magic", "succession", signed(magic=b"PSK2")),
        ("unknown suite", "succession", signed(suite=2)),
        ("reserved byte set", "succession", signed(reserved=b"\0\0\1")),
        ("of another deployment", "audience", signed(audience=audience_hash("else"))),
        ("a key that follows itself", "succession", signed(by=(old, old), new=fields["old"])),
        ("ends before it was made", "succession", signed(until_ms=true["made_ms"] - 1)),
        ("the old key did not sign", "signature", signed(by=(thief, new))),
        ("the new key did not sign", "signature", signed(by=(old, thief))),
        ("a thief's new key, unsigned by the old", "signature",
         signed(by=(thief, thief), new=thief_pk)),
        ("labels exchanged", "signature",
         signed(under=(labels.SUCCESSION_NEW, labels.SUCCESSION_OLD))),
        ("under the label of a receipt", "signature",
         signed(under=(labels.RECEIPT, labels.SUCCESSION_NEW))),
        ("signatures exchanged", "signature", whole[:104] + whole[168:] + whole[104:168]),
        ("last bit flipped", "signature", whole[:-1] + bytes((whole[-1] ^ 1,))),
        ("time changed", "signature", whole[:95] + bytes((whole[95] ^ 1,)) + whole[96:]),
        ("cut off", "length", whole[:-1]),
        ("prolonged", "length", whole + b"\0"),
        ("empty", "length", b""),
    ):  # fmt: skip
        yield {
            "name": f"succession: {name}",
            "kind": "succession",
            "expect": "reject",
            "why": why,
            "audience": AUDIENCE,
            "succession": data.hex(),
        }
