"""Switches: features that some people have, and kills that stop a use everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from crypto import labels
from crypto.errors import FormatError
from crypto.policy import fields
from crypto.policy.fields import Fields
from crypto.primitives import KEY_BYTES, need, prf, utf8

KINDS: Final = ("feature", "kill")
SUBJECTS: Final = ("purpose", "signal", "task", "feature")
_DRAW_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Flag:
    """One switch. `about` is (kind of subject, its name): a purpose's, a signal's, a task's
    source, or a feature's, which the app knows.

    A feature that is on is so for `percent` of the accounts, of one cohort only if `cohort`
    (rule, label) says so. A kill that is on is so for all.
    """

    name: str
    kind: str
    about: tuple[str, str]
    on: bool
    percent: int
    cohort: tuple[str, str] | None

    def __post_init__(self) -> None:
        fields.name("name", self.name)
        fields.one_of("kind", self.kind, KINDS)
        subject, about = self.about
        fields.one_of("about", subject, SUBJECTS)
        fields.name("about", about)
        fields.truth("on", self.on)
        fields.whole("percent", self.percent, 0, 100)
        if self.cohort is not None:
            fields.name("cohort", self.cohort[0])
            fields.label("cohort", self.cohort[1])
        if self.kind == "kill" and (self.percent, self.cohort) != (100, None):
            raise FormatError("flag-kill", "a kill is for all: percent must be 100, without cohort")

    def as_map(self) -> dict[str, Any]:
        """As it is signed; a cohort only if there is one."""
        made: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "about": list(self.about),
            "on": self.on,
            "percent": self.percent,
        }
        if self.cohort is not None:
            made["cohort"] = list(self.cohort)
        return made

    @classmethod
    def of(cls, value: object) -> Flag:
        """From its map; FormatError."""
        read = Fields(value)
        cohort = read.maybe("cohort")
        made = cls(
            name=read.take("name"),
            kind=read.take("kind"),
            about=_pair("about", read.take("about")),
            on=read.take("on"),
            percent=read.take("percent"),
            cohort=None if cohort is None else _pair("cohort", cohort),
        )
        read.done()
        return made


def is_on(flag: Flag, secret: bytes, cohorts: Mapping[str, str]) -> bool:
    """Whether a switch is on for an account.

    `secret`: 32 bytes that the account's devices share and nobody else knows, so that all of
    them agree and nobody can tell who has a feature. Who has it at some percentage has it at
    every larger one. `cohorts`: rule's name to the label that this account has by it.
    """
    if not flag.on or flag.kind == "kill":
        return flag.on
    if flag.cohort is not None and cohorts.get(flag.cohort[0]) != flag.cohort[1]:
        return False
    drawn = prf(need("secret", secret, KEY_BYTES), labels.FLAG, utf8(flag.name), _DRAW_BYTES)
    return int.from_bytes(drawn, "big") * 100 < flag.percent << (8 * _DRAW_BYTES)


def _pair(what: str, value: object) -> tuple[str, str]:
    both = fields.texts(what, value)
    if len(both) != 2:
        raise FormatError("policy-type", f"{what} must be two texts")
    return both[0], both[1]
