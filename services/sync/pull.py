"""Pull (proto/rookery/v1/sync.proto): a page of stored bytes, joined and sent."""

from __future__ import annotations

from rookery.v1 import sync_pb2
from services import wire
from services.call import SignedCall
from services.errors import Malformed
from services.sync.desk import Desk, parse

OPS_PER_PAGE_MAX = 1_000
PAGE_BYTES_MAX = 1 << 20


class Pull:
    """The handler of Sync.Pull."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, raw: bytes, call: SignedCall) -> bytes:
        """One page. That the device asks for what comes after a cursor says that it holds
        what came before."""
        request = parse(sync_pb2.PullRequest.FromString, raw)
        if request.limit > OPS_PER_PAGE_MAX:
            raise Malformed("limit")
        desk = self._desk
        generation = desk.cursors.generation
        after = desk.position(call, request.cursor)
        page = await desk.store.read_ops(
            call.account,
            after,
            ops_max=request.limit or OPS_PER_PAGE_MAX,
            bytes_max=PAGE_BYTES_MAX,
        )
        if after:
            await desk.store.passed(call.account, call.device, after)
        tip = await desk.member(call.account, call.device)
        cursor = desk.cursors.seal(call.account, page.position, generation)
        return wire.pull_response(desk.info(tip.chain.seq), page.runs, cursor, page.more)
