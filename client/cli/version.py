"""`--version`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any


class Version(argparse.Action):
    """Prints the installed version. It is looked up only here: that takes its time."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**{**more, "nargs": 0})

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Ends the program."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("rookery")
        except PackageNotFoundError:
            number = "(a checkout that is not installed)"
        print(parser.prog, number)
        parser.exit()
