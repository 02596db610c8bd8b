"""The report set: what all parties can use, and what they sign of it. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from crypto import labels
from crypto.errors import FormatError
from crypto.primitives import hash_

HASH_BYTES = 32


def digest(round_digest: bytes, hashes: Sequence[bytes]) -> bytes:
    """32 bytes over a round's sorted report hashes: what every party signs."""
    return hash_(labels.PARTY_SET, round_digest + b"".join(hashes))


def join(hashes: Iterable[bytes]) -> bytes:
    """A list as it travels."""
    return b"".join(hashes)


def split(data: bytes, count_max: int) -> list[bytes]:
    """Strict: sorted, each once, at most so many. FormatError otherwise."""
    if len(data) % HASH_BYTES or len(data) > count_max * HASH_BYTES:
        raise FormatError("length", "not a list of report hashes of this round")
    hashes = [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]
    if any(one >= other for one, other in itertools.pairwise(hashes)):
        raise FormatError("order", "report hashes must be sorted, and each once")
    return hashes


def bitmap(union: Sequence[bytes], held: Iterable[bytes]) -> bytes:
    """Which of the union one party can use: bit i of byte i // 8, lowest first."""
    have = set(held)
    bits = bytearray((len(union) + 7) // 8)
    for at, one in enumerate(union):
        if one in have:
            bits[at >> 3] |= 1 << (at & 7)
    return bytes(bits)


def intersection(lists: Mapping[int, Sequence[bytes]]) -> tuple[list[bytes], dict[int, bytes]]:
    """What all hold, sorted, and each party's bitmap over the sorted union."""
    union = sorted(set().union(*lists.values()))
    common = set(union).intersection(*lists.values())
    maps = {party: bitmap(union, held) for party, held in lists.items()}
    return sorted(common), maps
