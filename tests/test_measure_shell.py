"""Devices that take part in rounds of a real relay; what the parties are given in the end."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.device import Device
from client.errors import UserError
from client.measure.core import Standing
from client.measure.participant import Outcome, Participant, Report
from client.remoteerrors import ProtocolBreach
from client.rounds import Rounds
from client.transport import Answer, Signer
from client.vault import MemoryVault
from crypto.contribution import PartyBox
from crypto.field import FIELD31
from crypto.request import NO_ACCOUNT
from crypto.shares import Share, reconstruct
from mpc.kinds import Histogram
from mpc.manifest import Manifest, Party
from mpc.noise import Law, Mechanism
from mpc.oracle import aggregate
from mpc.task import Caps, Task
from rookery.v1 import rounds_pb2
from tests.dying import Dead, dying
from tests.measure_worlds import summed, taking_part
from tests.relay_worlds import (
    ANALYST,
    GRACE_MS,
    PARTIES,
    PUBLISH,
    RIVAL,
    WINDOW_MS,
    Relay,
    manifest,
    shape,
    signed_round,
    signed_task,
    task,
)
from tests.shell_worlds import Clock, Fleet, endpoint_of, fleet, put, rules

CUISINES = ("thai", "italian", "georgian")
FOOD: dict[str, Any] = {"kind": Histogram(FIELD31, 3, CUISINES)}


@pytest.fixture
async def devices(relay: Relay) -> AsyncIterator[Fleet]:
    """Devices of the relay's service."""
    async with fleet(endpoint_of(relay.service)) as made:
        yield made


async def food(relay: Relay, name: str = "food/cuisine", **changes: Any) -> tuple[Task, Manifest]:
    """A task that reads a setting, and a round of it that is open now."""
    made = task(name, **(FOOD | changes))
    await relay.publish(made)
    opened = manifest(made, relay.now_ms - 1_000, name)
    await relay.collect(opened)
    return made, opened


async def given(relay: Relay, made: Task, opened: Manifest) -> list[Any]:
    """The vectors that all parties together find at the relay, once the round is over."""
    by_report: dict[bytes, dict[int, Share]] = {}
    of = shape(opened, made)
    with relay.later(WINDOW_MS + GRACE_MS):
        for party in PARTIES:
            for box in (await relay.fetch(party, opened.round_id)).boxes:
                header, share = party.box.open(of, box.header, box.sealed)
                by_report.setdefault(header.report_id, {})[share.party] = share
    return [
        reconstruct(
            of.field, {n: one.elements(of.field, of.length) for n, one in shares.items()}, made.t
        )
        for shares in by_report.values()
    ]


def outcomes(reports: list[Report]) -> dict[str, tuple[Outcome, str]]:
    """By task."""
    return {one.task_id: (one.outcome, one.rule) for one in reports}


async def test_what_people_say_adds_up_at_the_parties(relay: Relay, devices: Fleet) -> None:
    """Everybody's favourite, once; who has none takes no part."""
    made, opened = await food(relay)
    votes = ["thai", "thai", "georgian", None, "italian"]
    for vote in votes:
        synced = await devices.first()
        if vote is not None:
            put(synced, "cuisine", vote, "food")
        [report] = await taking_part(synced).contribute_once()
        expected = Outcome.CONTRIBUTED if vote else Outcome.NOTHING
        assert (report.outcome, report.round_id) == (expected, opened.round_id)
    rows = await given(relay, made, opened)
    said = [CUISINES.index(vote) for vote in votes if vote is not None]
    assert summed(made, rows) == list(aggregate(made.kind, said).sums)
    assert len(rows) == 4


async def test_of_two_devices_of_one_account_one_contribution_lands(
    relay: Relay, devices: Fleet
) -> None:
    """One after the other: the second one knows. At the same time: the relay takes one, and the
    other device hears that it is done."""
    made, opened = await food(relay)
    a = await devices.first()
    b = await devices.another(a)
    put(a, "cuisine", "thai", "food")
    await a.sync_once()
    both = [taking_part(a), taking_part(b)]
    [first] = await both[0].contribute_once()
    [second] = await both[1].contribute_once()
    assert (first.outcome, second.outcome) == (Outcome.CONTRIBUTED, Outcome.ALREADY)
    assert both[1].core.ledger.micro_rho == 0
    again, later = await food(relay, "food/cuisine/v2")
    reports = await asyncio.gather(*(one.contribute_once(only=again.task_id) for one in both))
    seen = sorted(report.outcome.value for [report] in reports)
    assert seen == ["already", "contributed"]
    for one in both:
        [report] = await one.contribute_once(only=again.task_id)
        assert report.outcome is Outcome.ALREADY
    for of, round_ in ((made, opened), (again, later)):
        assert len(await given(relay, of, round_)) == 1
    assert not rules(a)
    assert not rules(b)


