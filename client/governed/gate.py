"""The gate of a governed device: what the policy bundle does not declare is not recorded.

Its rules, in the order in which they are asked (docs/minimisation.md). Each refusal names its
rule and what to do, and neither the value nor its name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol

from client.gate import Admitted, Held, Kind, SignalRefused
from client.values import Value
from crypto.policy.document import Bundle
from crypto.policy.fields import MICRO
from crypto.policy.generalise import DAY_MS, Day, TopK
from crypto.policy.signals import Reach, Signal
from crypto.policy.values import Delta, Members, is_number

_SENTENCES: Final = {
    "no-policy": "this device is governed and has no policy yet: sync it, then try again",
    "undeclared": "the policy declares no signal of this name: declare it in signals.yaml and"
    " publish the policy; a newer one comes with `rookery device sync`",
    "kind": "the policy declares this name as another kind of signal: use the call for that kind,"
    " or declare the signal under another name; a newer policy comes with `rookery device sync`",
    "killed": "a kill switch of the policy has stopped this signal, or all that it is for: wait"
    " until it is switched off; a newer policy comes with `rookery device sync`",
    "paused": "recording is paused on this account: `rookery device resume` goes on",
    "purpose-off": "nothing that this signal is for is allowed: `rookery device consent grant"
    " PURPOSE` allows it",
    "range": "the value is none that the policy declares for this signal: keep to its values, or"
    " widen them in signals.yaml and publish the policy; a newer one comes with `rookery device"
    " sync`",
    "full": "the set has as many members as the policy lets it have: take one out first",
}
RULES: Final = tuple(_SENTENCES)
"""Every rule, in the order in which they are asked."""


class Ledger(Protocol):
    """What the gate asks of the person's consent."""

    def allows(self, purpose: str) -> bool:
        """Whether values may be used for this purpose now."""
        ...

    @property
    def paused(self) -> bool:
        """Whether the person has stopped all recording for now."""
        ...


class PolicyGate:
    """The gate by the newest bundle that the device holds, and what the person agreed to."""

    def __init__(self, policy: Callable[[], Bundle | None], ledger: Ledger) -> None:
        """`policy` is asked anew each time: None until there is one, and then nothing is
        recorded."""
        self._policy = policy
        self._ledger = ledger
        self._indexed: Bundle | None = None
        self._index: dict[tuple[str, str], list[Signal]] = {}
        """Signals by kind and collection, of the bundle that was asked last."""

    # -- what comes in ------------------------------------------------------------------

    def admit(self, kind: Kind, collection: str, key: str, value: Value, now_ms: int) -> Admitted:
        """The generalised value; SignalRefused by the first rule that it misses."""
        signal = self._wanted(kind, collection, key)
        coarse = signal.generalised(value)
        # What is given, too: or making coarse would let in what the policy does not declare.
        if not (signal.values.admits(value) and signal.values.admits(coarse)):
            raise refused("range")
        return _admitted(signal, coarse, now_ms)

    def readmit(self, kind: Kind, collection: str, key: str, value: Value, at_ms: int) -> Admitted:
        """By the same rules, but that a score's total is brought within its cap: it is what many
        additions came to, each of which was in the range of one."""
        signal = self._wanted(kind, collection, key)
        if not isinstance(signal.values, Delta):
            return self.admit(kind, collection, key, value, at_ms)
        if not is_number(value):
            raise refused("range")
        most = signal.values.cap_micro / MICRO
        return _admitted(signal, max(-most, min(most, value)), at_ms)  # type: ignore[type-var]

    def _wanted(self, kind: Kind, collection: str, key: str) -> Signal:
        """The signal, if it may be recorded now."""
        bundle = self._policy()
        if bundle is None:
            raise refused("no-policy")
        signal = _declared(bundle, kind, collection, key)
        self._check_wanted(bundle, signal)
        return signal

    def _check_wanted(self, bundle: Bundle, signal: Signal) -> None:
        alive = [one for one in signal.purposes if not bundle.killed("purpose", one)]
        if bundle.killed("signal", signal.name) or not alive:
            raise refused("killed")
        if self._ledger.paused:
            raise refused("paused")
        if not any(map(self._ledger.allows, alive)):
            raise refused("purpose-off", alive)

    def shows(self, collection: str, key: str) -> bool:
        """What the policy declares, and nothing before there is one."""
        return self._signal(collection, key) is not None

    # -- what is there ------------------------------------------------------------------

    def limits(self, kind: Kind, collection: str) -> bool:
        """Whether a signal of this collection keeps only so many keys."""
        return any(_most(one) is not None for one in self._signals(kind, collection))

    def surplus(
        self, kind: Kind, collection: str, held: Mapping[str, Held], *, put: str | None = None
    ) -> Collection[str]:
        """The smallest of those beyond `top_k`; of equal ones those that were written first.
        Without `top_k`, a set that is full takes nobody in (`full`); what two devices put in at
        the same time is brought back to its bound."""
        found: list[str] = []
        for signal in self._signals(kind, collection):
            most = _most(signal)
            mine = {key: one for key, one in held.items() if signal.covers(collection, key)}
            if most is None or len(mine) <= most:
                continue
            if put in mine and not _top_k(signal):
                raise refused("full")
            found += smallest(mine, len(mine) - most, put)
        return found

    def half_life_ms(self, collection: str, key: str, asked_ms: int | None) -> int | None:
        """The signal's, whatever an app asks for."""
        signal = self._signal(collection, key)
        if signal is None:
            return asked_ms
        return None if signal.half_life_days is None else signal.half_life_days * DAY_MS

    def retention_ms(self, collection: str, key: str) -> int | None:
        """How long what is recorded under a name counts; None: the policy does not say."""
        signal = self._signal(collection, key)
        return None if signal is None else signal.retention_days * DAY_MS

    def stays_here(self, collection: str, key: str) -> bool:
        """Whether the signal of this name is one of the device alone."""
        signal = self._signal(collection, key)
        return signal is not None and signal.reach is Reach.DEVICE

    def _signal(self, collection: str, key: str) -> Signal | None:
        bundle = self._policy()
        return None if bundle is None else bundle.signal_at(collection, key)

    def _signals(self, kind: Kind, collection: str) -> list[Signal]:
        bundle = self._policy()
        if bundle is not self._indexed:
            self._indexed, self._index = bundle, {}
            for one in () if bundle is None else bundle.signals:
                self._index.setdefault((one.kind, one.collection), []).append(one)
        return self._index.get((kind, collection), [])


