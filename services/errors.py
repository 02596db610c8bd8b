"""THE table from error to wire status (docs/protocol.md, errors; proto/rookery/v1).

`RequestError` is the root of what the edge refuses; stores and `crypto/` have families of
their own. `failure` turns any of them into a google.rpc.Status with ErrorInfo and, where the
same call may be tried again, RetryInfo. What stands in no row is a defect of the service and
comes out as INTERNAL, without a word of what it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from crypto.errors import CryptoError
from services.store import errors as store

DOMAIN: Final = "rookery"
DETAILS_KEY: Final = "grpc-status-details-bin"
UNTAKEN: Final = ("rookery-untaken", b"1")
"""Trailer of an `Untaken`: a proxy may send the very same bytes to another replica."""


class RequestError(Exception):
    """Root of everything that the edge refuses. Never holds a secret, a name or a value."""


class Malformed(RequestError):
    """The message or one of its fields does not parse."""

    def __init__(self, field: str) -> None:
        super().__init__(f"{field} does not parse")
        self.field = field


class Unauthenticated(RequestError):
    """No active device of a known account signed this call, or it was sent before."""

    def __init__(self) -> None:
        super().__init__("no active device of a known account signed this call")


class ClockSkew(RequestError):
    """The request was signed with a clock that is more than 120 s off."""

    def __init__(self, server_ms: int) -> None:
        super().__init__("the clock of the signer is more than 120 s off")
        self.server_ms = server_ms


class RateLimited(RequestError):
    """A token bucket is empty. `limit` names it."""

    def __init__(self, limit: str, retry_ms: int) -> None:
        super().__init__(f"too many calls: {limit}")
        self.limit = limit
        self.retry_ms = retry_ms


class Overloaded(RequestError):
    """No room right now."""

    def __init__(self, retry_ms: int) -> None:
        super().__init__("no room right now")
        self.retry_ms = retry_ms


class Draining(RequestError):
    """The service goes away: connect again, elsewhere if you can."""

    def __init__(self, retry_ms: int) -> None:
        super().__init__("the service goes away")
        self.retry_ms = retry_ms


class Untaken(Draining):
    """The same, before anything of the call was looked at: its nonce is as good as new."""


class DeadlinePassed(RequestError):
    """The caller no longer waits; nothing was done."""

    def __init__(self) -> None:
        super().__init__("the deadline passed before the work was taken up")


class ProofRequired(RequestError):
    """An account wants a proof of work for this hour."""

    def __init__(self, bits: int, hour: int) -> None:
        super().__init__("a proof of work is required")
        self.bits = bits
        self.hour = hour


class TokenRefused(RequestError):
    """The enrolment token is missing, expired, forged or made for something else."""

    def __init__(self) -> None:
        super().__init__("the enrolment token is refused")


class LinkInvalid(RequestError):
    """The link breaks a rule of the device chain."""

    def __init__(self, rule: str) -> None:
        super().__init__(f"the link breaks a rule: {rule}")
        self.rule = rule


class GrantsInvalid(RequestError):
    """Grants are missing, surplus, or not those that the link commits to."""

    def __init__(self, rule: str) -> None:
        super().__init__(f"the grants break a rule: {rule}")
        self.rule = rule


class OpInvalid(RequestError):
    """An op of the batch breaks a rule in itself."""

    def __init__(self, index: int, rule: str) -> None:
        super().__init__(f"op {index} breaks a rule: {rule}")
        self.index = index
        self.rule = rule


class CursorInvalid(RequestError):
    """Not a cursor of this account."""

    def __init__(self) -> None:
        super().__init__("not a cursor of this account; start from the empty one")


class GenerationChanged(RequestError):
    """The cursor was made before the store was restored or failed over."""

    def __init__(self) -> None:
        super().__init__("the service was restored: compare heads, push again, pull from empty")


class RoleMissing(RequestError):
    """The caller is known, but may not make this call. `role` is what may."""

    def __init__(self, role: str) -> None:
        super().__init__(f"only for a caller of the role {role}")
        self.role = role


class AccessDenied(RequestError):
    """The policy's access matrix does not allow this call to a caller of this role, or not for
    the purpose that it is about."""

    def __init__(self, role: str, method: str) -> None:
        super().__init__(f"the access policy does not allow this to {role}")
        self.role = role
        self.method = method


class TaskInvalid(RequestError):
    """The task breaks a rule, or the caller did not sign it."""

    def __init__(self, rule: str) -> None:
        super().__init__(f"the task breaks a rule: {rule}")
        self.rule = rule


class TaskExpired(RequestError):
    """The task ends before the window does."""

    def __init__(self) -> None:
        super().__init__("the window ends after the task does: publish a new task")


class ManifestInvalid(RequestError):
    """The manifest breaks a rule, lacks a signature, or is not what the task says."""

    def __init__(self, rule: str) -> None:
        super().__init__(f"the manifest breaks a rule: {rule}")
        self.rule = rule


class ContributionInvalid(RequestError):
    """A contribution has a wrong form or wrong sizes."""

    def __init__(self, rule: str) -> None:
        super().__init__(f"the contribution breaks a rule: {rule}")
        self.rule = rule


class ResultInvalid(RequestError):
    """A result or an abandonment has a wrong form, or lacks signatures."""

    def __init__(self, rule: str) -> None:
        super().__init__(f"the result breaks a rule: {rule}")
        self.rule = rule


class ResultAbsent(RequestError):
    """The parties have signed nothing yet."""

    def __init__(self) -> None:
        super().__init__("no result yet")


class BudgetExhausted(RequestError):
    """A privacy budget has no room for the round. `cap` names it, `left` is in micro-rho."""

    def __init__(self, cap: str, left: int) -> None:
        super().__init__(f"the budget {cap} has {left} micro-rho left")
        self.cap = cap
        self.left = left


class WakeOff(RequestError):
    """The service wakes nobody: it has no push gateway."""

    def __init__(self) -> None:
        super().__init__("this service has no push gateway")


class PolicyInvalid(RequestError):
    """The bundle breaks a rule, or the caller did not sign it."""

    def __init__(self, rule: str) -> None:
        super().__init__(f"the policy bundle breaks a rule: {rule}")
        self.rule = rule


class TaskUndeclared(RequestError):
    """The policy in force does not declare the task, or stops it. `rule` says which."""

    def __init__(self, rule: str) -> None:
        super().__init__(f"the policy in force does not allow the task: {rule}")
        self.rule = rule


class ConsentInvalid(RequestError):
    """The entry of consent breaks a rule, or the caller did not sign it."""

    def __init__(self, rule: str) -> None:
        super().__init__(f"the entry of consent breaks a rule: {rule}")
        self.rule = rule


class ConsentMissing(RequestError):
    """The contribution proves no consent that stands, for the purpose of its task."""

    def __init__(self) -> None:
        super().__init__("no consent that stands, for the purpose of this task")


class MessageAbsent(RequestError):
    """The mailbox doesn't hold that message (yet)."""

    def __init__(self) -> None:
        super().__init__("nothing there yet")


