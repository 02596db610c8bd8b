"""What the commands print: sentences and tables for people, JSON for programs."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from client.values import Value

OK = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
UNREACHABLE = 4
PAIRING = 5
GONE = 6
UNMET = 7
STOPPED = 130

EXIT_CODES = """\
exit codes:
  0    done; an edit is stored here, also if it could not be sent yet (`synced` says which)
  1    refused or failed; the sentence on standard error says what to do
  2    wrong usage
  3    there is nothing of that name
  4    the service could not be reached
  5    the pairing did not work, or this device has not joined; start again with a new code
  6    this device was removed, or the account is gone; its data stays here
  7    a change of a policy needs what is not written in its assessment.yaml
  130  stopped by Ctrl-C"""


class Output:
    """Standard output has the result and nothing else; notes go to standard error."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def result(self, data: Mapping[str, Any], text: str) -> None:
        """The result of a command: one JSON object, or `text`."""
        print(dumps(data) if self.as_json else text, flush=True)

    def step(self, data: Mapping[str, Any], text: str) -> None:
        """Something to act on before the result: a line of JSON, or text for people."""
        self.result(data, text)

    def note(self, text: str) -> None:
        """Something on the side."""
        print(text, file=sys.stderr, flush=True)

    def ask(self, prompt: str) -> None:
        """Shows what is to be typed, if somebody sits there."""
        if sys.stdin.isatty():
            print(prompt, end="", file=sys.stderr, flush=True)

    def failure(self, reason: str, sentence: str) -> None:
        """Why it did not work."""
        if self.as_json:
            print(dumps({"error": reason, "message": sentence}), flush=True)
        self.note(f"rookery: {sentence}")


def dumps(data: Mapping[str, Any]) -> str:
    """One line of JSON; bytes become `{"base64": ...}`."""
    return json.dumps(data, default=_other, ensure_ascii=False)


def _other(value: object) -> object:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def show(value: Value) -> str:
    """A value as people read it: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=_other)


BRIEF_CHARS = 200


def clean(text: str) -> str:
    """What a terminal can be given: control characters but line ends and tabs are escaped."""
    return "".join(c if c in "\n\t" or c.isprintable() else _escape(c) for c in text)


def brief(value: Value) -> str:
    """A value in one line of bounded length."""
    text = show(value)
    more = f"… ({len(text):,} characters)" if len(text) > BRIEF_CHARS else ""
    return "".join(c if c.isprintable() else _escape(c) for c in text[:BRIEF_CHARS]) + more


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[int] = ()
) -> str:  # fmt: skip
    """Columns of the width they need; those of `right` end in line."""
    lines = [tuple(head), *map(tuple, rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
