"""A round's result as text: for who asks for it by its id, and for a device that took part."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from client.analyst import present
from client.cli.output import table
from mpc.manifest import Manifest
from mpc.result import RoundResult
from mpc.task import Task

WRAP_CHARS = 88
WIDTH = 78


def page(
    task: Task,
    manifest: Manifest,
    told: RoundResult,
    signers: Sequence[int],
    *,
    width: int = WIDTH,
    also: Iterable[str] = (),
) -> str:
    """Headline, table, plot and what else a reader must know."""
    parts = [present.headline(task, manifest)]
    shown = present.table(task, told)
    if shown.rows:
        more = f"\n… and {shown.more:,} more; --json has all" if shown.more else ""
        parts.append(table(shown.head, shown.rows, right=shown.right) + more)
    if plot := present.draw(task, told, width=width):
        parts.append(plot)
    parts.append(paragraphs([*present.sentences(task, told, signers), *also]))
    return "\n\n".join(parts)


def paragraphs(sentences: Iterable[str]) -> str:
    """Each as long lines as people read."""
    return "\n".join(
        textwrap.fill(sentence, WRAP_CHARS, break_long_words=False, break_on_hyphens=False)
        for sentence in sentences
    )
