"""Who calls: the signature over the bytes that came (docs/protocol.md, 1.6 and 4, S1 to S3).

Decides from the metadata value, the raw message and the account's chain; knows no transport.
In order: form, clock, context (kind, method, audience), signature, rate, nonce. Only then
does anybody parse the message.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from crypto import request
from crypto.chain import Device
from crypto.errors import FormatError, SignatureError
from crypto.ids import AccountId, DeviceId
from crypto.keys import Identity
from crypto.primitives import equal
from crypto.request import NO_ACCOUNT, CallKind, RequestAuth
from services.call import Call, KeyCall, KnownKey, SignedCall, Signer
from services.errors import ClockSkew, Malformed, Unauthenticated
from services.limits import Buckets, rate_key
from services.store.base import Tip

# Verified against when there is no key to verify against: the same work, never a success.
_NOBODY = Identity(bytes(32), b"\x01" * 32).ik_pk

FindKey = Callable[[DeviceId], Awaitable[KnownKey | None]]
"""The key with this id, if it is one that the service knows."""


class Callers(Protocol):
    """What is remembered of those who call; `Store` has it."""

    async def tip(self, account_id: AccountId, *, fresh: bool = False) -> Tip | None:
        """None if there is no such account. It may be a moment old, unless `fresh`."""
        ...

    async def remember_nonce(
        self, caller: AccountId | DeviceId, nonce: bytes, *, now_ms: int
    ) -> bool:
        """False if this caller used the nonce within the last 300 s. The account's tip is as
        of this call afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """What a request must have been signed for. One per method, made at start-up."""

    kind: CallKind
    method_hash: bytes
    audience_hash: bytes
    judges_nonce: bool = False
    """The method's handler sees to the nonce itself."""

    @classmethod
    def of(
        cls, kind: CallKind, method: str, audience: str, *, judges_nonce: bool = False
    ) -> Context:
        """The context of a method in the deployment of this name."""
        hashes = request.method_hash(method), request.audience_hash(audience)
        return cls(kind, *hashes, judges_nonce)


class Authenticator:
    """Turns a `Call` into a `SignedCall` or a `KeyCall`, or refuses."""

    def __init__(
        self, callers: Callers, find_key: FindKey, *, failures: Buckets, account_calls: Buckets
    ) -> None:
        self._callers = callers
        self._find_key = find_key
        self._failures = failures
        self._account_calls = account_calls

    async def check(
        self, context: Context, values: list[str | bytes], payload: bytes, call: Call
    ) -> Signer:
        """Verifies one call. `values`: what came under `rookery-auth-bin`.

        Malformed, ClockSkew, RateLimited, or Unauthenticated for every other cause.
        """
        key = rate_key(call.ip)
        now_s = call.clock.monotonic_s()
        self._failures.check(key, now_s)
        try:
            auth = parse(values)
            if abs(auth.ts_ms - call.now_ms) > request.SKEW_MS_MAX:
                raise ClockSkew(call.now_ms)
            check_context(auth, context)
            signer: Tip | KnownKey
            if auth.account_id == NO_ACCOUNT:
                signer = check_key(auth, payload, await self._find_key(auth.device_id))
            else:
                signer = check_signature(auth, payload, await self._tip(auth))
        except (Malformed, Unauthenticated):
            self._failures.take(key, now_s, 1)
            raise
        # A key's id is shorter than an account's: the two never share a bucket.
        caller = auth.device_id if isinstance(signer, KnownKey) else auth.account_id
        self._account_calls.take(caller, now_s)
        if not context.judges_nonce:
            if not await self._callers.remember_nonce(caller, auth.nonce, now_ms=call.now_ms):
                raise Unauthenticated
            if isinstance(signer, Tip):
                signer = await self._unrevoked(auth, signer)
        if isinstance(signer, KnownKey):
            return KeyCall(
                method=call.method,
                ip=call.ip,
                now_ms=call.now_ms,
                clock=call.clock,
                expires_s=call.expires_s,
                key=signer,
                nonce=auth.nonce,
                ts_ms=auth.ts_ms,
            )
        return SignedCall(
            method=call.method,
            ip=call.ip,
            now_ms=call.now_ms,
            clock=call.clock,
            expires_s=call.expires_s,
            account=auth.account_id,
            device=auth.device_id,
            nonce=auth.nonce,
            tip=signer,
            ts_ms=auth.ts_ms,
        )

    async def _tip(self, auth: RequestAuth) -> Tip | None:
        """An account's tip, as new as it must be to know the device that signed."""
        tip = await self._callers.tip(auth.account_id)
        if tip is not None and _active(auth, tip) is None:
            tip = await self._callers.tip(auth.account_id, fresh=True)
        return tip

    async def _unrevoked(self, auth: RequestAuth, known: Tip) -> Tip:
        """The tip as of this call; Unauthenticated if the device was revoked meanwhile, here
        or through another replica."""
        tip = await self._callers.tip(auth.account_id)
        if tip is not known and _active(auth, tip) is None:
            raise Unauthenticated
        return tip or known


def parse(values: list[str | bytes]) -> RequestAuth:
    """S1. Without a signature: Unauthenticated; two of them, or another form: Malformed."""
    if not values:
        raise Unauthenticated
    value = values[0]
    if len(values) > 1 or not isinstance(value, bytes):
        raise Malformed(request.METADATA_KEY)
    try:
        return request.parse(value)
    except FormatError:
        raise Malformed(request.METADATA_KEY) from None


def check_context(auth: RequestAuth, context: Context) -> None:
    """Unauthenticated if it was signed for another kind of call, method or deployment."""
    if (
        auth.kind is not context.kind
        or not equal(auth.method_hash, context.method_hash)
        or not equal(auth.audience_hash, context.audience_hash)
    ):
        raise Unauthenticated


def check_signature(auth: RequestAuth, payload: bytes, tip: Tip | None) -> Tip:
    """The tip of the account, if one of its active devices signed exactly this payload.

    An unknown account, an unknown or revoked device and a bad signature cost the same work
    and get the same answer.
    """
    device = _active(auth, tip)
    try:
        request.verify(auth, _NOBODY if device is None else device.ik_pk, payload)
    except SignatureError:
        raise Unauthenticated from None
    if device is None or tip is None:
        raise Unauthenticated
    return tip


def check_key(auth: RequestAuth, payload: bytes, known: KnownKey | None) -> KnownKey:
    """The key, if it signed exactly this payload. As much work for one that nobody knows."""
    try:
        request.verify(auth, _NOBODY if known is None else known.ik_pk, payload)
    except SignatureError:
        raise Unauthenticated from None
    if known is None:
        raise Unauthenticated
    return known


def _active(auth: RequestAuth, tip: Tip | None) -> Device | None:
    device = None if tip is None else tip.chain.find(auth.device_id)
    return device if device is not None and device.active else None
