"""`rookery device rank`, `explain`: what this person is likely to want, and why."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

from client.cli import outcomes, session
from client.cli.learned import learner
from client.cli.output import NOT_FOUND, OK, Output, clean, table
from client.cli.times import ago
from client.errors import UserError
from client.intelligence.context import Context
from client.intelligence.explain import Explanation, Reason, explain as explain_item
from client.intelligence.ondevice import OnDevice
from client.intelligence.ranking import Ranked
from client.measure.participant import Participant
from client.remoteerrors import RemoteError
from client.sync import SyncedDevice

DAY_MS = 86_400_000
_NONE = "none"
_NOTHING = (
    "nothing is known of any item here that may be used: rate one (`rookery device set"
    " COLLECTION/ITEM 5 --type int`), or allow the purpose"
)
_PAUSED = "everything is paused, so that nothing of yours is used: `rookery device resume` goes on"


async def rank(arguments: argparse.Namespace, out: Output) -> int:
    """The items, best first."""
    async with session.opened(arguments, patient=False) as synced:
        collection, ranking, context = await _ranking(arguments, out, synced, arguments.collection)
        paused = synced.governed and synced.ledger.paused
    shown = ranking[: arguments.top]
    data = {
        "collection": collection,
        "context": list(context.features),
        "paused": paused,
        "items": [{"item": one.item, "score": one.score} for one in shown],
    }
    if paused and shown:
        out.note(f"rookery: {_PAUSED}")
    out.result(data, _ranked(shown) if shown else _PAUSED if paused else _NOTHING)
    return OK


async def explain(arguments: argparse.Namespace, out: Output) -> int:
    """What moved an item, by how much, and where that came from."""
    collection, slash, item = arguments.name.rpartition("/")
    async with session.opened(arguments, patient=False) as synced:
        found, ranking, context = await _ranking(
            arguments, out, synced, collection if slash else None
        )
        told = explain_item(item, ranking)
        names = {row.index: row.this_device for row in synced.core.devices}
        now_ms = synced.now_ms()
        paused = synced.governed and synced.ledger.paused
    if told is None and paused:
        out.failure("NOT_FOUND", f"{item} is not ranked in {found}: {_PAUSED}")
        return NOT_FOUND
    if told is None:
        out.failure("NOT_FOUND", f"{item} is not ranked in {found}: it is hidden, or not known")
        return NOT_FOUND
    data = {
        "collection": found,
        "context": list(context.features),
        "item": told.item,
        "score": told.score,
        "place": told.place,
        "of": told.of,
        "reasons": [one.data() for one in told.reasons],
    }
    out.result(data, "\n".join(_explained(told, names, now_ms)))
    return OK


async def _ranking(
    arguments: argparse.Namespace, out: Output, synced: SyncedDevice, collection: str | None
) -> tuple[str, list[Ranked], Context]:
    """With the newest of the profile, the policy and what is popular, as far as they can be had."""
    participant = Participant(synced)
    # Syncs before it asks; what can't be had now is no reason not to rank.
    await outcomes.fetch(participant, arguments, out)
    own = OnDevice(
        synced,
        purpose=arguments.purpose,
        half_life_ms=None if arguments.half_life is None else round(arguments.half_life * DAY_MS),
    )
    await _fetch_popular(participant, own, arguments, out)
    collection = collection or _only(own)
    context = _context(arguments, synced.now_ms())
    items = getattr(arguments, "item", None) or None
    ended = participant.results.ended.values()
    influences = None
    if arguments.model is not None:
        known = await learner(arguments.model, participant, out, offline=arguments.offline)
        if known.spec.collection == collection:
            influences = own.influences(known.predictor)
    ranking = own.rank(collection, context, items=items, ended=ended, influences=influences)
    return collection, ranking, context


async def _fetch_popular(
    participant: Participant, own: OnDevice, arguments: argparse.Namespace, out: Output
) -> None:
    """What is popular, also by rounds before this account was there, if the service can be
    reached."""
    if arguments.offline or participant.synced.policy is None:
        return
    try:
        refused = await participant.fetch_newest(own.counts)
    except RemoteError as error:
        out.note(f"rookery: what is popular was not asked for: {error}")
        return
    for task_id, why in refused:
        if why.rule != "publisher":
            out.note(f"rookery: {clean(task_id)}: not taken: {why}")


def _only(own: OnDevice) -> str:
    found = own.collections()
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(_NOTHING)
    raise UserError(f"of which collection? There are: {', '.join(found)}")


def _context(arguments: argparse.Namespace, now_ms: int) -> Context:
    words = arguments.context
    if words is None:
        offset = time.localtime(now_ms / 1000).tm_gmtoff
        return Context.at(now_ms, utc_offset_minutes=offset // 60)
    return Context() if words == [_NONE] else Context.of(words)


def _ranked(ranking: list[Ranked]) -> str:
    rows = [(str(at), clean(one.item), f"{one.score:+.3f}") for at, one in enumerate(ranking, 1)]
    return table(("", "item", "score"), rows, right=frozenset({0, 2}))


def _explained(told: Explanation, names: dict[int, bool], now_ms: int) -> Iterator[str]:
    yield clean(told.sentence)
    for one in told.reasons:
        where = f" in the {one.context}" if one.context else ""
        yield clean(f"  {one.amount:+.3f}  {one.words}{where} ({one.signal})")
        yield f"          {_source(one, names, now_ms)}"


def _source(one: Reason, names: dict[int, bool], now_ms: int) -> str:
    """Where it came from, and how far it gets."""
    if not one.devices:
        return one.reach
    devices = " or ".join(
        f"device #{index}" + (" (this one)" if names.get(index) else "") for index in one.devices
    )
    waits = ", not sent yet" if one.waiting else ""
    return f"by {devices}, {ago(one.at_ms, now_ms)}{waits}; it {one.reach}"