def refused(rule: str, purposes: Sequence[str] = ()) -> SignalRefused:
    """The refusal by a rule, in words that end with its name. `purposes`: those of which any
    would do."""
    which = f"; PURPOSE is {' or '.join(purposes)}" if purposes else ""
    return SignalRefused(rule, f"{_SENTENCES[rule]}{which} (rule {rule})")


def _admitted(signal: Signal, value: object, at_ms: int) -> Admitted:
    values = signal.values
    return Admitted(
        value=value,  # type: ignore[arg-type]  # what a signal admits is a Value
        at_ms=coarse_time(signal, at_ms),
        stays_here=signal.reach is Reach.DEVICE,
        total_within=values.cap_micro / MICRO if isinstance(values, Delta) else None,
    )


def coarse_time(signal: Signal, now_ms: int) -> int:
    """The time that is stored with a value: where the value is a day, no finer than that, or
    it would tell what the value does not."""
    is_day = any(isinstance(one, Day) for one in signal.generalise)
    return now_ms - now_ms % DAY_MS if is_day else now_ms


def smallest(held: Mapping[str, Held], count: int, put: str | None) -> Iterable[str]:
    """So many keys, but not `put`: by size, then by age, then by name, which is the same order
    on all devices."""
    return sorted(held.keys() - {put}, key=lambda key: (*held[key], key))[:count]


def _declared(bundle: Bundle, kind: Kind, collection: str, key: str) -> Signal:
    signal = bundle.signal_at(collection, key)
    if signal is None:
        raise refused("undeclared")
    if signal.kind != kind:
        raise refused("kind")
    return signal


def _top_k(signal: Signal) -> int | None:
    return min((one.k for one in signal.generalise if isinstance(one, TopK)), default=None)


def _most(signal: Signal) -> int | None:
    """How many keys a signal keeps; None: any number."""
    bounds = [_top_k(signal)]
    if isinstance(signal.values, Members):
        bounds.append(signal.values.members_max)
    return min((one for one in bounds if one is not None), default=None)
