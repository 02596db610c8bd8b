"""Phones that take part in joint aggregates, and what parties find in what they send.

Shared by tests. Tasks, rounds, signatures and boxes are real; so is the profile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from client.device import Device
from client.measure.consent import ConsentSettings
from client.measure.core import Measuring, Offer
from client.measure.errors import Ineligible
from client.measure.participant import Participant
from client.measure.policy import Panel, Policy
from client.measure.values import Measures
from client.rounds import SignedTask
from client.sync import SyncedDevice, core_rows
from crypto import labels
from crypto.contribution import Contribution
from crypto.field import Array
from crypto.shares import reconstruct
from mpc import result as results
from mpc.manifest import Manifest
from mpc.result import Counted
from mpc.task import Task
from tests.client_worlds import Phone, Service, first_phone, pair, settle
from tests.relay_worlds import PARTIES, PUBLISHER, Actor

PURPOSE = "product"
PANEL = Panel(tuple(party.public for party in PARTIES), 1)
POLICY = Policy().with_publisher(PUBLISHER.public).with_panel(PANEL)


def signed_task(made: Task, by: Actor = PUBLISHER) -> SignedTask:
    """A task as the relay hands it out."""
    sig = by.as_publisher.sign(labels.TASK_SIG, made.encoded)
    return SignedTask(made.encoded, sig, by.public)


def published(made: Manifest, by: Sequence[Actor] = PARTIES) -> bytes:
    """A manifest with everybody's signature."""
    return made.encoded + b"".join(one.as_party.sign(labels.ROUND_SIG, made.encoded) for one in by)


class Meter:
    """A phone with its half of joint aggregates; all of it is in `phone.rows`."""

    def __init__(self, phone: Phone, policy: Policy | None = POLICY) -> None:
        self.phone = phone
        self.measuring = Measuring(phone.device, phone.rows)
        self.measures = Measures()
        if policy is not None:
            self.measuring.set_policy(policy)
        self.store()

    @property
    def device(self) -> Device:
        """The core."""
        return self.phone.device

    @property
    def consent(self) -> ConsentSettings:
        """The switches of its account."""
        return ConsentSettings(self.device)

    @property
    def now_ms(self) -> int:
        """Its clock."""
        return self.phone.now_ms

    def store(self) -> None:
        """What the shell does in one write."""
        for name, value in self.measuring.take_changes().items():
            if value is None:
                self.phone.rows.pop(name, None)
            else:
                self.phone.rows[name] = value
        self.phone.store()

    def reload(self) -> None:
        """The phone restarts: only what was stored remains."""
        self.phone.device = Device.load(core_rows(self.phone.rows))
        self.measuring = Measuring(self.phone.device, self.phone.rows)

    def allow(self, *purposes: str) -> None:
        """Consent, on this device first."""
        for purpose in purposes or (PURPOSE,):
            self.consent.allow(purpose, now_ms=self.now_ms)
        self.store()

    def put(self, name: str, value: Any) -> None:
        """A setting `COLLECTION/KEY`."""
        collection, _, key = name.partition("/")
        self.device.put(collection, key, value, now_ms=self.now_ms)
        self.store()

    def look(self, made: Task, round_: Manifest, **signed: Any) -> Offer:
        """Judges a round."""
        found = self.measuring.judge_round(
            signed.get("task", signed_task(made)),
            signed.get("round", published(round_)),
            self.consent,
            now_ms=self.now_ms,
        )
        self.store()
        return found

    def refusal(self, made: Task, round_: Manifest, **signed: Any) -> str:
        """The rule that it is refused by; `-` if it isn't."""
        try:
            self.look(made, round_, **signed)
        except Ineligible as error:
            return rule_of(error)
        finally:
            self.store()
        return "-"

    def answer(self, made: Task, round_: Manifest, said: object = None) -> Contribution:
        """Contributes: what the profile says, or this."""
        offer = self.look(made, round_)
        if said is None:
            said = self.measures.of(made, self.device, now_ms=self.now_ms)
        given = self.measuring.answer(offer, said, now_ms=self.now_ms, rand=self.phone.rand)
        self.store()
        return given


def rule_of(error: Ineligible) -> str:
    """Its rule; the sentence is for people."""
    assert str(error)
    assert "[" not in str(error)
    return error.rule


def meter(seed: str = "a") -> Meter:
    """The first device of an account that trusts the parties and allows the purpose."""
    made = Meter(first_phone(Service(seed), seed=seed))
    made.allow()
    return made


def meters(seed: str = "a") -> tuple[Meter, Meter]:
    """Two devices of one account."""
    first = meter(seed)
    second = Meter(pair(first.phone, f"{seed}'s other"))
    together(first, second)
    return first, second


def together(*those: Meter) -> None:
    """Everybody syncs."""
    settle(*(one.phone for one in those))


def taking_part(synced: SyncedDevice, *, allow: bool = True) -> Participant:
    """A synced device that trusts the publisher and the parties."""
    made = Participant(synced)
    made.core.set_policy(POLICY)
    if allow:
        ConsentSettings(synced.core).allow(PURPOSE, now_ms=synced.now_ms())
    made.save()
    return made


def opened(made: Task, round_: Manifest, given: Contribution) -> Array:
    """The vector that a contribution holds, as all parties' keys together give it."""
    shape = round_.shape(made)
    shares = {}
    for party, sealed in zip(PARTIES, given.boxes, strict=True):
        _, share = party.box.open(shape, given.header, sealed)
        shares[share.party] = share.elements(shape.field, shape.length)
    return reconstruct(shape.field, shares, made.t)


def summed(made: Task, rows: Iterable[Array]) -> list[int]:
    """What the parties would open over valid rows, without noise."""
    vectors = np.stack(list(rows))
    assert not made.kind.equations.residues(vectors).any()
    sums = made.kind.project(made.field.sum(vectors), len(vectors))
    return [int(one) for one in made.field.decode(sums)]


def sums_of(made: Task) -> bytes:
    """A result's bytes: three reports in the first bin, noised."""
    counted = Counted(3, 0, 0, ({}, {}, {}))
    sums = [3, -1, *[0] * (made.kind.d - 2)]
    return results.make(made, sums, counted, noise_of=(1, 2, 3), checked=True).encode(made)
