"""The interactive steps of a round (aggregates, section 4), on shares that numpy computed.

`Circuit` is what a round needs of them; a plaintext oracle can give the same. Vectors are
uint64 arrays of field elements: a party's shares at `SharedCircuit`, the values themselves at
an oracle. All parties must call the same steps in the same order, with arrays of one shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crypto import labels
from crypto.field import Array
from crypto.primitives import equal, hash_
from mpc.errors import OpeningError
from mpc.opening import Lines, corrects, lines
from mpc.session import Session

COIN_BITS = 256


@dataclass(frozen=True, slots=True, eq=False)
class Zeros:
    """Which rows opened to zeros; whether a lie would have shown; whose lies were corrected."""

    zero: NDArray[np.bool_]
    checked: bool
    liars: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class OpenedSum:
    """The noised sums, signed; as for `Zeros`."""

    values: NDArray[np.int64]
    checked: bool
    liars: tuple[int, ...] = ()


class Circuit(Protocol):
    """The joint steps of a round."""

    async def coin(self, context: bytes) -> bytes:
        """32 bytes that nobody could foresee or bend, bound to the round and to `context`."""

    async def consistent(self, name: str, d: Array) -> Lines:
        """Which rows of D, of shape (reports, repetitions), are sharings of degree t."""

    async def zeros(self, name: str, q: Array) -> Zeros:
        """Which rows of Q, of shape (reports, repetitions) and degree 2t, are all zeros."""

    async def noise_in(self, name: str, noise: NDArray[np.int64]) -> Array:
        """A share of the sum of all present parties' noise."""

    async def open_sum(self, name: str, noised: Array) -> OpenedSum:
        """What the sums are with the noise in them."""

    async def same(self, name: str, data: bytes) -> None:
        """OpeningError unless all present parties hold the same bytes."""


class SharedCircuit:
    """`Circuit` among the parties of a session; call it inside `Session.run`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._terms = session.terms
        self._field = session.terms.field

    async def coin(self, context: bytes) -> bytes:
        """Opens random elements. OpeningError `few` where a lie among them would not show:
        whoever lies there would choose the coin."""
        count = -(-COIN_BITS // self._terms.bits) + 1
        shares = self._session.runtime.random_shares(count)
        opened = await self._session.open("coin", shares, degree=self._terms.t)
        if not opened.checked:
            raise OpeningError("few", "coin", "too few parties are present to check it")
        seed = self._terms.digest() + self._terms.round_digest + hash_(labels.MPC_COIN, context)
        return hash_(labels.MPC_COIN, seed + self._field.to_bytes(opened.values))

    async def consistent(self, name: str, d: Array) -> Lines:
        """Masks D by a random sharing of degree t, so that only its degree shows.

        A party that lies here gets reports dropped, as a device does that sent shares which
        don't belong together: which of the two it was can't be told from one opening.
        """
        mask = self._session.runtime.random_shares(d.size).reshape(d.shape)
        masked = self._field.add(d, mask)
        shares = await self._session.open_shares(name, masked, degree=self._terms.t)
        judged = lines(self._field, shares, self._terms.t)
        await self.same(name, np.packbits(judged.consistent).tobytes())
        return judged

    async def zeros(self, name: str, q: Array) -> Zeros:
        """Opens Q with a sharing of zero as mask. Only rows that `consistent` passed may be in
        it: of others not even honest shares lie on one polynomial."""
        degree = 2 * self._terms.t
        opened = await self._session.open(name, q, degree=degree)
        zero: NDArray[np.bool_] = np.all(opened.values == 0, axis=1)
        if not corrects(len(self._terms.present), degree=degree, t=self._terms.t):
            # Where nobody could correct, a liar can send each party another share.
            await self.same(name, np.packbits(zero).tobytes())
        return Zeros(zero, opened.checked, opened.liars)

    async def noise_in(self, name: str, noise: NDArray[np.int64]) -> Array:
        """Nothing is opened: the sharing can be kept, and opened with a sum by those that live.

        A party can add what it likes as its noise: a bound on that is the task's, not ours.
        """
        noises = await self._session.share_in(self._field.encode(noise))
        total = np.zeros(len(noise), np.uint64)
        for share in noises.values():
            total = self._field.add(total, share)
        return total

    async def open_sum(self, name: str, noised: Array) -> OpenedSum:
        """Only a sum that has noise in it may be given here."""
        opened = await self._session.open(name, noised, degree=self._terms.t)
        return OpenedSum(self._field.decode(opened.values), opened.checked, opened.liars)

    async def same(self, name: str, data: bytes) -> None:
        """Compares hashes with every present party."""
        mine = hash_(labels.MPC_SAME, data)
        theirs = await self._session.exchange(mine)
        for party, hashed in theirs.items():
            if not equal(hashed, mine):
                raise OpeningError("disagree", name, f"party {party} holds another result", party)
