"""Cohorts as a policy bundle declares them: the first rule that holds names a person's cohort.

A rule looks at declared signals only, and its labels are all that it can answer, so that they
are the bins of an aggregate. What a rule says of a profile is worked out on the device
(client/intelligence/cohorts.py); here is what can be said, and its one canonical form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from crypto.errors import FormatError
from crypto.names import check_name
from crypto.primitives import utf8

LABELS_MAX: Final = 64
TESTS_MAX: Final = 16
CHOICES_MAX: Final = 64
VERSION_MAX: Final = 1 << 31
PLAIN_DEPTH: Final = 7
"""How deep `CohortRule.plain` goes, as `crypto.canonical` counts."""
_INT_MAX: Final = 1 << 53
"""Whole numbers up to here are themselves as floats, which scores are."""


class Op(StrEnum):
    """How a signal's value is looked at."""

    IS = "is"
    """A setting equals this text, whole number or boolean; a set's member is there (true)."""
    IN = "in"
    """A setting is one of these."""
    AT_LEAST = "at_least"
    """A setting's or score's number is at least this."""
    BELOW = "below"
    """A setting's or score's number is below this."""
    COUNT_AT_LEAST = "count_at_least"
    """So many names of the signal have a value; for signals of many names."""
    TOP_IN = "top_in"
    """The name with the largest number is one of these; of equal ones the first by name."""


OPS_OF_MANY: Final = frozenset({Op.COUNT_AT_LEAST, Op.TOP_IN})
"""They look at all names of a signal; all others at one, which `key` says where it has many."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison. A signal without a value holds to none, whatever the comparison is."""

    signal: str
    op: Op
    value: bool | int | str | tuple[bool | int | str, ...]
    key: str | None = None

    def __post_init__(self) -> None:
        _name(self.signal)
        if not isinstance(self.op, Op):
            raise FormatError("cohort-op", f"a comparison is one of: {', '.join(Op)}")
        if self.key is not None:
            _name(self.key)
            if self.op in OPS_OF_MANY:
                raise FormatError("cohort-key", f"{self.op} looks at all names: it takes no key")
        match self.op:
            case Op.IN | Op.TOP_IN:
                if not isinstance(self.value, tuple) or not 1 <= len(self.value) <= CHOICES_MAX:
                    raise FormatError("cohort-value", f"{self.op} takes 1 to {CHOICES_MAX} choices")
                for one in self.value:
                    _scalar(one, text_only=self.op is Op.TOP_IN)
            case Op.AT_LEAST | Op.BELOW:
                _whole(self.op, self.value, -_INT_MAX)
            case Op.COUNT_AT_LEAST:
                _whole(self.op, self.value, 1)
            case _:
                _scalar(self.value, text_only=False)

    def plain(self) -> dict[str, Any]:
        """`{signal, [key], OP: value}`."""
        value = list(self.value) if isinstance(self.value, tuple) else self.value
        key = {} if self.key is None else {"key": self.key}
        return {"signal": self.signal, **key, str(self.op): value}

    @classmethod
    def of(cls, plain: object) -> Comparison:
        """From its plain form; FormatError."""
        fields = _map("cohort-test", plain)
        ops = [name for name in fields if name in Op.__members__.values()]
        if len(ops) != 1:
            raise FormatError("cohort-op", f"a comparison has exactly one of: {', '.join(Op)}")
        [op] = ops
        value = fields.pop(op)
        signal, key = fields.pop("signal", None), fields.pop("key", None)
        if fields:
            raise FormatError("cohort-test", "a comparison has a signal, an operator, maybe a key")
        return cls(signal, Op(op), tuple(value) if isinstance(value, list) else value, key)


