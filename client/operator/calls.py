"""Operations as Python calls, signed by an operator's key (proto/rookery/v1/operations.proto).

It puts messages together and takes them apart; what comes out is judged by `auditlog` and, of
results, by the keys that the reader pinned.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from client.errors import UserError
from client.governed.remote import get_policy
from client.operator.auditlog import ANYWHERE, AuditEntry, ChainHead, LogBroken, Start, follow
from client.operator.reports import (
    AuditPage,
    Budget,
    ExposedField,
    Health,
    Overview,
    OverviewRound,
)
from client.remoteerrors import ProtocolBreach
from client.rounds import GivenUp, RoundState, SignedTask, state_of, summary_in
from client.transport import Method, Signer, Transport
from crypto import labels
from crypto.errors import CryptoError
from crypto.keys import device_id
from crypto.policy import Bundle, open_
from crypto.primitives import hash_
from rookery.v1 import operations_pb2

_OPERATIONS: Final = "/rookery.v1.Operations/"
HEALTH: Final = Method(
    _OPERATIONS + "GetPrivacyHealth",
    operations_pb2.GetPrivacyHealthResponse.FromString,
    seconds=60.0,
)
EXPOSURE: Final = Method(_OPERATIONS + "GetExposure", operations_pb2.GetExposureResponse.FromString)
AUDIT: Final = Method(_OPERATIONS + "ListAudit", operations_pb2.ListAuditResponse.FromString)
ROUNDS: Final = Method(
    _OPERATIONS + "GetRoundsOverview", operations_pb2.GetRoundsOverviewResponse.FromString
)
PAGES_MAX: Final = 10_000
_DAY_MS: Final = 86_400_000
_CLOCKS_MS: Final = 300_000
"""The service's clock and the reader's differ by no more."""


class Operations:
    """Calls by an operator."""

    def __init__(self, transport: Transport, signer: Signer) -> None:
        self._transport = transport
        self._signer = signer

    async def health(self) -> Health:
        """Privacy health of the replica that answers."""
        message = operations_pb2.GetPrivacyHealthRequest()
        told = (await self._transport.call(HEALTH, message, self._signer)).message
        return Health(
            governed=told.governed,
            policy_sequence=told.policy_sequence,
            policy_issued_ms=told.policy_issued_ms,
            policy_hash=told.policy_hash,
            counted_since_ms=told.counted_since_ms,
            refusals={row.reason: row.count for row in told.refusals},
            grants=told.grants,
            withdrawals=told.withdrawals,
            budgets=tuple(
                Budget(
                    row.spec_hash, row.task_id, row.cap_micro_rho, row.spent_micro_rho,
                    row.left_micro_rho, row.round_micro_rho,
                )
                for row in told.budgets
            ),
            overdue={row.kind: row.count for row in told.overdue},
            rows_past_deletion=(
                told.rows_past_deletion if told.HasField("rows_past_deletion") else None
            ),
            key_since_ms={row.kind: row.since_ms for row in told.keys},
            oldest_ended_epoch_ms=(
                told.oldest_ended_epoch_ms if told.HasField("oldest_ended_epoch_ms") else None
            ),
            audit_head=_head(told.audit_head),
            audit_anchor=_head(told.audit_anchor),
            server_ms=told.info.server_ms,
        )  # fmt: skip

    async def exposure(self) -> tuple[ExposedField, ...]:
        """Every field that the service stores, and which roles may read it."""
        message = operations_pb2.GetExposureRequest()
        told = (await self._transport.call(EXPOSURE, message, self._signer)).message
        return tuple(
            ExposedField(
                row.field, _form(row.form), row.about, tuple(row.methods), tuple(row.readers)
            )
            for row in told.fields
        )

    async def audit(self, after: int = 0) -> AuditPage:
        """A page of the audit log, not verified."""
        message = operations_pb2.ListAuditRequest(after=after)
        told = (await self._transport.call(AUDIT, message, self._signer)).message
        entries = tuple(
            AuditEntry(row.seq, row.at_ms, row.prev, row.body, row.hash) for row in told.entries
        )
        return AuditPage(entries, told.more, _head(told.anchor), _head(told.head))

    async def gone_before_ms(self, policy_key: bytes, now_ms: int) -> int:
        """What is older may be gone from the audit log: by the newest policy, if this Ed25519
        key signed it. UserError: it did not, or there is none. RemoteError."""
        bundle = await self._policy(policy_key)
        return now_ms - bundle.retention.audit_days * _DAY_MS + _CLOCKS_MS

    async def roles(self, policy_key: bytes) -> dict[str, tuple[str, ...]]:
        """Who, as the audit log names a key, to the roles that list it in the newest policy, if
        this Ed25519 key signed it. UserError, RemoteError as above."""
        found: dict[str, tuple[str, ...]] = {}
        for role in (await self._policy(policy_key)).access.roles:
            for text in role.keys:
                who = f"key:{device_id(bytes.fromhex(text)).hex()}"
                found[who] = (*found.get(who, ()), role.name)
        return found

    async def _policy(self, policy_key: bytes) -> Bundle:
        shown = await get_policy(self._transport, 0)
        if shown.policy is None:
            raise UserError("the service has no policy: nothing may be gone from its audit log")
        data, sig, _ = shown.policy.proof
        try:
            return open_(data, sig, policy_key)
        except CryptoError:
            raise UserError("the service's policy is not signed by the key of --policy") from None

    async def whole_audit(
        self, noted: ChainHead | None = None, start: Start = ANYWHERE
    ) -> AsyncGenerator[tuple[AuditEntry, ...], None]:
        """The log from its start, each page verified before it is given out. LogBroken: it is
        no chain, begins where it may not, does not reach the head that the service names, or
        the head that was noted earlier is not in it."""
        page = await self.audit()
        start.check(page.anchor, page.entries)
        head = page.anchor
        met = noted is None or noted == head
        for _ in range(PAGES_MAX):
            before = head
            head = follow(head, page.entries)
            heads = {before, *(ChainHead(one.seq, one.hash) for one in page.entries)}
            met = met or noted in heads
            yield page.entries
            if not page.more:
                if page.head not in heads:
                    raise LogBroken(
                        f"the log ends at entry {head.seq}, and its head is entry {page.head.seq}"
                    )
                if not met:
                    raise LogBroken("the head that was noted is not in the log")
                return
            page = await self.audit(head.seq)
        raise ProtocolBreach("the service's audit log does not end")

    async def overview(self, *, rounds_max: int = 256) -> Overview:
        """Rounds, newest first; at most so many."""
        found: list[OverviewRound] = []
        states: dict[RoundState, int] = {}
        skip, more = 0, True
        while more and len(found) < rounds_max:
            message = operations_pb2.GetRoundsOverviewRequest(skip=skip)
            told = (await self._transport.call(ROUNDS, message, self._signer)).message
            states = {state_of(row.state): row.count for row in told.states}
            given = [SignedTask(row.task, row.sig, row.publisher) for row in told.tasks]
            by_hash = {_spec_hash(one): one for one in given}
            for row in told.rounds:
                if row.spec_hash not in by_hash:
                    raise ProtocolBreach("the service lists a round without its task")
                found.append(_round(row, by_hash[row.spec_hash]))
            more = told.more and told.next > skip
            skip = told.next
        return Overview(states, tuple(found[:rounds_max]))


def _round(row: operations_pb2.OverviewRound, task: SignedTask) -> OverviewRound:
    return OverviewRound(
        task=task,
        summary=summary_in(row.summary),
        manifest=row.manifest + b"".join(row.sigs),
        result=row.result,
        sigs={one.party: one.sig for one in row.result_sigs},
        given_up=tuple(GivenUp(one.party, one.statement, one.sig) for one in row.abandonments),
        withheld=row.withheld,
    )


def _spec_hash(task: SignedTask) -> bytes:
    return hash_(labels.TASK, task.body)


def _head(row: operations_pb2.ChainHead) -> ChainHead:
    return ChainHead(row.seq, row.hash)


def _form(form: operations_pb2.ExposureForm.ValueType) -> str:
    try:
        name = operations_pb2.ExposureForm.Name(form)
    except ValueError:
        return "unknown"
    return name.removeprefix("EXPOSURE_FORM_").lower()
