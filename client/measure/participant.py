"""A device that takes part: its core, its vault and the relay, put together.

Everything that a call sends was stored before. A run that was cut off at any point is finished
by the next one, with the same bytes.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from client import remoteerrors as reasons
from client.errors import UserError
from client.gate import SignalRefused
from client.measure import judge
from client.measure.consent import Consent, ConsentSettings
from client.measure.core import Answered, Measuring, Offer, Standing
from client.measure.errors import Ineligible, contributed
from client.measure.records import Shown
from client.measure.results import Results
from client.measure.values import Measures
from client.remoteerrors import RemoteError
from client.rounds import ListedTask, Rounds, RoundSummary
from client.sync import SyncedDevice
from crypto.contribution import Contribution
from crypto.errors import CryptoError
from mpc import task as tasks
from mpc.task import Task


@dataclass(slots=True)
class Found:
    """A task that the relay lists, and what this device thinks of it and its open rounds."""

    listed: ListedTask
    task: Task | None
    """None: it can't be read."""
    refusal: Ineligible | None = None
    """Why this device does not answer to the task at all."""
    offers: list[Offer] = field(default_factory=list)
    refused: list[tuple[bytes, Ineligible]] = field(default_factory=list)
    """Rounds by their ids, and why this device does not contribute to them."""
    next_open_ms: int | None = None
    """When the next announced round opens."""


class Outcome(Enum):
    """How it went with a task, or with one of its rounds."""

    CONTRIBUTED = "contributed"
    ALREADY = "already"
    """The account has contributed, from whichever device."""
    NOTHING = "nothing"
    """The profile holds nothing that the task asks for."""
    WAITING = "waiting"
    """No round is open."""
    UNSENT = "unsent"
    """Made and stored; the service could not be reached. It is sent with the next run."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a task. `rule` is empty where nothing was refused."""

    task_id: str
    outcome: Outcome
    sentence: str
    rule: str = ""
    round_id: bytes | None = None


