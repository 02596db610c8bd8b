"""What has had its time is removed: retention, by the policy bundle that the device holds.

A record is over `retention_days` after it was last written, a score's part after it was last
added to. Settings and members are removed by whichever device sees it first; a part by its own
device alone, and until that has woken it counts no more (`client.views.parts`). Each removal is
a tombstone, which syncs; two devices that remove the same at once agree, for both say the same.

Whose clock: a record bears its writer's. One that was ahead would keep it for longer, so that
it counts from when this device first saw it, if its time had yet to come then. One that is
ahead *here* would remove what others still need, so that no time counts here that the service
has not reached: its newest signed statement bounds it. A device that is behind removes later;
another one, or its next sync with a clock that was put right, does it before.
"""

from __future__ import annotations

from typing import Final

from client import views, writing
from client.core import Core
from client.gate import Kind
from client.governed.gate import coarse_time
from client.profile import Name, part_of
from client.values import Part, Value, encode
from crypto.policy.document import Bundle
from crypto.policy.generalise import DAY_MS
from crypto.policy.signals import Reach, Signal

UNDECLARED_MS: Final = 30 * DAY_MS
"""How long a record stands that the policy does not let be there: long enough to put right a
policy that was published in error, for what is removed is gone."""
_KINDS: Final[tuple[Kind, ...]] = ("setting", "score", "set")


def expire(core: Core, bundle: Bundle, *, now_ms: int) -> None:
    """Removes what is over and what is too many. Call it after a catch-up. Nothing happens if
    this device does not write, or has never heard from the service."""
    if core.writes and not core.fresh and core.last_receipt:
        _Expiry(core, bundle, core.sure_ms(now_ms)).run()


class _Expiry:
    def __init__(self, core: Core, bundle: Bundle, now_ms: int) -> None:
        self._core = core
        self._bundle = bundle
        self._now_ms = now_ms
        self._asked: set[Name] = set()
        """Names that count from when they were first seen."""

    def run(self) -> None:
        core = self._core
        for name in self._mine():
            if self._is_over(name, _synced_ms(core, name), stays_here=False):
                views.edit(core, name, None, self._now_ms)
            else:
                self._make_coarse(name)
        for name, kept in core.local.values():
            if self._is_over(name, kept.at_ms, stays_here=True):
                core.local.drop(name, core.journal)
        for name, part in core.local.scores():
            if self._is_over(name, part.changed_ms, stays_here=True):
                core.local.drop_score(name, core.journal)
        core.local.forget_seen(self._asked, core.journal)
        for kind in _KINDS:
            for collection in sorted({one.collection for one in self._bundle.signals}):
                writing.drop_surplus(core, kind, collection, self._now_ms)

    def _mine(self) -> list[Name]:
        """The app's records in the account that this device may remove."""
        core, me = self._core, self._core.me
        assert me is not None
        names = {name for name, _ in core.profile} | set(core.outbox.edits)
        return [
            name
            for name in sorted(names)
            if not name.collection.startswith(".")
            and ((part := part_of(name.key)) is None or part[1] == me.index)
            and views.synced(core, name) is not None
        ]

    def _make_coarse(self, name: Name) -> None:
        """A setting that was recorded under a finer policy becomes what this one lets it be, and
        no newer by that."""
        signal, value = self._signal(name), views.synced_value(self._core, name)
        if signal is None or signal.kind != "setting" or not signal.generalise:
            return
        coarse: Value = signal.generalised(value)  # type: ignore[assignment]  # of a Value, one
        if encode(coarse) != encode(value) and signal.values.admits(coarse):
            written_ms = coarse_time(signal, views.synced_ms(self._core, name))
            views.edit(self._core, name, encode(coarse), written_ms)

    def _is_over(self, name: Name, written_ms: int, *, stays_here: bool) -> bool:
        signal = self._signal(name)
        if (
            signal is None
            or (signal.reach is Reach.DEVICE) != stays_here
            or not self._is_admitted(signal, name, stays_here)
        ):
            # Not declared, or declared to be elsewhere or otherwise: it is not to be here at all.
            return self._now_ms >= self._first_seen_ms(name, 0) + UNDECLARED_MS
        if written_ms > self._now_ms or self._core.local.is_seen(name, written_ms):
            written_ms = min(written_ms, self._first_seen_ms(name, written_ms))
        return self._now_ms >= written_ms + signal.retention_days * DAY_MS

    def _is_admitted(self, signal: Signal, name: Name, stays_here: bool) -> bool:
        """Whether what is recorded is of the kind, and in the range, that is declared now."""
        core = self._core
        is_score = part_of(name.key) is not None or (
            stays_here and core.local.score(name) is not None
        )
        if is_score or signal.kind == "score":
            return is_score and signal.kind == "score"
        value = views.value(core, name) if stays_here else views.synced_value(core, name)
        return signal.values.admits(signal.generalised(value))

    def _signal(self, name: Name) -> Signal | None:
        part = part_of(name.key)
        return self._bundle.signal_at(name.collection, part[0] if part else name.key)

    def _first_seen_ms(self, name: Name, at_ms: int) -> int:
        self._asked.add(name)
        return self._core.local.first_seen(name, at_ms, self._now_ms, self._core.journal)


def _synced_ms(core: Core, name: Name) -> int:
    data = views.synced(core, name)
    if data is not None and part_of(name.key) is not None:
        part = Part.decode(data)
        if part is not None:
            return part.changed_ms
    return views.synced_ms(core, name)
