"""What a running party takes up of its settings: who its peers and publishers are.

Its own key is not among it: a party is its key (docs/parties.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from services.keeping.reload import waiting
from services.party.config import PartyConfig
from services.party.daemon import Daemon

RELOADED = frozenset(("peers", "publishers", "policy_keys"))


class Lists:
    """See `services.keeping.reload.Reloader`."""

    def __init__(self, daemon: Daemon, load: Callable[[], PartyConfig], file: Path | None) -> None:
        self._daemon = daemon
        self._load = load
        self._file = file

    async def take(self) -> Mapping[str, str]:
        """ConfigError."""
        config = self._load()
        self._daemon.take(config)
        return {"waiting": waiting(self._daemon.config, config, RELOADED)}

    def watched(self) -> list[Path]:
        """The file of settings, if there is one."""
        return [] if self._file is None else [self._file]
