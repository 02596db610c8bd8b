"""What all nouns of a bundle share: maps read once and whole, and checks of single values.

Names and texts of a bundle come from outside until its signature has been verified, so that no
message repeats one: it says which rule is broken, and `each` and `under` say where.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from crypto.errors import FormatError
from crypto.names import check_name
from crypto.primitives import utf8

T = TypeVar("T")

TEXT_CHARS_MAX: Final = 1_000
TITLE_CHARS_MAX: Final = 200
LABEL_CHARS_MAX: Final = 64
DAYS_MAX: Final = 3_660
MICRO: Final = 1_000_000
"""Numbers that need not be whole are written in millionths: signed maps hold no fractions."""
_HEX: Final = re.compile(r"[0-9a-f]*")


class Fields:
    """A map of which every field is taken once and none is left."""

    def __init__(self, value: object) -> None:
        if type(value) is not dict:
            raise FormatError("policy-fields", "it must be a map")
        self._left: dict[str, Any] = dict(value)

    def take(self, name: str) -> Any:
        """The field; FormatError if it is not there."""
        if name not in self._left:
            raise FormatError("policy-fields", f"{name} is missing; add it")
        return self._left.pop(name)

    def maybe(self, name: str) -> Any:
        """The field; None if it is not there."""
        return self._left.pop(name, None)

    def done(self) -> None:
        """FormatError if a field was not taken."""
        if self._left:
            raise FormatError("policy-fields", f"{len(self._left)} fields are unknown; remove them")


def under(where: str, read: Callable[[], T]) -> T:
    """What `read` gives; a FormatError of its says where it was."""
    try:
        return read()
    except FormatError as error:
        raise FormatError(error.rule, f"{where}: {error.message}") from None


def each(what: str, value: object, read: Callable[[Any], T]) -> tuple[T, ...]:
    """All items of a list, read; FormatError that says which one is wrong."""
    if type(value) is not list:
        raise FormatError("policy-type", f"{what} must be a list")
    return tuple(
        under(f"{what}, number {number}", lambda item=item: read(item))  # type: ignore[misc]
        for number, item in enumerate(value, start=1)
    )


def whole(what: str, value: object, low: int, high: int) -> None:
    """FormatError unless it is a whole number from low to high, both included."""
    if type(value) is not int or not low <= value <= high:
        raise FormatError("policy-range", f"{what} must be a whole number from {low} to {high}")


def truth(what: str, value: object) -> None:
    """FormatError unless it is true or false."""
    if type(value) is not bool:
        raise FormatError("policy-type", f"{what} must be true or false")


def name(what: str, value: object) -> None:
    """FormatError unless records and tasks may be named so."""
    if type(value) is not str:
        raise FormatError("policy-type", f"{what} must be a text")
    under(what, lambda: check_name(utf8(value)))


def text(what: str, value: object, chars_max: int = TEXT_CHARS_MAX) -> None:
    """FormatError unless it is a text that can be shown in a line or wrapped."""
    if type(value) is not str or not 1 <= len(value) <= chars_max or not value.isprintable():
        raise FormatError("policy-text", f"{what} must be 1 to {chars_max} printable characters")


def label(what: str, value: object) -> None:
    """FormatError unless it is a short text."""
    text(what, value, LABEL_CHARS_MAX)


def one_of(what: str, value: object, known: Iterable[str]) -> None:
    """FormatError unless it is one of the words."""
    words = tuple(known)
    if not isinstance(value, str) or value not in words:
        raise FormatError("policy-word", f"{what} must be one of: {', '.join(words)}")


def texts(what: str, value: object) -> tuple[str, ...]:
    """A list of texts, as it stands in a map."""
    if type(value) is not list or not all(type(item) is str for item in value):
        raise FormatError("policy-type", f"{what} must be a list of texts")
    return tuple(value)


def distinct(what: str, values: Sequence[object], least: int, most: int) -> None:
    """FormatError unless there are so many, and no two of them are the same."""
    if not least <= len(values) <= most:
        raise FormatError("policy-count", f"{what}: there must be {least} to {most}")
    if len(set(values)) != len(values):
        raise FormatError("policy-twice", f"{what}: two are the same; keep one")


def from_hex(what: str, value: object, size: int) -> bytes:
    """The bytes; FormatError unless it is their number's worth of small hexadecimal digits."""
    if type(value) is not str or len(value) != 2 * size or not _HEX.fullmatch(value):
        raise FormatError("policy-hex", f"{what} must be {2 * size} digits of 0-9 a-f")
    return bytes.fromhex(value)
