"""A policy's folder: one file a noun, read whole or refused with the place that is wrong."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from client.errors import UserError
from client.policykit import assessment, entries, yamlfile
from client.policykit.assessment import Assessment
from client.policykit.errors import PolicyFileError
from client.policykit.yamlfile import Value
from crypto.errors import FormatError
from crypto.policy import Bundle
from crypto.policy.access import Access
from crypto.policy.cohorts import CohortRule
from crypto.policy.experiments import ExperimentRule
from crypto.policy.flags import Flag
from crypto.policy.purposes import Purpose
from crypto.policy.retention import ServiceRetention
from crypto.policy.signals import Signal
from crypto.policy.tasks import TaskRule

T = TypeVar("T")

NEEDED: Final = (
    "policy.yaml", "purposes.yaml", "signals.yaml", "tasks.yaml", "flags.yaml", "access.yaml",
    "retention.yaml",
)  # fmt: skip
OPTIONAL: Final = ("cohorts.yaml", "experiments.yaml", assessment.FILE)
_NUMBERED: Final = re.compile(
    r"(?P<what>[a-z]+), number (?P<number>[0-9]+): (?P<rest>.*)", re.DOTALL
)
_PAIR: Final = re.compile(r"signals (?P<one>[0-9]+) and (?P<other>[0-9]+) (?P<rest>.*)", re.DOTALL)


class Place(NamedTuple):
    """Where an entry stands, for what is said of it later."""

    path: Path
    line: int
    entry: str


@dataclass(frozen=True)
class Draft:
    """All that a bundle says but its number, its past and its time."""

    title: str
    purposes: tuple[Purpose, ...]
    signals: tuple[Signal, ...]
    tasks: tuple[TaskRule, ...]
    flags: tuple[Flag, ...]
    access: Access
    cohorts: tuple[CohortRule, ...]
    experiments: tuple[ExperimentRule, ...]
    retention: ServiceRetention
    assessment: Assessment
    places: Mapping[str, tuple[Place, ...]] = field(repr=False)
    """Of the entries of each noun, in the bundle's order."""

    def bundle(self, *, sequence: int, previous: bytes, issued_ms: int) -> Bundle:
        """The document. PolicyFileError where entries contradict each other, UserError for a
        number and a past that do."""
        try:
            return Bundle(
                sequence=sequence,
                previous=previous,
                title=self.title,
                issued_ms=issued_ms,
                purposes=self.purposes,
                signals=self.signals,
                tasks=self.tasks,
                flags=self.flags,
                access=self.access,
                cohorts=self.cohorts,
                experiments=self.experiments,
                retention=self.retention,
                assessment=self.assessment.hash,
            )
        except FormatError as error:
            raise self._placed(error) from None

    def _placed(self, error: FormatError) -> UserError:
        """The model counts entries; people look for a file, a line and a name."""
        if found := _NUMBERED.fullmatch(error.message):
            noun, at = found["what"], int(found["number"]) - 1
            place = self.places[noun][at]
            return PolicyFileError(*place, found["rest"] + self._unknown(error.rule, noun, at))
        if found := _PAIR.fullmatch(error.message):
            one, other = (self.places["signals"][int(found[n]) - 1] for n in ("one", "other"))
            return PolicyFileError(*other, f"and {one.entry} (line {one.line}) {found['rest']}")
        return UserError(error.message)

    def _unknown(self, rule: str, noun: str, at: int) -> str:
        """The names that nothing has, and what may have been meant: here they may be said."""
        what, _, broken = rule.rpartition("-")
        known: dict[str, list[str]] = {
            "purpose": [one.name for one in self.purposes],
            "signal": [one.name for one in self.signals],
            "task": [one.source for one in self.tasks],
            "cohort": [one.name for one in self.cohorts],
        }
        if broken != "unknown" or what not in known:
            return ""
        missing = sorted(self._named(what, noun, at) - set(known[what]))
        near = difflib.get_close_matches(missing[0], known[what], n=1) if missing else []
        meant = f"; did you mean {near[0]}?" if near else ""
        return f" ({', '.join(missing)}{meant})"

    def _named(self, what: str, noun: str, at: int) -> set[str]:
        match noun, what:
            case "signals", "purpose":
                return set(self.signals[at].purposes)
            case "tasks", "purpose":
                return {self.tasks[at].purpose}
            case "tasks", "signal":
                return set(self.tasks[at].signals)
            case "tasks", "cohort":
                return {self.tasks[at].cohort or ""}
            case "cohorts", "signal":
                return set(self.cohorts[at].signals)
            case "experiments", "task":
                return {self.experiments[at].task}
            case "grants", "purpose":
                return set(self.access.grants[at].purposes)
            case _:
                flag = self.flags[at]
                about = {flag.about[1]} if flag.about[0] == what else set()
                return about or {flag.cohort[0] if flag.cohort else ""}


def read(folder: Path) -> Draft:
    """What the folder's files say; PolicyFileError with file, line, entry and what to do."""
    files = _files(folder)
    places: dict[str, tuple[Place, ...]] = {}

    def many(name: str, entry: Callable[[str, Value], T]) -> tuple[T, ...]:
        if f"{name}.yaml" not in files:
            places[name] = ()
            return ()
        rows = list(yamlfile.read(files[f"{name}.yaml"]).map().rest())
        places[name] = tuple(Place(value.path, value.line, key) for key, value in rows)
        return tuple(entry(key, value) for key, value in rows)

    access, grants = entries.access(yamlfile.read(files["access.yaml"]))
    places["grants"] = tuple(Place(value.path, value.line, value.entry) for value in grants)
    parts: dict[str, Any] = {
        "title": _title(files["policy.yaml"]),
        "purposes": many("purposes", entries.purpose),
        "signals": many("signals", entries.signal),
        "tasks": many("tasks", entries.task),
        "flags": many("flags", entries.flag),
        "access": access,
        "cohorts": many("cohorts", entries.cohort),
        "experiments": many("experiments", entries.experiment),
        "retention": entries.retention(yamlfile.read(files["retention.yaml"])),
        "assessment": (
            assessment.read(files[assessment.FILE])
            if assessment.FILE in files
            else assessment.NONE
        ),
    }  # fmt: skip
    return Draft(**parts, places=places)


def _files(folder: Path) -> dict[str, Path]:
    try:
        found = {path.name: path for path in folder.iterdir() if path.suffix in (".yaml", ".yml")}
    except OSError as error:
        raise UserError(f"{folder} can't be read ({error.strerror}): name a folder") from None
    for name in sorted(found.keys() - {*NEEDED, *OPTIONAL}):
        near = difflib.get_close_matches(name, (*NEEDED, *OPTIONAL), n=1)
        hint = f"; did you mean {near[0]}?" if near else "; move it elsewhere"
        raise PolicyFileError(found[name], None, "", f"is no file of a policy{hint}")
    for name in NEEDED:
        if name not in found:
            raise PolicyFileError(folder / name, None, "", f"is missing in {folder}; add it")
    return found


def _title(path: Path) -> str:
    said = yamlfile.read(path).map()
    title = said.take("title").text()
    said.done()
    return title
