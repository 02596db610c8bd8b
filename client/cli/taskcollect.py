"""`rookery task collect`."""

from __future__ import annotations

import argparse
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence

from client.analyst.collect import AskedParty, collect as open_round, plan
from client.analyst.errors import PartiesFailed
from client.analyst.journal import Journal, Plan
from client.analyst.panel import PinnedParty
from client.analyst.publisher import PartyLine
from client.analyst.schedule import Window, next_free, overlapping, when_ms
from client.analyst.times import show_instant
from client.cli import options, tasksession
from client.cli.output import FAILED, OK, UNREACHABLE, Output
from client.cli.tasksession import PATIENCE, Line
from client.endpoint import Endpoint
from client.errors import NothingThere, UserError
from client.rounds import ListedTask
from client.transport import Transport
from crypto.errors import CryptoError
from mpc import task as tasks
from mpc.manifest import ROUND_ID_BYTES, Manifest
from mpc.task import Task

_PREFIX_DIGITS_MIN = 8


async def collect(arguments: argparse.Namespace, out: Output) -> int:
    """Opens a round, or finishes opening the one that was begun."""
    pinned = tasksession.panel(arguments).parties
    check_addresses(pinned)
    async with tasksession.opened(arguments) as line:
        listed, task = _find(await tasksession.listed(line), arguments.task, line.key.public)
        journal = Journal.beside(arguments.key)
        with journal.locked():
            planned = _planned(arguments, out, line, journal, listed, task, pinned)
            async with lines(arguments, line, pinned) as asked:
                try:
                    manifest = await open_round(line.publisher, asked, listed.task, task, planned)
                except PartiesFailed as error:
                    if error.nothing_done:
                        # No party knows of the round: it may as well never have been.
                        journal.forget(planned)
                    out.failure("PARTIES", str(error))
                    return UNREACHABLE if error.transient else FAILED
            journal.finish(planned)
    _show(out, task, manifest)
    return OK


def check_addresses(pinned: Sequence[PinnedParty]) -> None:
    """UserError unless there are parties, each with an address."""
    if not pinned:
        raise UserError(
            "--party HOST:PORT=KEY for each party, or --panel, says who computes the round"
        )
    for number, party in enumerate(pinned, 1):
        if not party.address:
            raise UserError(f"party {number} has no address: --party HOST:PORT=KEY gives it")


def _find(listed: Sequence[ListedTask], wanted: str, own: bytes) -> tuple[ListedTask, Task]:
    """This key's task of that id, or whose spec_hash begins so. NothingThere, UserError."""
    found = []
    for one in listed:
        if one.task.publisher != own:
            continue
        with contextlib.suppress(CryptoError):
            task = tasks.open_(one.task.published, own)
            by_hash = len(wanted) >= _PREFIX_DIGITS_MIN and task.spec_hash.hex().startswith(wanted)
            if by_hash or task.task_id == wanted:
                found.append((one, task))
    if not found:
        raise NothingThere(
            f"this key has published no task {wanted!r} at the service: `rookery task list` shows"
            " them"
        )
    if len(found) > 1:
        raise UserError(f"{wanted!r} may be one of {len(found)} tasks: give more of the spec_hash")
    return found[0]


def _planned(
    arguments: argparse.Namespace,
    out: Output,
    line: Line,
    journal: Journal,
    listed: ListedTask,
    task: Task,
    pinned: Sequence[PinnedParty],
) -> Plan:
    """The round that was begun, or a new one that is stored before anybody hears of it."""
    now_ms = line.transport.server_ms()
    begun = journal.unfinished(task.spec_hash, now_ms=now_ms)
    if begun is not None and arguments.new:
        journal.forget(begun)
        begun = None
    if begun is not None:
        _check_begun(begun, arguments.open, now_ms, pinned)
        out.note(f"finishing the round {begun.round_id.hex()}, which was begun before")
        return begun
    busy = [Window(one.open_ms, one.close_ms - task.grace_ms) for one in listed.rounds]
    busy += [
        Window(one.open_ms, one.close_ms)
        for one in journal.plans()
        if one.spec_hash == task.spec_hash and one.collected
    ]
    open_ms = when_ms(arguments.open or "now", now_ms)
    if open_ms is None:
        open_ms = next_free(busy, now_ms, task.window_ms)
    if (other := overlapping(busy, Window(open_ms, open_ms + task.window_ms))) is not None:
        raise UserError(
            f"a round of this task has its window from {show_instant(other.open_ms)} to"
            f" {show_instant(other.close_ms)}: `--open next` opens one behind it"
        )
    round_id = secrets.token_bytes(ROUND_ID_BYTES)
    made = plan(task, round_id, pinned, open_ms=open_ms, now_ms=now_ms)
    journal.write(made)
    return made


def _check_begun(
    begun: Plan, wanted: str | None, now_ms: int, pinned: Sequence[PinnedParty]
) -> None:
    """UserError if what is asked for now is another round than the one that was begun."""
    if begun.parties != tuple(party.key for party in pinned):
        raise UserError(
            "a round of this task was begun with other parties and not finished: give the same"
            " ones in the same order, or --new"
        )
    absolute = wanted is not None and wanted not in ("now", "next") and not wanted.startswith("+")
    if absolute and when_ms(wanted or "", now_ms) != begun.open_ms:
        raise UserError(
            f"a round of this task that opens at {show_instant(begun.open_ms)} was begun and not"
            " finished: leave --open out to finish it, or give --new"
        )


@contextlib.asynccontextmanager
async def lines(
    arguments: argparse.Namespace, line: Line, pinned: Sequence[PinnedParty]
) -> AsyncIterator[list[AskedParty]]:
    """Lines to all parties, closed in the end."""
    ca = options.read_ca(arguments.party_tls_ca)
    insecure, service = arguments.insecure, line.transport.endpoint
    shown = service.client_certificate if ca else None
    transports = [
        Transport(
            Endpoint((party.address,), service.audience, party.key, ca, insecure, shown),
            backoff=PATIENCE,
            clock_offset_ms=line.transport.wire.clock_offset_ms,
            tracing=arguments.tracing,
        )
        for party in pinned
    ]
    try:
        yield [
            AskedParty(party, PartyLine(transport, line.key))
            for party, transport in zip(pinned, transports, strict=True)
        ]
    finally:
        for transport in transports:
            await transport.close()


def _show(out: Output, task: Task, manifest: Manifest) -> None:
    round_id = manifest.round_id.hex()
    out.result(
        {
            "task": task.task_id,
            "spec_hash": task.spec_hash.hex(),
            "round_id": round_id,
            "round_digest": manifest.digest.hex(),
            "open_ms": manifest.open_ms,
            "close_ms": manifest.close_ms,
        },
        f"Round {round_id} of {task.task_id} collects from {show_instant(manifest.open_ms)} to"
        f" {show_instant(manifest.close_ms)}.\n`rookery task result {round_id} --wait`, with the"
        " same key and parties, shows what comes out.",
    )
