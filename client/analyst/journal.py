"""The rounds that a publisher has begun, in files beside its key.

A round's id is drawn and stored before any party hears of it: a party gives one round for a
window, so whoever dies in the middle must come back with the same one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from client.errors import UserError
from mpc.manifest import ROUND_ID_BYTES

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """One round: what is asked of every party, and whether the service has it."""

    round_id: bytes
    task_id: str
    spec_hash: bytes
    open_ms: int
    close_ms: int
    parties: tuple[bytes, ...]
    """Their pinned identity keys, in order."""
    collected: bool = False

    def encode(self) -> bytes:
        """JSON, for people too."""
        fields = {
            "version": VERSION,
            "round_id": self.round_id.hex(),
            "task": self.task_id,
            "spec_hash": self.spec_hash.hex(),
            "open_ms": self.open_ms,
            "close_ms": self.close_ms,
            "parties": [key.hex() for key in self.parties],
            "collected": self.collected,
        }
        return json.dumps(fields, indent=1).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """KeyError, ValueError or TypeError for what `encode` did not make."""
        fields: dict[str, Any] = json.loads(data)
        if fields["version"] != VERSION:
            raise ValueError("version")
        plan = cls(
            bytes.fromhex(fields["round_id"]),
            str(fields["task"]),
            bytes.fromhex(fields["spec_hash"]),
            int(fields["open_ms"]),
            int(fields["close_ms"]),
            tuple(bytes.fromhex(key) for key in fields["parties"]),
            bool(fields["collected"]),
        )
        if len(plan.round_id) != ROUND_ID_BYTES:
            raise ValueError("round_id")
        return plan


class Journal:
    """A folder with a file for each round, named by its id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def beside(cls, key_path: Path) -> Self:
        """The journal of a key: `FILE.rounds` beside FILE."""
        return cls(key_path.with_name(key_path.name + ".rounds"))

    def plans(self) -> list[Plan]:
        """All of them, by when they open. UserError for a file that is none."""
        return sorted(
            (self._read(path) for path in self.folder.glob("*.json")),
            key=lambda plan: (plan.open_ms, plan.round_id),
        )

    def unfinished(self, spec_hash: bytes, *, now_ms: int) -> Plan | None:
        """The task's round that was begun, is not at the service, and whose window isn't over."""
        return next(
            (
                plan
                for plan in self.plans()
                if plan.spec_hash == spec_hash and not plan.collected and plan.close_ms > now_ms
            ),
            None,
        )

    def write(self, plan: Plan) -> None:
        """Durably, in the place of what is there of the round."""
        path = self._path(plan.round_id)
        fresh = path.with_suffix(".new")
        with fresh.open("wb") as file:
            file.write(plan.encode())
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        self._sync()

    def finish(self, plan: Plan) -> None:
        """The service has the round."""
        self.write(replace(plan, collected=True))

    def forget(self, plan: Plan) -> None:
        """The round will not be opened."""
        self._path(plan.round_id).unlink(missing_ok=True)
        self._sync()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """No other process begins a round meanwhile; UserError if one is at it."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        with (self.folder / "lock").open("wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    "another `rookery task collect` with this key is at work: let it end"
                ) from None
            yield

    def _path(self, round_id: bytes) -> Path:
        return self.folder / f"{round_id.hex()}.json"

    def _sync(self) -> None:
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _read(self, path: Path) -> Plan:
        try:
            return Plan.decode(path.read_bytes())
        except (KeyError, ValueError, TypeError):
            raise UserError(
                f"{path} is damaged: it said which round was begun; remove it, and if parties"
                " then refuse a round, wait until the one that they know is over"
            ) from None
