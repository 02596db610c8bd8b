"""`rookery-server audit`: what it is given, and what it says."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Any

from services.audit.local import gone_before_now, reading
from services.audit.names import NOBODY, Roles, roles_of
from services.audit.record import Record
from services.audit.walk import EntryMissing, Verdict, pages, parse_head, show_head, verify
from services.config import Config, ConfigError, of_arguments
from services.keeping.errors import KeepingError
from services.keeping.foreseen import FORESEEN
from services.store.governance import AuditEntry, Head

__all__ = ["FORESEEN", "audit"]


def audit(arguments: argparse.Namespace) -> None:
    """Shows or verifies the log."""
    if arguments.canary:
        # It runs on processes and stores of its own, and reads no configuration.
        from services.canary.command import canary

        canary(arguments)
        return
    config = of_arguments(arguments)
    if arguments.head is not None and not arguments.verify:
        raise ConfigError("--head: goes with --verify")
    if arguments.anchor is not None and not arguments.verify:
        raise ConfigError("--anchor: goes with --verify")
    if arguments.health:
        # Here: it imports what tasks are made of, and numpy with it.
        from services.operations.local import health

        asyncio.run(health(config, as_json=arguments.json))
        return
    if arguments.verify:
        noted = _head("--head", arguments.head), _head("--anchor", arguments.anchor)
        _report(asyncio.run(_verify(config, *noted)), as_json=arguments.json)
        return
    asyncio.run(_show(config, arguments.after, as_json=arguments.json))


def _head(option: str, text: str | None) -> Head | None:
    if text is None:
        return None
    try:
        return parse_head(text)
    except ValueError:
        raise ConfigError(
            f"{option}: is SEQ:HASH as `audit --verify` shows it, or the hash alone"
        ) from None


async def _verify(config: Config, noted: Head | None, noted_anchor: Head | None) -> Verdict:
    async with reading(config) as store:
        return await verify(
            store.governance,
            noted,
            noted_anchor=noted_anchor,
            gone_before_ms=await gone_before_now(config, store.governance),
        )


async def _show(config: Config, after: int, *, as_json: bool) -> None:
    async with reading(config) as store:
        roles = await roles_of(config, store.governance)
        try:
            async for rows in pages(store.governance, after):
                for row in rows:
                    data = as_data(row, roles)
                    print(json.dumps(data) if as_json else line(data))
        except EntryMissing as missing:
            raise KeepingError(
                f"the audit log does not hold: {missing}; `--after {missing.seq}` shows what is"
                " behind it"
            ) from None


def _report(verdict: Verdict, *, as_json: bool) -> None:
    """KeepingError, and with it exit code 1, unless the log holds."""
    head = show_head(verdict.head)
    if as_json:
        said: dict[str, Any] = {
            "ok": verdict.holds,
            "entries": verdict.entries,
            "head": head,
            "anchor": show_head(verdict.anchor),
        }
        if not verdict.holds:
            said |= {"why": verdict.why, "broken_at": verdict.broken_at}
        print(json.dumps(said))
    if not verdict.holds:
        raise KeepingError(f"the audit log does not hold: {verdict.why}")
    if not as_json:
        trimmed, note = "", "Note the head elsewhere"
        if verdict.anchor.seq:
            trimmed = f", those up to {verdict.anchor.seq} were trimmed"
            note = f"Note the anchor elsewhere: {show_head(verdict.anchor)} and the head"
        print(f"ok: {verdict.entries} entries{trimmed}. {note}: {head}")


def as_data(entry: AuditEntry, roles: Roles = NOBODY) -> dict[str, Any]:
    """An entry, for programs. `roles`: what is not in the entry, of keys that are known."""
    record = Record.decode(entry.body)
    data: dict[str, Any] = {
        "seq": entry.seq,
        "at_ms": entry.at_ms,
        "who": record.who,
        "what": record.what,
        "outcome": record.outcome,
    }
    if record.begun:
        data["begun"] = record.begun
    if record.workload:
        data["workload"] = record.workload
    if record.request:
        data["request"] = record.request
    if named := roles.get(record.who):
        data["roles"] = sorted(named)
    return data | {"hash": entry.hash.hex()}


def line(data: dict[str, Any]) -> str:
    """The same, for people."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(data["at_ms"] / 1000))
    of = f" (of {data['begun']})" if "begun" in data else ""
    by = f" from workload {data['workload']}" if "workload" in data else ""
    named = f" ({', '.join(data['roles'])})" if "roles" in data else ""
    who = f"{data['who']}{named}{by}"
    return f"{data['seq']:>8}  {at}  {data['outcome']}{of}  {data['what']}  by {who}"
