"""Calls and the store with spans around them. Only put there where traces are on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Any, Final, TypeVar, cast

from crypto.errors import CryptoError
from services.call import Route, StreamRoute, UnaryRoute, Write
from services.edge import Caller, Edge, Refused
from services.spans import Active, Part, Tracer
from services.store.base import Store
from services.store.errors import StoreError, StoreUnavailable

T = TypeVar("T")

_SYNC: Final[Mapping[str, Part]] = {
    "commit_ops": Part.COMMIT,
    "read_ops": Part.READ,
    "heads": Part.READ,
    "read_links": Part.READ,
    "create_account": Part.CHAIN,
    "append_link": Part.CHAIN,
    "delete_account": Part.CHAIN,
}
_ROUNDS: Final[Mapping[str, Part]] = {
    "publish_task": Part.ROUND,
    "collect_round": Part.ROUND,
    "contribute": Part.COMMIT,
    "seal_round": Part.ROUND,
    "publish_result": Part.ROUND,
    "abandon": Part.ROUND,
    "find_round": Part.READ,
    "read_boxes": Part.READ,
    "erased": Part.READ,
    "given_by": Part.READ,
    "take_back": Part.COMMIT,
    "read_tasks": Part.READ,
    "list_rounds": Part.READ,
    "newest_result": Part.READ,
    "find_result": Part.READ,
}
_OUR_FAULT: Final = frozenset(("INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN"))


class TracedEdge:
    """The calls of an edge, each in a span if it is one of those that are kept."""

    def __init__(self, edge: Edge, tracer: Tracer) -> None:
        self._edge = edge
        self._tracer = tracer

    async def unary(self, route: UnaryRoute, raw: bytes, caller: Caller) -> bytes:
        """See `Edge.unary`."""
        with self._tracer.served(route.method, caller.traceparent) as active:
            running = self._edge.unary(route, raw, caller)
            return await (running if active is None else _told(active, route, running))

    async def stream(self, route: StreamRoute, raw: bytes, caller: Caller, write: Write) -> None:
        """See `Edge.stream`."""
        with self._tracer.served(route.method, caller.traceparent) as active:
            running = self._edge.stream(route, raw, caller, write)
            # An idle stream keeps nothing of its opening.
            del raw, caller
            await (running if active is None else _told(active, route, running))


async def _told(active: Active, route: Route, running: Awaitable[T]) -> T:
    """Runs a call and has its span say what it was and how it ended."""
    service, _, method = route.method.removeprefix("/").partition("/")
    active.note("rpc.system", "grpc")
    active.note("rpc.service", service)
    active.note("rpc.method", method)
    status = "OK"
    try:
        return await running
    except Refused as refused:
        status = refused.answer.code.name
        active.note("rookery.reason", refused.answer.reason)
        active.failed = status in _OUR_FAULT
        raise
    except asyncio.CancelledError:
        status, active.failed = "CANCELLED", False
        raise
    finally:
        active.note("rpc.response.status_code", status)


class _Parts:
    """An object some of whose coroutines are parts of a trace; all else is its own."""

    def __init__(self, inner: Any, tracer: Tracer, parts: Mapping[str, Part]) -> None:
        self._inner = inner
        for name, part in parts.items():
            setattr(self, name, _around(getattr(inner, name), tracer, part))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _around(
    method: Callable[..., Awaitable[T]], tracer: Tracer, part: Part
) -> Callable[..., Awaitable[T]]:
    async def run(*arguments: Any, **more: Any) -> T:
        with tracer.part(part) as active:
            try:
                return await method(*arguments, **more)
            except (StoreError, CryptoError) as refused:
                if active is not None:
                    active.failed = isinstance(refused, StoreUnavailable)
                raise

    return run


class _TracedStore(_Parts):
    def __init__(self, inner: Store, tracer: Tracer) -> None:
        super().__init__(inner, tracer, _SYNC)
        self._tracer = tracer

    @cached_property
    def rounds(self) -> _Parts:
        """See `Store.rounds`."""
        return _Parts(self._inner.rounds, self._tracer, _ROUNDS)


def traced_store(store: Store, tracer: Tracer) -> Store:
    """The store, with a span around what takes time."""
    return cast(Store, _TracedStore(store, tracer)) if tracer.is_on else store
