"""What all configurations of our processes have in common: where values come from and how they
are judged. A configuration is a frozen dataclass whose fields are made by `setting`.

Defaults yield to the TOML file, the file to the environment, the environment to the command
line. What is not a setting is refused, with the name that it comes nearest to: a setting that
is misspelt and ignored is a hole.
"""

from __future__ import annotations

import argparse
import difflib
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, field, fields
from pathlib import Path
from typing import Any, TypeVar

Value = str | int | float | bool | tuple[str, ...]
T = TypeVar("T")


class ConfigError(Exception):
    """A setting is unknown, or its value is not of the kind or in the range that it must be."""


def setting(
    default: Any,
    doc: str,
    *,
    group: str = "",
    at_least: float | None = None,
    at_most: float | None = None,
    one_of: tuple[str, ...] = (),
) -> Any:
    """A field of a configuration: its default, what it means, and its bounds."""
    return field(
        default=default,
        metadata={
            "doc": doc,
            "group": group,
            "at_least": at_least,
            "at_most": at_most,
            "one_of": one_of,
        },
    )


Known = Mapping[str, Field[Any]]


def load(
    config: type[T],
    prefix: str,
    file: Path | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, Value],
    *,
    is_foreign: Callable[[str], bool],
) -> T:
    """Defaults < file < environment < overrides. ConfigError says what is wrong and where.

    `is_foreign`: of a variable's name behind the prefix, whether it is somebody else's.
    """
    known: Known = {row.name: row for row in fields(config)}  # type: ignore[arg-type]
    values: dict[str, Value] = {}
    if file is not None:
        values |= _from_file(known, file)
    values |= _from_environ(known, prefix, environ, is_foreign)
    values |= dict(overrides)
    for name, value in values.items():
        _check_range(known, name, value)
    return config(**values)


def _from_file(known: Known, file: Path) -> dict[str, Value]:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: can't be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: is not TOML ({error})") from None
    return {name: _typed(known, name, value, str(file)) for name, value in table.items()}


def _from_environ(
    known: Known, prefix: str, environ: Mapping[str, str], is_foreign: Callable[[str], bool]
) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for variable, text in environ.items():
        name = variable.removeprefix(prefix)
        if name == variable or (name.lower() not in known and is_foreign(name)):
            continue
        row = _known(known, name.lower(), variable, lambda near: prefix + near.upper())
        values[row.name] = _parse(row, text, variable)
    return values


def _known(known: Known, name: str, where: str, spell: Any = str) -> Field[Any]:
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    raise ConfigError(f"{where}: there is no such setting; did you mean {spell(near[0])}?")


def _typed(known: Known, name: str, value: object, where: str) -> Value:
    row = _known(known, name, f"{where}: {name}")
    wanted = type(row.default)
    if wanted is float and type(value) is int:
        return float(value)
    if wanted is tuple and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if type(value) is wanted and isinstance(value, str | int | float | bool):
        return value
    raise ConfigError(f"{where}: {name} must be {_KINDS[wanted]}")


_KINDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a list of texts",
}


def _parse(row: Field[Any], text: str, where: str) -> Value:
    wanted: type = type(row.default)
    try:
        if wanted is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if wanted is tuple:
            return tuple(part.strip() for part in text.split(",") if part.strip())
        if wanted in (int, float):
            number: int | float = wanted(text)
            return number
    except (KeyError, ValueError):
        raise ConfigError(f"{where}: must be {_KINDS[wanted]}") from None
    return text


def of_options(arguments: argparse.Namespace, *names: str) -> dict[str, Value]:
    """The settings of these names that the command line gave, for commands that take them."""
    given = ((name, getattr(arguments, name, None)) for name in names)
    return {name: value for name, value in given if value is not None}


def check_together(config: object, one: str, other: str) -> None:
    """ConfigError if one of two settings is given without the other."""
    if bool(getattr(config, one)) != bool(getattr(config, other)):
        raise ConfigError(f"{one} and {other} go together")


def _check_range(known: Known, name: str, value: Value) -> None:
    meta = known[name].metadata
    if meta["one_of"] and value not in meta["one_of"]:
        raise ConfigError(f"{name}: must be one of {', '.join(meta['one_of'])}")
    low, high = meta["at_least"], meta["at_most"]
    if isinstance(value, int | float):
        # Not "value < low": every comparison with a NaN is false.
        if low is not None and not value >= low:
            raise ConfigError(f"{name}: must be at least {low}")
        if high is not None and not value <= high:
            raise ConfigError(f"{name}: must be at most {high}")


def commented_toml(config: type[Any], program: str, prefix: str, example: str) -> str:
    """A configuration file that sets every setting to its default and says what it does."""
    return "\n".join(_toml_lines(config, program, prefix, example)) + "\n"


def _toml_lines(config: type[Any], program: str, prefix: str, example: str) -> Iterator[str]:
    yield f"# Settings of {program}. Each can also come from the environment:"
    yield f"# {prefix}{example.upper()} for `{example}`, and so on; the environment wins."
    for row in fields(config):
        meta = row.metadata
        if meta["group"]:
            yield f"\n# --- {meta['group']} ---"
        yield f"\n# {meta['doc']}"
        value = list(row.default) if isinstance(row.default, tuple) else row.default
        yield f"{row.name} = {json.dumps(value)}"
