"""What one bundle allows that another did not: each with a stable id. Pure.

An id is RULE:SUBJECT:DETAIL. The detail is what is new, so that a mitigation that was written for
one step is none for the next: of a number that number, of anything else eight digits of its hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from client.policykit import risks, wider, words
from client.policykit.risks import Rule
from crypto import canonical, labels
from crypto.policy import Bundle
from crypto.policy.access import BUILT_IN, Role
from crypto.policy.cohorts import CohortRule
from crypto.policy.document import DEPTH
from crypto.policy.experiments import ExperimentRule
from crypto.policy.fields import DAYS_MAX
from crypto.policy.flags import Flag
from crypto.policy.purposes import Purpose
from crypto.policy.signals import Signal
from crypto.policy.tasks import TaskRule
from crypto.primitives import hash_

_DIGEST_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Change:
    """One use that is new or wider."""

    rule: Rule
    subject: str
    detail: str
    was: str
    now: str

    @property
    def id(self) -> str:
        """What a mitigation is written for."""
        return f"{self.rule.name}:{self.subject}:{self.detail}"


def find(old: Bundle, new: Bundle) -> tuple[Change, ...]:
    """All of them, by noun, in the new bundle's order."""
    return tuple(
        change
        for part in (_purposes, _signals, _tasks, _flags, _access, _cohorts, _experiments, _keeping)
        for change in part(old, new)
    )


def digest(value: Any) -> str:
    """Eight hexadecimal digits that stand for a definition."""
    data = canonical.encode({"value": value}, depth=DEPTH)
    return hash_(labels.POLICY_ASSESSMENT, data, _DIGEST_BYTES).hex()


def _purposes(old: Bundle, new: Bundle) -> Iterator[Change]:
    for now in new.purposes:
        was = old.purpose(now.name)
        if now.intrusive and (was is None or not was.intrusive):
            yield _of_purpose(risks.INTRUSIVE_PURPOSE, now, "not there" if was is None else "not")
        if was is None:
            continue
        if was.intrusive and not now.intrusive:
            yield _of_purpose(risks.LESS_GUARDED, now, "asked for by itself")
        if was.text_hash != now.text_hash:
            yield _of_purpose(risks.CHANGED_TEXT, now, was.text_hash.hex()[:8])


def _of_purpose(rule: Rule, now: Purpose, was: str) -> Change:
    detail = now.text_hash.hex()[: 2 * _DIGEST_BYTES]
    shown = {
        risks.INTRUSIVE_PURPOSE: "intrusive",
        risks.LESS_GUARDED: "asked for among others",
    }
    return Change(rule, now.name, detail, was, shown.get(rule, detail))


def _signals(old: Bundle, new: Bundle) -> Iterator[Change]:
    for now in new.signals:
        was = old.signal(now.name)
        if was is None or (was.kind, was.collection) != (now.kind, now.collection):
            said = replace(now, text="-").as_map()
            yield Change(
                risks.NEW_SIGNAL, now.name, digest(said), "not recorded",
                f"{now.kind}, {words.values(now.values)}",
            )  # fmt: skip
        else:
            yield from _signal(was, now)


def _signal(was: Signal, now: Signal) -> Iterator[Change]:
    def change(rule: Rule, detail: object, before: object, after: object) -> Change:
        return Change(rule, now.name, str(detail), str(before), str(after))

    if was.text != now.text:
        yield change(risks.CHANGED_WORDS, digest(now.text), was.text, now.text)
    if wider.values(was.values, now.values):
        yield change(
            risks.WIDER_VALUES, digest(now.values.as_map()),
            words.values(was.values), words.values(now.values),
        )  # fmt: skip
    if wider.keys(was, now):
        yield change(
            risks.WIDER_KEYS, digest(list(now.keys)), words.some(was.keys), words.some(now.keys)
        )  # fmt: skip
    if wider.less_generalised(was.generalise, now.generalise):
        yield change(
            risks.LESS_GENERALISED, digest([one.as_map() for one in now.generalise]),
            words.generalised(was.generalise), words.generalised(now.generalise),
        )  # fmt: skip
    for purpose in now.purposes:
        if purpose not in was.purposes:
            yield change(risks.NEW_PURPOSE, purpose, words.some(was.purposes), purpose)
    if wider.reach(was.reach, now.reach):
        yield change(risks.WIDER_REACH, now.reach, was.reach, now.reach)
    if now.retention_days > was.retention_days:
        yield change(
            risks.LONGER_RETENTION, now.retention_days,
            f"{was.retention_days} days", f"{now.retention_days} days",
        )  # fmt: skip
    if (now.half_life_days or DAYS_MAX + 1) > (was.half_life_days or DAYS_MAX + 1):
        yield change(
            risks.LONGER_HALF_LIFE, now.half_life_days or "none",
            _half_life(was), _half_life(now),
        )  # fmt: skip


