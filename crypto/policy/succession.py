"""Which of two bundles is in force: what everybody who holds one decides the same way. Pure."""

from __future__ import annotations

from enum import Enum

from crypto.policy.document import Bundle


class Verdict(Enum):
    """What a sound, signed bundle is beside the one that is held."""

    NEWER = "newer"
    SAME = "same"
    ROLLBACK = "rollback"
    """Older than what is held: never taken."""
    FORK = "fork"
    """Another one under the same number, or the next one behind another past."""


def judge(sequence: int, hash_: bytes, bundle: Bundle) -> Verdict:
    """A bundle beside the held one of this number and hash (0: none is held). Of the next one its
    past is known; of a later one it is not."""
    if bundle.sequence < sequence:
        return Verdict.ROLLBACK
    if bundle.sequence == sequence:
        return Verdict.SAME if bundle.hash == hash_ else Verdict.FORK
    if sequence and bundle.sequence == sequence + 1 and bundle.previous != hash_:
        return Verdict.FORK
    return Verdict.NEWER