@dataclass(frozen=True, slots=True)
class Row:
    """What one kind of error is on the wire. `fields`: metadata key to attribute.

    `retry_ms`: None, the same call won't do; otherwise when to try again, unless the error
    has a `retry_ms` of its own.
    """

    code: StatusCode
    reason: str
    fields: Mapping[str, str] = field(default_factory=dict)
    retry_ms: int | None = None


TABLE: Final[Mapping[type[Exception], Row]] = {
    Malformed: Row(StatusCode.INVALID_ARGUMENT, "MALFORMED", {"field": "field"}),
    CryptoError: Row(StatusCode.INVALID_ARGUMENT, "MALFORMED", {"rule": "rule"}),
    Unauthenticated: Row(StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
    store.AccountAbsent: Row(StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
    store.CallerUnknown: Row(StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
    store.NonceUsed: Row(StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
    ClockSkew: Row(
        StatusCode.UNAUTHENTICATED, "CLOCK_SKEW", {"server_ms": "server_ms"}, retry_ms=0
    ),
    RateLimited: Row(StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", {"limit": "limit"}, 1_000),
    Overloaded: Row(StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", retry_ms=1_000),
    Draining: Row(StatusCode.UNAVAILABLE, "DRAINING", retry_ms=1_000),
    Untaken: Row(StatusCode.UNAVAILABLE, "DRAINING", retry_ms=1_000),
    store.StoreUnavailable: Row(StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", retry_ms=5_000),
    DeadlinePassed: Row(StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", retry_ms=0),
    ProofRequired: Row(
        StatusCode.FAILED_PRECONDITION, "PROOF_REQUIRED", {"bits": "bits", "hour": "hour"}
    ),
    TokenRefused: Row(StatusCode.PERMISSION_DENIED, "TOKEN_REFUSED"),
    LinkInvalid: Row(StatusCode.INVALID_ARGUMENT, "LINK_INVALID", {"rule": "rule"}),
    GrantsInvalid: Row(StatusCode.INVALID_ARGUMENT, "GRANTS_INVALID", {"rule": "rule"}),
    store.ChainConflict: Row(StatusCode.ABORTED, "CHAIN_CONFLICT", {"chain_seq": "chain_seq"}),
    store.ChainAhead: Row(StatusCode.FAILED_PRECONDITION, "CHAIN_GAP", {"chain_seq": "chain_seq"}),
    OpInvalid: Row(StatusCode.INVALID_ARGUMENT, "OP_INVALID", {"index": "index", "rule": "rule"}),
    store.DeviceForked: Row(StatusCode.ABORTED, "DEVICE_FORKED"),
    store.OpGap: Row(
        StatusCode.FAILED_PRECONDITION, "CHAIN_GAP", {"dev_seq": "dev_seq", "op_hash": "op_hash"}
    ),
    store.EpochStale: Row(StatusCode.FAILED_PRECONDITION, "EPOCH_STALE", {"epoch": "epoch"}),
    store.EpochUnknown: Row(StatusCode.FAILED_PRECONDITION, "EPOCH_UNKNOWN", {"epoch": "epoch"}),
    store.DeviceCut: Row(StatusCode.FAILED_PRECONDITION, "DEVICE_CUT"),
    store.LamportAhead: Row(StatusCode.FAILED_PRECONDITION, "LAMPORT_AHEAD"),
    store.CallsExceeded: Row(
        StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", {"limit": "limit"}, retry_ms=10_000
    ),
    store.QuotaExceeded: Row(
        StatusCode.RESOURCE_EXHAUSTED, "QUOTA", {"limit": "limit", "value": "maximum"}
    ),
    CursorInvalid: Row(StatusCode.INVALID_ARGUMENT, "CURSOR_INVALID"),
    GenerationChanged: Row(StatusCode.FAILED_PRECONDITION, "GENERATION_CHANGED"),
    store.MailboxAbsent: Row(StatusCode.FAILED_PRECONDITION, "MAILBOX_ABSENT"),
    store.MailboxTaken: Row(StatusCode.ABORTED, "MAILBOX_TAKEN"),
    MessageAbsent: Row(StatusCode.NOT_FOUND, "MESSAGE_ABSENT", retry_ms=1_000),
    WakeOff: Row(StatusCode.FAILED_PRECONDITION, "WAKE_OFF"),
    RoleMissing: Row(StatusCode.PERMISSION_DENIED, "ROLE_MISSING", {"role": "role"}),
    AccessDenied: Row(
        StatusCode.PERMISSION_DENIED, "ACCESS_DENIED", {"role": "role", "method": "method"}
    ),
    TaskInvalid: Row(StatusCode.INVALID_ARGUMENT, "TASK_INVALID", {"rule": "rule"}),
    TaskExpired: Row(StatusCode.FAILED_PRECONDITION, "TASK_EXPIRED"),
    store.TaskConflict: Row(StatusCode.ABORTED, "TASK_CONFLICT"),
    store.TaskUnknown: Row(StatusCode.NOT_FOUND, "TASK_UNKNOWN"),
    ManifestInvalid: Row(StatusCode.INVALID_ARGUMENT, "MANIFEST_INVALID", {"rule": "rule"}),
    store.RoundConflict: Row(StatusCode.ABORTED, "ROUND_CONFLICT"),
    store.RoundUnknown: Row(StatusCode.NOT_FOUND, "ROUND_UNKNOWN"),
    store.RoundNotOpen: Row(
        StatusCode.FAILED_PRECONDITION, "ROUND_NOT_OPEN", {"open_ms": "open_ms"}
    ),
    store.RoundClosed: Row(
        StatusCode.FAILED_PRECONDITION, "ROUND_CLOSED", {"close_ms": "close_ms"}
    ),
    store.RoundNotClosed: Row(
        StatusCode.FAILED_PRECONDITION, "ROUND_NOT_CLOSED", {"close_ms": "close_ms"}
    ),
    store.RoundOver: Row(StatusCode.FAILED_PRECONDITION, "ROUND_OVER"),
    ContributionInvalid: Row(StatusCode.INVALID_ARGUMENT, "CONTRIBUTION_INVALID", {"rule": "rule"}),
    store.ContributedAlready: Row(StatusCode.ABORTED, "CONTRIBUTED_ALREADY"),
    ResultInvalid: Row(StatusCode.INVALID_ARGUMENT, "RESULT_INVALID", {"rule": "rule"}),
    ResultAbsent: Row(StatusCode.NOT_FOUND, "RESULT_ABSENT", retry_ms=5_000),
    store.ResultConflict: Row(StatusCode.ABORTED, "RESULT_CONFLICT"),
    PolicyInvalid: Row(StatusCode.INVALID_ARGUMENT, "POLICY_INVALID", {"rule": "rule"}),
    store.PolicyConflict: Row(
        StatusCode.ABORTED, "POLICY_CONFLICT", {"sequence": "sequence", "hash": "hash"}
    ),
    TaskUndeclared: Row(StatusCode.FAILED_PRECONDITION, "TASK_UNDECLARED", {"rule": "rule"}),
    ConsentInvalid: Row(StatusCode.INVALID_ARGUMENT, "CONSENT_INVALID", {"rule": "rule"}),
    store.ConsentConflict: Row(
        StatusCode.ABORTED, "CONSENT_CONFLICT", {"seq": "seq", "hash": "hash"}
    ),
    ConsentMissing: Row(StatusCode.FAILED_PRECONDITION, "CONSENT_MISSING"),
    # Withdrawn while the contribution was on its way to the store.
    store.ConsentStale: Row(StatusCode.FAILED_PRECONDITION, "CONSENT_MISSING"),
    BudgetExhausted: Row(
        StatusCode.FAILED_PRECONDITION, "BUDGET_EXHAUSTED", {"cap": "cap", "left": "left"}
    ),
}
"""Every error that the service answers with on purpose. A subclass has its parent's row."""

DEFECT: Final = Row(StatusCode.INTERNAL, "INTERNAL")
_UNIFORM: Final = "no active device of a known account signed this call"


@dataclass(frozen=True, slots=True)
class Failure:
    """An error on its way out: gRPC code, message, and the trailing metadata."""

    code: StatusCode
    reason: str
    message: str
    trailing: tuple[tuple[str, bytes], ...]


def row_of(error: BaseException) -> Row:
    """The row of an error; DEFECT for one that is not foreseen."""
    for kind in type(error).__mro__:
        row = TABLE.get(kind)
        if row is not None:
            return row
    return DEFECT


def failure(error: BaseException) -> Failure:
    """What to answer for an error."""
    row = row_of(error)
    if row is DEFECT:
        message = "the service has a defect"
    elif row.reason == "UNAUTHENTICATED":
        message = _UNIFORM
    else:
        message = str(error)
    metadata = {key: _text(getattr(error, name)) for key, name in row.fields.items()}
    details: list[AnyMessage] = [
        _pack(error_details_pb2.ErrorInfo(reason=row.reason, domain=DOMAIN, metadata=metadata))
    ]
    retry_ms = getattr(error, "retry_ms", row.retry_ms)
    if retry_ms is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(retry_ms)
        details.append(_pack(retry))
    status = status_pb2.Status(code=row.code.value[0], message=message, details=details)
    trailing: tuple[tuple[str, bytes], ...] = ((DETAILS_KEY, status.SerializeToString()),)
    if isinstance(error, Untaken):
        trailing += (UNTAKEN,)
    return Failure(row.code, row.reason, message, trailing)


def _pack(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def _text(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
