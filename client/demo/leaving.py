"""Taking back what was agreed to: a withdrawal, a deletion, and the next round without either."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from client import remoteerrors as reasons
from client.demo import overseen, rounds
from client.demo.measures import Answer
from client.demo.people import ABOUT, RATINGS, REGION, TASTE, Household
from client.demo.policy import PURPOSES
from client.demo.ratings import Person
from client.demo.rounds import Measured, Organiser, RoundsError, Turnout
from client.demo.stage import Program
from client.demo.watching import Test, Watching, refusal
from client.remoteerrors import RemoteError
from client.rounds import Rounds
from client.sync import SyncedDevice
from client.transport import Signer
from crypto import contribution
from crypto.consent import Proof
from crypto.contribution import Contribution
from mpc.manifest import Manifest
from mpc.task import Task

POLL_S: Final = 0.05
PATIENCE_S: Final = 20.0
AT_ONCE: Final = 8


@dataclass(slots=True)
class Withdrawal:
    """One person switched everything off, on one of their devices."""

    other_s: float | None = None
    """Until the other connected device had deleted all values and refused new ones; None: never."""
    relay_s: float | None = None
    """Until the service had refused a contribution of the account."""
    deleted: dict[str, int] = field(default_factory=dict)
    """How many values of each signal."""
    rule: str = ""
    """By which the device itself answers nothing any more."""


@dataclass(slots=True)
class Forgotten:
    """One person had their account deleted while their report was in a round."""

    service_rows: int
    party_rows: int
    service_rows_after: int = 0
    party_rows_after: int = 0
    seconds: float = 0.0
    """Until nothing was left."""


@dataclass(frozen=True, slots=True)
class Left:
    """The round, and who was not in it."""

    withdrawal: Withdrawal
    forgotten: Forgotten
    round: Measured
    people: int


async def leave(
    leaver: Household,
    forgotten: Household,
    rest: Sequence[Household],
    watching: Watching,
    organiser: Organiser,
    service: Program,
    task: Task,
    answer: Answer,
) -> Left:
    """One more round of a task: `leaver` withdraws while it is open, `forgotten` answers and is
    deleted, the rest answer. RoundsError."""
    (manifest,) = await organiser.open([task])
    withdrawal = await _withdraw(leaver, watching, task, manifest, answer)
    turnout = Turnout.of([task])
    policy = organiser.policy(len(rest) + 2)
    reports = await rounds.contribute(leaver, policy, answer, turnout)
    withdrawal.rule = next((one.rule for one in reports if one.task_id == task.task_id), "")
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(household: Household) -> None:
        async with gate:
            await rounds.contribute(household, policy, answer, turnout)

    try:
        done, _ = await asyncio.gather(
            _forget(forgotten, watching, organiser, service, task, manifest, answer),
            asyncio.gather(*map(one, rest)),
        )
    except RemoteError as error:
        raise RoundsError(f"one more round came to nothing: {error}") from None
    measured = await rounds.measured(organiser, task, manifest, turnout)
    return Left(withdrawal, done, measured, len(rest) + 2)


# --- withdrawing ---


async def _withdraw(
    leaver: Household, watching: Watching, task: Task, manifest: Manifest, answer: Answer
) -> Withdrawal:
    """On the first of two connected devices. The second one's obedience is what is measured."""
    device, other = leaver.first, leaver.devices[-1]
    made = _report(leaver, task, manifest, answer)
    proof = device.ledger.proof(task.purpose)
    assert proof is not None
    done = Withdrawal()
    start_s = time.monotonic()

    async def switch_off() -> None:
        for purpose in PURPOSES:
            gone = await device.consenting.withdraw(purpose)
            done.deleted |= Counter(one.signal for one in gone.purged)
        # A device that goes on as if nothing had been withdrawn, with the proof that it had.
        if await _is_refused(device, manifest, made, proof):
            done.relay_s = time.monotonic() - start_s

    seconds = await watching.obeyed(_has_let_go(leaver.person), switch_off(), among=[other])
    done.other_s = seconds[0] if seconds else None
    return done


def _has_let_go(person: Person) -> Test:
    """Whether nothing is there any more, and nothing comes in."""
    item, stars = next(iter(person.ratings.items()))

    def test(device: SyncedDevice) -> bool:
        core = device.core
        if core.list(RATINGS) or core.get(ABOUT, REGION) is not None:
            return False
        if core.scores(TASTE, now_ms=device.now_ms()):
            return False
        return refusal(device, RATINGS, item, stars) == "purpose-off"

    return test


async def _is_refused(
    device: SyncedDevice, manifest: Manifest, made: Contribution, proof: Proof
) -> bool:
    try:
        await _rounds(device).contribute(manifest.round_id, made.header, made.boxes, proof)
    except RemoteError as error:
        return error.reason == reasons.CONSENT_MISSING
    return False


# --- being forgotten ---


async def _forget(
    household: Household,
    watching: Watching,
    organiser: Organiser,
    service: Program,
    task: Task,
    manifest: Manifest,
    answer: Answer,
) -> Forgotten:
    """Contributes, waits until the parties have it, deletes the account, and looks for what is
    left in every table of everybody."""
    device = household.first
    made = _report(household, task, manifest, answer)
    header = contribution.parse_header(made.header)
    await _rounds(device).contribute(
        manifest.round_id, made.header, made.boxes, device.ledger.proof(task.purpose)
    )
    report = (bytes(header.report_id), bytes(header.nullifier))
    marks = (
        bytes(device.core.account_id),
        *(bytes(row.device_id) for row in device.core.devices),
        *report,
    )
    number = overseen.account_number(service.database, bytes(device.core.account_id))
    await watching.leave(device)

    async def at_service() -> int:
        return await asyncio.to_thread(overseen.rows_naming, service.database, marks, number)

    async def at_parties() -> list[int]:
        """Rows of the report at each party."""
        return [
            await asyncio.to_thread(overseen.rows_naming, one.database, report)
            for one in organiser.members
        ]

    # Before the window closes, whatever parties have by then: what is settled stays in the round.
    until_ms = (manifest.open_ms + manifest.close_ms) // 2
    while True:
        if all(await at_parties()) or time.time_ns() // 1_000_000 >= until_ms:
            break
        await asyncio.sleep(POLL_S)
    found = Forgotten(await at_service(), sum(await at_parties()))
    start_s = time.monotonic()
    core = device.core
    await device.remote.delete_account(Signer(core.identity, core.account_id))
    while True:
        found.party_rows_after = sum(await at_parties())
        found.service_rows_after = await at_service()
        found.seconds = time.monotonic() - start_s
        is_gone = not found.service_rows_after and not found.party_rows_after
        if is_gone or found.seconds > PATIENCE_S:
            return found
        await asyncio.sleep(POLL_S)


# --- reports that are made by hand ---


def _report(household: Household, task: Task, manifest: Manifest, answer: Answer) -> Contribution:
    """What an honest device sends."""
    core = household.first.core
    key = core.aggregation_key
    assert key is not None
    value: Any = answer.of_person(task.task_id, household.person, core.account_id)
    return contribution.make(
        manifest.shape(task), task.kind.encode(value), box_keys=manifest.box_keys(),
        aggregation_key=key, rand=secrets.token_bytes,
    )  # fmt: skip


def _rounds(device: SyncedDevice) -> Rounds:
    device.sign_as_device()
    assert device.remote.signer is not None
    return Rounds(device.transport, device.remote.signer)
