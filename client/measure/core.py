"""What a device answers and has answered. No I/O, clock or chance.

The contract with the shell is that of `client.device`: call a method, store `take_changes()`
and the device's own changes in one write, and only then send what it returned. So the ledger
has its entry before a byte leaves, and after a crash the same bytes are sent again.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from client.device import Device
from client.errors import RowsError
from client.measure import judge, values
from client.measure.consent import Consent
from client.measure.errors import Ineligible, contributed
from client.measure.policy import DAY_MS, Policy
from client.measure.records import Given, Records, Shown, conflicting
from client.rounds import SignedTask
from client.rows import Changes, Journal, Rows, pack, unpack
from client.steps import Rand
from crypto import contribution
from crypto.contribution import Contribution
from crypto.errors import CryptoError
from mpc import task as tasks
from mpc.budget import Charge, DeviceLedger
from mpc.task import Task

ROWS: Final = "shell/measure/"
"""Where all of it stands in the vault."""
KEPT_MS: Final = 400 * DAY_MS
"""How long a round is remembered after it was over."""
_CONFLICT: Final = (
    "Your devices were shown two different rounds for one time of the same task. Somebody could"
    " single people out that way: this device takes part in neither. Tell who runs the task."
)


class Standing(Enum):
    """What this device knows of its account's contribution to a round."""

    STORED = "stored"
    """Made and entered in the ledger. Whether it arrived is not known yet."""
    GIVEN = "given"
    """The service has it."""
    ELSEWHERE = "elsewhere"
    """The service has one by another device of the account."""
    MISSED = "missed"
    """It did not arrive in time, or was not to be sent any more."""


@dataclass(frozen=True)
class Offer:
    """A round that this device could contribute to."""

    signed: SignedTask
    task: Task
    shown: Shown


@dataclass(frozen=True)
class Answered:
    """A round that this device made a contribution for."""

    signed: SignedTask
    task: Task
    shown: Shown
    standing: Standing

    @property
    def digest(self) -> bytes:
        """round_digest."""
        return self.shown.manifest.digest

    @property
    def until_ms(self) -> int:
        """Contributions are taken before this."""
        return self.shown.manifest.close_ms + self.task.grace_ms


