"""What the demo shows: the two sides of one profile, and what it all came to."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from client.demo import showgovernance
from client.demo.people import ABOUT, RATED, RATINGS, REGION, TASTE
from client.sync import SyncedDevice
from crypto import names, op
from rookery.v1 import sync_pb2

ROWS_SHOWN = 7
_BLANKS = re.compile(r" +$", re.MULTILINE)


class Trimmed:
    """A stream whose lines end in no blanks: what a file or a pipe is given in place of a
    terminal's padding. A line comes in one write, as `rich` writes them."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        """Writes it; how many characters were given."""
        self._out.write(_BLANKS.sub("", text))
        return len(text)

    def flush(self) -> None:
        """Passes on what is held back."""
        self._out.flush()


def console_on(out: TextIO) -> Console:
    """For the demo's pages."""
    file = out if out.isatty() else cast("TextIO", Trimmed(out))
    return Console(file=file, highlight=False)


Stored = dict[bytes, tuple[str, str]]
"""Tag to size and ciphertext, as the service has them."""


def stored_rows(database: Path, account_id: bytes) -> Stored:
    """What stands in the service's database for an account."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        runs = [bytes(run) for (run,) in connection.execute("SELECT ops FROM segment")]
    finally:
        connection.close()
    rows: Stored = {}
    # A stored run of ops has the form of a page's field.
    for raw in sync_pb2.PullResponse.FromString(b"".join(runs)).ops:
        sealed = op.parse_any(raw)
        if sealed.header.account_id == account_id and sealed.ct is not None:
            rows[sealed.header.tag] = (str(len(raw)), sealed.ct[:6].hex() + "…")
    return rows


def _records(device: SyncedDevice) -> Iterator[tuple[str, str, bytes]]:
    """Name, value and tag of a profile's records, as one device sees them."""
    core = device.core
    region = str(core.get(ABOUT, REGION))
    yield f"{ABOUT}/{REGION}", region, core.tag(ABOUT, REGION) or b""
    total = core.score(TASTE, RATED, now_ms=device.now_ms())
    part = names.score_part(RATED.encode(), 0).decode()
    yield f"{TASTE}/{RATED}", f"{total:g}", core.tag(TASTE, part) or b""
    for item, value in core.list(RATINGS).items():
        yield f"{RATINGS}/{item}", str(value), core.tag(RATINGS, item) or b""


def side_by_side(console: Console, device: SyncedDevice, database: Path) -> None:
    """One profile as its devices see it, and as the service stores it, row by row."""
    records = list(_records(device))
    stored = stored_rows(database, device.core.account_id)
    table = Table(
        title="One profile: what each of its devices sees, and what the service stored",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    # Where it is too wide, names and values take two lines; nothing is cut.
    table.add_column("a device: record", style="green", overflow="fold")
    table.add_column("value", style="green", overflow="fold")
    table.add_column("the service: tag", style="dim", no_wrap=True)
    table.add_column("bytes", justify="right", style="dim", no_wrap=True)
    table.add_column("ciphertext", style="dim", no_wrap=True)
    for name, value, tag in records[:ROWS_SHOWN]:
        size, ciphertext = stored.get(tag, ("", "not stored"))
        table.add_row(name, value, tag[:6].hex() + "…", size, ciphertext)
    console.print(table)
    if len(records) > ROWS_SHOWN:
        console.print(f"[dim]… and {len(records) - ROWS_SHOWN} more records[/dim]\n")


def summary(console: Console, report: dict[str, Any]) -> None:
    """The report as a person reads it."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column()
    for label, key in (
        ("people", "people"),
        ("devices", "devices"),
        ("ops pushed", "ops_pushed"),
        ("every device shows all of its profile", "all_devices_converged"),
        ("a device paired late does, too (1 person)", "late_device_converged"),
        ("a revoked one is refused at once (1 person)", "revoked_device_refused"),
        ("all agree after rotating the keys (1 person)", "rotated_and_converged"),
    ):
        table.add_row(label, _plain(report[key]))
    table.add_row(
        "names and values found at the service", str(report["plaintext_hits_in_store_and_logs"])
    )
    table.add_row(
        f"  {report['patterns_searched']:,} patterns looked for in",
        f"{report['bytes_searched'] / 1e6:.1f} MB: {', '.join(report['files_searched'])}",
    )
    for label, said in showgovernance.summary_rows(report["governance"]):
        table.add_row(label, said)
    table.add_row("seconds, the whole run", f"{report['seconds']:.1f}")
    console.print(table)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "[green]yes[/green]" if value else "[bold red]NO[/bold red]"
    return f"{value:,}" if isinstance(value, int) else str(value)