@dataclass(frozen=True, slots=True)
class When:
    """A label, and the comparisons of which all or any must hold for it."""

    label: str
    every: bool
    """All of them; else any."""
    tests: tuple[Comparison, ...]

    def __post_init__(self) -> None:
        _name(self.label)
        if not 1 <= len(self.tests) <= TESTS_MAX:
            raise FormatError("cohort-tests", f"a label has 1 to {TESTS_MAX} comparisons")

    def plain(self) -> dict[str, Any]:
        """`{label, all: [...]}` or `{label, any: [...]}`."""
        return {
            "label": self.label,
            ("all" if self.every else "any"): [test.plain() for test in self.tests],
        }

    @classmethod
    def of(cls, plain: object) -> When:
        """From its plain form; FormatError."""
        fields = _map("cohort-label", plain)
        if len(fields) != 2 or "label" not in fields or not ({"all", "any"} & fields.keys()):
            raise FormatError("cohort-label", "a cohort has a label, and either all or any")
        every = "all" in fields
        tests = fields["all" if every else "any"]
        if not isinstance(tests, list):
            raise FormatError("cohort-tests", "all and any are lists of comparisons")
        return cls(fields["label"], every, tuple(map(Comparison.of, tests)))


@dataclass(frozen=True, slots=True)
class CohortRule:
    """A published rule: labels in order, the first whose comparisons hold, else `otherwise`.

    What changes its answers needs a new version: aggregates of two versions are never one.
    """

    name: str
    version: int
    cohorts: tuple[When, ...]
    otherwise: str
    text: str = ""

    def __post_init__(self) -> None:
        _name(self.name)
        if type(self.version) is not int or not 1 <= self.version < VERSION_MAX:
            raise FormatError("cohort-version", "a version is a whole number from 1")
        _name(self.otherwise)
        labels = self.labels
        if not 2 <= len(labels) <= LABELS_MAX:
            raise FormatError("cohort-labels", f"a rule has 2 to {LABELS_MAX} labels")
        if type(self.text) is not str:
            raise FormatError("cohort-text", "the text must be a text")

    @property
    def labels(self) -> tuple[str, ...]:
        """All that the rule can answer, once each, in order; `otherwise` last, unless named."""
        return tuple(dict.fromkeys([*(one.label for one in self.cohorts), self.otherwise]))

    @property
    def signals(self) -> frozenset[str]:
        """The names of the signals that it looks at."""
        return frozenset(test.signal for test in self.tests)

    @property
    def tests(self) -> Iterator[Comparison]:
        """All comparisons, in order."""
        return (test for one in self.cohorts for test in one.tests)

    def plain(self) -> dict[str, Any]:
        """Its canonical form: maps, lists, texts and whole numbers, `PLAIN_DEPTH` deep."""
        return {
            "name": self.name,
            "version": self.version,
            "cohorts": [one.plain() for one in self.cohorts],
            "otherwise": self.otherwise,
            "text": self.text,
        }

    @classmethod
    def of(cls, plain: object) -> CohortRule:
        """From its plain form, as YAML gives it too (`text` may be left out); FormatError."""
        fields = _map("cohort", plain)
        text = fields.pop("text", "")
        if fields.keys() != {"name", "version", "cohorts", "otherwise"}:
            raise FormatError("cohort", "a rule has: name, version, cohorts, otherwise, maybe text")
        cohorts = fields["cohorts"]
        if not isinstance(cohorts, list):
            raise FormatError("cohort", "cohorts is a list of labels and what must hold for them")
        return cls(
            fields["name"],
            fields["version"],
            tuple(map(When.of, cohorts)),
            fields["otherwise"],
            text,
        )


def _map(rule: str, plain: object) -> dict[str, Any]:
    if not isinstance(plain, Mapping) or any(type(key) is not str for key in plain):
        raise FormatError(rule, "it must be a map")
    return dict(plain)


def _name(name: object) -> None:
    check_name(utf8(name) if type(name) is str else b"")


def _whole(op: Op, value: object, low: int) -> None:
    if type(value) is not int or not low <= value <= _INT_MAX:
        raise FormatError("cohort-value", f"{op} takes a whole number from {low}")


def _scalar(value: object, *, text_only: bool) -> None:
    if type(value) is not str and (text_only or type(value) not in (bool, int)):
        raise FormatError(
            "cohort-value", "it must be a text, or where that fits a whole number or boolean"
        )
    if type(value) is int and not -_INT_MAX <= value <= _INT_MAX:
        raise FormatError("cohort-value", "whole numbers have 53 bits at most")
