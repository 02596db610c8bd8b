"""The policy bundle: one signed document that devices, the service and every party hold.

It is checked whole when it is made and when it is read, so that a `Bundle` that exists can be
enforced. Pure: knows nothing of files, of time, or of how it came here (docs/policy.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol, TypeVar

from crypto import canonical, labels
from crypto.errors import FormatError
from crypto.policy import fields, flags, references
from crypto.policy.access import Access
from crypto.policy.cohorts import CohortRule
from crypto.policy.experiments import ExperimentRule
from crypto.policy.fields import TITLE_CHARS_MAX, Fields
from crypto.policy.flags import Flag
from crypto.policy.purposes import Purpose
from crypto.policy.retention import ServiceRetention
from crypto.policy.signals import Signal
from crypto.policy.tasks import TaskRule, source_of
from crypto.primitives import hash_, need, verify

VERSION: Final = 1
DEPTH: Final = 10
"""The deepest: bundle, cohorts, rule, its cohorts, one, its comparisons, one, choices, a choice."""
HASH_BYTES: Final = 32
FIRST: Final = bytes(HASH_BYTES)
"""`previous` of the bundle with sequence 1."""
UNASSESSED: Final = bytes(HASH_BYTES)
"""`assessment` of a bundle without one."""
SEQUENCE_MAX: Final = 1 << 53
_MS_MAX: Final = 1 << 53
PURPOSES_MAX: Final = 64
SIGNALS_MAX: Final = 512
TASKS_MAX: Final = 256
FLAGS_MAX: Final = 256
COHORTS_MAX: Final = 32
EXPERIMENTS_MAX: Final = 64


class Publisher(Protocol):
    """Who signs bundles: an Ed25519 key (`mpc.keys.PublisherKey` is one)."""

    def sign(self, label: bytes, message: bytes, /) -> bytes:
        """`SIG(sk, L, m)`, 64 bytes."""
        ...


class _Named(Protocol):
    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=_Named)


@dataclass(frozen=True)
class Bundle:
    """All that is allowed, at one time. What it does not list is not.

    `sequence` counts from 1, and `previous` is the hash of the bundle before, so that nobody
    can be shown another past. `assessment`: hash of the privacy impact assessment it was built
    with.
    """

    sequence: int
    previous: bytes
    title: str
    issued_ms: int
    purposes: tuple[Purpose, ...]
    signals: tuple[Signal, ...]
    tasks: tuple[TaskRule, ...]
    flags: tuple[Flag, ...]
    access: Access
    cohorts: tuple[CohortRule, ...]
    experiments: tuple[ExperimentRule, ...]
    retention: ServiceRetention
    assessment: bytes = UNASSESSED

    def __post_init__(self) -> None:
        fields.whole("sequence", self.sequence, 1, SEQUENCE_MAX)
        need("previous", self.previous, HASH_BYTES)
        if (self.sequence == 1) != (self.previous == FIRST):
            raise FormatError(
                "policy-previous", "the first bundle, and only it, has none before it (zeros)"
            )
        fields.text("title", self.title, TITLE_CHARS_MAX)
        fields.whole("issued_ms", self.issued_ms, 1, _MS_MAX)
        need("assessment", self.assessment, HASH_BYTES)
        for what, names, most in (
            ("purposes", [one.name for one in self.purposes], PURPOSES_MAX),
            ("signals", [one.name for one in self.signals], SIGNALS_MAX),
            ("tasks", [one.source for one in self.tasks], TASKS_MAX),
            ("flags", [one.name for one in self.flags], FLAGS_MAX),
            ("cohorts", [one.name for one in self.cohorts], COHORTS_MAX),
            ("experiments", [one.name for one in self.experiments], EXPERIMENTS_MAX),
        ):
            fields.distinct(f"names of {what}", names, 0, most)
        references.check(self)
        # One that exists can be written: too large a one is refused here, not when it is signed.
        _ = self.encoded

    @cached_property
    def encoded(self) -> bytes:
        """The deterministic CBOR that is signed."""
        return canonical.encode(
            {
                "version": VERSION,
                "sequence": self.sequence,
                "previous": self.previous.hex(),
                "title": self.title,
                "issued_ms": self.issued_ms,
                "purposes": [one.as_map() for one in self.purposes],
                "signals": [one.as_map() for one in self.signals],
                "tasks": [one.as_map() for one in self.tasks],
                "flags": [one.as_map() for one in self.flags],
                "access": self.access.as_map(),
                "cohorts": [one.plain() for one in self.cohorts],
                "experiments": [one.plain() for one in self.experiments],
                "retention": self.retention.as_map(),
                "assessment": self.assessment.hex(),
            },
            depth=DEPTH,
        )

    @cached_property
    def hash(self) -> bytes:
        """`H("pss1/policy", cbor)`, 32 bytes: the `previous` of the next one."""
        return hash_(labels.POLICY, self.encoded)

    def sign(self, publisher: Publisher) -> bytes:
        """The publisher's signature, 64 bytes, apart from the document."""
        return publisher.sign(labels.POLICY_SIG, self.encoded)

    def purpose(self, name: str) -> Purpose | None:
        """The purpose of this name."""
        return _find(self.purposes, name)

    def signal(self, name: str) -> Signal | None:
        """The signal of this name."""
        return _find(self.signals, name)

    def cohort(self, name: str) -> CohortRule | None:
        """The cohort rule of this name."""
        return _find(self.cohorts, name)

    def experiment(self, name: str) -> ExperimentRule | None:
        """The experiment of this name."""
        return _find(self.experiments, name)

    def signal_at(self, collection: str, key: str) -> Signal | None:
        """The signal that these names of a record are declared for, of whatever kind."""
        among = self._by_collection.get(collection, ())
        return next((one for one in among if one.covers(collection, key)), None)

    def signal_for(self, kind: str, collection: str, key: str) -> Signal | None:
        """The signal that these names are declared for, if it is of this kind."""
        found = self.signal_at(collection, key)
        return found if found is not None and found.kind == kind else None

    def task_for(self, task_id: str) -> TaskRule | None:
        """The rule of a task; of all its versions (`/v2`) the same."""
        source = source_of(task_id)
        return next((one for one in self.tasks if one.source == source), None)

    def check_task(
        self, task_id: str, *, purpose: str, kind: str, k_min: int, micro_rho: int
    ) -> TaskRule:
        """The rule that a task keeps to. FormatError: `task-undeclared`, `task-killed`,
        `task-purpose`, `task-kind`, `task-k-min`, `task-noise`. `micro_rho`: a round's cost."""
        rule = self.task_for(task_id)
        if rule is None:
            raise FormatError("task-undeclared", "the policy declares no such task")
        if self.task_killed(rule):
            raise FormatError("task-killed", "a switch of the policy has stopped this task")
        rule.check(purpose=purpose, kind=kind, k_min=k_min, micro_rho=micro_rho)
        return rule

    def killed(self, subject: str, name: str) -> bool:
        """Whether a kill that is on is about this purpose, signal, task (source) or feature."""
        return (subject, name) in self._killed

    def task_killed(self, rule: TaskRule) -> bool:
        """Whether a task is stopped: itself, its purpose, or a signal that it reads."""
        return (
            self.killed("task", rule.source)
            or self.killed("purpose", rule.purpose)
            or any(self.killed("signal", name) for name in rule.signals)
        )

    def allows_flag(self, name: str, *, secret: bytes, cohorts: Mapping[str, str]) -> bool:
        """Whether a feature flag is on for an account (`flags.is_on`): not if it is not declared,
        and not if what it is about is killed."""
        flag = _find(self.flags, name)
        if flag is None or flag.kind != "feature" or self.killed(*flag.about):
            return False
        return flags.is_on(flag, secret, cohorts)

    @cached_property
    def _by_collection(self) -> dict[str, tuple[Signal, ...]]:
        found: dict[str, tuple[Signal, ...]] = {}
        for one in self.signals:
            found[one.collection] = (*found.get(one.collection, ()), one)
        return found

    @cached_property
    def _killed(self) -> frozenset[tuple[str, str]]:
        return frozenset(one.about for one in self.flags if one.kind == "kill" and one.on)


def decode(data: bytes) -> Bundle:
    """Strict; FormatError that names the rule for anything but the bytes of a sound bundle."""
    read = Fields(canonical.decode(data, depth=DEPTH))
    if read.take("version") != VERSION:
        raise FormatError("policy-version", f"only version {VERSION} is known; update")
    access, retention = read.take("access"), read.take("retention")
    bundle = Bundle(
        sequence=read.take("sequence"),
        previous=fields.from_hex("previous", read.take("previous"), HASH_BYTES),
        title=read.take("title"),
        issued_ms=read.take("issued_ms"),
        purposes=fields.each("purposes", read.take("purposes"), Purpose.of),
        signals=fields.each("signals", read.take("signals"), Signal.of),
        tasks=fields.each("tasks", read.take("tasks"), TaskRule.of),
        flags=fields.each("flags", read.take("flags"), Flag.of),
        access=fields.under("access", lambda: Access.of(access)),
        cohorts=fields.each("cohorts", read.take("cohorts"), CohortRule.of),
        experiments=fields.each("experiments", read.take("experiments"), ExperimentRule.of),
        retention=fields.under("retention", lambda: ServiceRetention.of(retention)),
        assessment=fields.from_hex("assessment", read.take("assessment"), HASH_BYTES),
    )
    read.done()
    if bundle.encoded != data:
        # True equals 1, and is another byte: the hash of a bundle is of one form only.
        raise FormatError("cbor-form", "a field is not of the type that it should be")
    return bundle


def open_(data: bytes, sig: bytes, publisher_pk: bytes) -> Bundle:
    """A bundle, if the pinned publisher signed it. SignatureError, FormatError."""
    verify(publisher_pk, labels.POLICY_SIG, data, sig)
    return decode(data)


def _find(among: Iterable[N], name: str) -> N | None:
    return next((one for one in among if one.name == name), None)
