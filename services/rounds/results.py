"""PublishResult, GetResult (proto/rookery/v1/parties.proto, rounds.proto)."""

from __future__ import annotations

from crypto import labels
from crypto.errors import SignatureError
from crypto.primitives import SIG_BYTES, verify
from mpc import task as tasks
from rookery.v1 import parties_pb2, rounds_pb2
from services.call import KeyCall, Signer
from services.errors import Malformed, ResultAbsent, ResultInvalid, RoleMissing
from services.rounds.desk import RoundDesk
from services.rounds.forms import ROUND_ID_BYTES, Round
from services.store.errors import QuotaExceeded, RoundUnknown
from services.sync.desk import parse

RESULT_BYTES_MAX = 1 << 20
STATEMENT_BYTES_MAX = 4 << 10


class Results:
    """Handlers for what comes out. The relay checks who signed and looks at nothing else."""

    def __init__(self, desk: RoundDesk) -> None:
        self._desk = desk

    async def publish(self, raw: bytes, call: KeyCall) -> bytes:
        """PublishResult."""
        request = parse(parties_pb2.PublishResultRequest.FromString, raw)
        round_ = await self._desk.round(request.round_id)
        caller = round_.party_of(call.key.ik_pk)
        if caller is None:
            raise RoleMissing("party")
        if bool(request.result) == request.HasField("abandonment"):
            raise Malformed("result")
        if request.result:
            sigs = _check_result(round_, request)
            call.check_live()
            await self._desk.store.publish_result(
                round_.round_id, request.result, sigs, now_ms=call.now_ms
            )
        else:
            given = _check_abandonment(round_, caller, request)
            call.check_live()
            await self._desk.store.abandon(
                round_.round_id, caller, given.statement, given.sig, quorum=round_.quorum
            )
        return self._desk.info_field(call)

    async def get(self, raw: bytes, call: Signer) -> bytes:
        """GetResult."""
        request = parse(rounds_pb2.GetResultRequest.FromString, raw)
        if len(request.round_id) != ROUND_ID_BYTES:
            raise Malformed("round_id")
        row = await self._desk.store.find_result(request.round_id)
        if row is None:
            raise RoundUnknown("no such round")
        if call.is_limited:
            held = await self._desk.held(request.round_id)
            call.check_purpose(tasks.decode(held.task.task).purpose)
        if not row.result and not row.abandonments:
            raise ResultAbsent
        answer = rounds_pb2.GetResultResponse(
            result=row.result,
            sigs=[
                rounds_pb2.PartySignature(party=party, sig=sig)
                for party, sig in sorted(row.sigs.items())
            ],
            abandonments=[
                rounds_pb2.Abandonment(party=party, statement=statement, sig=sig)
                for party, (statement, sig) in sorted(row.abandonments.items())
            ],
        )
        return self._desk.info_field(call) + answer.SerializeToString()


def _check_result(round_: Round, request: parties_pb2.PublishResultRequest) -> dict[int, bytes]:
    """Its signatures by party. One that is bad makes all of it bad."""
    if len(request.result) > RESULT_BYTES_MAX:
        raise QuotaExceeded("result_bytes", RESULT_BYTES_MAX)
    if not round_.quorum <= len(request.sigs) <= len(round_.parties):
        raise ResultInvalid("signatures")
    sigs: dict[int, bytes] = {}
    for row in request.sigs:
        if not 1 <= row.party <= len(round_.parties) or row.party in sigs:
            raise ResultInvalid("party")
        _check_sig(round_, row.party, labels.RESULT, request.result, row.sig)
        sigs[row.party] = row.sig
    return sigs


def _check_abandonment(
    round_: Round, caller: int, request: parties_pb2.PublishResultRequest
) -> rounds_pb2.Abandonment:
    given = request.abandonment
    if request.sigs:
        raise Malformed("sigs")
    if len(given.statement) > STATEMENT_BYTES_MAX:
        raise QuotaExceeded("statement_bytes", STATEMENT_BYTES_MAX)
    if not given.statement:
        raise ResultInvalid("length")
    if given.party != caller:
        raise ResultInvalid("party")
    _check_sig(round_, caller, labels.ABANDONMENT, given.statement, given.sig)
    return given


def _check_sig(round_: Round, party: int, label: bytes, said: bytes, sig: bytes) -> None:
    if len(sig) != SIG_BYTES:
        raise ResultInvalid("length")
    try:
        verify(round_.parties[party - 1], label, round_.digest + said, sig)
    except SignatureError:
        raise ResultInvalid("signature") from None
