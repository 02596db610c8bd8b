"""Taking in a round's boxes: from the relay's stream to share rows on disk.

Nothing that a device sent, and nothing that the relay leaves out, repeats or mixes, raises:
a box becomes a row or a count under the rule that refused it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from crypto import labels
from crypto.errors import CryptoError, SignatureError
from crypto.primitives import hash_
from mpc.batch import Opened, micro_batch_reports, open_boxes
from rookery.v1 import parties_pb2, rounds_pb2
from services.party.assignment import Assignment
from services.party.host import Host
from services.party.relay import RelayLost, RelayRefused
from services.party.reports import Report
from services.spans import Part

PENDING_BYTES_MAX = 64 << 20
"""Of sealed boxes in memory, whatever a micro-batch would take."""


def reports_of(opened: Opened, positions: Mapping[bytes, int] | None = None) -> list[Report]:
    """As they are stored; each row is a part of all their bytes, which are not copied.
    `positions`: where the relay has them, by the hash of their headers."""
    rows, places = opened.rows, positions or {}
    size = rows.shape[1] * rows.itemsize
    data = np.ascontiguousarray(rows).view(np.uint8).reshape(-1).data
    return [
        Report(
            header.report_id,
            header.nullifier,
            header.hash,
            data[at * size : (at + 1) * size],
            places.get(header.hash, 0),
        )
        for at, header in enumerate(opened.headers)
    ]


class Pending(NamedTuple):
    """A box that is not opened yet, and where the relay has it."""

    header: bytes
    sealed: bytes
    position: int


def pending_of(frame: parties_pb2.StreamBoxesResponse) -> list[Pending]:
    """The boxes of a frame. A relay that gives no positions can have nothing erased."""
    known = len(frame.positions) == len(frame.boxes)
    positions = frame.positions if known else [0] * len(frame.boxes)
    return [
        Pending(one.header, one.sealed, at) for one, at in zip(frame.boxes, positions, strict=True)
    ]


class Intake:
    """The boxes of one round."""

    def __init__(self, host: Host, assignment: Assignment) -> None:
        self._host = host
        self._assignment = assignment
        self._is_signed_by_all = False

    async def take(self) -> bool:
        """Stores all that the relay has now; whether that was all there ever will be.

        RelayDown, RelayRefused: nothing is lost, and it can be tried again.
        """
        with self._host.tracer.root(Part.INTAKE):
            return await self._take()

    async def _take(self) -> bool:
        if not self._is_signed_by_all:
            self._check(await self._host.relay.round(self._assignment.round_id))
        try:
            return await self._read()
        except RelayLost:
            # It was restored, or moved: cursors are void, and what is held is skipped.
            self._host.telemetry.event("relay_lost_its_place")
            self._host.store.start_over(self._assignment.round_id)
            return await self._read()

    def _check(self, answer: rounds_pb2.GetRoundResponse) -> None:
        """All parties signed the manifest that this one holds: only then are its boxes opened."""
        manifest = self._assignment.manifest
        try:
            if answer.manifest != manifest.encoded:
                raise SignatureError("manifest", "the relay holds another manifest")
            manifest.signed(list(answer.sigs))
        except CryptoError as error:
            raise RelayRefused(error.rule) from None
        self._is_signed_by_all = True

    async def _read(self) -> bool:
        assignment = self._assignment
        cursor = self._host.store.round(assignment.round_id).cursor
        reports_max = micro_batch_reports(assignment.task.kind.length)
        pending: list[Pending] = []
        erased: list[int] = []
        pending_bytes = 0
        complete = False
        async for frame in self._host.relay.boxes(assignment.round_id, cursor):
            pending += pending_of(frame)
            erased += frame.erased
            pending_bytes += sum(len(one.sealed) for one in frame.boxes)
            cursor, complete = frame.cursor, frame.complete
            now_ms = self._host.clock.wall_ms()
            if complete or now_ms >= assignment.terms.retain_until_ms:
                break  # who drips on for ever keeps no round from its end
            if len(pending) >= reports_max or pending_bytes >= PENDING_BYTES_MAX:
                await self._keep(pending, cursor)
                pending, pending_bytes = [], 0
        if pending:
            await self._keep(pending, cursor)
        self._erase(erased)
        return complete

    async def look_for_erasures(self) -> None:
        """Destroys what is held of accounts that were deleted since all was taken in. RelayDown,
        RelayRefused: it is looked for again later."""
        assignment = self._assignment
        cursor = self._host.store.round(assignment.round_id).cursor
        async for frame in self._host.relay.boxes(assignment.round_id, cursor):
            self._erase(list(frame.erased))

    def _erase(self, positions: list[int]) -> None:
        gone = self._host.store.erase(self._assignment.round_id, positions) if positions else 0
        if gone:
            self._host.telemetry.event("reports_erased", reports=gone)

    async def _keep(self, pending: list[Pending], cursor: bytes) -> None:
        assignment = self._assignment
        assert assignment.box is not None
        boxes = [(one.header, one.sealed) for one in pending]
        opened = await asyncio.to_thread(open_boxes, assignment.box, assignment.shape, boxes)
        positions = {hash_(labels.REPORT, one.header): one.position for one in pending}
        reports = reports_of(opened, positions)
        new = self._host.store.add_batch(
            assignment.round_id,
            cursor=cursor,
            reports=reports,
            refused=opened.refused,
            reports_max=assignment.reports_max,
        )
        self._host.metrics.took_in(
            taken=new, malformed=opened.refused.total(), left_out=len(reports) - new
        )
