"""Check the table "who may import whom" (tool.importlinter in pyproject.toml).

import-linter refuses to start when a root package is missing. This takes the packages that
are not there out of the configuration first, and names them, so that the table can be
complete before the house is.
"""

import json
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (ROOT, ROOT / "proto")


def present(package: str) -> bool:
    """Whether a top-level package of ours is in this checkout."""
    return any((source / package / "__init__.py").is_file() for source in SOURCES)


def without(absent: set[str], config: dict[str, Any]) -> dict[str, Any]:
    """The configuration for a checkout in which the packages `absent` are missing."""

    def narrow(value: object) -> object:
        if not isinstance(value, list):
            return value
        return [module for module in value if module.split(".")[0] not in absent]

    contracts = [
        {key: narrow(value) for key, value in contract.items()} for contract in config["contracts"]
    ]
    return {
        **{key: narrow(value) for key, value in config.items() if key != "contracts"},
        "contracts": [contract for contract in contracts if [] not in contract.values()],
    }


def toml(config: dict[str, Any]) -> str:
    """The configuration as TOML; strings, booleans and lists of them are written as in JSON."""

    def rows(table: dict[str, Any]) -> list[str]:
        return [f"{key} = {json.dumps(value)}" for key, value in table.items()]

    lines = ["[tool.importlinter]"]
    lines += rows({key: value for key, value in config.items() if key != "contracts"})
    for contract in config["contracts"]:
        lines += ["[[tool.importlinter.contracts]]", *rows(contract)]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Runs import-linter on what is here; its exit code."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    config = pyproject["tool"]["importlinter"]
    absent = {package for package in config["root_packages"] if not present(package)}
    for package in sorted(absent):
        print(f"contracts: {package}/ is not here and not checked")
    config = without(absent, config)
    if not config["contracts"]:
        print("contracts: nothing to check")
        return 0
    # The packages of this checkout are the ones to check, whatever is installed.
    sys.path[:0] = map(str, SOURCES)
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(toml(config))
        file.flush()
        return lint_imports(config_filename=file.name, no_cache=True, no_logo=True)


if __name__ == "__main__":
    sys.exit(main())
