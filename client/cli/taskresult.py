"""`rookery task result` and `verify`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from client import remoteerrors as reasons
from client.analyst import abandoned, evidence, present
from client.analyst.errors import NoResult
from client.analyst.evidence import Evidence, Opened, Pins
from client.analyst.journal import Journal
from client.analyst.panel import Panel
from client.analyst.publisher import explained
from client.analyst.times import show_instant
from client.cli import tasksession
from client.cli.output import OK, Output
from client.cli.resultpage import page
from client.cli.tasksession import Line
from client.errors import UserError
from client.remoteerrors import RemoteError
from client.rounds import RelayedResult, RelayedRound, RoundState
from mpc.manifest import ROUND_ID_BYTES
from mpc.result import RoundResult

POLL_SECONDS_MAX = 30.0
POLL_SECONDS = 2.0


async def result(arguments: argparse.Namespace, out: Output) -> int:
    """What came out of a round, verified."""
    if arguments.out is not None and arguments.out.exists():
        raise UserError(f"{arguments.out} is there already and is not overwritten")
    kept, pins = await fetch(arguments, out)
    opened, told = kept.open(pins)
    if arguments.out is not None:
        _keep(arguments.out, kept)
    _show(arguments, out, opened, told, sorted(kept.sigs))
    return OK


async def fetch(arguments: argparse.Namespace, out: Output) -> tuple[Evidence, Pins]:
    """What the service has of the round, and whom to hold it against. NoResult."""
    round_id = _round_id(arguments.round)
    async with tasksession.opened(arguments) as line:
        pins = _own_pins(arguments, line, round_id)
        held = await explained(
            line.rounds.round(round_id), line.key.public, tasksession.READERS
        )  # fmt: skip
        round_ = evidence.open_round(held.task, held.published, pins)
        evidence.check_id(round_, round_id)
        relayed = await _result(line, round_, held, wait=arguments.wait, out=out)
    return Evidence.of(held, relayed), pins


async def verify(arguments: argparse.Namespace, out: Output) -> int:
    """What a kept result says, verified without any service."""
    kept, pins = read(arguments, arguments.file)
    opened, told = kept.open(pins)
    _show(arguments, out, opened, told, sorted(kept.sigs))
    return OK


def read(arguments: argparse.Namespace, path: Path) -> tuple[Evidence, Pins]:
    """A kept result, and whom to hold it against. UserError."""
    return Evidence.decode(_read(path)), _pins(arguments, tasksession.panel(arguments))


# --- whom to trust ---


def _own_pins(arguments: argparse.Namespace, line: Line, round_id: bytes) -> Pins:
    """What is given; one's own key as publisher, and the parties that one opened the round with."""
    panel = tasksession.panel(arguments)
    publishers = panel.publishers | {line.key.public}
    parties = panel.parties
    if not parties and not arguments.unpinned:
        opened = [
            plan for plan in Journal.beside(arguments.key).plans() if plan.round_id == round_id
        ]
        if opened:
            return Pins(publishers, opened[0].parties)
    return _pins(arguments, Panel(parties, publishers))


def _pins(arguments: argparse.Namespace, panel: Panel) -> Pins:
    if arguments.unpinned:
        return Pins(None, None)
    if not panel.publishers:
        raise UserError("--publisher says whose task it must be; --unpinned takes any")
    if not panel.parties:
        raise UserError(
            "--party for each party in the round's order, or --panel, says whose word counts;"
            " --unpinned takes any"
        )
    return Pins(panel.publishers, panel.keys)


# --- waiting ---


async def _result(
    line: Line, round_: Opened, held: RelayedRound, *, wait: bool, out: Output
) -> RelayedResult:
    """The result; NoResult if there is none, and with `wait` if none is to come."""
    told = False
    while True:
        relayed, why, final = await _look(line, round_, held)
        if relayed is not None:
            return relayed
        if final or not wait:
            raise NoResult(f"the round has no result: {why}")
        if not told:
            out.note(f"waiting: {why}")
            told = True
        left = (held.summary.close_ms - line.transport.server_ms()) / 1000
        await line.transport.clock.sleep(min(POLL_SECONDS_MAX, max(POLL_SECONDS, left)))
        held = await explained(
            line.rounds.round(round_.manifest.round_id), line.key.public, tasksession.READERS
        )


async def _look(
    line: Line, round_: Opened, held: RelayedRound
) -> tuple[RelayedResult | None, str, bool]:
    """The result, or why there is none, and whether that is the end of it."""
    try:
        relayed = await explained(
            line.rounds.result(round_.manifest.round_id), line.key.public, tasksession.READERS
        )
    except RemoteError as error:
        if error.reason != reasons.RESULT_ABSENT:
            raise
        return None, _waiting_for(held), held.summary.state is RoundState.EXPIRED
    if relayed.result:
        return relayed, "", True
    given_up = abandoned.reasons(relayed.given_up, round_.manifest)
    final = abandoned.is_final(given_up, round_.manifest)
    return None, abandoned.sentence(given_up, round_.manifest), final


def _waiting_for(held: RelayedRound) -> str:
    summary = held.summary
    match summary.state:
        case RoundState.ANNOUNCED:
            return f"it opens at {show_instant(summary.open_ms)}"
        case RoundState.OPEN:
            return f"it takes contributions until {show_instant(summary.close_ms)}"
        case RoundState.EXPIRED:
            return "none came while the service kept the contributions"
        case _:
            return "it is closed, and the parties are at work"


# --- in and out ---


def _round_id(text: str) -> bytes:
    try:
        round_id = bytes.fromhex(text)
    except ValueError:
        round_id = b""
    if len(round_id) != ROUND_ID_BYTES:
        raise UserError(f"{text!r} is no round: its id has {2 * ROUND_ID_BYTES} hex digits")
    return round_id


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(evidence.FILE_BYTES_MAX)
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror})") from None


def _keep(path: Path, kept: Evidence) -> None:
    try:
        with path.open("xb") as file:
            file.write(kept.encode())
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise UserError(f"{path} is there already and is not overwritten") from None


def _show(
    arguments: argparse.Namespace,
    out: Output,
    opened: Opened,
    told: RoundResult,
    signers: Sequence[int],
) -> None:
    task, manifest = opened.task, opened.manifest
    data: dict[str, Any] = present.as_data(task, manifest, told, signers)
    data |= {
        "publisher": opened.publisher.hex(),
        "parties": [party.ik_pk.hex() for party in manifest.parties],
        "pinned": not arguments.unpinned,
    }
    also = [_unpinned(data)] if arguments.unpinned else []
    out.result(data, page(task, manifest, told, signers, width=arguments.width, also=also))


def _unpinned(data: dict[str, Any]) -> str:
    parties = ", ".join(data["parties"])
    return (
        "NOT PINNED: this holds only if you know that the publisher's key is"
        f" {data['publisher']} and that the parties' keys are, in their order, {parties}."
    )
