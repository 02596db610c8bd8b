"""What all parties of a job must hold alike, and the program counters that follow from it."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from crypto import labels
from crypto.errors import FormatError
from crypto.field import Field
from crypto.primitives import hash_, need
from crypto.shares import check_parties

JOB_ID_BYTES = 16
PC_BITS = 62
"""Room below MPyC's signed 64 bits, since MPyC counts up from each of our counters."""


@dataclass(frozen=True, slots=True)
class Terms:
    """`m` parties of which `t` may lie or look, those that are present, the field, the round."""

    job_id: bytes
    round_digest: bytes
    m: int
    t: int
    present: tuple[int, ...]
    bits: int

    def __post_init__(self) -> None:
        need("job id", self.job_id, JOB_ID_BYTES)
        need("round digest", self.round_digest, 32)
        Field.of(self.bits)
        check_parties(self.m, self.t)
        if list(self.present) != sorted(set(self.present) & set(range(1, self.m + 1))):
            raise FormatError("parties", "the present parties must be sorted and among the m")
        if len(self.present) < self.t + 1:
            raise FormatError("parties", "it takes t + 1 parties to open anything")

    @property
    def field(self) -> Field:
        """The field of every share in the job."""
        return Field.of(self.bits)

    def digest(self) -> bytes:
        """32 bytes that differ wherever the terms do."""
        present = bytes(party in self.present for party in range(1, self.m + 1))
        sizes = bytes((self.m, self.t, self.bits))
        return hash_(labels.MPC_JOB, self.job_id + self.round_digest + sizes + present)

    def pc(self, step: str) -> int:
        """The program counter at which a step begins, whatever a party ran before it."""
        return counter(hash_(labels.MPC_PC, self.digest() + step.encode(), 8))


def counter(data: bytes) -> int:
    """8 bytes as a program counter."""
    return int.from_bytes(data, "little") >> (64 - PC_BITS)


_FORK = struct.Struct("<qq")


def fork(pc: list[int]) -> int:
    """The program counter of what is started at `pc`, the same on every machine.

    MPyC takes Python's hash of a tuple, which differs between versions and word sizes.
    """
    return counter(hash_(labels.MPC_PC, _FORK.pack(*pc), 8))
