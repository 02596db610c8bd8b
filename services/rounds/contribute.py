"""Contribute (rounds.proto): policy, consent, form and sizes here, "once" in the store."""

from __future__ import annotations

from rookery.v1 import rounds_pb2
from services import wire
from services.call import SignedCall
from services.policy.consents import check_proof
from services.rounds.desk import RoundDesk
from services.rounds.forms import check_contribution
from services.store.rounds import Contribution
from services.sync.desk import parse


class Contribute:
    """The handler of Rounds.Contribute. What is inside a box is the parties' affair."""

    def __init__(self, desk: RoundDesk) -> None:
        self._desk = desk

    async def __call__(self, raw: bytes, call: SignedCall) -> bytes:
        """One report. Each party's box is stored as it will be sent."""
        request = parse(rounds_pb2.ContributeRequest.FromString, raw)
        round_ = await self._desk.round(request.round_id)
        call.check_purpose(round_.purpose)
        self._desk.policy.rule_of(round_.task)
        boxes = request.boxes
        check_contribution(round_, request.header, boxes)
        claim = None
        if self._desk.policy.governed:
            consents = self._desk.desk.store.governance
            claim = await check_proof(consents, call, request.consent, round_.purpose)
        header = wire.data(1, request.header)
        rows = tuple(wire.data(1, header + wire.data(2, sealed)) for sealed in boxes)
        given = Contribution(
            round_.round_id,
            call.account,
            rows,
            call.now_ms,
            reports_max=round_.reports_max,
            consent=claim,
        )
        del request, boxes
        call.check_live()
        await self._desk.store.contribute(given)
        return self._desk.info_field(call)
