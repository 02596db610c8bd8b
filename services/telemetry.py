"""What the service says of itself: JSON lines without ids, tags, nonces, sizes or addresses.

An account appears as PRF(daily random key, account)[0:8]; the key lives in memory and is
forgotten at midnight (UTC), so that no two days can be joined (docs/protocol.md, 4, S11).
"""

from __future__ import annotations

import logging
import secrets
import sys
import traceback
from collections.abc import Callable
from typing import Any, TextIO

import structlog

from crypto import labels
from crypto.ids import AccountId
from crypto.primitives import prf
from services.metrics import CallMetrics
from services.spans import current
from services.store.errors import StoreUnavailable

_DAY_MS = 86_400_000
_PSEUDONYM_BYTES = 8
OUTAGE_LINE_S = 60.0


class Pseudonyms:
    """Names of accounts for one day. repr hides the key."""

    __slots__ = ("_day", "_key", "_random")

    def __init__(self, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self._random = random_bytes
        self._day = -1
        self._key = b""

    def __repr__(self) -> str:
        return "Pseudonyms(key hidden)"

    def of(self, account: AccountId, now_ms: int) -> str:
        """16 hex digits, the same all day."""
        day = now_ms // _DAY_MS
        if day != self._day:
            self._day, self._key = day, self._random(32)
        return prf(self._key, labels.PSEUDONYM, account, 16)[:_PSEUDONYM_BYTES].hex()


def configure(
    level: str, fmt: str, stream: TextIO | None = None
) -> structlog.typing.BindableLogger:
    """A logger of its own that writes lines to `stream` (standard error unless given)."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if fmt == "json"
        else structlog.dev.ConsoleRenderer(colors=False)
    )
    logger: structlog.typing.BindableLogger = structlog.wrap_logger(
        structlog.PrintLogger(stream or sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            _add_trace,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        cache_logger_on_first_use=True,
    )
    return logger


def _add_trace(
    logger: object, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Which trace and span a line belongs to, if it is one that is kept."""
    del logger, method
    active = current()
    if active is not None:
        event["trace_id"] = f"{active.ids.trace_id:032x}"
        event["span_id"] = f"{active.ids.span_id:016x}"
    return event


class Outage:
    """While the store is away every call fails: a line for each would bury the one that counts."""

    __slots__ = ("_since_s", "_told_s", "calls")

    def __init__(self) -> None:
        self.calls = 0
        """That failed since it began; 0 while there is none."""
        self._since_s = self._told_s = 0.0

    def failed(self, now_s: float) -> tuple[int, int] | None:
        """Seconds since it began and calls that failed, if it is time to say so."""
        begins = not self.calls
        self.calls += 1
        if begins:
            self._since_s = now_s
        elif now_s - self._told_s < OUTAGE_LINE_S:
            return None
        self._told_s = now_s
        return round(now_s - self._since_s), self.calls

    def ended(self, now_s: float) -> tuple[int, int]:
        """How long it was, and how many calls failed."""
        calls, self.calls = self.calls, 0
        return round(now_s - self._since_s), calls


class Telemetry:
    """Counts every call, logs some. `metrics`: of the whole process."""

    def __init__(
        self,
        logger: Any,
        *,
        access_share: float = 0.0,
        metrics: CallMetrics | None = None,
    ) -> None:
        self.metrics = metrics or CallMetrics()
        self._log = logger
        self._access_share = access_share
        self._access_due = 0.0
        self._pseudonyms = Pseudonyms()
        self._outage = Outage()

    def bound(self, **fields: str | int) -> Telemetry:
        """The same, with these fields on every line."""
        return Telemetry(
            self._log.bind(**fields), access_share=self._access_share, metrics=self.metrics
        )

    def event(self, name: str, **fields: str | int | float | bool) -> None:
        """Something about the process itself. Never about a person."""
        self._log.info(name, **fields)

    def detail(self, name: str, **fields: str | int | float | bool) -> None:
        """The same, for who looks closely: at level debug."""
        self._log.debug(name, **fields)

    def call(
        self,
        method: str,
        reason: str,
        *,
        elapsed_s: float,
        account: AccountId | None,
        now_ms: int,
        is_stream: bool = False,
    ) -> None:
        """One call that ended. A sampled line; all of them are counted."""
        self.metrics.called(method, reason, elapsed_s, is_stream=is_stream)
        # Every n-th call, not a draw for each: drawing costs more than the rest of this.
        self._access_due += self._access_share
        if self._access_due < 1:
            return
        self._access_due -= 1
        # Times are rounded: their last digits tell the size of a message.
        fields: dict[str, str | int] = {"method": method, "reason": reason}
        fields["ms"] = round(elapsed_s * 1000)
        if account is not None:
            fields["account"] = self._pseudonyms.of(account, now_ms)
        self._log.info("call", **fields)

    def store_away(self, error: StoreUnavailable, now_s: float) -> None:
        """A call failed because the store did. A line when that begins, and one a minute."""
        self._log_outage(self._outage.failed(now_s), "store_away", why=str(error))

    def store_answers(self, now_s: float) -> None:
        """A call was served. A line if the store had been away."""
        if self._outage.calls:
            self._log_outage(self._outage.ended(now_s), "store_back")

    def _log_outage(self, told: tuple[int, int] | None, event: str, **fields: str) -> None:
        if told is not None:
            seconds, calls = told
            self._log.warning(event, seconds=seconds, calls=calls, **fields)

    def defect(self, method: str, error: BaseException) -> None:
        """An exception that no row of the table foresees: its type and place, no values."""
        self.metrics.defects.inc()
        frames = traceback.extract_tb(error.__traceback__)
        where = [f"{_module(frame.filename)}:{frame.lineno}" for frame in frames[-4:]]
        self._log.error("defect", method=method, error=type(error).__name__, where=where)


def _module(path: str) -> str:
    return "/".join(path.split("/")[-2:])
