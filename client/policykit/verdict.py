"""The whole of a privacy impact assessment: what changed, what each change needs, what is met."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from client.policykit import changes, wider
from client.policykit.assessment import Assessment, Mitigation
from client.policykit.changes import Change
from crypto.policy import Bundle


@dataclass(frozen=True, slots=True)
class Finding:
    """A change, and what is written about it; None: its mitigation is not met."""

    change: Change
    mitigation: Mitigation | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """All findings, and the edits that need nothing."""

    findings: tuple[Finding, ...]
    harmless: tuple[str, ...]

    @property
    def unmet(self) -> tuple[Finding, ...]:
        """What stands against it."""
        return tuple(one for one in self.findings if one.mitigation is None)


def judge(old: Bundle, new: Bundle, written: Assessment) -> Verdict:
    """The new bundle against the old one, with what was written about it."""
    found = changes.find(old, new)
    return Verdict(
        tuple(Finding(change, written.entries.get(change.id)) for change in found),
        tuple(_others(old, new, found)),
    )


def _others(old: Bundle, new: Bundle, found: tuple[Change, ...]) -> Iterator[str]:
    """Entries that differ, and of which nothing was found."""
    subjects = {change.subject.removesuffix(".result") for change in found}
    before, after = _entries(old), _entries(new)
    for place, entry in after.items():
        if place[1] in subjects:
            continue
        if place not in before:
            yield f"{' '.join(place)}: added"
        elif fields := _changed(before[place], entry):
            yield f"{' '.join(place)}: {', '.join(fields)}"
    for place in before:
        if place not in after and place[1] not in subjects:
            yield f"{' '.join(place)}: removed"
    for grant in new.access.grants:
        if grant not in old.access.grants and not wider.grant(old.access, grant):
            yield f"grant {grant.role} {grant.method}: narrower"
    for grant in old.access.grants:
        if not new.access.allows(grant.role, grant.method):
            yield f"grant {grant.role} {grant.method}: removed"


def _changed(before: Any, after: Any) -> list[str]:
    if not isinstance(before, dict):
        return ["changed"] if before != after else []
    return [name for name in before | after if before.get(name) != after.get(name)]


def _entries(bundle: Bundle) -> dict[tuple[str, str], Any]:
    """All but grants, which are told from one another by more than a name."""
    maps: dict[str, dict[str, Any]] = {
        "purpose": {one.name: one.as_map() for one in bundle.purposes},
        "signal": {one.name: one.as_map() for one in bundle.signals},
        "task": {one.source: one.as_map() for one in bundle.tasks},
        "flag": {one.name: one.as_map() for one in bundle.flags},
        "role": {one.name: one.as_map() for one in bundle.access.roles},
        "cohort": {one.name: one.plain() for one in bundle.cohorts},
        "experiment": {one.name: one.plain() for one in bundle.experiments},
        "retention": {f"service.{k}": days for k, days in bundle.retention.as_map().items()},
    }
    found: dict[tuple[str, str], Any] = {("policy", "title"): bundle.title}
    return found | {
        (what, name): said for what, rows in maps.items() for name, said in rows.items()
    }
