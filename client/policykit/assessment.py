"""The written half of a privacy impact assessment: what is done about each change, who says so,
and since when. Its hash is part of the bundle that it was made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

from client.policykit import yamlfile
from client.policykit.yamlfile import Value
from crypto import canonical, labels
from crypto.policy.document import UNASSESSED
from crypto.primitives import hash_

FILE: Final = "assessment.yaml"


@dataclass(frozen=True, slots=True)
class Mitigation:
    """What is done about one change."""

    mitigation: str
    approved_by: str
    date: str


@dataclass(frozen=True, slots=True)
class Assessment:
    """By the change's id. Entries about changes of the past stay: they are the record."""

    entries: Mapping[str, Mitigation]

    @property
    def hash(self) -> bytes:
        """32 bytes; zeros if nothing is written."""
        if not self.entries:
            return UNASSESSED
        said = {
            change: {
                "mitigation": one.mitigation,
                "approved_by": one.approved_by,
                "date": one.date,
            }
            for change, one in self.entries.items()
        }
        return hash_(labels.POLICY_ASSESSMENT, canonical.encode(said))


NONE: Final = Assessment({})


def read(path: Path) -> Assessment:
    """The file's; PolicyFileError."""
    return Assessment(
        {change: _mitigation(value) for change, value in yamlfile.read(path).map().rest()}
    )


def _mitigation(value: Value) -> Mitigation:
    said = value.map()
    what, who, since = said.take("mitigation"), said.take("approved_by"), said.take("date")
    said.done()
    try:
        day = date.fromisoformat(since.text())
    except ValueError:
        raise since.wrong("must be a date, as 2027-01-31") from None
    made = Mitigation(what.text(), who.text(), day.isoformat())
    for field, text in ((what, made.mitigation), (who, made.approved_by)):
        if not text:
            raise field.wrong("is empty; write it")
    return made
