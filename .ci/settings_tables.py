"""Write the tables of settings in docs/ anew: `settings_tables.py [--check]`.

A page marks where a table stands and whose settings it shows:
`<!-- settings: services.config.Config -->` before it, `<!-- /settings -->` behind it.
"""

import importlib
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TABLE = re.compile(r"(<!-- settings: ([\w.]+) -->\n).*?(<!-- /settings -->)", re.DOTALL)
_MEBI = 1 << 20


def shown(default: Any) -> str:
    """A default as people write it."""
    if default in ("", ()):
        return "(none)"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, int | float) and default >= _MEBI and default % _MEBI == 0:
        return f"{default / _MEBI:g} Mi"
    if isinstance(default, float):
        return f"{default:g}"
    return ", ".join(default) if isinstance(default, tuple) else str(default)


def table(config: str) -> str:
    """All settings of a class of configurations, in its order."""
    module, _, name = config.rpartition(".")
    lines = ["| setting | default | |", "|---|---|---|"]
    for row in fields(getattr(importlib.import_module(module), name)):
        if row.metadata["group"]:
            lines.append(f"| **{row.metadata['group']}** | | |")
        lines.append(f"| `{row.name}` | {shown(row.default)} | {row.metadata['doc']} |")
    return "\n".join(lines) + "\n"


def current(page: str) -> str:
    """The page with its tables as they should be."""
    return TABLE.sub(lambda found: found[1] + table(found[2]) + found[3], page)


def main() -> None:
    """Writes, or with `--check` only judges, every page."""
    for file in sorted((ROOT / "docs").rglob("*.md")):
        page = file.read_text("utf-8")
        wanted = current(page)
        if page == wanted:
            continue
        if "--check" in sys.argv[1:]:
            sys.exit(f"{file.relative_to(ROOT)}: its table of settings is old: `make settings`")
        file.write_text(wanted, "utf-8")


if __name__ == "__main__":
    main()