class Measuring:
    """The device's half of joint aggregates."""

    def __init__(self, device: Device, rows: Rows) -> None:
        """From the rows of the vault; RowsError if they don't fit together."""
        self.device = device
        self.records = Records(device)
        self._journal = Journal()
        self.governed: judge.Governed | None = None
        """Where the policy bundle is asked for; None: this device is under none."""
        self.policy = Policy()
        self._ledgers: dict[str, DeviceLedger] = {}
        self._tasks: dict[bytes, tuple[SignedTask, Task]] = {}
        self._sent: dict[bytes, Contribution] = {}
        self.answered: dict[bytes, Answered] = {}
        """By round_digest."""
        own = {name[len(ROWS) :]: row for name, row in rows.items() if name.startswith(ROWS)}
        try:
            for name, row in sorted(own.items(), reverse=True):  # tasks before rounds
                self._load(*name.partition(":")[::2], row)
        except (CryptoError, ValueError, TypeError, KeyError):
            raise RowsError from None

    def _load(self, what: str, key: str, row: bytes) -> None:
        match what:
            case "policy":
                self.policy = Policy.decode(row)
            case "ledger":
                self._ledgers[key] = DeviceLedger.from_bytes(row)
            case "task":
                signed = SignedTask(*unpack(row, 3))
                self._tasks[bytes.fromhex(key)] = (signed, tasks.decode(signed.body))
            case "sent":
                header, boxes = unpack(row, 2)
                self._sent[bytes.fromhex(key)] = Contribution(header, tuple(boxes))
            case "round":
                published, standing = unpack(row, 2)
                shown = Shown.read(published)
                if shown is None:
                    raise RowsError
                signed, task = self._tasks[shown.manifest.spec_hash]
                answered = Answered(signed, task, shown, Standing(standing))
                self.answered[answered.digest] = answered

    def take_changes(self) -> Changes:
        """Rows to store, in one write with the device's own, before anything is sent."""
        return {ROWS + name: row for name, row in self._journal.take().items()}

    def set_policy(self, policy: Policy) -> None:
        """What this device answers to from now on."""
        self.policy = policy
        self._journal.set("policy", policy.encode())

    @property
    def ledger(self) -> DeviceLedger:
        """What this device spent under its present identity. Under an earlier one it was
        another device, whose ledger stands in the profile."""
        return self._ledgers.get(self._me, DeviceLedger())

    @property
    def _me(self) -> str:
        return self.device.identity.device_id.hex()

    def spent_micro_rho(self) -> int:
        """What the account's devices have spent in all, as far as this one knows."""
        ledgers = (self.ledger, *self.records.others_ledgers())
        return sum(one.micro_rho for one in ledgers)

    # -- whether to take part -----------------------------------------------------------

    def judge_task(self, signed: SignedTask, consent: Consent, *, now_ms: int) -> Task:
        """The task, if this device answers to it; Ineligible."""
        task = judge.open_task(self.policy, signed)
        judge.check_task(self.policy, consent, task, now_ms=now_ms, governed=self.governed)
        return task

    def reading(self, task: Task) -> AbstractContextManager[None]:
        """While a task is answered: only what the policy says that it reads can be read. Ineligible
        if it declares no such task."""
        if self.governed is None:
            return nullcontext()
        bundle = self.governed()
        rule = judge.check_declared(bundle, task)
        assert bundle is not None
        among = [bundle.signal(name) for name in rule.signals]
        return self.device.reading(
            lambda collection, key: any(
                signal is not None and signal.covers(collection, key) for signal in among
            )
        )

    def judge_round(
        self, signed: SignedTask, published: bytes, consent: Consent, *, now_ms: int
    ) -> Offer:
        """The round, if this device could contribute to it; Ineligible. What is open and in
        order is told to the account's other devices, whatever else stands against it."""
        task = self.judge_task(signed, consent, now_ms=now_ms)
        manifest = judge.check_round(self.policy, task, published, now_ms=now_ms)
        offer = Offer(signed, task, Shown(published, manifest))
        self.records.put_shown(offer.shown, now_ms=now_ms)
        self.check_offer(offer, now_ms=now_ms)
        return offer

    def check_offer(self, offer: Offer, *, now_ms: int) -> None:
        """Ineligible if the round is not open, other devices were shown another one, somebody has
        contributed, or no budget is left. Asked again once the newest records have come."""
        digest = offer.shown.manifest.digest
        judge.check_time(offer.shown.manifest, now_ms=now_ms)
        self._check_alone(offer.shown, now_ms=now_ms)
        others = self.records.others_ledgers()
        if digest in self.answered or any(digest in other.rounds for other in others):
            raise contributed()
        self._check_source(offer, now_ms=now_ms)
        self.check_room(offer.task, now_ms=now_ms)

    def check_room(self, task: Task, *, now_ms: int) -> None:
        """Ineligible if one more round of the task is beyond a cap."""
        caps, cost = judge.caps(self.policy, task), task.cost_micro_rho
        others = self.records.others_ledgers()
        rooms = self.ledger.left(caps, task.spec_hash, now_ms=now_ms, others=others)
        cap = min(rooms, key=lambda one: rooms[one])
        if cost > rooms[cap]:
            raise judge.no_room(cap, wanted=cost, left=max(0, rooms[cap]))

    def _check_source(self, offer: Offer, *, now_ms: int) -> None:
        """Ineligible if the account has answered another round of the task's source that is not
        over when this one begins, or too much of late: a version of its own is no way around what
        bounds a task. A policy says what a source is, so that it is asked of governed devices."""
        if self.governed is None:
            return
        rule = judge.check_declared(self.governed(), offer.task)
        manifest, cost = offer.shown.manifest, offer.task.cost_micro_rho
        given = self.records.given(rule.source, now_ms=now_ms)
        given = [one for one in given if one.digest != manifest.digest]
        if any(one.overlaps(manifest) for one in given):
            raise Ineligible(
                "source-open",
                "your account answered another version of this task whose time is not over yet:"
                " wait for the next round",
            )
        if rule.micro_rho_a_period is not None:
            left = rule.micro_rho_a_period - sum(one.micro_rho for one in given)
            if cost > left:
                raise judge.no_source_room(rule, wanted=cost, left=max(0, left))

    def _enter_source(self, offer: Offer, *, now_ms: int) -> None:
        if self.governed is None:
            return
        rule = judge.check_declared(self.governed(), offer.task)
        manifest = offer.shown.manifest
        # Kept for at least as long as its bytes may still arrive.
        until_ms = max(manifest.close_ms, now_ms + (rule.period_days or 0) * DAY_MS)
        given = Given(
            rule.source, manifest.digest, manifest.open_ms, manifest.close_ms,
            until_ms, offer.task.cost_micro_rho,
        )  # fmt: skip
        self.records.put_given(given, now_ms=now_ms)

    def _check_alone(self, shown: Shown, *, now_ms: int) -> None:
        spec_hash = shown.manifest.spec_hash
        self._tell_conflicts(spec_hash, now_ms=now_ms)
        seen = self.records.shown(spec_hash).values()
        if any(shown.manifest.conflicts(other.manifest) for other in seen):
            raise Ineligible("round-conflict", _CONFLICT)

    def find_conflicts(self, *, now_ms: int) -> None:
        """Alarms for every two rounds of one window that the account's devices were shown."""
        for spec_hash in self.records.tasks():
            self._tell_conflicts(spec_hash, now_ms=now_ms)

    def _tell_conflicts(self, spec_hash: bytes, *, now_ms: int) -> None:
        for pair in conflicting(self.records.shown(spec_hash).values()):
            self.device.alarm(
                "round-conflict",
                _CONFLICT,
                *(one.published for one in pair),
                about=b"".join(sorted(one.manifest.digest for one in pair)),
                now_ms=now_ms,
            )

    # -- taking part --------------------------------------------------------------------

    def answer(self, offer: Offer, said: object, *, now_ms: int, rand: Rand) -> Contribution:
        """Makes the contribution and enters it in the ledger; Ineligible, and nothing is entered.

        Store the changes, then send it. `rand` must be a CSPRNG.
        """
        key = self.device.aggregation_key
        if key is None:
            raise Ineligible(
                "aggregation-key", "the account's secret has not arrived here: sync, then try again"
            )
        manifest, task = offer.shown.manifest, offer.task
        elements = values.encode(task, said)
        self.check_offer(offer, now_ms=now_ms)
        try:
            entered = self.ledger.enter(
                judge.caps(self.policy, task),
                manifest.digest,
                _charge(offer),
                now_ms=now_ms,
                others=self.records.others_ledgers(),
            )
        except CryptoError as error:
            raise Ineligible.of(error) from None
        made = contribution.make(
            manifest.shape(task),
            elements,
            box_keys=manifest.box_keys(),
            aggregation_key=key,
            rand=rand,
        )
        self._enter_source(offer, now_ms=now_ms)
        self._ledgers[self._me] = entered
        self._journal.set(f"ledger:{self._me}", entered.to_bytes())
        self.records.put_ledger(entered, now_ms=now_ms)
        self._keep(Answered(offer.signed, task, offer.shown, Standing.STORED), made)
        return made

    def _keep(self, answered: Answered, made: Contribution) -> None:
        signed = answered.signed
        self._tasks[answered.task.spec_hash] = (signed, answered.task)
        self._journal.set(
            f"task:{answered.task.spec_hash.hex()}", pack(signed.body, signed.sig, signed.publisher)
        )
        self._sent[answered.digest] = made
        self._journal.set(f"sent:{answered.digest.hex()}", pack(made.header, list(made.boxes)))
        self._put(answered)

    def _put(self, answered: Answered) -> None:
        self.answered[answered.digest] = answered
        row = pack(answered.shown.published, answered.standing.value)
        self._journal.set(f"round:{answered.digest.hex()}", row)

    def unsent(self) -> list[Answered]:
        """Rounds whose contribution is stored, and may not have arrived."""
        return [one for one in self.answered.values() if one.digest in self._sent]

    def send_again(self, answered: Answered, consent: Consent, *, now_ms: int) -> Contribution:
        """The stored bytes. Ineligible if they must not be sent any more, by the same rules but
        that the ledger has its entry and that a grace follows the window; they are dropped then.
        """
        manifest, task = answered.shown.manifest, answered.task
        try:
            if now_ms >= answered.until_ms:
                raise Ineligible("window-closed", "the round closed before it could be sent")
            judge.open_task(self.policy, answered.signed)
            judge.check_task(
                self.policy, consent, task, now_ms=manifest.open_ms, governed=self.governed
            )
            judge.open_round(self.policy, task, answered.shown.published)
            self._check_alone(answered.shown, now_ms=now_ms)
        except Ineligible:
            self.settle(answered.digest, Standing.MISSED)
            raise
        return self._sent[answered.digest]

    def settle(self, digest: bytes, standing: Standing) -> None:
        """What became of the contribution to a round is known: its bytes are not needed any
        more. The ledger keeps its entry, whatever it was."""
        if self._sent.pop(digest, None) is not None:
            self._journal.drop(f"sent:{digest.hex()}")
        self._put(replace(self.answered[digest], standing=standing))

    def result_ms(self, task: Task) -> int:
        """How long a result of a task is kept here, from its window's end on."""
        bundle = None if self.governed is None else self.governed()
        if bundle is None:
            return KEPT_MS
        rule = bundle.task_for(task.task_id)
        days = bundle.retention.result_days if rule is None else rule.result_days
        return min(KEPT_MS, days * DAY_MS)

    def prune(self, *, now_ms: int) -> None:
        """Forgets rounds that were over long ago, and their tasks."""
        for answered in list(self.answered.values()):
            if now_ms >= answered.until_ms + KEPT_MS:
                del self.answered[answered.digest]
                self._journal.drop(f"round:{answered.digest.hex()}")
        used = {one.task.spec_hash for one in self.answered.values()}
        for spec_hash in set(self._tasks) - used:
            del self._tasks[spec_hash]
            self._journal.drop(f"task:{spec_hash.hex()}")


def _charge(offer: Offer) -> Charge:
    task, manifest = offer.task, offer.shown.manifest
    return Charge(
        task.spec_hash, task.cost_micro_rho, manifest.close_ms + task.grace_ms, task.expires_ms
    )
