"""What each field of the store tells whoever reads the store, and which calls answer with it.

One line for every column of the SQLite schema; Redis holds the same fields under shorter names.
A column that is not declared here fails a test, so that the table can't fall behind the schema.
Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from services.access.matrix import Matrix
from services.operations.fields import FIELDS


class Form(IntEnum):
    """As `ExposureForm` on the wire."""

    SEALED = 1
    BLINDED = 2
    DIGEST = 3
    PUBLIC_KEY = 4
    ID = 5
    METADATA = 6
    CLEAR = 7


@dataclass(frozen=True, slots=True)
class Exposed:
    """A field of the store. `methods`: calls that answer with it, `/package.Service/Method`."""

    field: str
    form: Form
    about: str
    methods: tuple[str, ...] = ()


_PACKAGE: Final = "/rookery.v1."
_FORMS: Final[Mapping[str, Form]] = {form.name.lower(): form for form in Form}


def _read(text: str) -> Iterator[Exposed]:
    for line in text.strip().splitlines():
        name, form, about, methods = (part.strip() for part in line.split("|"))
        yield Exposed(name, _FORMS[form], about, tuple(_PACKAGE + one for one in methods.split()))


TABLE: Final = tuple(_read(FIELDS))
"""Every field, by table."""


def readers(
    row: Exposed, matrix: Matrix | None, routes: Mapping[str, frozenset[str]]
) -> tuple[str, ...]:
    """Roles that may read the field by a call. `routes`: method to the roles that its route
    takes; the matrix narrows them."""
    found: set[str] = set()
    for method in row.methods:
        by_route = routes.get(method, frozenset())
        if matrix is None:
            found |= by_route
            continue
        granted = matrix.readers((method,))
        # Whoever is granted as `anyone` still has to be what the route takes.
        found |= by_route if "anyone" in granted else granted & by_route
        if "known-key" in by_route:
            found |= granted - {"anyone", "device"}
    return tuple(sorted(found - {"known-key"}))


def undeclared(columns: Iterable[str]) -> tuple[set[str], set[str]]:
    """Columns without a line here, and lines without a column."""
    there, declared = set(columns), {row.field for row in TABLE}
    return there - declared, declared - there
