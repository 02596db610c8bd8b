"""StreamBoxes (proto/rookery/v1/parties.proto): a party fetches what is sealed for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from rookery.v1 import parties_pb2
from services import wire
from services.call import KeyCall, Write
from services.errors import Draining, Overloaded, RoleMissing
from services.rounds.desk import RoundDesk
from services.sync.desk import parse

FRAME_BYTES_MAX = 1 << 18


class StreamBoxes:
    """The handler of Parties.StreamBoxes. A party that takes nothing for `stall_s` is left."""

    def __init__(
        self,
        desk: RoundDesk,
        *,
        stall_s: float,
        is_draining: Callable[[], bool],
        farewell: Callable[[], Draining],
    ) -> None:
        self._desk = desk
        self._stall_s = stall_s
        self._is_draining = is_draining
        self._farewell = farewell

    async def __call__(self, raw: bytes, call: KeyCall, write: Write) -> None:
        """All that is stored, frame by frame. The round is sealed before the first look, so
        that nothing can be committed behind a last frame that is `complete`."""
        request = parse(parties_pb2.StreamBoxesRequest.FromString, raw)
        round_ = await self._desk.round(request.round_id)
        party = round_.party_of(call.key.ik_pk)
        if party is None:
            raise RoleMissing("party")
        cursors = self._desk.desk.cursors
        generation = cursors.generation
        position = cursors.open(round_.digest, request.cursor)
        total = None
        if call.now_ms >= round_.until_ms:
            total = await self._desk.store.seal_round(round_.round_id)
        more = True
        while more:
            if self._is_draining():
                raise self._farewell()
            page = await self._desk.store.read_boxes(
                round_.round_id, party, position, bytes_max=FRAME_BYTES_MAX
            )
            position, more = page.position, page.more
            cursor = cursors.seal(round_.digest, position, generation)
            frame = _frame(page.rows, cursor, total=None if more else total)
            try:
                async with asyncio.timeout(self._stall_s):
                    await write(frame)
            except TimeoutError:
                raise Overloaded(1_000) from None


def _frame(rows: Sequence[bytes], cursor: bytes, *, total: int | None) -> bytes:
    """A StreamBoxesResponse of encoded boxes. `total`: it is complete with so many."""
    end = b"" if total is None else wire.number(3, 1) + wire.number(4, total)
    return b"".join((*rows, wire.data(2, cursor), end))
