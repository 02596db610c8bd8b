"""What is wrong with a policy's folder or file, and where."""

from __future__ import annotations

from pathlib import Path

from client.errors import UserError


class PolicyFileError(UserError):
    """An entry of a policy's file can't be used. It names file, line and entry."""

    def __init__(self, path: Path, line: int | None, entry: str, sentence: str) -> None:
        place = path.name if line is None else f"{path.name}, line {line}"
        super().__init__(f"{place}: {entry}: {sentence}" if entry else f"{place}: {sentence}")
        self.path = path
        self.line = line
        self.entry = entry
        self.sentence = sentence
