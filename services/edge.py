"""From raw bytes to raw bytes: who may call, how much, what comes out when it fails.

Knows no transport; a front hands in what came and sends what comes back. Whatever happens,
the front gets an answer or a `Refused` that holds one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache

from crypto.ids import AccountId
from crypto.request import CallKind
from services.access.guard import Guard
from services.audit.ledger import Ledger
from services.auth import Authenticator, Context
from services.call import (
    Call,
    Clock,
    KeyCall,
    KeyUnary,
    Lane,
    OpenUnary,
    Route,
    SignedCall,
    SignedRoute,
    Signer,
    StreamRoute,
    UnaryRoute,
    Write,
)
from services.errors import (
    DEFECT,
    Draining,
    Failure,
    Overloaded,
    RequestError,
    Untaken,
    failure,
    row_of,
)
from services.limits import Buckets, Gate, rate_key
from services.pressure import Pressure
from services.store.errors import StoreUnavailable
from services.telemetry import Telemetry


class Refused(Exception):
    """A call that failed, with what to answer."""

    def __init__(self, answer: Failure) -> None:
        super().__init__(answer.reason)
        self.answer = answer


@dataclass(slots=True)
class Caller:
    """What a front knows of a call before anybody looks into it."""

    ip: str
    auth: list[str | bytes]
    """All values of `rookery-auth-bin`."""
    remaining_s: float | None
    """Until the caller's deadline; None if it has none."""
    traceparent: str | bytes | None = None
    """W3C trace context, as it came."""
    workload: str = ""
    """SPIFFE id by the word of the trusted hop; empty: none."""