class Participant:
    """One device's part in joint aggregates."""

    def __init__(
        self,
        synced: SyncedDevice,
        *,
        consent: Consent | None = None,
        measures: Measures | None = None,
    ) -> None:
        """By default consent is what the account's receipts say, on a device under no policy a
        setting of the profile; and values are the profile's."""
        self.synced = synced
        rows = synced.vault.load()
        self.core = Measuring(synced.core, rows)
        if synced.governed:
            self.core.governed = lambda: synced.policy
        self.results = Results(self.core, rows)
        asked = synced.ledger if synced.governed else ConsentSettings(synced.core)
        self.consent: Consent = consent or asked
        self.measures = measures or Measures()

    def save(self) -> None:
        """Stores what the cores changed, in one write."""
        self.synced.save({**self.core.take_changes(), **self.results.take_changes()})

    @property
    def rounds(self) -> Rounds:
        """The relay's calls, signed by what is the device's identity now."""
        self.synced.sign_as_device()
        signer = self.synced.remote.signer
        assert signer is not None
        return Rounds(self.synced.transport, signer)

    # -- looking ------------------------------------------------------------------------

    async def survey(self, *, only: str | None = None) -> list[Found]:
        """Every task that the relay lists, or one, judged. What was shown is told to the
        account's other devices. RemoteError, AccountGone."""
        await self._sync()
        found = []
        async for listed in self.rounds.tasks():
            task = _readable(listed)
            if only is None or (task is not None and task.task_id == only):
                found.append(await self._look(listed, task))
        return found

    async def _sync(self) -> None:
        await self.synced.sync_once()
        now_ms = self.synced.now_ms()
        self.core.find_conflicts(now_ms=now_ms)
        self.core.prune(now_ms=now_ms)
        self.results.prune(now_ms=now_ms)
        self.save()

    async def _look(self, listed: ListedTask, read: Task | None) -> Found:
        now_ms = self.synced.now_ms()
        try:
            task = self.core.judge_task(listed.task, self.consent, now_ms=now_ms)
        except Ineligible as error:
            return Found(listed, read, error)
        found = Found(listed, task)
        for summary in listed.rounds:
            if summary.open_ms <= now_ms:
                await self._look_at_round(found, summary)
            elif found.next_open_ms is None:
                found.next_open_ms = summary.open_ms
        if not found.offers and not found.refused:
            try:
                self.core.check_room(task, now_ms=now_ms)
            except Ineligible as error:
                found.refusal = error
        return found

    async def _look_at_round(self, found: Found, summary: RoundSummary) -> None:
        answered = (one.shown.manifest.round_id for one in self.core.answered.values())
        if summary.round_id in answered:
            found.refused.append((summary.round_id, contributed()))
            return
        try:
            relayed = await self.rounds.round(summary.round_id)
        except RemoteError as error:
            if error.reason != reasons.ROUND_UNKNOWN:
                raise
            return  # it is over since the list was made
        try:
            offer = self.core.judge_round(
                found.listed.task, relayed.published, self.consent, now_ms=self.synced.now_ms()
            )
            if relayed.contributed:
                raise contributed()
        except Ineligible as error:
            found.refused.append((summary.round_id, error))
        else:
            found.offers.append(offer)
        finally:
            self.save()

    # -- contributing -------------------------------------------------------------------

    async def contribute_once(
        self, *, only: str | None = None, said: object = None
    ) -> list[Report]:
        """Sends what an earlier run has stored, then answers every open round that this device
        answers to; or those of one task, with a given value. UserError, RemoteError,
        AccountGone."""
        found = await self.survey(only=only)
        if only is not None and not found:
            raise UserError(f"the service lists no task {only}: `rookery device tasks` shows all")
        reports = [await self._send_again(answered) for answered in self.core.unsent()]
        done = {report.round_id for report in reports}
        if any(one.offers for one in found):
            # What this device was shown is with the others, and what they were is here.
            await self._sync()
        for one in found:
            reports += await self._answer(one, said, done)
        if self.synced.core.status.edits_waiting:
            await self._sync_ledger()
        return reports

    async def _answer(self, found: Found, said: object, done: set[bytes | None]) -> list[Report]:
        task_id = found.task.task_id if found.task is not None else ""
        if found.refusal is not None:
            return [_refused(task_id, found.refusal)]
        reports = [
            _refused(task_id, error, round_id)
            for round_id, error in found.refused
            if round_id not in done
        ]
        reports += [await self._answer_round(offer, said) for offer in found.offers]
        if not reports and not found.refused:
            reports.append(Report(task_id, Outcome.WAITING, "no round is open"))
        return reports

    async def _answer_round(self, offer: Offer, said: object) -> Report:
        task, now_ms = offer.task, self.synced.now_ms()
        round_id = offer.shown.manifest.round_id
        try:
            said = self._say(task, said, now_ms=now_ms)
        except (Ineligible, SignalRefused) as error:
            return _refused(task.task_id, error, round_id)
        if said is None:
            source = self.measures.source(task)
            text = f"the profile has nothing at {source}" if source else "nothing to say to it"
            return Report(task.task_id, Outcome.NOTHING, text, round_id=round_id)
        try:
            made = self.core.answer(offer, said, now_ms=now_ms, rand=secrets.token_bytes)
        except Ineligible as error:
            self.save()
            return _refused(task.task_id, error, round_id)
        self.save()
        return await self._send(self.core.answered[offer.shown.manifest.digest], made)

    def _say(self, task: Task, given: object, *, now_ms: int) -> object:
        """What is said to a task; None: nothing. On a governed device it comes out of the signals
        that the policy names for it, which were recorded by its rules: a value that is given by
        hand was not."""
        if given is not None:
            if self.core.governed is not None:
                raise Ineligible(
                    "task-value",
                    "this device is governed: record the value as a signal that the task reads,"
                    " and contribute without it",
                )
            return given
        with self.core.reading(task):
            return self.measures.of(task, self.synced.core, now_ms=now_ms)

    async def _send_again(self, answered: Answered) -> Report:
        try:
            made = self.core.send_again(answered, self.consent, now_ms=self.synced.now_ms())
        except Ineligible as error:
            self.save()
            return _refused(answered.task.task_id, error, answered.shown.manifest.round_id)
        return await self._send(answered, made)

    async def _send(self, answered: Answered, made: Contribution) -> Report:
        """Only of what is stored."""
        task_id, round_id = answered.task.task_id, answered.shown.manifest.round_id
        try:
            proof = self.consent.proof(answered.task.purpose)
            self.consent.opening(answered.task.purpose, now_ms=self.synced.now_ms())
            self.save()
            await self.rounds.contribute(round_id, made.header, made.boxes, proof)
        except RemoteError as error:
            if error.reason in _JUDGED_ANEW:
                # With what policy and the account's devices say by then, at the next run.
                rule = error.reason.lower().replace("_", "-")
                return Report(task_id, Outcome.REFUSED, str(error), rule, round_id)
            if error.transient or error.reason == reasons.ROUND_NOT_OPEN:
                text = f"kept here and sent with the next `rookery device contribute`: {error}"
                return Report(task_id, Outcome.UNSENT, text, round_id=round_id)
            standing = _FINAL.get(error.reason)
            if standing is None:
                raise
            self.core.settle(answered.digest, standing)
            self.save()
            if standing is Standing.ELSEWHERE:
                return Report(task_id, Outcome.ALREADY, str(error), round_id=round_id)
            rule = error.reason.lower().replace("_", "-")
            return Report(task_id, Outcome.REFUSED, str(error), rule, round_id)
        self.core.settle(answered.digest, Standing.GIVEN)
        self.save()
        return Report(task_id, Outcome.CONTRIBUTED, "contributed", round_id=round_id)

    # -- results ------------------------------------------------------------------------

    async def fetch_results(self) -> list[tuple[Shown, Ineligible]]:
        """Asks for the results of all closed rounds that devices of this account were shown, and
        keeps what verifies. What does not, with its reason. RemoteError, AccountGone."""
        await self._sync()
        refused = []
        for shown in self.results.due(now_ms=self.synced.now_ms()):
            round_id = shown.manifest.round_id
            try:
                relayed = await self.rounds.result(round_id)
                answered = self.core.answered.get(shown.manifest.digest)
                task = answered.signed if answered else (await self.rounds.round(round_id)).task
                self.results.take(task, shown, relayed)
            except Ineligible as error:
                refused.append((shown, error))
            except RemoteError as error:
                if error.reason not in (reasons.RESULT_ABSENT, reasons.ROUND_UNKNOWN):
                    raise
            self.save()
        return refused

    async def fetch_newest(self, wanted: Callable[[Task], bool]) -> list[tuple[str, Ineligible]]:
        """Asks for the last result of each task that is wanted and that a pinned publisher signed,
        also of rounds before this account was there, and keeps what verifies. What does not, by
        task. Nothing of this account is in the calls. RemoteError."""
        refused = []
        async for listed in self.rounds.tasks():
            task = _readable(listed)
            if task is None or not listed.result_round_id or not wanted(task):
                continue
            try:
                judge.open_task(self.core.policy, listed.task)
                await self._fetch_round(listed)
            except Ineligible as error:
                refused.append((task.task_id, error))
            except RemoteError as error:
                if error.reason not in (reasons.RESULT_ABSENT, reasons.ROUND_UNKNOWN):
                    raise
        self.save()
        return refused

    async def _fetch_round(self, listed: ListedTask) -> None:
        """The result that a task is listed with, unless it is here."""
        round_id = listed.result_round_id
        here = {one.shown.manifest.round_id for one in self.results.ended.values() if one.result}
        if round_id in here:
            return
        held = await self.rounds.round(round_id)
        shown = Shown.read(held.published)
        if shown is None:
            raise Ineligible("manifest", "the service's round can't be read")
        self.results.take(listed.task, shown, await self.rounds.result(round_id))

    async def _sync_ledger(self) -> None:
        """What was spent is told to the other devices; with a later sync, if not now."""
        try:
            await self.synced.sync_once()
        except RemoteError as error:
            if not error.transient:
                raise


_JUDGED_ANEW = (reasons.CONSENT_MISSING, reasons.TASK_UNDECLARED)
_FINAL = {
    reasons.CONTRIBUTED_ALREADY: Standing.ELSEWHERE,
    reasons.ROUND_CLOSED: Standing.MISSED,
    reasons.ROUND_UNKNOWN: Standing.MISSED,
    reasons.CONTRIBUTION_INVALID: Standing.MISSED,
    reasons.QUOTA: Standing.MISSED,
}


def _refused(
    task_id: str, error: Ineligible | SignalRefused, round_id: bytes | None = None
) -> Report:
    if error.rule == "contributed":
        return Report(task_id, Outcome.ALREADY, str(error), round_id=round_id)
    return Report(task_id, Outcome.REFUSED, str(error), error.rule, round_id)


def _readable(listed: ListedTask) -> Task | None:
    """What a task says that nobody vouches for: to be shown, never to be answered."""
    try:
        return tasks.decode(listed.task.body)
    except CryptoError:
        return None
