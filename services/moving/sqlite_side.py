"""A store in a SQLite file, to be moved from or to.

A new file is written beside its place and takes it in the end. One that was moved away says so
inside, and is opened by nobody any more.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from crypto.keys import device_id
from crypto.primitives import SIG_BYTES
from services.moving import sqlite_governance as governance
from services.moving.rows import Row, Rows
from services.moving.sqlite_filling import Filling
from services.store import packed, snapshot, sqlite_schema as schema
from services.store.errors import StoreUnavailable
from services.store.mark import Mark
from services.store.sqlite_rounds import box_base, contribution_base, unpack_sigs
from services.store.sqlite_state import DEVICE_BITS, WINNER

_CACHE_KIB = 65_536
_BITS = 32
_ROWS_AT_ONCE = 512
_LOW = (1 << _BITS) - 1


class SqliteSide:
    """See `services.moving.rows.Target`."""

    def __init__(self, path: Path, *, filled: bool) -> None:
        """`filled`: it is the target. StoreUnavailable."""
        self.name = str(path)
        self._path = path
        self._filled = filled
        self._file = path.with_name(path.name + ".moving") if filled else path
        self._lock: int | None = None
        self._standing = b""
        self.generation = self.secret = b""
        if filled:
            if path.exists():
                self._look()
        elif path.exists():
            self._open()
        else:
            raise StoreUnavailable(f"{path} is not there")

    def _open(self) -> None:
        self._lock = schema.lock_file(self._path)
        try:
            schema.make_private(self._file)
            self._db = schema.connect(self._file, cache_kib=_CACHE_KIB)
            schema.migrate(self._db)
            if not self._filled:
                # It may have been restored, and not been opened since.
                Mark(self._path).judge(self._db)
        except BaseException:
            os.close(self._lock)
            self._lock = None
            raise
        self._read_meta(self._db)

    def _look(self) -> None:
        """What stands in the target's place may be served: it is read, and no lock taken."""
        try:
            with contextlib.closing(
                schema.connect(self._path, cache_kib=_CACHE_KIB, read_only=True)
            ) as standing:
                self._read_meta(standing)
                self._standing = _mark_of(standing)
        except sqlite3.Error:
            return  # it is no store; `check_free` refuses it

    def _read_meta(self, connection: sqlite3.Connection) -> None:
        self.generation = schema.read_meta(connection, "generation")
        self.secret = schema.read_meta(connection, "secret")

    async def close(self) -> None:
        """See `Side.close`."""
        if self._lock is not None:
            self._db.close()
            os.close(self._lock)

    # --- whose it is ---

    async def mark(self) -> bytes:
        """See `Side.mark`."""
        return self._standing if self._lock is None else _mark_of(self._db)

    async def check_free(self, mark: bytes) -> None:
        """See `Target.check_free`. What is copied has another name until it is whole."""
        if self._path.exists():
            raise StoreUnavailable(
                f"{self._path} is there already, and is not the copy of this store: name a file"
                " that is not there"
            )

    async def seize(self, mark: bytes) -> bytes:
        """See `Side.seize`. The lock beside the file keeps everybody else out already. A target
        is made only here: a move that is refused leaves nothing behind."""
        if self._lock is None:
            self._open()
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('moving', ?)", (mark,))
        return schema.read_meta(self._db, "moving")

    async def check_kept(self) -> None:
        """See `Side.check_kept`. A file under lock loses nothing."""

    async def retire(self, mark: bytes) -> None:
        """See `Side.retire`."""
        self._db.execute("UPDATE meta SET value = ? WHERE name = 'moving'", (b"gone" + mark[2:],))

    async def finish(self, mark: bytes, generation: bytes, secret: bytes) -> None:
        """See `Target.finish`. The file takes its place, durably."""
        with self._writing():
            self._db.execute("DELETE FROM meta WHERE name = 'moving'")
            self._db.executemany(
                "UPDATE meta SET value = ? WHERE name = ?",
                [(generation, "generation"), (secret, "secret")],
            )
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()
        # Of a database that was here before: it would make this one look restored.
        self._path.with_name(self._path.name + ".mark").unlink(missing_ok=True)
        self._file.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _read(self, statement: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        cursor = self._db.execute(statement, values)
        while rows := cursor.fetchmany(_ROWS_AT_ONCE):
            yield from rows

    # --- accounts, from ---

    async def count(self) -> int:
        """See `Side.count`."""
        number: int = self._db.execute("SELECT count(*) FROM account").fetchone()[0]
        return number

    async def accounts(self) -> AsyncIterator[bytes]:
        """See `Side.accounts`."""
        for (account_id,) in self._read("SELECT account_id FROM account ORDER BY account_n"):
            yield account_id

    async def account(self, account_id: bytes) -> Rows:
        """See `Side.account`."""
        for row in self._account(account_id):
            yield row

    def _account(self, account_id: bytes) -> Iterator[Row]:
        n, subject_row, chain, *tail = self._db.execute(
            "SELECT account_n, subject_row, chain, position, lamport_max, records, records_before"
            " FROM account JOIN tail USING (account_n) WHERE account_id = ?",
            (account_id,),
        ).fetchone()
        # Written anew: an older version may have written it in an older form.
        chain = snapshot.encode(snapshot.decode(chain))
        yield "account", account_id, subject_row or b"", chain, *tail
        first, last = n << _BITS, n << _BITS | _LOW
        device, device_last = n << DEVICE_BITS, (n + 1 << DEVICE_BITS) - 1
        for seq, *link in self._read(
            "SELECT link_id, link, sig, pop, grants FROM link WHERE link_id BETWEEN ? AND ?",
            first, last,
        ):  # fmt: skip
            yield "link", account_id, seq & _LOW, *link
        for epoch, ended_ms in self._read(
            "SELECT epoch_id, ended_ms FROM epoch_end WHERE epoch_id BETWEEN ? AND ?", first, last
        ):
            yield "end", account_id, epoch & _LOW, ended_ms
        for key, dev_seq, op_hash, passed in self._read(
            "SELECT * FROM device WHERE device_key BETWEEN ? AND ?", device, device_last
        ):
            if dev_seq or passed:
                yield "device", account_id, key - device, dev_seq, op_hash, passed
        for row in self._read(
            "SELECT position, covers, epoch FROM checkpoint WHERE account_n = ?"
            " ORDER BY position", n
        ):  # fmt: skip
            yield "mark", account_id, *row
        for segment_id, held, push_rest, ops in self._read(
            "SELECT * FROM segment WHERE segment_id BETWEEN ? AND ? ORDER BY segment_id",
            first, last,
        ):  # fmt: skip
            start = segment_id & _LOW
            bits = [bit for bit in range(held.bit_length()) if held >> bit & 1]
            for bit, raw in zip(bits, packed.split(ops), strict=True):
                yield "op", account_id, start + bit, start + push_rest, raw
        key = n.to_bytes(4, "big")
        for name, winner in self._read(
            "SELECT name, winner FROM live WHERE name >= ? AND name < ?",
            key, (n + 1).to_bytes(4, "big"),
        ):  # fmt: skip
            epoch = int.from_bytes(name[4:8], "big")
            yield "winner", account_id, epoch, name[8:], WINNER.unpack(winner)[0]
        for row in self._read("SELECT at, position FROM superseded WHERE account_n = ?", n):
            yield "superseded", account_id, *row
        for row in self._read(
            "SELECT device_index, dev_seq, position FROM run WHERE account_n = ?", n
        ):
            yield "run", account_id, *row
        for row in self._read(
            "SELECT device_index, dev_seq, hash_start FROM gone WHERE account_n = ?"
            " ORDER BY device_index, dev_seq", n
        ):  # fmt: skip
            yield "trimmed", account_id, *row
        for key, handle, expires_ms, due_ms, *rest in self._read(
            "SELECT device_key, handle, expires_ms, due_ms, sent_ms, turn, claimed, again, tries"
            " FROM wake WHERE device_key BETWEEN ? AND ?", device, device_last
        ):  # fmt: skip
            yield "wake", account_id, key - device, handle, expires_ms, due_ms or 0, *rest
        yield from governance.of_account(self._read, n, account_id)

    # --- accounts, to ---

    async def has_account(self, account_id: bytes) -> bool:
        """See `Target.has_account`."""
        found = self._db.execute("SELECT 1 FROM account WHERE account_id = ?", (account_id,))
        return found.fetchone() is not None

    async def put_account(self, rows: Rows) -> None:
        """See `Target.put_account`."""
        with self._writing():
            (n,) = self._db.execute(
                "UPDATE meta SET value = value + 1 WHERE name = 'accounts_ever' RETURNING value"
            ).fetchone()
            account = Filling(self._db, n)
            async for row in rows:
                account.take(row)
            account.end()

    # --- joint aggregates, from ---

    async def shared(self) -> Rows:
        """See `Side.shared`."""
        for task in self._read(
            "SELECT task_n, task_id, spec_hash, publisher, task, sig FROM task ORDER BY task_n"
        ):
            yield "task", *task
        for round_n, sigs, over, held, *row in self._read(
            "SELECT round_n, sigs, over, held, round_id, spec_hash, manifest, open_ms, close_ms,"
            " until_ms, sealed, position FROM round JOIN task USING (task_n) ORDER BY round_n"
        ):
            parties = self._read(
                "SELECT ik FROM round_party WHERE round_n = ? ORDER BY party", round_n
            )
            signed = [sigs[at : at + SIG_BYTES] for at in range(0, len(sigs), SIG_BYTES)]
            keys = [ik for (ik,) in parties]
            *times, sealed, position = row[3:]
            left = 0 if over else held
            yield ("round", *row[:3], signed, keys, *times, sealed, over, position, left)
        for shared in governance.shared(self._read):
            yield shared

    async def content(self, round_id: bytes) -> Rows:
        """See `Side.content`. What is about to be dropped is not given any more."""
        round_n, parties, over = self._round(round_id)
        if not over:
            base = contribution_base(round_n)
            for row in self._read(
                "SELECT account_id, digest, contribution_id - ? FROM contribution"
                " JOIN account USING (account_n) WHERE contribution_id BETWEEN ? AND ?"
                " ORDER BY contribution_id", base, base, base | _LOW
            ):  # fmt: skip
                yield "contribution", round_id, *row
            for party in range(1, parties + 1):
                base = box_base(round_n, party)
                for row in self._read(
                    "SELECT box_id - ?, data FROM box WHERE box_id BETWEEN ? AND ?"
                    " ORDER BY box_id", base, base, base | _LOW
                ):  # fmt: skip
                    yield "box", round_id, party, *row
        for result, sigs in self._read(
            "SELECT result, sigs FROM result WHERE round_n = ?", round_n
        ):
            yield "result", round_id, result, sorted(unpack_sigs(sigs).items())
        for row in self._read(
            "SELECT party, statement, sig FROM abandonment WHERE round_n = ? ORDER BY party",
            round_n,
        ):
            yield "abandonment", round_id, *row

    def _round(self, round_id: bytes) -> tuple[int, int, int]:
        row: tuple[int, int, int] = self._db.execute(
            "SELECT round_n, m, over FROM round WHERE round_id = ?", (round_id,)
        ).fetchone()
        return row

    # --- joint aggregates, to ---

    async def put_shared(self, rows: Rows) -> None:
        """See `Target.put_shared`."""
        with self._writing():
            async for kind, *row in rows:
                if kind == "task":
                    self._db.execute("INSERT OR IGNORE INTO task VALUES (?, ?, ?, ?, ?, ?)", row)
                elif kind in governance.KINDS:
                    governance.put(self._db, kind, row)
                else:
                    self._put_round(*row)

    def _put_round(
        self, round_id: bytes, spec_hash: bytes, manifest: bytes, sigs: Sequence[bytes],
        parties: Sequence[bytes], *rest: int,
    ) -> None:  # fmt: skip
        open_ms, close_ms, until_ms, sealed, over, position, held = rest
        if self._db.execute("SELECT 1 FROM round WHERE round_id = ?", (round_id,)).fetchone():
            return
        (round_n,) = self._db.execute(
            "UPDATE meta SET value = value + 1 WHERE name = 'rounds_ever' RETURNING value"
        ).fetchone()
        self._db.execute(
            "INSERT INTO round SELECT ?, ?, task_n, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM task"
            " WHERE spec_hash = ?",
            (
                round_n, round_id, manifest, b"".join(sigs), len(parties), open_ms, close_ms,
                until_ms, sealed, position, held, over, over, spec_hash,
            ),
        )  # fmt: skip
        self._db.executemany(
            "INSERT INTO round_party VALUES (?, ?, ?, ?)",
            [(round_n, party, device_id(ik), ik) for party, ik in enumerate(parties, start=1)],
        )

    async def put_content(self, round_id: bytes, rows: Rows) -> None:
        """See `Target.put_content`."""
        round_n, _, _ = self._round(round_id)
        with self._writing():
            async for kind, _, *row in rows:
                self._put_content(kind, round_n, *row)

    def _put_content(self, kind: str, round_n: int, *row: Any) -> None:
        if kind == "contribution":
            account_id, digest, position = row
            self._db.execute(
                "INSERT OR REPLACE INTO contribution SELECT ?, account_n, ? FROM account"
                " WHERE account_id = ?",
                (contribution_base(round_n) + position, digest, account_id),
            )
        elif kind == "box":
            party, position, data = row
            self._db.execute(
                "INSERT OR REPLACE INTO box VALUES (?, ?)",
                (box_base(round_n, party) + position, data),
            )
        elif kind == "result":
            result, sigs = row
            flat = b"".join(bytes((party,)) + sig for party, sig in sigs)
            self._db.execute(
                "INSERT OR REPLACE INTO result VALUES (?, ?, ?)", (round_n, result, flat)
            )
        else:
            self._db.execute(
                "INSERT OR REPLACE INTO abandonment VALUES (?, ?, ?, ?)", (round_n, *row)
            )


def _mark_of(connection: sqlite3.Connection) -> bytes:
    row = connection.execute("SELECT value FROM meta WHERE name = 'moving'").fetchone()
    return b"" if row is None else row[0]
