"""Which contributions of a round were erased: the positions that nothing stands at any more.

A deletion leaves no note of itself. That a position is missing is all there is to find, and all
that a party has to be told.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

SLICE_POSITIONS: Final = 4_096
"""Looked at in one turn of the event loop."""
_ROUNDS_MAX: Final = 64


class ErasedOf:
    """What was found last, of the rounds that parties ask for. Positions never come back: the
    number of those that are missing says whether it still holds."""

    def __init__(self) -> None:
        self._found: OrderedDict[bytes, Sequence[int]] = OrderedDict()

    def get(self, round_id: bytes) -> Sequence[int] | None:
        """None if it was not looked for."""
        return self._found.get(round_id)

    def put(self, round_id: bytes, positions: Sequence[int]) -> None:
        """Ascending."""
        self._found[round_id] = positions
        self._found.move_to_end(round_id)
        if len(self._found) > _ROUNDS_MAX:
            self._found.popitem(last=False)

    def clear(self) -> None:
        """The store is another one than it was."""
        self._found.clear()
