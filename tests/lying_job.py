"""The process of a job, of a party that may lie in it. A helper.

What it does stands in `lies.json` beside it, by round: in which step it misbehaves, and how.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from mpc.job import Answer, main
from tests.mpc_child import WatchedJob

LIES = "lies.json"
PICKLE = b"cos\nsystem\n(S'touch pickled'\ntR."
"""Whoever unpickles it has a file of that name."""


class LyingJob(WatchedJob):
    """Honest, but for the step that the file names."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        file = Path(LIES)
        said = json.loads(file.read_text()) if file.exists() else {}
        self._step, self._how = said.get(self._session.terms.round_digest.hex(), ["", ""])
        if self._how == "pickle":
            once = Path("pickled-once")
            self._how = "" if once.exists() else self._how
            once.touch()

    async def _do(self, step: Answer) -> Answer:
        if step["do"] == self._step:
            if self._how == "stall":
                await asyncio.sleep(3_600)
            if self._how == "share":
                await self.lie("", {})
            if self._how == "pickle":
                self._session._exchange = self._pickle  # type: ignore[method-assign, assignment]
        return await super()._do(step)

    async def _pickle(self, *_: Any) -> Any:
        """A program where a vector is due."""
        for party in self._session.peers:
            self._session.runtime.send(party, PICKLE)
        await asyncio.sleep(3_600)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], LyingJob))
