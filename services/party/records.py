"""A round as a party's file holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Self

from services.party.states import Progress, Reason, State

PROGRESS_COLUMNS: Final = "state, agreed, valid, verified_ms, reason"
COLUMNS: Final = (
    "round_n, round_id, spec_hash, open_ms, close_ms, retain_until_ms, task, task_sig, publisher,"
    f" box_sk, manifest, round_digest, cursor, again, {PROGRESS_COLUMNS}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What a round is prepared with."""

    round_id: bytes
    spec_hash: bytes
    open_ms: int
    close_ms: int
    retain_until_ms: int
    task: bytes
    task_sig: bytes
    publisher: bytes


@dataclass(frozen=True, slots=True)
class Round:
    """A round as it is stored. repr shows no key."""

    round_n: int
    window: Window
    box_sk: bytes | None = field(repr=False)
    manifest: bytes | None
    round_digest: bytes | None
    cursor: bytes
    again: bool
    progress: Progress

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> Self:
        """From a row of COLUMNS."""
        (
            round_n, round_id, spec_hash, open_ms, close_ms, retain_until_ms, task, task_sig,
            publisher, box_sk, manifest, round_digest, cursor, again, *progress,
        ) = row  # fmt: skip
        window = Window(
            round_id=round_id,
            spec_hash=spec_hash,
            open_ms=open_ms,
            close_ms=close_ms,
            retain_until_ms=retain_until_ms,
            task=task,
            task_sig=task_sig,
            publisher=publisher,
        )
        return cls(
            round_n, window, box_sk, manifest, round_digest, cursor, bool(again),
            progress_of(tuple(progress)),
        )  # fmt: skip


def progress_of(row: tuple[Any, ...]) -> Progress:
    """From a row of PROGRESS_COLUMNS."""
    state, agreed, valid, verified_ms, reason = row
    return Progress(
        State(state), agreed, valid, verified_ms, None if reason is None else Reason(reason)
    )


def progress_row(progress: Progress) -> tuple[Any, ...]:
    """The values of PROGRESS_COLUMNS."""
    return (
        progress.state, progress.agreed, progress.valid, progress.verified_ms, progress.reason
    )  # fmt: skip
