"""A model as its publisher writes it down, in TOML: what it is of, and what its rounds ask.

Fields at the top are those of `ModelSpec`; those that are left out have its defaults. `[rounds]`
says what `Terms` need. Durations may be text as in "36h".
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Final

from client.analyst import times
from client.errors import UserError
from client.intelligence.federated import Terms
from client.intelligence.model_spec import ModelSpec
from crypto.errors import FormatError
from mpc.task import Caps

ROUNDS: Final = ("purpose", "micro_rho", "window_ms", "k_min")
OPTIONAL: Final = ("grace_ms", "reports_max", "m", "t")
_DURATIONS: Final = ("window_ms", "grace_ms")


@dataclass(frozen=True)
class ModelFile:
    """A model, and its rounds."""

    spec: ModelSpec
    rounds: Mapping[str, Any]

    @property
    def t(self) -> int:
        """How many of the parties may be corrupt."""
        t: int = self.rounds.get("t", 1)
        return t

    def terms(self, *, now_ms: int) -> Terms:
        """Of a round that opens now. Its task is of no use after it: it expires then, and its caps
        are what the one round costs."""
        cost, window_ms = self.rounds["micro_rho"], self.rounds["window_ms"]
        return Terms(
            **self.rounds,
            caps=Caps(cost, window_ms, cost),
            expires_ms=now_ms + window_ms + self.rounds.get("grace_ms", 0) + 1,
        )


def read(path: Path) -> ModelFile:
    """The model of a file; UserError that names the field and what to do."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path} is not TOML: {error}") from None
    rounds = given.pop("rounds", None)
    if not isinstance(rounds, dict):
        raise UserError(f"{path}: [rounds] is missing; add it, with {', '.join(ROUNDS)}")
    every = [one.name for one in fields(ModelSpec)]
    needed = [one.name for one in fields(ModelSpec) if one.default is MISSING]
    _check_names(path, "", given, every, needed)
    _check_names(path, "rounds.", rounds, (*ROUNDS, *OPTIONAL), ROUNDS)
    if not isinstance(given["items"], list):
        raise UserError(f"{path}: items is a list of names")
    for name, value in rounds.items():
        rounds[name] = _plain(path, name, value)
    try:
        return ModelFile(ModelSpec(**{**given, "items": tuple(given["items"])}), rounds)
    except FormatError as error:
        raise UserError(f"{path}: {error.message}") from None


def _plain(path: Path, name: str, value: Any) -> Any:
    if name == "purpose":
        wanted: type = str
    else:
        wanted = int
        if name in _DURATIONS and isinstance(value, str):
            try:
                return times.duration_ms(value)
            except ValueError as error:
                raise UserError(f"{path}: rounds.{name}: {error}") from None
    if type(value) is not wanted:
        kind = "a text" if wanted is str else "a whole number"
        raise UserError(f"{path}: rounds.{name} must be {kind}")
    return value


def _check_names(
    path: Path, prefix: str, given: Mapping[str, Any], every: Collection[str],
    needed: Collection[str],
) -> None:  # fmt: skip
    for name in given:
        if name not in every:
            near = difflib.get_close_matches(name, every, n=1)
            meant = f"did you mean {near[0]}?" if near else f"there are: {', '.join(every)}"
            raise UserError(f"{path}: there is no field {prefix}{name}; {meant}")
    for name in needed:
        if name not in given:
            raise UserError(f"{path}: {prefix}{name} is missing: add it")