async def test_the_relay_refuses_what_a_device_could_not_know(relay: Relay, devices: Fleet) -> None:
    """Both make their contribution before they hear of each other: that is a normal end."""
    made, opened = await food(relay)
    a = await devices.first()
    b = await devices.another(a)
    both = [taking_part(a), taking_part(b)]
    offers = [(await one.survey())[0].offers[0] for one in both]
    sent = []
    for one, offer, said in zip(both, offers, ("thai", "italian"), strict=True):
        sent.append(await one._answer_round(offer, said))
    assert [one.outcome for one in sent] == [Outcome.CONTRIBUTED, Outcome.ALREADY]
    assert both[1].core.answered[opened.digest].standing is Standing.ELSEWHERE
    assert both[1].core.ledger.micro_rho == made.cost_micro_rho
    [row] = await given(relay, made, opened)
    assert row.tolist() == [1, 0, 0]


async def test_every_task_that_is_not_answered_says_why(relay: Relay, devices: Fleet) -> None:
    """One listing with everything that can stand against a task."""
    synced = await devices.first()
    put(synced, "cuisine", "thai", "food")
    one = taking_part(synced)
    await food(relay)
    await food(relay, "food/cuisine/secret", purpose="research")
    loud: dict[str, Any] = {
        "noise": Law(Mechanism.GAUSSIAN, 3_000), "caps": Caps(10**9, 1, 10**9),
    }  # fmt: skip
    await food(relay, "food/cuisine/loud", **loud)
    await relay.publish(task("food/five", **FOOD, m=5))
    await relay.publish(task("food/quiet", **FOOD))
    rival = task("food/rival", **FOOD)
    await relay.call(RIVAL, PUBLISH, signed_task(rival, RIVAL))
    short = task("food/short", **FOOD, expires_ms=synced.now_ms() - 1)
    await relay.publish(short)
    await food(relay, "food/nothing")
    put(synced, "bad", "mexican", "food")
    await food(relay, "food/bad")
    assert outcomes(await one.contribute_once()) == {
        "food/cuisine": (Outcome.CONTRIBUTED, ""),
        "food/cuisine/secret": (Outcome.REFUSED, "consent"),
        "food/cuisine/loud": (Outcome.REFUSED, "noise"),
        "food/five": (Outcome.REFUSED, "panel"),
        "food/quiet": (Outcome.WAITING, ""),
        "food/rival": (Outcome.REFUSED, "publisher"),
        "food/short": (Outcome.REFUSED, "task-expired"),
        "food/nothing": (Outcome.NOTHING, ""),
        "food/bad": (Outcome.REFUSED, "value"),
    }
    for report in await one.contribute_once():
        assert "mexican" not in report.sentence
    with pytest.raises(UserError, match="no task food/none"):
        await one.contribute_once(only="food/none")
    [report] = await one.contribute_once(only="food/nothing", said="georgian")
    assert report.outcome is Outcome.CONTRIBUTED


async def test_a_round_that_another_device_was_shown_differently_is_answered_by_neither(
    relay: Relay, devices: Fleet
) -> None:
    """A relay that deals out two rounds of one window is found out before anything is sent to
    the second, and the person of both devices is told."""
    made, opened = await food(relay)
    a = await devices.first()
    b = await devices.another(a)
    put(a, "cuisine", "thai", "food")
    await a.sync_once()
    both = [taking_part(a), taking_part(b)]
    await both[0].survey()
    await a.sync_once()
    other = replace(
        opened,
        parties=tuple(
            Party(one.ik_pk, PartyBox(at, bytes([at]) * 32).public)
            for at, one in enumerate(opened.parties, 1)
        ),
    )
    swap(relay, other)
    for one, sees in ((both[1], other), (both[0], opened), (both[1], opened)):
        swap(relay, sees)
        [report] = await one.contribute_once()
        assert (report.outcome, report.rule) == (Outcome.REFUSED, "round-conflict")
    for synced in (a, b):
        assert rules(synced) == ["round-conflict"]
    assert not await given(relay, made, opened)


