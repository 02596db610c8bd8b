"""What a party's service and the process of a job say to each other, as CBOR.

The service is trusted, so this is checked for being whole, not for being hostile.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from enum import IntEnum
from typing import Any

import cbor2
import numpy as np

from crypto.errors import FormatError
from crypto.field import Array, Field
from mpc.errors import JobError, OpeningError, PeerLost
from mpc.session import Limits
from mpc.terms import Terms


class Exit(IntEnum):
    """How the process of a job ends."""

    DONE = 0
    SERVICE = 2
    """Its own service asked for what can't be done, or the time was up."""
    PEER_LOST = 3
    OPENING_REFUSED = 4
    FAULT = 70
    """A fault in the program. Its kind and place are on stderr, no values."""


@dataclass(frozen=True, slots=True)
class Description:
    """A job, and which of its parties this is."""

    terms: Terms
    me: int
    limits: Limits

    def to_bytes(self) -> bytes:
        """As it is handed to the process."""
        terms = asdict(self.terms)
        terms["present"] = list(self.terms.present)
        return cbor2.dumps({"terms": terms, "me": self.me, "limits": asdict(self.limits)})

    @staticmethod
    def from_bytes(data: bytes) -> Description:
        """JobError `description` if there is anything missing, more, or wrong."""
        try:
            given = cbor2.loads(data)
            terms, limits = dict(given["terms"]), dict(given["limits"])
            terms["present"] = tuple(terms["present"])
            if {type(terms[name]) for name in ("m", "t", "bits")} | {type(given["me"])} != {int}:
                raise TypeError
            if any(not limits[field.name] > 0 for field in fields(Limits)):
                raise ValueError
            return Description(Terms(**terms), given["me"], Limits(**limits))
        except (cbor2.CBORDecodeError, FormatError, KeyError, TypeError, ValueError):
            raise JobError("description", "the description of the job can't be read") from None


def pack(message: dict[str, Any]) -> bytes:
    """A step or an answer."""
    return cbor2.dumps(message)


def unpack(data: bytes) -> dict[str, Any]:
    """What `pack` wrote; JobError for anything else."""
    try:
        message = cbor2.loads(data)
    except (cbor2.CBORDecodeError, ValueError):
        message = None
    if not isinstance(message, dict):
        raise JobError("message", "service and job don't understand each other")
    return message


def matrix(field: Field, rows: Array) -> dict[str, Any]:
    """A matrix of elements as fields of a step."""
    return {"rows": rows.shape[0], "width": rows.shape[1], "shares": field.to_bytes(rows)}


def read_matrix(field: Field, step: dict[str, Any]) -> Array:
    """What `matrix` wrote; FormatError for another size."""
    rows, width = int(step["rows"]), int(step["width"])
    return field.from_bytes(step["shares"], rows * width).reshape(rows, width)


def bits_to_bytes(bits: np.ndarray[Any, np.dtype[np.bool_]]) -> bytes:
    """One bit a row."""
    return np.packbits(bits).tobytes()


def bytes_to_bits(data: bytes, rows: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """What `bits_to_bytes` wrote."""
    return np.unpackbits(np.frombuffer(data, np.uint8), count=rows).astype(np.bool_)


def refusal(error: JobError) -> dict[str, Any]:
    """An error as an answer."""
    return {
        "error": type(error).__name__,
        "rule": error.rule,
        "message": error.message,
        "party": error.party,
        "opening": error.opening,
    }


def raise_refusal(answer: dict[str, Any]) -> None:
    """Raises what `refusal` wrote, if the answer is one."""
    kind = answer.get("error")
    if kind is None:
        return
    error: JobError
    if kind == PeerLost.__name__:
        error = PeerLost.__new__(PeerLost)
    elif kind == OpeningError.__name__:
        error = OpeningError.__new__(OpeningError)
    else:
        error = JobError.__new__(JobError)
    JobError.__init__(error, answer["rule"], answer["message"])
    error.party = answer["party"]
    error.opening = answer["opening"]
    raise error


def exit_of(error: JobError) -> Exit:
    """The exit code of an error."""
    if isinstance(error, OpeningError):
        return Exit.OPENING_REFUSED
    return Exit.PEER_LOST if isinstance(error, PeerLost) else Exit.SERVICE
