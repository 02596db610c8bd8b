"""StreamBoxes (proto/rookery/v1/parties.proto): a party fetches what is sealed for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from rookery.v1 import parties_pb2
from services import wire
from services.call import KeyCall, Write
from services.errors import Draining, Overloaded, RoleMissing
from services.rounds.desk import RoundDesk
from services.sync.desk import parse

FRAME_BYTES_MAX = 1 << 18
ERASED_PER_FRAME = 1 << 15


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
            boxes = b"".join((*page.rows, wire.data(2, cursor)))
            places = wire.numbers(5, page.positions)
            if more:
                await self._write(write, boxes + places)
                continue
            # Looked for last: of an account that is deleted while its boxes are on their way, the
            # party hears in the same breath.
            for sealed, erased in _ends(await self._desk.store.erased(round_.round_id), total):
                await self._write(write, boxes + sealed + places + erased)
                boxes, places = wire.data(2, cursor), b""

    async def _write(self, write: Write, frame: bytes) -> None:
        try:
            async with asyncio.timeout(self._stall_s):
                await write(frame)
        except TimeoutError:
            raise Overloaded(1_000) from None


def _ends(erased: Sequence[int], total: int | None) -> Iterator[tuple[bytes, bytes]]:
    """Fields of the last frames of a stream: whether it is complete, and erasures."""
    for at in range(0, max(1, len(erased)), ERASED_PER_FRAME):
        is_last = at + ERASED_PER_FRAME >= len(erased)
        complete = is_last and total is not None
        sealed = wire.number(3, 1) + wire.number(4, total or 0) if complete else b""
        yield sealed, wire.numbers(6, erased[at : at + ERASED_PER_FRAME])
