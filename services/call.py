"""One call, as handlers see it: nothing of the transport, nothing that is not verified.

A handler is `async (raw bytes, Call) -> bytes`; a stream's gets a `Write` as well. A front
other than grpc.aio can run them without touching them.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum

from crypto.ids import AccountId, DeviceId
from services.errors import AccessDenied, DeadlinePassed, RoleMissing
from services.store.base import Tip


@dataclass(frozen=True, slots=True)
class Clock:
    """Where time comes from: wall clock in milliseconds, and seconds that never go back."""

    wall_ms: Callable[[], int]
    monotonic_s: Callable[[], float]

    @classmethod
    def system(cls) -> Clock:
        """The machine's clocks."""
        return cls(lambda: time.time_ns() // 1_000_000, time.monotonic)


_EVERY = frozenset(("*",))


@dataclass(slots=True)
class Call:
    """A call that nobody signed."""

    method: str
    ip: str
    now_ms: int
    clock: Clock
    expires_s: float | None
    """On the monotonic clock; None if the caller waits for ever."""
    workload: str = field(default="", kw_only=True)
    """SPIFFE id of the workload that made it, by the word of the trusted hop; empty: none."""
    purposes: frozenset[str] = field(default=_EVERY, kw_only=True)
    """What the access matrix allows it for; `*` among them: no matter what."""

    def check_purpose(self, purpose: str) -> None:
        """AccessDenied unless the call is allowed for this purpose. Only the handler knows of
        which purpose the task is that it is asked about."""
        if self.is_limited and purpose not in self.purposes:
            raise AccessDenied(self.role, self.method)

    @property
    def is_limited(self) -> bool:
        """Whether it is allowed for some purposes only."""
        return "*" not in self.purposes

    @property
    def role(self) -> str:
        """What a refusal names the caller by: its roles, never who it is."""
        return "anyone"

    def check_live(self) -> None:
        """DeadlinePassed if the caller no longer waits: asked before work is handed on."""
        if self.expires_s is not None and self.clock.monotonic_s() >= self.expires_s:
            raise DeadlinePassed


@dataclass(slots=True)
class SignedCall(Call):
    """A call that an active device of the account signed, nonce and all."""

    account: AccountId
    device: DeviceId
    nonce: bytes
    tip: Tip
    ts_ms: int
    """When it was signed, as its caller's clock says."""

    @property
    def role(self) -> str:
        """See `Call.role`."""
        return "device"


class KeyRole(Enum):
    """What a key without an account may do."""

    PUBLISHER = "publisher"
    ANALYST = "analyst"
    PARTY = "party"
    SERVICE = "service"
    POLICY = "policy"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key without an account, and what it may do."""

    ik_pk: bytes
    roles: frozenset[KeyRole]


@dataclass(slots=True)
class KeyCall(Call):
    """A call that a known key without an account signed, nonce and all."""

    key: KnownKey
    nonce: bytes
    ts_ms: int

    @property
    def role(self) -> str:
        """See `Call.role`."""
        return ",".join(sorted(role.value for role in self.key.roles)) or "anyone"


Signer = SignedCall | KeyCall
Write = Callable[[bytes], Awaitable[None]]
"""Sends one message of a stream; returns when the next one may be sent."""


class Lane(Enum):
    """Calls of one lane share a bound on how many run at once."""

    PUSH = "push"
    PULL = "pull"
    STREAM = "stream"
    WATCH = "watch"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class OpenUnary:
    """A method that needs no signature."""

    method: str
    handler: Callable[[bytes, Call], Awaitable[bytes]]
    lane: Lane = Lane.OTHER


@dataclass(frozen=True, slots=True)
class SignedUnary:
    """A method that only an active device may call."""

    method: str
    handler: Callable[[bytes, SignedCall], Awaitable[bytes]]
    lane: Lane = Lane.OTHER
    judges_nonce: bool = False
    """The handler has the store judge the nonce in the same step as what it writes."""

    def run(self, raw: bytes, call: Signer) -> Awaitable[bytes]:
        """The handler at work; RoleMissing."""
        return self.handler(raw, _device(call))


@dataclass(frozen=True, slots=True)
class KeyUnary:
    """A method that only a key with this role may call."""

    method: str
    handler: Callable[[bytes, KeyCall], Awaitable[bytes]]
    role: KeyRole
    lane: Lane = Lane.OTHER
    reads: bool = False
    """It changes nothing: the audit log has one entry of it, not two."""

    def run(self, raw: bytes, call: Signer) -> Awaitable[bytes]:
        """The handler at work; RoleMissing."""
        return self.handler(raw, _key(call, self.role))


@dataclass(frozen=True, slots=True)
class AnyUnary:
    """A method that active devices and all known keys may call."""

    method: str
    handler: Callable[[bytes, Signer], Awaitable[bytes]]
    lane: Lane = Lane.OTHER

    def run(self, raw: bytes, call: Signer) -> Awaitable[bytes]:
        """The handler at work."""
        return self.handler(raw, call)


@dataclass(frozen=True, slots=True)
class SignedStream:
    """A server stream that only an active device may open."""

    method: str
    handler: Callable[[bytes, SignedCall, Write], Awaitable[None]]
    lane: Lane = Lane.STREAM

    def check(self, call: Signer) -> None:
        """RoleMissing unless its caller may open it."""
        _device(call)

    def run(self, raw: bytes, call: Signer, write: Write) -> Awaitable[None]:
        """The handler at work; RoleMissing."""
        return self.handler(raw, _device(call), write)


@dataclass(frozen=True, slots=True)
class KeyStream:
    """A server stream that only a key with this role may open."""

    method: str
    handler: Callable[[bytes, KeyCall, Write], Awaitable[None]]
    role: KeyRole
    lane: Lane = Lane.STREAM

    def check(self, call: Signer) -> None:
        """RoleMissing unless its caller may open it."""
        _key(call, self.role)

    def run(self, raw: bytes, call: Signer, write: Write) -> Awaitable[None]:
        """The handler at work; RoleMissing."""
        return self.handler(raw, _key(call, self.role), write)


StreamRoute = SignedStream | KeyStream
SignedRoute = SignedUnary | KeyUnary | AnyUnary
UnaryRoute = OpenUnary | SignedRoute
Route = UnaryRoute | StreamRoute


def _device(call: Signer) -> SignedCall:
    if isinstance(call, SignedCall):
        return call
    raise RoleMissing("device")


def _key(call: Signer, role: KeyRole) -> KeyCall:
    if isinstance(call, KeyCall) and role in call.key.roles:
        return call
    raise RoleMissing(role.value)
