"""A question that a person answers by typing a word, before what can't be taken back."""

from __future__ import annotations

from client.cli.output import Output
from client.cli.typed import read_line
from client.errors import UserError

_INSTEAD = "where nobody sits at a terminal, `--yes` goes on without asking"


async def ask(out: Output, what: str, word: str, *, done: str = "") -> None:
    """Goes on if the word is typed; UserError if not. `done`: what it would have been. For
    commands that have `--yes`."""
    out.ask(f"{what} Type {word!r} to go on: ")
    if await read_line(instead=_INSTEAD) != word:
        raise UserError(f"nothing was {done or word + 'd'}")