def _half_life(signal: Signal) -> str:
    return "none" if signal.half_life_days is None else f"{signal.half_life_days} days"


def _tasks(old: Bundle, new: Bundle) -> Iterator[Change]:
    for now in new.tasks:
        was = next((one for one in old.tasks if one.source == now.source), None)
        if was is None or (was.kind, was.purpose) != (now.kind, now.purpose):
            said = replace(now, text="-").as_map()
            before = "not there" if was is None else f"{was.kind} for {was.purpose}"
            yield Change(
                risks.NEW_TASK, now.source, digest(said), before, f"{now.kind} for {now.purpose}"
            )
        else:
            yield from _task(was, now)


def _task(was: TaskRule, now: TaskRule) -> Iterator[Change]:
    if was.text != now.text:
        yield Change(risks.CHANGED_WORDS, now.source, digest(now.text), was.text, now.text)
    for name in now.signals:
        if name not in was.signals:
            yield Change(risks.TASK_READS, now.source, name, words.some(was.signals), name)
    if now.cohort is not None and now.cohort != was.cohort:
        detail = f"cohort.{now.cohort}"
        yield Change(risks.TASK_READS, now.source, detail, was.cohort or "none", now.cohort)
    if now.micro_rho_at_most > was.micro_rho_at_most:
        before, after = was.micro_rho_at_most, now.micro_rho_at_most
        yield Change(
            risks.LESS_NOISE, now.source, str(after), words.noise(before), words.noise(after)
        )
    if _is_looser(was, now):
        yield Change(
            risks.LESS_NOISE, f"{now.source}.period",
            digest([now.micro_rho_a_period or 0, now.period_days or 0]),
            _period(was), _period(now),
        )  # fmt: skip
    if now.k_min_at_least < was.k_min_at_least:
        before, after = was.k_min_at_least, now.k_min_at_least
        yield Change(
            risks.SMALLER_K, now.source, str(after), f"{before:,} people", f"{after:,} people"
        )
    if now.result_days > was.result_days:
        yield Change(
            risks.LONGER_RETENTION, f"{now.source}.result", str(now.result_days),
            f"{was.result_days} days", f"{now.result_days} days",
        )  # fmt: skip


def _is_looser(was: TaskRule, now: TaskRule) -> bool:
    """Whether all rounds of a task together may cost more than before, in any time."""
    if was.micro_rho_a_period is None or was.period_days is None:
        return False
    return (
        now.micro_rho_a_period is None
        or now.period_days is None
        or now.micro_rho_a_period > was.micro_rho_a_period
        or now.period_days < was.period_days
    )


def _period(task: TaskRule) -> str:
    if task.micro_rho_a_period is None:
        return "any number of rounds"
    return f"{words.noise(task.micro_rho_a_period)} in {task.period_days} days"


def _flags(old: Bundle, new: Bundle) -> Iterator[Change]:
    before = {flag.name: flag for flag in old.flags}
    for now in new.flags:
        was = before.get(now.name)
        if now.kind == "feature" and _for_more(was, now):
            what = "off" if was is None or was.kind == "kill" else words.switch(was)
            detail = str(now.percent) if now.cohort is None else digest(now.as_map())
            yield Change(risks.FLAG_WIDER, now.name, detail, what, words.switch(now))
    for flag in old.flags:
        if flag.kind == "kill" and flag.on and not new.killed(*flag.about):
            yield Change(risks.KILL_LIFTED, flag.name, ".".join(flag.about), "stopped", "goes on")


def _for_more(was: Flag | None, now: Flag) -> bool:
    if not now.on or now.percent == 0:
        return False
    if was is None or not was.on or was.kind == "kill" or was.about != now.about:
        return True
    return now.percent > was.percent or (was.cohort is not None and now.cohort != was.cohort)


