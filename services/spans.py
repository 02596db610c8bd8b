"""Traces of calls, commits and jobs by W3C trace context: which are kept, and what they say.

Off unless configured; then a share of them is kept. A caller may ask for its own to be kept,
but of all callers together only so many a second are: a flag that anybody can set must not
decide what the service spends.

A span has a name, attributes and times, all from closed sets or rounded: nothing of a caller,
an account, a device, a tag, a size or an address. Exceptions are not recorded, for they can
hold values. Who makes and sends spans is a `Recorder`; for what is not kept it is not asked.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from enum import Enum
from typing import Final, NamedTuple, Protocol

from services.errors import RateLimited
from services.limits import Buckets

TRACEPARENT: Final = "traceparent"
SPANS_MAX: Final = 64
"""Of one call or job in this process: a stream lives for hours."""
CALLERS_BURST: Final = 10
_FORM: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_SAMPLED: Final = 1


class Part(Enum):
    """Spans that are no calls: the store's work for one request, and a party's for a round."""

    COMMIT = "store.commit"
    READ = "store.read"
    CHAIN = "store.chain"
    ROUND = "store.round"
    INTAKE = "party.intake"
    HAND_IN = "party.hand_in"
    VERIFY = "party.verify"
    SHARE = "party.share"
    OPEN = "party.open"


class Kind(Enum):
    """Which side of a call a span is, if it is one."""

    SERVER = "server"
    CLIENT = "client"
    INTERNAL = "internal"


class Parent(NamedTuple):
    """The span that another one is in, here or elsewhere."""

    trace_id: int
    span_id: int

    @property
    def header(self) -> str:
        """As a `traceparent`, which says that the trace is kept."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{_SAMPLED:02x}"


class Span(Protocol):
    """A span that has begun."""

    @property
    def ids(self) -> Parent:
        """Its trace and itself."""
        ...

    def note(self, name: str, value: str) -> None:
        """An attribute; `value` is one of the program's own words."""
        ...

    def end(self, *, failed: bool) -> None:
        """It is over, now."""
        ...


class Recorder(Protocol):
    """Makes spans and sends them (`services.otlp`)."""

    def start(self, name: str, kind: Kind, parent: Parent | None) -> Span:
        """A span that begins now."""
        ...

    def close(self) -> None:
        """Sends what waits, for a bounded time; blocks meanwhile."""
        ...


class Active:
    """A span that is kept, while it is open. `failed`: whether it did what it was to do; None
    for what follows from whether an exception ended it."""

    __slots__ = ("failed", "ids", "is_over", "left", "note")

    def __init__(self, span: Span, left: list[int]) -> None:
        self.ids = span.ids
        self.note = span.note
        self.failed: bool | None = None
        self.is_over = False
        self.left = left
        """How many more spans there may be in the same call; shared by all of them."""


_CURRENT: ContextVar[Active | None] = ContextVar("rookery_span", default=None)


def current() -> Active | None:
    """The span that this task is in. A task that outlives the call that it came from is in
    none from then on."""
    active = _CURRENT.get()
    return None if active is None or active.is_over else active


def asked(value: str | bytes | None) -> Parent | None:
    """The parent in a `traceparent` that asks to be kept; None for all else."""
    found = _FORM.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    return Parent(trace_id, span_id) if trace_id and span_id and flags & _SAMPLED else None


Maybe = AbstractContextManager["Active | None"]
_NOTHING: Final[Maybe] = nullcontext()


class Tracer:
    """Decides which calls and jobs are kept. Without a recorder it keeps none.

    `share`: of those that begin here; `callers_per_s`: of those that callers ask for.
    """

    def __init__(
        self,
        recorder: Recorder | None = None,
        *,
        share: float = 0.0,
        callers_per_s: float = 0.0,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic_s = monotonic_s
        self._recorder = recorder
        self._share = share
        self._due = 0.0
        self._may_ask = callers_per_s > 0
        self._callers = Buckets(
            "traces", per_s=callers_per_s, burst=max(1.0, CALLERS_BURST * callers_per_s), keys_max=1
        )

    @property
    def is_on(self) -> bool:
        """Whether anything is ever kept."""
        return self._recorder is not None

    def close(self) -> None:
        """Sends what waits, for a bounded time; blocks meanwhile."""
        if self._recorder is not None:
            self._recorder.close()

    def served(self, method: str, traceparent: str | bytes | None) -> Maybe:
        """Around a call of a method that is served."""
        parent = asked(traceparent) if self._may_ask else None
        if parent is not None and self._recorder is not None and self._grants():
            return self._begin(method.removeprefix("/"), Kind.SERVER, parent)
        return self._begin(method.removeprefix("/"), Kind.SERVER) if self._draw() else _NOTHING

    def root(self, part: Part) -> Maybe:
        """Around what nobody called for: a trace of its own."""
        return self._begin(part.value, Kind.INTERNAL) if self._draw() else _NOTHING

    def part(self, part: Part) -> Maybe:
        """Around a part of the call or job that this task is in, if that is kept."""
        return self._within(part.value, Kind.INTERNAL)

    def call(self, method: str) -> Maybe:
        """Around a call to another process; its `ids.header` goes along as `traceparent`."""
        return self._within(method.removeprefix("/"), Kind.CLIENT)

    def _draw(self) -> bool:
        """Every n-th, as lines of calls are: drawing costs more."""
        if self._recorder is None:
            return False
        self._due += self._share
        if self._due < 1:
            return False
        self._due -= 1
        return True

    def _grants(self) -> bool:
        try:
            self._callers.take(b"", self._monotonic_s())
        except RateLimited:
            return False
        return True

    def _within(self, name: str, kind: Kind) -> Maybe:
        active = current()
        if active is None or active.left[0] <= 0:
            return _NOTHING
        active.left[0] -= 1
        return self._begin(name, kind, active.ids, active.left)

    @contextmanager
    def _begin(
        self, name: str, kind: Kind, parent: Parent | None = None, left: list[int] | None = None
    ) -> Iterator[Active]:
        assert self._recorder is not None
        span = self._recorder.start(name, kind, parent)
        active = Active(span, [SPANS_MAX] if left is None else left)
        before = _CURRENT.set(active)
        try:
            yield active
        except BaseException:
            if active.failed is None:
                active.failed = True
            raise
        finally:
            active.is_over = True
            _CURRENT.reset(before)
            span.end(failed=bool(active.failed))


NO_TRACES: Final = Tracer()