def swap(relay: Relay, made: Manifest) -> None:
    """A dishonest relay: the round's manifest is another one, with all signatures."""
    db = sqlite3.connect(relay.service.path / "rookery.db", timeout=10)
    with db:
        sigs = b"".join(signed_round(made).sigs)
        db.execute(
            "UPDATE round SET manifest = ?, sigs = ? WHERE round_id = ?",
            (made.encoded, sigs, made.round_id),
        )
    db.close()


async def test_a_relay_that_is_away_gets_the_same_bytes_later(
    relay: Relay, devices: Fleet, tmp_path: Path
) -> None:
    """What was made stays here; the next run sends it first, even in the round's grace."""
    made, opened = await food(relay)
    clock = Clock()
    synced = await devices.first(clock=clock)
    put(synced, "cuisine", "thai", "food")
    one = taking_part(synced)
    [found] = await one.survey()
    good = synced.transport.endpoint
    synced.transport.endpoint = replace(good, targets=("127.0.0.1:1",))
    synced.transport.elsewhere()
    report = await one._answer_round(found.offers[0], "thai")
    assert report.outcome is Outcome.UNSENT
    assert "sent with the next" in report.sentence
    assert one.core.ledger.micro_rho == made.cost_micro_rho
    synced.transport.endpoint = good
    synced.transport.elsewhere()
    with relay.later(WINDOW_MS):
        clock.offset_ms = WINDOW_MS
        [report] = await one.contribute_once()
        assert report.outcome is Outcome.CONTRIBUTED
    assert len(await given(relay, made, opened)) == 1
    assert one.core.ledger.micro_rho == made.cost_micro_rho


async def test_a_round_that_closed_meanwhile_is_missed_and_paid_for(
    relay: Relay, devices: Fleet
) -> None:
    """By the service's clock; the device does not try again."""
    made, opened = await food(relay)
    synced = await devices.first()
    one = taking_part(synced)
    [found] = await one.survey()
    with relay.later(WINDOW_MS + GRACE_MS):
        report = await one._answer_round(found.offers[0], "thai")
    assert (report.outcome, report.rule) == (Outcome.REFUSED, "round-closed")
    assert not one.core.unsent()
    assert one.core.ledger.micro_rho == made.cost_micro_rho
    assert one.core.answered[opened.digest].standing is Standing.MISSED


async def test_a_run_that_dies_at_any_point_is_finished_by_the_next(
    relay: Relay, devices: Fleet
) -> None:
    """Whatever the relay holds was paid for before; in the end it has one report, the same bytes
    each time, and one payment."""
    point, done, seen = 1, False, set[str]()
    while not done:
        made, opened = await food(relay, f"food/cuisine/v{point}")
        vault, transport = dying(devices, 0)
        now_ms = transport.clock.wall_ms()
        core = Device.create(recovery_secret=None, now_ms=now_ms, rand=secrets.token_bytes)
        synced = devices.adopt(core, vault, transport)
        await synced.sync_once()
        put(synced, "cuisine", "thai", "food")
        one = taking_part(synced)
        vault.points.left = point
        try:
            reports = await one.contribute_once(only=made.task_id)
            done = True
        except Dead:
            reports = []
        vault.points.left = 0
        stored = Participant(devices.again(synced, MemoryVault(vault.load())))
        held = (await stored.rounds.round(opened.round_id)).contributed
        paid = stored.core.ledger.micro_rho
        assert paid in (0, made.cost_micro_rho)
        assert not held or paid
        seen.add(f"held={held} paid={bool(paid)} unsent={len(stored.core.unsent())}")
        more = await stored.contribute_once(only=made.task_id)
        last = {one.round_id: one.outcome for one in [*reports, *more]}[opened.round_id]
        assert last in (Outcome.CONTRIBUTED, Outcome.ALREADY)
        assert stored.core.answered[opened.digest].standing is Standing.GIVEN
        assert stored.core.ledger.micro_rho == made.cost_micro_rho
        assert len(await given(relay, made, opened)) == 1
        point += 1
    assert point > 10
    assert seen == {
        "held=False paid=False unsent=0",
        "held=False paid=True unsent=1",
        "held=True paid=True unsent=1",
        "held=True paid=True unsent=0",
    }


async def test_a_relay_whose_list_never_ends_is_left(relay: Relay) -> None:
    """It says that there is more and sends nothing."""

    class Endless:
        async def call(self, *_: Any) -> Answer[Any]:
            return Answer(rounds_pb2.ListTasksResponse(more=True, next=1), b"")

    calls = Rounds(Endless(), Signer(ANALYST.identity, NO_ACCOUNT))  # type: ignore[arg-type]
    with pytest.raises(ProtocolBreach):
        [_ async for _ in calls.tasks()]