class Edge:
    """All methods of this process. `draining` makes it refuse what is new."""

    def __init__(
        self,
        routes: Iterable[Route],
        authenticator: Authenticator,
        *,
        audience: str,
        gates: Mapping[Lane, Gate],
        guests: Gate,
        unsigned: Buckets,
        telemetry: Telemetry,
        clock: Clock,
        farewell: Callable[[], Draining],
        pressure: Pressure | None = None,
        guard: Guard | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """`pressure`: says which calls are refused at once; none without it. `guard`: who may
        call what beyond what the routes say. `ledger`: where calls of keys without an account
        are written down; nowhere without it."""
        self.routes = {route.method: route for route in routes}
        self._guard = guard or Guard()
        self._guard.serve(self.routes)
        self._ledger = ledger
        self.draining = False
        self.pressure = pressure or Pressure(0.0)
        telemetry.metrics.serve(self.routes)
        telemetry.metrics.watch_lanes(gates)
        telemetry.metrics.watch_pressure(self.pressure)
        telemetry.metrics.watch_draining(lambda: self.draining)
        self._authenticator = authenticator
        self._contexts = {
            method: Context.of(
                _kind(route), method, audience, judges_nonce=getattr(route, "judges_nonce", False)
            )
            for method, route in self.routes.items()
        }
        self._gates = gates
        self._guests = guests
        self._unsigned = unsigned
        self._telemetry = telemetry
        self._clock = clock
        self._farewell = farewell

    async def unary(self, route: UnaryRoute, raw: bytes, caller: Caller) -> bytes:
        """The answer to one call; Refused."""
        call = self._call(route, caller)
        account: AccountId | None = None
        started_s = self._clock.monotonic_s()
        reason = "OK"
        try:
            if self.draining:
                raise Untaken(self._farewell().retry_ms)
            call.check_live()
            if isinstance(route, OpenUnary):
                self._unsigned.take(rate_key(call.ip), started_s)
                with self._gates[route.lane]:
                    self._guard.admit(call)
                    return await route.handler(raw, call)
            # Room first: who is turned away must not cost a signature's verification.
            gate = self._gates[route.lane]
            with gate:
                signed = await self._signed(route, raw, caller, call)
                if isinstance(signed, SignedCall):
                    account = signed.account
                answer = await self._run(route, raw, signed)
                took_s = self._clock.monotonic_s() - started_s if gate.is_crowded else 0.0
            self.pressure.served(route.lane, took_s)
            self._telemetry.store_answers(started_s)
            return answer
        except asyncio.CancelledError:
            reason = "CANCELLED"
            raise
        except Exception as error:  # noqa: BLE001 - the table says what each is
            refusal = self._failure(route, error)
            reason = refusal.reason
            raise Refused(refusal) from None
        finally:
            self._telemetry.call(
                route.method,
                reason,
                elapsed_s=self._clock.monotonic_s() - started_s,
                account=account,
                now_ms=call.now_ms,
            )

    @contextmanager
    def guest(self, method: str, caller: Caller, *, is_ruled: bool) -> Iterator[None]:
        """Room for a call that is none of ours and stays open; Refused. `is_ruled`: the matrix
        must allow it, as long as it is open."""
        try:
            if self.draining:
                raise Untaken(self._farewell().retry_ms)
            self._unsigned.take(rate_key(caller.ip), self._clock.monotonic_s())
            with ExitStack() as stack:
                if is_ruled:
                    call = self._of(method, caller)
                    self._guard.admit(call)
                    stack.enter_context(self._guard.staying(call))
                stack.enter_context(self._guests)
                yield
        except RequestError as error:
            answer = failure(error)
            self._telemetry.metrics.refused(answer.reason)
            raise Refused(answer) from None

    def overloaded(self, method: str) -> Failure | None:
        """What a call is answered of which nothing is read; None if it may come in. Counted."""
        lane = self.routes[method].lane if method in self.routes else None
        if lane is None or not (self._gates[lane].is_full or self.pressure.refuses(lane)):
            return None
        self._telemetry.call(
            method, "OVERLOADED", elapsed_s=0.0, account=None, now_ms=self._clock.wall_ms()
        )
        return _overloaded(self.pressure.retry_ms(lane))

    def unknown(self) -> None:
        """Somebody called what is not served."""
        self._telemetry.metrics.unknown()

    async def stream(self, route: StreamRoute, raw: bytes, caller: Caller, write: Write) -> None:
        """Runs one stream to its end; Refused."""
        started_s = self._clock.monotonic_s()
        reason = "OK"
        try:
            if self.draining:
                raise Untaken(self._farewell().retry_ms)
            call = self._call(route, caller)
            call.check_live()
            with self._gates[route.lane]:
                signed = await self._signed(route, raw, caller, call)
                running = await self._opened(route, raw, signed, write)
                with self._guard.staying(signed):
                    # An idle stream keeps nothing of its opening.
                    del call, signed, caller, raw
                    await running
        except asyncio.CancelledError:
            reason = "CANCELLED"
            raise
        except Exception as error:  # noqa: BLE001 - the table says what each is
            answer = self._failure(route, error)
            reason = answer.reason
            raise Refused(answer) from None
        finally:
            self._telemetry.call(
                route.method,
                reason,
                elapsed_s=self._clock.monotonic_s() - started_s,
                account=None,
                now_ms=self._clock.wall_ms(),
                is_stream=True,
            )

    def _call(self, route: Route, caller: Caller) -> Call:
        return self._of(route.method, caller)

    def _of(self, method: str, caller: Caller) -> Call:
        expires_s = (
            None if caller.remaining_s is None else self._clock.monotonic_s() + caller.remaining_s
        )
        return Call(
            method,
            caller.ip,
            self._clock.wall_ms(),
            self._clock,
            expires_s,
            workload=caller.workload,
        )

    async def _signed(self, route: Route, raw: bytes, caller: Caller, call: Call) -> Signer:
        if not caller.auth and caller.workload and isinstance(route, KeyUnary):
            known = self._guard.as_workload(call, route.role)
            if known is not None:
                return known
        context = self._contexts[route.method]
        signed = await self._authenticator.check(context, caller.auth, raw, call)
        signed.workload = caller.workload
        return signed

    async def _run(self, route: SignedRoute, raw: bytes, call: Signer) -> bytes:
        """The handler's answer, if the matrix allows the call; written down if it is one of
        those that are."""
        if self._ledger is None or not isinstance(call, KeyCall):
            self._guard.admit(call)
            return await route.run(raw, call)

        async def admitted() -> bytes:
            self._guard.admit(call)
            return await route.run(raw, call)

        changes = isinstance(route, KeyUnary) and not route.reads
        return await self._ledger.unary(raw, call, admitted, changes=changes)

    async def _opened(
        self, route: StreamRoute, raw: bytes, call: Signer, write: Write
    ) -> Awaitable[None]:
        """The stream, ready to run."""

        def admit() -> None:
            self._guard.admit(call)
            route.check(call)

        if self._ledger is None or not isinstance(call, KeyCall):
            admit()
        else:
            await self._ledger.opened(raw, call, admit)
        return route.run(raw, call, write)

    def _failure(self, route: Route, error: Exception) -> Failure:
        if row_of(error) is DEFECT:
            self._telemetry.defect(route.method, error)
        elif isinstance(error, StoreUnavailable):
            self._telemetry.store_away(error, self._clock.monotonic_s())
        return failure(error)


@cache
def _overloaded(retry_ms: int) -> Failure:
    """Made once for each of the few delays that there are: refusing must cost next to nothing."""
    return failure(Overloaded(retry_ms))


def _kind(route: Route) -> CallKind:
    return CallKind.STREAM if isinstance(route, StreamRoute) else CallKind.UNARY
