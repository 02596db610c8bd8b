"""The commands that keep a service: what they are given, and what they say."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from services.audit.local import note, noted
from services.config import Config, of_arguments
from services.keeping import backup as backups
from services.keeping.backup import KeyFiles
from services.keeping.errors import KeepingError
from services.keeping.foreseen import FORESEEN
from services.keeping.progress import bar

__all__ = ["FORESEEN", "backup", "restore"]


def _key_files(config: Config) -> KeyFiles:
    return KeyFiles(Path(config.identity_key_file), Path(config.pepper_file), config.audience)


def _sqlite_of(config: Config) -> Path:
    """KeepingError where the store is Redis."""
    if config.redis_url:
        raise KeepingError(
            "the store is on Redis: take its snapshot or its append-only files, and run"
            " `rookery-server new-generation` after they were put back"
        )
    return Path(config.database)


def backup(arguments: argparse.Namespace) -> None:
    """Copies the database of this moment to a new file."""
    config = of_arguments(arguments)
    database = _sqlite_of(config)
    with noted(config, "backup"), bar("backup") as tell:
        made = backups.backup(database, arguments.target, _key_files(config), tell)
    print(
        f"ok: {arguments.target}, {made.bytes} bytes, {made.accounts} accounts; read through."
        f" Keys are not in it: keep {config.identity_key_file} and {config.pepper_file} elsewhere"
    )


def restore(arguments: argparse.Namespace) -> None:
    """Puts a backup in the place of the database."""
    config = of_arguments(arguments)
    database = _sqlite_of(config)
    with bar("restore") as tell:
        done = backups.restore(
            arguments.source, database, _key_files(config), tell, replace=arguments.replace
        )
    note(config, "restore")
    for warning in done.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if done.aside is not None:
        print(f"the database that was here is {done.aside}: remove it once all is well")
    made = "an unknown time" if done.made_ms is None else _utc(done.made_ms)
    print(
        f"ok: {database} is as of {made}, with a new generation: start the service, and"
        " devices give back what is missing"
    )


def _utc(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(ms / 1000))
