"""Print the part of requirements.lock that the installed wheel needs, without the extras.

The image and the wheel test install this, so that an import of a development tool by the
packages fails there and not at a user's.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def entries(lock: str) -> dict[str, str]:
    """Lines of the lock by package: the pin, its hashes, its comments. A package has a block for
    each range of interpreters that needs another version."""
    found: dict[str, str] = {}
    for block in re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE):
        if "==" in block:
            name = canonicalize_name(block.split("==")[0])
            found[name] = found.get(name, "") + block
    return found


# Some packages fill in for what the first releases of an interpreter lacked.
INTERPRETERS: tuple[dict[str, str], ...] = (
    {},
    {"python_version": "3.11", "python_full_version": "3.11.0"},
)


def applies(need: Requirement, extras: frozenset[str]) -> bool:
    """Whether a package asked for with these extras needs this one here, or with the oldest
    interpreter that is supported."""
    return need.marker is None or any(
        need.marker.evaluate({"extra": extra, **interpreter})
        for extra in extras
        for interpreter in INTERPRETERS
    )


def closure(requirements: list[str]) -> Iterator[str]:
    """Names of these requirements and all they need, on this interpreter and elsewhere."""
    todo = [Requirement(text) for text in requirements]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        extras = frozenset({"", *requirement.extras})
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        yield name
        try:
            needs = requires(name) or []
        except PackageNotFoundError:  # for another platform: the lock has it, this one not
            continue
        todo += [need for need in map(Requirement, needs) if applies(need, extras)]


def main() -> None:
    """Writes the rows to standard output, in the order of the lock: of the project and of the
    requirements that are named, or with `--only` of these alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [text for text in sys.argv[1:] if text != "--only"]
    wanted = set(closure(named if "--only" in sys.argv else [*project["dependencies"], *named]))
    locked = entries((ROOT / "requirements.lock").read_text())
    if missing := wanted - locked.keys():
        sys.exit(f"runtime_lock: not in requirements.lock: {', '.join(sorted(missing))}")
    sys.stdout.write("".join(block for name, block in locked.items() if name in wanted))


if __name__ == "__main__":
    main()
