"""A task as a person writes it, in TOML or JSON, made into the task that is signed.

Fields are those of docs/aggregation.md, 2, with these comforts: `version`, `field` and `kappa`
may be left out, durations may be text as in "36h", and `expires_ms` may be a date and time.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from client.analyst import times
from client.analyst.errors import DraftError
from client.errors import UserError
from crypto import canonical
from crypto.errors import FormatError
from crypto.names import check_name
from crypto.primitives import utf8
from mpc import task as tasks
from mpc.task import Task

FIELDS: Final = (
    "version", "id", "title", "purpose", "kind", "field", "kappa", "window_ms", "grace_ms",
    "reports_max", "k_min", "noise", "caps", "parties", "tail", "expires_ms",
)  # fmt: skip
OPTIONAL: Final = frozenset({"version", "field", "kappa"})
PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "noise": ("mechanism", "sigma_milli"),
    "caps": ("device_micro_rho", "period_ms", "task_micro_rho"),
    "parties": ("m", "t"),
}
_DURATIONS: Final = ("window_ms", "grace_ms")
_KAPPA: Final = {31: 2, 61: 1}
_WHERE: Final = {
    "task-version": "version", "title": "title", "kind": "kind.name", "kind-params": "kind",
    "labels": "kind.labels", "bounds": "kind", "edges": "kind.edges", "kind-length": "kind",
    "field": "field", "noise": "noise", "parties": "parties", "tail": "tail.name",
    "tail-params": "tail", "tail-kind": "tail", "wrap": "reports_max",
}  # fmt: skip
"""Where a rule points, if its sentence names no field by itself."""


def read(path: Path) -> Task:
    """The task of a file; UserError for one that can't be read, DraftError for its content."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not in UTF-8") from None
    try:
        fields = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        form = "JSON" if path.suffix == ".json" else "TOML"
        raise UserError(f"{path} is not {form}: {error}") from None
    if not isinstance(fields, dict):
        raise UserError(f"{path} holds no task: it must be one map")
    return task_of(fields)


def task_of(fields: Mapping[str, Any]) -> Task:
    """The task, sound by every rule and with noise; DraftError."""
    _check_names("", fields, FIELDS, OPTIONAL)
    for part, names in PARTS.items():
        if not isinstance(fields[part], Mapping):
            raise DraftError(part, "task-fields", f"must be a map of: {', '.join(names)}")
        _check_names(f"{part}.", fields[part], names)
    plain = _in_ms(fields)
    for where, value in _leaves("", plain):
        if type(value) not in (bool, int, str):
            raise DraftError(
                where, "cbor-type", "must be a whole number, a text, true, false, a list or a map"
            )
    for name in ("id", "purpose"):
        _check_id(name, plain[name])
    task = _made(plain)
    if task.noise is None:
        raise DraftError("noise.mechanism", "noise-none", "must be gaussian or laplace")
    return task


def _check_names(
    prefix: str,
    given: Mapping[str, Any],
    names: Collection[str],
    optional: Collection[str] = (),
) -> None:
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            meant = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names)}"
            raise DraftError(prefix + name, "task-fields", f"there is no such field; {meant}")
    for name in names:
        if name not in given and name not in optional:
            raise DraftError(prefix + name, "task-fields", "is missing: add it")


def _in_ms(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Durations and the date as numbers."""
    plain = {"version": tasks.VERSION, **fields}
    for name in _DURATIONS:
        plain[name] = _duration(name, plain[name])
    caps = dict(plain["caps"])
    caps["period_ms"] = _duration("caps.period_ms", caps["period_ms"])
    return plain | {"caps": caps, "expires_ms": _instant("expires_ms", plain["expires_ms"])}


def _duration(where: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return times.duration_ms(value)
    except ValueError as error:
        raise DraftError(where, "task-range", str(error)) from None


def _instant(where: str, value: Any) -> Any:
    try:
        if isinstance(value, datetime):
            return times.at_ms(value)
        return times.instant_ms(value) if isinstance(value, str) else value
    except ValueError as error:
        raise DraftError(where, "task-range", str(error)) from None


def _leaves(where: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What is no map and no list, with the way to it."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(f"{where}.{name}" if where else name, item)
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from _leaves(f"{where}[{at}]", item)
    else:
        yield where, value


def _check_id(name: str, value: Any) -> None:
    try:
        check_name(utf8(value) if isinstance(value, str) else b"")
    except FormatError as error:
        raise DraftError(name, error.rule, error.message) from None


def _made(plain: Mapping[str, Any]) -> Task:
    """In the field that is asked for, or the smallest that is safe for it."""
    asked = plain.get("field")
    for bits in (31, 61) if asked is None else (asked,):
        kappa = _KAPPA.get(bits, 1) if isinstance(bits, int) else 1
        whole = {"field": bits, "kappa": kappa, **plain}
        try:
            return tasks.decode(canonical.encode(whole))
        except FormatError as error:
            if asked is None and bits == 31 and error.rule in ("wrap", "field"):
                continue
            raise DraftError(_WHERE.get(error.rule, ""), error.rule, error.message) from None
    raise AssertionError
