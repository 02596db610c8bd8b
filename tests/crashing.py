"""`rookery` that kills itself at the N-th point where something was or will be written or sent.

Run as `python -m tests.crashing N ARGUMENTS...`. Without a death, the command ends as always.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from client.cli.main import main
from client.rows import Changes
from client.transport import Answer, Transport
from client.vault import FileVault


class Points:
    """Counts down to the end of the process."""

    def __init__(self, left: int) -> None:
        self._left = left

    def pass_(self) -> None:
        """One more point."""
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def instrument(points: Points) -> None:
    """Puts a point before and after every write to the vault and every call."""
    apply, call = FileVault.apply, Transport.call

    def crashing_apply(self: FileVault, changes: Changes) -> None:
        if not changes:
            return
        points.pass_()
        apply(self, changes)
        points.pass_()

    async def crashing_call(self: Transport, *arguments: Any) -> Answer[Any]:
        points.pass_()
        answer: Answer[Any] = await call(self, *arguments)
        points.pass_()
        return answer

    FileVault.apply = crashing_apply  # type: ignore[method-assign]
    Transport.call = crashing_call  # type: ignore[assignment,method-assign]


if __name__ == "__main__":
    instrument(Points(int(sys.argv[1])))
    sys.exit(main(sys.argv[2:]))
