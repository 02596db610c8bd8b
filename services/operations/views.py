"""The handlers of Operations (proto/rookery/v1/operations.proto). All of them only read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mpc import task as tasks
from rookery.v1 import operations_pb2, rounds_pb2
from services.access.guard import Guard
from services.call import KeyCall
from services.config import Config
from services.errors import Malformed
from services.keeping.errors import KeepingError
from services.operations import exposure, health
from services.operations.health import Counted, FactsOfFile, chain_head
from services.rounds.desk import STATES, signed_task, summary
from services.store.errors import StoreUnavailable
from services.store.rounds import HeldRound, ResultRow
from services.sync.desk import Desk, parse

ENTRIES_MAX: Final = 256
ROUNDS_MAX: Final = 64
ANSWER_BYTES_MAX: Final = 1 << 20
_COUNT_MAX: Final = (1 << 63) - 1


class Views:
    """`routes`: method to the roles that its route takes."""

    def __init__(
        self,
        desk: Desk,
        guard: Guard,
        config: Config,
        counted: Counted,
        routes: Mapping[str, frozenset[str]],
    ) -> None:
        self._desk = desk
        self._guard = guard
        self._config = config
        self._counted = counted
        self._routes = routes
        self._facts = FactsOfFile(config, desk.clock.monotonic_s)

    async def health(self, raw: bytes, call: KeyCall) -> bytes:
        """GetPrivacyHealth."""
        parse(operations_pb2.GetPrivacyHealthRequest.FromString, raw)
        try:
            found = await self._facts.get()
        except KeepingError:
            raise StoreUnavailable("the file can't be read beside its service") from None
        answer = await health.gather(
            self._desk.store, self._config, self._counted, found, call.now_ms
        )
        answer.governed = self._guard.matrix is not None
        return self._desk.info_field() + answer.SerializeToString()

    async def exposure(self, raw: bytes, call: KeyCall) -> bytes:
        """GetExposure."""
        parse(operations_pb2.GetExposureRequest.FromString, raw)
        del call
        matrix = self._guard.matrix
        answer = operations_pb2.GetExposureResponse(
            policy_sequence=0 if matrix is None else self._guard.sequence
        )
        for row in exposure.TABLE:
            answer.fields.add(
                field=row.field,
                form=operations_pb2.ExposureForm.ValueType(row.form),
                about=row.about,
                methods=row.methods,
                readers=exposure.readers(row, matrix, self._routes),
            )
        return self._desk.info_field() + answer.SerializeToString()

    async def audit(self, raw: bytes, call: KeyCall) -> bytes:
        """ListAudit."""
        request = parse(operations_pb2.ListAuditRequest.FromString, raw)
        del call
        if request.after > _COUNT_MAX:
            raise Malformed("after")
        store = self._desk.store.governance
        # Before the entries: the last page then has the head that it names.
        anchor, head = await store.audit_anchor(), await store.audit_head()
        rows = await store.read_audit(request.after, rows_max=ENTRIES_MAX + 1)
        answer = operations_pb2.ListAuditResponse(
            more=len(rows) > ENTRIES_MAX, anchor=chain_head(anchor), head=chain_head(head)
        )
        for row in rows[:ENTRIES_MAX]:
            answer.entries.add(
                seq=row.seq, at_ms=row.at_ms, prev=row.prev, body=row.body, hash=row.hash
            )
        return self._desk.info_field() + answer.SerializeToString()

    async def rounds(self, raw: bytes, call: KeyCall) -> bytes:
        """GetRoundsOverview."""
        request = parse(operations_pb2.GetRoundsOverviewRequest.FromString, raw)
        if request.skip > _COUNT_MAX:
            raise Malformed("skip")
        store = self._desk.store.rounds
        counts = await store.tally(now_ms=call.now_ms)
        answer = operations_pb2.GetRoundsOverviewResponse(next=request.skip)
        for phase, count in counts.items():
            answer.states.add(state=STATES[phase], count=count)
        seen: set[bytes] = set()
        size = 0
        rows = await store.list_rounds(request.skip, rounds_max=ROUNDS_MAX + 1)
        for held in rows[:ROUNDS_MAX]:
            one = self._round(held, await store.find_result(held.row.round_id), call)
            task = signed_task(held.task)
            size += one.ByteSize() + (0 if held.row.spec_hash in seen else task.ByteSize())
            if answer.rounds and size > ANSWER_BYTES_MAX:
                break
            if held.row.spec_hash not in seen:
                seen.add(held.row.spec_hash)
                answer.tasks.append(task)
            answer.rounds.append(one)
        answer.next += len(answer.rounds)
        answer.more = len(rows) > len(answer.rounds)
        return self._desk.info_field() + answer.SerializeToString()

    def _round(
        self, held: HeldRound, result: ResultRow | None, call: KeyCall
    ) -> operations_pb2.OverviewRound:
        row = held.row
        one = operations_pb2.OverviewRound(
            summary=summary(row.round_id, row.open_ms, row.until_ms, held.standing, call.now_ms),
            spec_hash=row.spec_hash,
            manifest=row.manifest,
            sigs=row.sigs,
        )
        if result is None:
            return one
        for party, (statement, sig) in sorted(result.abandonments.items()):
            one.abandonments.add(party=party, statement=statement, sig=sig)
        if result.result and call.is_limited:
            one.withheld = tasks.decode(held.task.task).purpose not in call.purposes
        if result.result and not one.withheld:
            one.result = result.result
            for party, sig in sorted(result.sigs.items()):
                one.result_sigs.append(rounds_pb2.PartySignature(party=party, sig=sig))
        return one
