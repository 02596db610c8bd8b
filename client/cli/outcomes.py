"""`rookery device results`: what came out of rounds that this account was asked about."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from client.analyst import abandoned, present
from client.cli import session
from client.cli.output import OK, Output
from client.cli.resultpage import page
from client.errors import AccountGone
from client.measure.core import Measuring, Standing
from client.measure.errors import Ineligible
from client.measure.participant import Participant
from client.measure.records import Shown
from client.measure.results import Ended, Results, State
from client.remoteerrors import RemoteError

_TOOK_PART = {
    Standing.STORED: "this account's contribution has not arrived yet, as far as is known",
    Standing.GIVEN: "this account took part",
    Standing.ELSEWHERE: "this account took part, from another device",
    Standing.MISSED: "this device's contribution came too late, or was not to be sent any more",
}


async def results(arguments: argparse.Namespace, out: Output) -> int:
    """Asks for what is not here yet, and shows all that is."""
    async with session.opened(arguments, patient=False) as synced:
        participant = Participant(synced)
        refused = await fetch(participant, arguments, out)
        core, kept = participant.core, participant.results
        rows = [row for row in _rows(core, kept) if arguments.task in (None, row["task"])]
        pages = [
            _page(core, one)
            for one in _sorted(kept)
            if one.result is not None and arguments.task in (None, one.task.task_id)
        ]
    pages += [_line(row) for row in rows if row["state"] != State.DONE.value]
    for shown, error in refused:
        out.note(f"rookery: round {shown.manifest.round_id.hex()}: not taken: {error}")
    data = {
        "results": rows,
        "refused": [
            {"round": shown.manifest.round_id.hex(), "rule": error.rule, "message": str(error)}
            for shown, error in refused
        ],
    }
    out.result(data, "\n\n".join(pages) or "no round that this account was asked about has closed")
    return OK


async def fetch(
    participant: Participant, arguments: argparse.Namespace, out: Output
) -> list[tuple[Shown, Ineligible]]:
    """What did not verify. Who can't be asked now is not asked: what is here is shown."""
    if arguments.offline:
        return []
    try:
        return await participant.fetch_results()
    except AccountGone as error:
        out.note(f"rookery: not asked: {error}")
    except RemoteError as error:
        if not error.transient:
            raise
        out.note(f"rookery: not asked: {error}")
    return []


def _sorted(kept: Results) -> list[Ended]:
    return sorted(kept.ended.values(), key=lambda one: one.shown.manifest.close_ms)


def _rows(core: Measuring, kept: Results) -> Iterator[dict[str, Any]]:
    """Rounds with an end, by the end of their window; then those without that were answered."""
    for one in _sorted(kept):
        manifest = one.shown.manifest
        row = {"state": one.state.value, "took_part": _standing(core, manifest.digest)}
        if one.result is not None:
            yield row | present.as_data(one.task, manifest, one.result, one.signers)
            continue
        yield row | {
            "task": one.task.task_id,
            "title": one.task.title,
            "round_id": manifest.round_id.hex(),
            "close_ms": manifest.close_ms,
            "given_up": {str(party): reason for party, reason in one.given_up.items()},
            "message": abandoned.sentence(one.given_up, manifest),
        }
    for answered in core.answered.values():
        if answered.digest not in kept.ended:
            yield {
                "state": State.WAITING.value,
                "took_part": answered.standing.value,
                "task": answered.task.task_id,
                "title": answered.task.title,
                "round_id": answered.shown.manifest.round_id.hex(),
                "close_ms": answered.shown.manifest.close_ms,
                "message": "no result yet",
            }


def _standing(core: Measuring, digest: bytes) -> str | None:
    answered = core.answered.get(digest)
    return None if answered is None else answered.standing.value


def _page(core: Measuring, one: Ended) -> str:
    assert one.result is not None
    answered = core.answered.get(one.shown.manifest.digest)
    also = [] if answered is None else [_capital(_TOOK_PART[answered.standing]) + "."]
    return page(one.task, one.shown.manifest, one.result, one.signers, also=also)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _line(row: dict[str, Any]) -> str:
    return f"{row['title']}\n{row['task']}, round {row['round_id']}: {row['message']}"
