"""The header `x-forwarded-client-cert`: whose certificate was shown to the proxy before us.

Elements are separated by commas, one for each proxy on the way, the last hop's last; pairs of
an element by semicolons. A value that holds `,`, `;` or `=` stands in double quotes, and a
quote in it behind a backslash (Envoy, "HTTP header manipulation", x-forwarded-client-cert).

Pure, and strict: whoever is before the trusted hop may have written all elements but the last,
so that a header which does not parse to its end names nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from services.access import spiffe

HEADER: Final = "x-forwarded-client-cert"
BYTES_MAX: Final = 16 << 10
_KEYS: Final = frozenset(("by", "hash", "cert", "chain", "subject", "uri", "dns"))
# A quoted value first: what is not closed by a quote matches neither.
_PAIR: Final = re.compile(
    r'(?P<key>[A-Za-z]+)=(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^",;=\\]*))(?P<end>[,;]|\Z)',
    re.ASCII,
)
_ESCAPED: Final = re.compile(r"\\(.)")
_TEXT: Final = re.compile(r"[ -~]*\Z", re.ASCII)

Element = tuple[tuple[str, str], ...]
"""Pairs of one proxy, in their order; keys in lower case, for they are the same in either."""


class XfccError(ValueError):
    """The header does not parse. Its text is nobody's to show."""


def parse(value: str) -> list[Element]:
    """All elements, the last hop's last; XfccError."""
    if len(value) > BYTES_MAX or not _TEXT.match(value):
        raise XfccError("too long, or not printable ASCII")
    elements: list[Element] = []
    pairs: list[tuple[str, str]] = []
    at = 0
    while True:
        found = _PAIR.match(value, at)
        if found is None or found["key"].lower() not in _KEYS:
            raise XfccError("not pairs of known keys")
        quoted = found["quoted"]
        text = found["plain"] if quoted is None else _ESCAPED.sub(r"\1", quoted)
        pairs.append((found["key"].lower(), text))
        at = found.end()
        if found["end"] != ";":
            elements.append(tuple(pairs))
            pairs = []
        if not found["end"]:
            return elements


def workload_of(values: Iterable[str | bytes]) -> str:
    """The SPIFFE id of whoever called the last hop, by what came under `HEADER`, in its order.

    Empty: the hop saw no certificate with one. XfccError: it does not parse, or names several,
    so that nobody can say which one is meant.
    """
    texts = [value if isinstance(value, str) else "\0" for value in values]
    if not texts:
        return ""
    last = parse(",".join(texts))[-1]
    named = [text for key, text in last if key == "uri" and text]
    if len(named) > 1:
        raise XfccError("the last hop names several workloads")
    if named and not spiffe.is_id(named[0]):
        raise XfccError("what the last hop names is no SPIFFE id")
    return named[0] if named else ""
