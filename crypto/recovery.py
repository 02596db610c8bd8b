"""The recovery key: 20 random bytes on paper that are a role 2 device (docs/protocol.md, 1.9).

It receives every grant and may sign ADD and ROTATE; it writes no ops. Losing all devices
and the paper loses the data: nobody can reset it.
"""

from __future__ import annotations

import base64

from crypto import labels
from crypto.errors import FormatError
from crypto.keys import Identity
from crypto.pairing import base32_decode
from crypto.primitives import equal, hash_, need, prf, utf8

SECRET_BYTES = 20
CHECK_CHARS = 4
PAPER_CHARS = 32 + CHECK_CHARS


def identity(secret: bytes) -> Identity:
    """The recovery device's keys."""
    root = hash_(labels.RECOVERY, need("recovery secret", secret, SECRET_BYTES))
    return Identity(prf(root, labels.RECOVERY_IK, b""), prf(root, labels.RECOVERY_BK, b""))


def _check(secret: bytes) -> str:
    return base64.b32encode(hash_(labels.RECOVERY_CHECK, secret, 5)).decode("ascii")[:CHECK_CHARS]


def to_paper(secret: bytes) -> str:
    """Nine groups of four characters; the last group is a check."""
    need("recovery secret", secret, SECRET_BYTES)
    chars = base64.b32encode(secret).decode("ascii") + _check(secret)
    return "-".join(chars[at : at + 4] for at in range(0, len(chars), 4))


def from_paper(text: str) -> bytes:
    """The 20 bytes of what a person typed; FormatError names a typing error."""
    typed = "".join(text.split()).replace("-", "").upper()
    if len(typed) != PAPER_CHARS:
        raise FormatError(
            "recovery", f"a recovery key has {PAPER_CHARS} characters, not {len(typed)}"
        )
    secret = base32_decode(typed[:-CHECK_CHARS], 32, "recovery key")
    if not equal(_check(secret).encode(), utf8(typed[-CHECK_CHARS:])):
        raise FormatError("recovery", "the check characters don't match: look for a typing error")
    return secret