def _access(old: Bundle, new: Bundle) -> Iterator[Change]:
    before = {role.name: role for role in old.access.roles}
    for now in new.access.roles:
        was = before.get(now.name)
        if was is None and now.name not in BUILT_IN:
            shown = words.some([*now.identities, *now.keys]) or "nobody yet"
            yield Change(risks.NEW_ROLE, now.name, digest(now.as_map()), "not there", shown)
        else:
            yield from _role(was or Role(now.name, (), ()), now, restricts=was is None)
    after = {role.name for role in new.access.roles}
    for was in old.access.roles:
        if was.name not in after and was.name in BUILT_IN and (was.identities or was.keys):
            yield Change(risks.UNRESTRICTED_ROLE, was.name, "all", "listed ones", "anybody in it")
    for grant in new.access.grants:
        if wider.grant(old.access, grant):
            method = grant.method.removeprefix("/rookery.v1.")
            yield Change(
                risks.NEW_GRANT, grant.role, f"{method}:{digest(list(grant.purposes))}",
                "denied" if not old.access.allows(grant.role, grant.method) else "fewer purposes",
                f"{method} for {words.some(grant.purposes)}",
            )  # fmt: skip


def _role(was: Role, now: Role, *, restricts: bool) -> Iterator[Change]:
    """`restricts`: a built-in role that was nobody's list is one now: it can only get narrower,
    but for an operator, whom only a list makes."""
    if not restricts or now.name == "operator":
        for identity in now.identities:
            if identity not in was.identities:
                yield Change(risks.NEW_IDENTITY, now.name, identity, "not", identity)
        for key in now.keys:
            if key not in was.keys:
                yield Change(risks.NEW_IDENTITY, now.name, key[:16], "not", f"key {key[:16]}…")
    for what, some, none in (
        ("identities", was.identities, not now.identities),
        ("keys", was.keys, not now.keys),
    ):
        if some and none and now.name != "operator":
            yield Change(risks.UNRESTRICTED_ROLE, now.name, what, words.some(some), "not listed")


def _cohorts(old: Bundle, new: Bundle) -> Iterator[Change]:
    for now in new.cohorts:
        was = old.cohort(now.name)
        if was is None or _rule(was) != _rule(now):
            before = "not there" if was is None else f"version {was.version}"
            yield Change(
                risks.NEW_COHORT, now.name, digest(_rule(now)), before,
                f"version {now.version}: {words.some(now.labels)}",
            )  # fmt: skip


def _rule(cohort: CohortRule) -> dict[str, Any]:
    return {name: said for name, said in cohort.plain().items() if name != "text"}


def _experiments(old: Bundle, new: Bundle) -> Iterator[Change]:
    for now in new.experiments:
        was = old.experiment(now.name)
        if now.percent and (was is None or _trial(was) != _trial(now) or _is_wider(was, now)):
            before = "not there" if was is None else _shown(was)
            yield Change(
                risks.WIDER_EXPERIMENT, now.name,
                digest([now.percent, _trial(now), *_kept(now)]), before, _shown(now),
            )  # fmt: skip
        if was is not None and now.reports_planned < was.reports_planned:
            yield Change(
                risks.EARLIER_VERDICT, now.name, str(now.reports_planned),
                _planned(was), _planned(now),
            )  # fmt: skip


def _is_wider(was: ExperimentRule, now: ExperimentRule) -> bool:
    return (
        now.percent > was.percent
        or now.outcome_low < was.outcome_low
        or now.outcome_high > was.outcome_high
        or now.days > was.days
    )


def _kept(experiment: ExperimentRule) -> list[int]:
    """What it keeps, unless that is the usual."""
    plain = experiment.plain()
    bounds = ("outcome_low", "outcome_high", "days")
    own = [getattr(experiment, one) for one in bounds]
    return own if any(one in plain for one in bounds) else []


def _shown(experiment: ExperimentRule) -> str:
    said = f"{experiment.percent} % in {words.some(experiment.variants)}"
    low, high, *days = _kept(experiment) or (0, 0)
    return f"{said}, outcome {low} to {high}, kept {days[0]} days" if days else said


def _planned(experiment: ExperimentRule) -> str:
    planned = experiment.reports_planned
    return f"{planned:,} reports" if planned else "any number of reports"


def _trial(experiment: ExperimentRule) -> list[Any]:
    return [experiment.task, list(experiment.variants)]


def _keeping(old: Bundle, new: Bundle) -> Iterator[Change]:
    before = old.retention.as_map()
    for what, days in new.retention.as_map().items():
        if days > before[what]:
            yield Change(
                risks.LONGER_RETENTION, f"service.{what}", str(days),
                f"{before[what]} days", f"{days} days",
            )  # fmt: skip
        elif what == "audit_days" and days < before[what]:
            yield Change(
                risks.SHORTER_AUDIT, f"service.{what}", str(days),
                f"{before[what]} days", f"{days} days",
            )  # fmt: skip
