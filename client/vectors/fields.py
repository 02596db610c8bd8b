"""Reading a vector file's JSON: every wrong form is one error that names the field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

Entry: TypeAlias = Mapping[str, Any]


class Malformed(Exception):
    """An entry doesn't have the form that the file's schema gives."""


class Mismatch(Exception):
    """The bytes are not those that the file states."""


def entry(value: object) -> Entry:
    """`value`, if it is an object."""
    if not isinstance(value, Mapping):
        raise Malformed("malformed: not an object")
    return value


def rows(value: object) -> Iterator[tuple[str, Any]]:
    """(place, item) of a list or an object; a single object with fields is taken by `one`."""
    if isinstance(value, list):
        yield from ((f"[{at}]", item) for at, item in enumerate(value))
    elif isinstance(value, Mapping):
        yield from ((f".{key}", item) for key, item in value.items())
    elif value is not None:
        raise Malformed("malformed: neither a list nor an object")


def unhex(value: object, name: str) -> bytes:
    """Bytes of a hex string."""
    if not isinstance(value, str):
        raise Malformed(f"malformed: {name} is not a hex string")
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise Malformed(f"malformed: {name} is not hex") from None


def data(row: Entry, name: str, default: bytes | None = None) -> bytes:
    """The bytes of a field; null and absence give `default`, if there is one."""
    value = row.get(name)
    if value is None and default is not None:
        return default
    if value is None:
        raise Malformed(f"malformed: {name} is missing")
    return unhex(value, name)


def number(row: Entry, name: str, default: int | None = None) -> int:
    """An integer field."""
    value = row.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Malformed(f"malformed: {name} is not a whole number")
    return value


def text(row: Entry, name: str) -> str:
    """A string field."""
    value = row.get(name)
    if not isinstance(value, str):
        raise Malformed(f"malformed: {name} is not a string")
    return value


def items(row: Entry, name: str) -> list[Any]:
    """A list field; absence gives an empty one."""
    value = row.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise Malformed(f"malformed: {name} is not a list")
    return value


def expect(name: str, got: object, stated: object) -> None:
    """Mismatch unless both are equal. Bytes are shown by their first bytes."""
    if got != stated:
        raise Mismatch(f"{name} is {_shown(got)}, the file says {_shown(stated)}")


def expect_data(row: Entry, name: str, got: bytes) -> None:
    """`expect` for a bytes field that the file may leave out."""
    if row.get(name) is not None:
        expect(name, bytes(got), data(row, name))


def _shown(value: object) -> str:
    if not isinstance(value, bytes):
        return repr(value)
    return f"{value[:12].hex()}{'…' if len(value) > 12 else ''} ({len(value)} bytes)"
