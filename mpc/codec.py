"""Share messages as fixed-width integers, in the place where MPyC unpickles what peers send.

A pickle is a program; these are numbers below the field's modulus, or they are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypto.errors import FormatError
from crypto.field import Field
from mpc.errors import JobError, PeerLost


class Received(bytes):
    """A message that remembers whose it is, so that who sent nonsense can be named."""

    party: int

    @staticmethod
    def of(party: int, payload: bytes) -> Received:
        """The payload, marked."""
        received = Received(payload)
        received.party = party
        return received


class ShareCodec:
    """Has the two functions of `pickle` that MPyC calls."""

    def __init__(self, field: Field) -> None:
        self._field = field

    def dumps(self, elements: Sequence[int] | NDArray[Any]) -> bytes:
        """Elements of the job's field as little-endian words; JobError for anything else."""
        array = np.asarray(elements)
        try:
            words = array.astype(np.uint64)
        except (TypeError, ValueError, OverflowError):
            words = np.full(1, self._field.p, np.uint64)
        if array.ndim != 1 or (words.size and int(words.max()) >= self._field.p):
            raise JobError("codec", "only vectors of the job's field are sent")
        return self._field.to_bytes(words)

    def loads(self, data: bytes) -> NDArray[np.object_]:
        """What `dumps` wrote, as the Python integers that MPyC computes with.

        PeerLost `garbage` for other bytes, or FormatError where it isn't known whose they are.
        """
        try:
            count, rest = divmod(len(data), self._field.element_bytes)
            if rest:
                raise FormatError("length", "a message of shares of a wrong length")
            return self._field.from_bytes(data, count).astype(object)
        except FormatError as error:
            if isinstance(data, Received):
                raise PeerLost("garbage", data.party, "sent what is no vector") from error
            raise
