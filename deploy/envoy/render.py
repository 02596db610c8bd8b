"""Fill in the templates of a proxy: `render.py sidecar|edge DIR NAME=VALUE...`.

`${NAME}` must be given, `${NAME:-default}` may be; `|endpoints` makes of HOST:PORT,... the list
that Envoy wants, `|identities` of SPIFFE ids a list of principals. Only the standard library,
so that the service's image can do it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILES = {
    "sidecar": ("identity.yaml", "authorities.yaml"),
    "edge": ("identity.yaml", "authorities.yaml", "public.yaml"),
}
"""What stands beside envoy.yaml: the secrets that it reads again when they change."""
_PLACE = re.compile(r"\$\{([A-Z_]+)(?::-([^}|]*))?(?:\|([a-z]+))?\}")
# What stands in quotes, or alone, in YAML without meaning anything else there.
_PLAIN = re.compile(r"[A-Za-z0-9._/:@,\[\]-]+")


class RenderError(ValueError):
    """A value is missing, unknown or unfit; the message names it."""


def _endpoints(text: str) -> str:
    rows = []
    for entry in text.split(","):
        host, _, port = entry.rpartition(":")
        if not host or not port.isdigit():
            raise RenderError(f"{entry!r} is no HOST:PORT")
        address = {"address": host.strip("[]"), "port_value": int(port)}
        rows.append({"endpoint": {"address": {"socket_address": address}}})
    return json.dumps(rows)


def _identities(text: str) -> str:
    for entry in text.split(","):
        if not re.fullmatch(r"spiffe://[^/]+/.+", entry):
            raise RenderError(f"{entry!r} is no SPIFFE id")
    return json.dumps(
        [{"authenticated": {"principal_name": {"exact": entry}}} for entry in text.split(",")]
    )


def _names(text: str) -> str:
    return json.dumps(text.split(","))


_KINDS: Mapping[str, Callable[[str], str]] = {
    "endpoints": _endpoints,
    "identities": _identities,
    "names": _names,
}


def placeholders(template: str) -> dict[str, str | None]:
    """The names that stand in a template, with their defaults; None: must be given."""
    found: dict[str, str | None] = {}
    for name, default, _ in (match.groups() for match in _PLACE.finditer(template)):
        if found.setdefault(name, default) != default:
            raise RenderError(f"{name} has two defaults: {found[name]} and {default}")
    return found


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with its values; RenderError."""
    known = placeholders(template)
    missing = [name for name, default in known.items() if default is None and not values.get(name)]
    if missing:
        raise RenderError(f"give {', '.join(f'{name}=...' for name in missing)}")
    for name in known.keys() & values.keys():
        if not _PLAIN.fullmatch(values[name]):
            raise RenderError(f"{name}: {values[name]!r} has characters that mean something here")

    def one(match: re.Match[str]) -> str:
        name, default, kind = match.groups()
        text = values.get(name, default)
        return _KINDS[kind](text) if kind else text

    return _PLACE.sub(one, template)


def render(role: str, folder: Path, values: Mapping[str, str]) -> Path:
    """Writes envoy.yaml and the files that it names; its path."""
    templates = {
        "envoy.yaml": (HERE / f"{role}.yaml").read_text(),
        **{name: (HERE / name).read_text() for name in FILES[role]},
    }
    known = {name for template in templates.values() for name in placeholders(template)}
    if unknown := sorted(values.keys() - known):
        raise RenderError(f"{', '.join(unknown)}: not known; there are {', '.join(sorted(known))}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, template in templates.items():
        (folder / name).write_text(fill(template, values))
    return folder / "envoy.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """0 if the files were written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=FILES)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("values", nargs="*", metavar="NAME=VALUE")
    arguments = parser.parse_args(argv)
    values = dict(value.partition("=")[::2] for value in arguments.values)
    try:
        print(render(arguments.role, arguments.folder, values))
    except RenderError as error:
        print(f"render: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
