"""YAML of which every value knows its line: maps are taken apart once and whole.

Nothing is made of tags, anchors or the many words that YAML 1.1 takes for a truth: a plain
`true`, `false`, a decimal number, a text, lists, and maps whose keys are told apart. That is
what a person who reviews a policy sees in it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final, TypeVar

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from client.policykit.errors import PolicyFileError
from crypto.errors import FormatError
from crypto.policy.fields import MICRO

T = TypeVar("T")

BYTES_MAX: Final = 1 << 20
# These loaders make nothing at all: every scalar stays a text. The one in C is for speed alone.
_LOADER: Final = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_TEXT_TAG: Final = "tag:yaml.org,2002:str"
_TAGS: Final = {_TEXT_TAG, "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}
_NUMBER: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)(?:\.[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Value:
    """One value, where it stands, and the entry that it belongs to."""

    path: Path
    node: Node
    entry: str
    name: Node | None = None
    """What it is called, of an entry of a map: a map begins a line after its name."""

    @property
    def line(self) -> int:
        """Where it begins, name included; counted from 1."""
        return int((self.name or self.node).start_mark.line) + 1

    def wrong(self, sentence: str) -> PolicyFileError:
        """The error that says so, here."""
        return PolicyFileError(self.path, self.line, self.entry, sentence)

    def at(self, node: Node, step: str) -> Value:
        """A value inside this one."""
        return Value(self.path, node, f"{self.entry}.{step}" if self.entry else step)

    def map(self) -> Map:
        """It, as a map."""
        if not isinstance(self.node, MappingNode):
            raise self.wrong("must be a map: indented lines of `name: value`")
        return Map(self)

    def list(self) -> Iterator[Value]:
        """It, as a list; one value by itself is a list of it."""
        if not isinstance(self.node, SequenceNode):
            yield self
            return
        for number, node in enumerate(self.node.value, start=1):
            yield self.at(node, str(number))

    def text(self) -> str:
        """It, as a text in one line: lines of a folded text are joined."""
        text = self._scalar("a text")
        if self._plain and not text:
            raise self.wrong("has no value; write one, or remove it")
        return " ".join(text.split())

    def texts(self) -> tuple[str, ...]:
        """It, as texts."""
        return tuple(one.text() for one in self.list())

    def truth(self) -> bool:
        """It, as true or false."""
        text = self._scalar("true or false") if self._plain else ""
        if text not in ("true", "false"):
            raise self.wrong("must be true or false")
        return text == "true"

    def whole(self) -> int:
        """It, as a whole number."""
        number = self._number()
        if number % 1:
            raise self.wrong("must be a whole number")
        return int(number)

    def micro(self) -> int:
        """It, as a number in millionths."""
        number = self._number() * MICRO
        if number % 1:
            raise self.wrong("must be a number with six digits after the point at most")
        return int(number)

    def scalar(self) -> bool | int | str:
        """It, as what it looks like; a text in quotes is a text."""
        if self._plain and self._scalar("a value") in ("true", "false"):
            return self.truth()
        if self._plain and _NUMBER.fullmatch(self._scalar("a value")):
            return self.whole()
        return self.text()

    @property
    def is_list(self) -> bool:
        """Whether it is one."""
        return isinstance(self.node, SequenceNode)

    @property
    def is_map(self) -> bool:
        """Whether it is one."""
        return isinstance(self.node, MappingNode)

    @property
    def _plain(self) -> bool:
        return isinstance(self.node, ScalarNode) and not self.node.style

    def _scalar(self, what: str) -> str:
        if not isinstance(self.node, ScalarNode):
            raise self.wrong(f"must be {what}")
        return str(self.node.value)

    def _number(self) -> Decimal:
        text = self._scalar("a number") if self._plain else ""
        if not _NUMBER.fullmatch(text):
            raise self.wrong("must be a number, as 5 or 0.5")
        return Decimal(text.replace("_", ""))

    def sound(self, make: Callable[[], T]) -> T:
        """What `make` makes; what the model says against it is said of this entry."""
        try:
            return make()
        except FormatError as error:
            raise self.wrong(error.message) from None


class Map:
    """A map of which every entry is taken once and none is left."""

    def __init__(self, value: Value) -> None:
        assert isinstance(value.node, MappingNode)
        self.value = value
        self._left: dict[str, Value] = {}
        self._taken: list[str] = []
        for key, node in value.node.value:
            name = Value(value.path, key, value.entry).text()
            if name in self._left:
                twice = Value(value.path, key, self._entry(name))
                raise twice.wrong(f"is there twice, first in line {self._left[name].line}")
            self._left[name] = Value(value.path, node, self._entry(name), key)

    def _entry(self, name: str) -> str:
        return f"{self.value.entry}.{name}" if self.value.entry else name

    def take(self, name: str) -> Value:
        """The entry; PolicyFileError if it is not there."""
        found = self.maybe(name)
        if found is None:
            raise self.value.wrong(f"{name} is missing; add it")
        return found

    def maybe(self, name: str) -> Value | None:
        """The entry; None if it is not there."""
        self._taken.append(name)
        return self._left.pop(name, None)

    def rest(self) -> Iterator[tuple[str, Value]]:
        """All that is left, by its name, in the file's order."""
        left, self._left = self._left, {}
        yield from left.items()

    def done(self) -> None:
        """PolicyFileError if an entry was not taken."""
        for name, value in self._left.items():
            near = difflib.get_close_matches(name, self._taken, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; remove it"
            known = ", ".join(sorted(set(self._taken)))
            raise value.wrong(f"is unknown (known here: {known}){hint}")


def read(path: Path) -> Value:
    """The file's value; PolicyFileError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise PolicyFileError(path, None, "", "is missing; add it") from None
    except OSError as error:
        raise PolicyFileError(path, None, "", f"can't be read ({error.strerror})") from None
    if len(data) > BYTES_MAX:
        raise PolicyFileError(path, None, "", f"has more than {BYTES_MAX:,} bytes")
    try:
        node = yaml.compose(data.decode("utf-8"), Loader=_LOADER)
    except UnicodeDecodeError:
        raise PolicyFileError(path, None, "", "is not in UTF-8") from None
    except RecursionError:
        raise PolicyFileError(path, None, "", "goes too many levels deep") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else int(mark.line) + 1
        raise PolicyFileError(path, line, "", f"is not YAML: {error.problem}") from None
    except yaml.YAMLError:
        raise PolicyFileError(path, None, "", "is not YAML: it has characters of no text") from None
    if node is None:
        raise PolicyFileError(path, None, "", "is empty; write `{}` if there is nothing to say")
    whole = Value(path, node, "")
    _check_plain(whole, set())
    return whole


def _check_plain(value: Value, above: set[int]) -> None:
    """No tag, and no node in two places: what is read is what is written there."""
    if id(value.node) in above:
        raise value.wrong("anchors and aliases are not read; write it out")
    above.add(id(value.node))
    if value.node.tag not in _TAGS:
        raise value.wrong("tags (`!…`) are not read; remove it")
    for node in _inner(value.node):
        _check_plain(Value(value.path, node, ""), above)


def _inner(node: Node) -> Iterable[Node]:
    if isinstance(node, MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []
