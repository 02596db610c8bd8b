"""Tasks: what is measured, of whom, how often and how noisily (docs/aggregation.md, 2).

A task is a signed, immutable map; a change is a new task. It is checked whole when it is
made and when it is read, so that a `Task` that exists can be measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from crypto import canonical, labels
from crypto.errors import FormatError
from crypto.field import Field
from crypto.names import check_name
from crypto.primitives import SIG_BYTES, hash_, utf8, verify
from crypto.shares import PARTIES_MAX, check_parties
from mpc import kinds, privacy
from mpc.checks import whole
from mpc.keys import PublisherKey
from mpc.kinds import Kind
from mpc.noise import Law, Mechanism
from mpc.tail_params import Tail, check_tail, params_of, tail_of

VERSION: Final = 1
TITLE_CHARS_MAX: Final = 200
WINDOW_MS_MAX: Final = 366 * 86_400_000
GRACE_MS_MAX: Final = 30 * 86_400_000
REPORTS_MAX: Final = (1 << 32) - 1
MICRO_RHO_MAX: Final = 1 << 53
MS_MAX: Final = 1 << 53
KAPPA: Final[Mapping[int, tuple[int, int]]] = {31: (2, 4), 61: (1, 2)}
"""How often reports are checked, at least and at most, by field: soundness is p^-kappa."""

NO_NOISE: Final = "none"


@dataclass(frozen=True, slots=True)
class Caps:
    """zCDP in micro-rho: one device's in a period, and the task's over all its rounds."""

    device_micro_rho: int
    period_ms: int
    task_micro_rho: int


@dataclass(frozen=True)
class Task:
    """All that devices, parties and analysts must agree on before anything is measured."""

    task_id: str
    title: str
    purpose: str
    kind: Kind
    kappa: int
    window_ms: int
    grace_ms: int
    reports_max: int
    k_min: int
    noise: Law | None
    caps: Caps
    m: int
    t: int
    tail: Tail
    expires_ms: int

    def __post_init__(self) -> None:
        _check_texts(self)
        _check_numbers(self)
        check_tail(self.tail, self.kind)
        kinds.check_sums(self.kind, self.reports_max, self._noise_reach())
        if self.cost_micro_rho > min(self.caps.device_micro_rho, self.caps.task_micro_rho):
            raise FormatError(
                "caps",
                f"one round costs {self.cost_micro_rho} micro-rho, which is beyond a cap;"
                " raise sigma or the cap",
            )

    @property
    def field(self) -> Field:
        """The field that reports are shared in."""
        return self.kind.field

    def _noise_reach(self) -> int:
        """With fewest parties present, each one's share is widest, and so is the excess."""
        return self.noise.reach(present=self.t + 1, t=self.t) if self.noise else 0

    @cached_property
    def cost_micro_rho(self) -> int:
        """What one round costs in zCDP, whoever is present; 0 without noise (tests)."""
        if self.noise is None:
            return 0
        return privacy.cost(
            self.noise,
            l1=self.kind.l1,
            l2_squared=self.kind.l2_squared,
            outputs=self.kind.d,
            parties=self.m,
            t=self.t,
        )

    @cached_property
    def encoded(self) -> bytes:
        """The deterministic CBOR that is signed."""
        return canonical.encode(
            {
                "version": VERSION,
                "id": self.task_id,
                "title": self.title,
                "purpose": self.purpose,
                "kind": self.kind.params(),
                "field": self.field.bits,
                "kappa": self.kappa,
                "window_ms": self.window_ms,
                "grace_ms": self.grace_ms,
                "reports_max": self.reports_max,
                "k_min": self.k_min,
                "noise": {
                    "mechanism": str(self.noise.mechanism) if self.noise else NO_NOISE,
                    "sigma_milli": self.noise.sigma_milli if self.noise else 0,
                },
                "caps": {
                    "device_micro_rho": self.caps.device_micro_rho,
                    "period_ms": self.caps.period_ms,
                    "task_micro_rho": self.caps.task_micro_rho,
                },
                "parties": {"m": self.m, "t": self.t},
                "tail": params_of(self.tail),
                "expires_ms": self.expires_ms,
            }
        )

    @cached_property
    def spec_hash(self) -> bytes:
        """`H("pss1/task", cbor)`, 32 bytes: what rounds name a task by."""
        return hash_(labels.TASK, self.encoded)

    def sign(self, publisher: PublisherKey) -> bytes:
        """`cbor | sig[64]`, as it is published."""
        return self.encoded + publisher.sign(labels.TASK_SIG, self.encoded)


def decode(data: bytes) -> Task:
    """Strict; FormatError that names the rule for anything but the bytes of a sound task."""
    top = _Map("task", canonical.decode(data))
    if top.take("version") != VERSION:
        raise FormatError("task-version", f"only tasks of version {VERSION} are known; update")
    params, bits = top.take("kind"), top.take("field")
    if type(params) is not dict:
        raise FormatError("kind", "the kind must be a map")
    if type(bits) is not int:
        raise FormatError("field", "the field must be 31 or 61")
    noise, caps = _Map("noise", top.take("noise")), _Map("caps", top.take("caps"))
    parties = _Map("parties", top.take("parties"))
    task = Task(
        task_id=top.take("id"),
        title=top.take("title"),
        purpose=top.take("purpose"),
        kind=kinds.make(params, Field.of(bits)),
        kappa=top.take("kappa"),
        window_ms=top.take("window_ms"),
        grace_ms=top.take("grace_ms"),
        reports_max=top.take("reports_max"),
        k_min=top.take("k_min"),
        noise=_law(noise.take("mechanism"), noise.take("sigma_milli")),
        caps=Caps(
            caps.take("device_micro_rho"), caps.take("period_ms"), caps.take("task_micro_rho")
        ),
        m=parties.take("m"),
        t=parties.take("t"),
        tail=tail_of(top.take("tail")),
        expires_ms=top.take("expires_ms"),
    )
    for one in (top, noise, caps, parties):
        one.done()
    if task.encoded != data:
        # True equals 1, and is another byte: the hash of a task is of one form only.
        raise FormatError("cbor-form", "a field is not of the type that it should be")
    return task


def open_(data: bytes, publisher_pk: bytes, *, noiseless: bool = False) -> Task:
    """A published task, if the pinned publisher signed it. SignatureError, FormatError.

    `noiseless` is for tests alone: a task without noise is refused otherwise.
    """
    if len(data) <= SIG_BYTES:
        raise FormatError("length", "a published task is longer than its signature")
    body, sig = data[:-SIG_BYTES], data[-SIG_BYTES:]
    verify(publisher_pk, labels.TASK_SIG, body, sig)
    task = decode(body)
    if task.noise is None and not noiseless:
        raise FormatError("noise-none", "the task adds no noise; publish one that does")
    return task


class _Map:
    """A map of which every field is taken once and none is left."""

    def __init__(self, what: str, value: object) -> None:
        if type(value) is not dict:
            raise FormatError("task-fields", f"{what} must be a map")
        self._what, self._left = what, dict(value)

    def take(self, name: str) -> Any:
        if name not in self._left:
            raise FormatError("task-fields", f"{self._what} lacks {name}; add it")
        return self._left.pop(name)

    def done(self) -> None:
        # Names in signed maps come from outside, so the message counts and doesn't repeat them.
        if self._left:
            raise FormatError(
                "task-fields", f"{self._what} has {len(self._left)} unknown fields; remove them"
            )


def _check_texts(task: Task) -> None:
    for what, text in (("id", task.task_id), ("purpose", task.purpose)):
        if type(text) is not str:
            raise FormatError("task-type", f"{what} must be a text")
        check_name(utf8(text))
    title: object = task.title
    if type(title) is not str or not 1 <= len(title) <= TITLE_CHARS_MAX or not title.isprintable():
        raise FormatError("title", f"the title must be 1 to {TITLE_CHARS_MAX} printable characters")


def _check_numbers(task: Task) -> None:
    low, high = KAPPA[task.field.bits]
    _range("kappa", task.kappa, low, high)
    _range("window_ms", task.window_ms, 1, WINDOW_MS_MAX)
    _range("grace_ms", task.grace_ms, 0, GRACE_MS_MAX)
    _range("reports_max", task.reports_max, 2, REPORTS_MAX)
    _range("k_min", task.k_min, 2, task.reports_max)
    _range("expires_ms", task.expires_ms, 1, MS_MAX)
    _range("device_micro_rho", task.caps.device_micro_rho, 1, MICRO_RHO_MAX)
    _range("period_ms", task.caps.period_ms, 1, MS_MAX)
    _range("task_micro_rho", task.caps.task_micro_rho, 1, MICRO_RHO_MAX)
    _range("t", task.t, 1, PARTIES_MAX)
    _range("m", task.m, 1, PARTIES_MAX)
    check_parties(task.m, task.t)


def _range(what: str, value: object, low: int, high: int) -> None:
    whole(what, value, low, high, rule="task-range")


def _law(mechanism: Any, sigma_milli: Any) -> Law | None:
    if mechanism == NO_NOISE:
        _range("sigma_milli of no noise", sigma_milli, 0, 0)
        return None
    try:
        law = Mechanism(mechanism)
    except ValueError:
        raise FormatError("noise", f"noise must be one of: {', '.join(Mechanism)}") from None
    return Law(law, sigma_milli)
