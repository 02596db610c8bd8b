"""CollectRound, GetRound (proto/rookery/v1/rounds.proto)."""

from __future__ import annotations

from mpc import task as tasks
from rookery.v1 import rounds_pb2
from services import wire
from services.call import KeyCall, SignedCall, Signer
from services.errors import RoleMissing
from services.rounds.desk import RoundDesk, signed_task, summary
from services.rounds.forms import check_manifest, parse_manifest
from services.store.errors import RoundClosed, TaskUnknown
from services.sync.desk import parse


class Collect:
    """Handlers for rounds."""

    def __init__(self, desk: RoundDesk) -> None:
        self._desk = desk

    async def collect(self, raw: bytes, call: KeyCall) -> bytes:
        """CollectRound."""
        request = parse(rounds_pb2.CollectRoundRequest.FromString, raw)
        manifest = parse_manifest(request.manifest)
        task = await self._desk.store.find_task(manifest.spec_hash)
        if task is None:
            raise TaskUnknown("no task with this spec_hash: publish it first")
        if task.publisher != call.key.ik_pk:
            raise RoleMissing("publisher")
        asked = tasks.decode(task.task)
        call.check_purpose(asked.purpose)
        self._desk.policy.rule_of(asked)
        row = check_manifest(manifest, request.sigs, task)
        found = await self._desk.store.find_round(row.round_id)
        if (found is None or found.row.manifest != row.manifest) and row.until_ms <= call.now_ms:
            raise RoundClosed(row.until_ms)
        call.check_live()
        await self._desk.store.collect_round(row)
        return self._desk.info_field(call) + wire.data(2, manifest.digest)

    async def get(self, raw: bytes, call: Signer) -> bytes:
        """GetRound."""
        request = parse(rounds_pb2.GetRoundRequest.FromString, raw)
        held = await self._desk.held(request.round_id)
        row = held.row
        answer = rounds_pb2.GetRoundResponse(
            task=signed_task(held.task),
            manifest=row.manifest,
            sigs=row.sigs,
            summary=summary(row.round_id, row.open_ms, row.until_ms, held.standing, call.now_ms),
            contributed=isinstance(call, SignedCall)
            and await self._desk.store.has_contributed(row.round_id, call.account),
        )
        return self._desk.info_field(call) + answer.SerializeToString()
