"""What the demo shows: the two sides of one profile, and what it all came to."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from client.demo.people import ABOUT, RATED, RATINGS, REGION, TASTE
from client.sync import SyncedDevice
from crypto import op

ROWS_SHOWN = 7


def stored_rows(database: Path, account_id: bytes, most: int) -> list[tuple[str, str, str]]:
    """What stands in the service's database for an account: tag, bytes, ciphertext."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        raws = [bytes(raw) for (raw,) in connection.execute("SELECT raw FROM op")]
    finally:
        connection.close()
    rows = []
    for raw in raws:
        sealed = op.parse_any(raw)
        if sealed.header.account_id == account_id:
            ct = sealed.ct[:8].hex() + "…" if sealed.ct is not None else "(stub)"
            tag = sealed.header.tag[:6].hex() + "…"
            rows.append((tag, str(len(raw)), ct))
    return rows[-most:]


def side_by_side(console: Console, device: SyncedDevice, database: Path) -> None:
    """One profile as its devices see it, and as the service stores it."""
    core = device.core
    profile = [(f"{ABOUT}/{REGION}", str(core.get(ABOUT, REGION)))]
    total = core.score(TASTE, RATED, now_ms=device.now_ms())
    profile.append((f"{TASTE}/{RATED}", f"{total:g}"))
    profile += [(f"{RATINGS}/{item}", str(value)) for item, value in core.list(RATINGS).items()]
    rows = stored_rows(database, core.account_id, ROWS_SHOWN)
    table = Table(
        title="One profile: what each of its devices sees, and what the service stored",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("a device: record", style="green", no_wrap=True)
    table.add_column("value", style="green", no_wrap=True)
    table.add_column("the service: tag", style="dim", no_wrap=True)
    table.add_column("bytes", justify="right", style="dim")
    table.add_column("ciphertext", style="dim", no_wrap=True)
    for left, right in zip(profile[:ROWS_SHOWN], rows, strict=False):
        table.add_row(*left, *right)
    console.print(table)
    if len(profile) > ROWS_SHOWN:
        console.print(f"[dim]… and {len(profile) - ROWS_SHOWN} more records[/dim]")


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
        ("a device paired late does, too", "late_device_converged"),
        ("a revoked one is refused, its stream ends", "revoked_device_refused"),
        ("all agree again after rotating the keys", "rotated_and_converged"),
    ):
        table.add_row(label, _plain(report[key]))
    table.add_row(
        "names and values found at the service", str(report["plaintext_hits_in_store_and_logs"])
    )
    table.add_row(
        f"  {report['patterns_searched']:,} patterns looked for in",
        f"{report['bytes_searched'] / 1e6:.1f} MB: {', '.join(report['files_searched'])}",
    )
    table.add_row("seconds", f"{report['seconds']:.1f}")
    console.print(table)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "[green]yes[/green]" if value else "[bold red]NO[/bold red]"
    return f"{value:,}" if isinstance(value, int) else str(value)
