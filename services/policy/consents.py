"""RecordConsent, ListReceipts (proto/rookery/v1/policy.proto), and what a contribution must prove.

The service stores what devices sign and can't read it: form, signature and place in the chain
are all that it judges (docs/protocol.md, 11).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from crypto import consent
from crypto.cert import Role
from crypto.consent import Entry, Proof
from crypto.errors import CryptoError
from crypto.ids import DeviceId
from rookery.v1 import policy_pb2
from services.call import Lane, Route, SignedCall, SignedUnary
from services.errors import ConsentInvalid, ConsentMissing, Malformed
from services.rounds.desk import RoundDesk
from services.store.errors import RoundUnknown
from services.store.governance import ConsentClaim, ConsentRow, GovernanceStore
from services.sync.desk import Desk, parse

_POLICY = "/rookery.v1.Policy/"
ENTRIES_PER_ANSWER_MAX = 256
SALT_BYTES = 32


class Consents:
    """Handlers for the accounts' chains of consent."""

    def __init__(
        self, desk: Desk, rounds: RoundDesk, recorded: Callable[[bool], None]
    ) -> None:  # fmt: skip
        """`recorded`: told of each new entry whether it is a grant."""
        self._desk = desk
        self._rounds = rounds
        self._recorded = recorded

    def routes(self) -> list[Route]:
        """What to serve."""
        return [
            SignedUnary(_POLICY + "RecordConsent", self.record),
            SignedUnary(_POLICY + "ListReceipts", self.list, Lane.PULL),
        ]

    async def record(self, raw: bytes, call: SignedCall) -> bytes:
        """RecordConsent: any active device may upload an entry, whichever device of the account
        signed it: so a chain that this service lost comes back as it was."""
        request = parse(policy_pb2.RecordConsentRequest.FromString, raw)
        row = _read(request.entry, call)
        opens = Proof(request.salt, row.seq) if request.salt else None
        if opens is not None and (row.granted or len(request.salt) != SALT_BYTES):
            raise Malformed("salt")
        call.check_live()
        if await self._desk.store.governance.append_consent(call.account, row):
            self._recorded(row.granted)
        # Behind it nothing more is taken, not even what is on its way. Who is cut off here sends
        # the same once more.
        taken = 0 if opens is None else await self._take_back(call, opens, row.tag)
        answer = policy_pb2.RecordConsentResponse(seq=row.seq, hash=row.hash, taken_back=taken)
        return self._desk.info_field(call.tip.chain.seq) + answer.SerializeToString()

    async def _take_back(self, call: SignedCall, opens: Proof, tag: bytes) -> int:
        """Erases what the account gave to rounds of the purpose that the tag stands for."""
        store, taken = self._rounds.store, 0
        for round_id in await store.given_by(call.account):
            with contextlib.suppress(RoundUnknown):  # it is over since
                round_ = await self._rounds.round(round_id)
                if opens.tag(call.account, round_.purpose) == tag:
                    taken += await store.take_back(round_id, call.account, behind=opens.seq)
        return taken

    async def list(self, raw: bytes, call: SignedCall) -> bytes:
        """ListReceipts: of the calling device's own account, and of no other."""
        request = parse(policy_pb2.ListReceiptsRequest.FromString, raw)
        rows = await self._desk.store.governance.consents(
            call.account, request.after, rows_max=ENTRIES_PER_ANSWER_MAX + 1
        )
        # After the rows: who was removed while they were read gets none.
        tip = await self._desk.member(call.account, call.device)
        answer = policy_pb2.ListReceiptsResponse(
            entries=[_shown(row) for row in rows[:ENTRIES_PER_ANSWER_MAX]],
            more=len(rows) > ENTRIES_PER_ANSWER_MAX,
        )
        return self._desk.info_field(tip.chain.seq) + answer.SerializeToString()


def _read(message: policy_pb2.ConsentEntry, call: SignedCall) -> ConsentRow:
    """The row, if a device of the caller's account signed it. ConsentInvalid."""
    if len(message.device_id) not in (0, DeviceId.size):
        raise Malformed("device_id")
    signer = DeviceId(message.device_id) if message.device_id else call.device
    device = call.tip.chain.find(signer)
    if device is None or device.role is not Role.FULL:
        raise ConsentInvalid("signer")
    try:
        entry = consent.verify(message.entry, message.sig, device.ik_pk)
    except CryptoError as error:
        raise ConsentInvalid(error.rule) from None
    if entry.account != call.account:
        raise ConsentInvalid("account")
    return _row(entry, message, signer, call.now_ms)


def _row(
    entry: Entry, message: policy_pb2.ConsentEntry, signer: DeviceId, now_ms: int
) -> ConsentRow:
    return ConsentRow(
        seq=entry.seq,
        prev=entry.prev,
        hash=entry.hash,
        tag=entry.tag,
        granted=entry.granted,
        device_id=signer,
        entry=message.entry,
        sig=message.sig,
        at_ms=now_ms,
    )


def _shown(row: ConsentRow) -> policy_pb2.ConsentEntry:
    return policy_pb2.ConsentEntry(
        entry=row.entry, sig=row.sig, device_id=row.device_id, recorded_ms=row.at_ms
    )


async def check_proof(
    store: GovernanceStore, call: SignedCall, given: policy_pb2.ConsentProof, purpose: str
) -> ConsentClaim:
    """ConsentMissing unless the proof opens the tag for this purpose of the calling account, and
    the newest entry under it is the grant that the proof names. What must still hold when the
    contribution is stored."""
    try:
        tag = Proof(given.salt, given.seq).tag(call.account, purpose)
    except CryptoError:
        raise ConsentMissing from None
    state = await store.consent_state(call.account, tag)
    if state is None or not state.granted or state.seq != given.seq:
        raise ConsentMissing
    return ConsentClaim(tag, given.seq)


__all__ = ["Consents", "check_proof"]
