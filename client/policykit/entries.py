"""The nouns of a bundle out of their YAML. Numbers are written in their own unit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from client.policykit.yamlfile import Value
from crypto.policy import generalise, values
from crypto.policy.access import ANY, BUILT_IN, Access, Grant, Role
from crypto.policy.cohorts import CohortRule, Op
from crypto.policy.experiments import ExperimentRule
from crypto.policy.flags import KINDS, Flag
from crypto.policy.generalise import Bucket, Day, Generaliser, Round, TopK
from crypto.policy.purposes import Purpose
from crypto.policy.retention import FIELDS as RETENTION, ServiceRetention
from crypto.policy.signals import Reach, Signal
from crypto.policy.tasks import TaskRule
from crypto.policy.values import Values

PACKAGE: Final = "/rookery.v1."


def purpose(name: str, value: Value) -> Purpose:
    """`NAME: {text, benefit, intrusive}`."""
    said = value.map()
    text, benefit = said.take("text").text(), said.take("benefit").text()
    intrusive = said.take("intrusive").truth()
    said.done()
    return value.sound(lambda: Purpose(name, text, benefit, intrusive))


def signal(name: str, value: Value) -> Signal:
    """`NAME: {kind, collection, keys, values, generalise, purposes, reach, …}`."""
    said = value.map()
    half_life = said.maybe("half_life_days")
    coarser = said.maybe("generalise")
    reach = said.take("reach")
    parts: dict[str, Any] = {
        "name": name,
        "kind": said.take("kind").text(),
        "collection": said.take("collection").text(),
        "keys": said.take("keys").texts(),
        "values": _values(said.take("values")),
        "generalise": () if coarser is None else tuple(map(_generaliser, coarser.list())),
        "purposes": said.take("purposes").texts(),
        "reach": _reach(reach),
        "retention_days": said.take("retention_days").whole(),
        "half_life_days": None if half_life is None else half_life.whole(),
        "text": said.take("text").text(),
    }
    said.done()
    return value.sound(lambda: Signal(**parts))


def _reach(value: Value) -> Reach:
    text = value.text()
    if text not in list(Reach):
        raise value.wrong(f"must be one of: {', '.join(Reach)}")
    return Reach(text)


def _values(value: Value) -> Values:
    """`{type: whole, low: 1, high: 5}`; a type without bounds may stand alone."""
    if not value.is_map:
        kind = value.text()
        return value.sound(lambda: values.of({"type": kind}))
    said = value.map()
    plain: dict[str, Any] = {"type": said.take("type").text()}
    # Whole numbers have no other unit than their own; all other numbers are kept in millionths.
    fine = plain["type"] in ("number", "vector", "delta")
    for name, field in said.rest():
        match name:
            case "choices":
                plain[name] = list(field.texts())
            case "low" | "high" | "cap" if fine:
                plain[f"{name}_micro"] = field.micro()
            case _:
                plain[name] = field.whole()
    return value.sound(lambda: values.of(plain))


def _generaliser(value: Value) -> Generaliser:
    """`day`, `bucket: [0, 18, 65]`, `round: 0.5`, `top_k: 5`."""
    if not value.is_map:
        if value.text() != Day.type:
            raise value.wrong("must be day, bucket: [EDGES], round: STEP or top_k: K")
        return Day()
    found = list(value.map().rest())
    if len(found) != 1 or found[0][0] not in generalise.TYPES:
        raise value.wrong("must be day, bucket: [EDGES], round: STEP or top_k: K")
    [(kind, said)] = found
    if kind == Bucket.type:
        edges = tuple(edge.micro() for edge in said.list())
        return value.sound(lambda: Bucket(edges))
    if kind == Round.type:
        step = said.micro()
        return value.sound(lambda: Round(step))
    if kind == TopK.type:
        k = said.whole()
        return value.sound(lambda: TopK(k))
    raise value.wrong("day stands alone: write `- day`")


def task(source: str, value: Value) -> TaskRule:
    """`SOURCE: {signals, purpose, kind, k_min_at_least, micro_rho_at_most, …}`."""
    said = value.map()
    cohort = said.maybe("cohort")
    period = {one: said.maybe(one) for one in ("micro_rho_a_period", "period_days")}
    parts: dict[str, Any] = {
        "source": source,
        "signals": said.take("signals").texts(),
        "purpose": said.take("purpose").text(),
        "kind": said.take("kind").text(),
        "k_min_at_least": said.take("k_min_at_least").whole(),
        "micro_rho_at_most": said.take("micro_rho_at_most").whole(),
        "result_days": said.take("result_days").whole(),
        "cohort": None if cohort is None else cohort.text(),
        "text": said.take("text").text(),
        **{one: None if given is None else given.whole() for one, given in period.items()},
    }
    said.done()
    return value.sound(lambda: TaskRule(**parts))


def flag(name: str, value: Value) -> Flag:
    """`NAME: {kill: {SUBJECT: NAME}, on}`, or `NAME: {feature: NAME, on, percent, cohort}`.

    A feature may be about a declared subject too, as `{task: SOURCE}`; a cohort is `{RULE: LABEL}`.
    """
    said = value.map()
    found = [(kind, one) for kind in KINDS if (one := said.maybe(kind)) is not None]
    on, percent, cohort = said.take("on").truth(), said.maybe("percent"), said.maybe("cohort")
    said.done()
    if len(found) != 1:
        raise value.wrong("must have one of: kill, feature")
    [(kind, subject)] = found
    about = _pair(subject) if subject.is_map else ("feature", subject.text())
    if percent is None and kind == "feature":
        raise value.wrong("percent is missing; add it")
    many = 100 if percent is None else percent.whole()
    whose = None if cohort is None else _pair(cohort)
    return value.sound(lambda: Flag(name, kind, about, on, many, whose))


def _pair(value: Value) -> tuple[str, str]:
    found = list(value.map().rest())
    if len(found) != 1:
        raise value.wrong("must be one `name: value`")
    return found[0][0], found[0][1].text()


class Placed(NamedTuple):
    """A grant, and where it stands."""

    grant: Grant
    value: Value


def access(value: Value) -> tuple[Access, tuple[Value, ...]]:
    """`{roles: {NAME: {identities, keys}}, grants: {ROLE: {SERVICE: METHODS}}}`, and where each
    grant stands."""
    said = value.map()
    roles = tuple(_role(name, role) for name, role in said.take("roles").map().rest())
    known = {*BUILT_IN, *(role.name for role in roles)}
    grants: list[Placed] = []
    for role, services in said.take("grants").map().rest():
        if role not in known:
            raise services.wrong("there is no such role; declare it in roles")
        grants += _grants(role, services)
    said.done()
    made = value.sound(lambda: Access(roles, tuple(one.grant for one in grants)))
    return made, tuple(one.value for one in grants)


def _role(name: str, value: Value) -> Role:
    said = value.map()
    identities, keys = said.maybe("identities"), said.maybe("keys")
    said.done()
    by_name = () if identities is None else identities.texts()
    by_key = () if keys is None else keys.texts()
    return value.sound(lambda: Role(name, by_name, by_key))


def _grants(role: str, value: Value) -> Iterator[Placed]:
    """`SERVICE: "*"`, `SERVICE: [METHOD, …]`, or `SERVICE: {METHOD: [PURPOSE, …]}`."""
    for service, methods in value.map().rest():
        if methods.is_map:
            for method, purposes in methods.map().rest():
                yield _grant(role, service, method, purposes.texts(), purposes)
        else:
            for one in methods.list():
                yield _grant(role, service, one.text(), (ANY,), one)


def _grant(role: str, service: str, method: str, purposes: tuple[str, ...], value: Value) -> Placed:
    full = f"{PACKAGE}{service}/{method}"
    return Placed(value.sound(lambda: Grant(role, full, purposes)), value)


def cohort(name: str, value: Value) -> CohortRule:
    """`NAME: {version, cohorts: [{label, all|any: [...]}], otherwise, text}`."""
    said = value.map()
    plain: dict[str, Any] = {
        "name": name,
        "version": said.take("version").whole(),
        "cohorts": [_when(one) for one in said.take("cohorts").list()],
        "otherwise": said.take("otherwise").text(),
        "text": said.take("text").text(),
    }
    said.done()
    return value.sound(lambda: CohortRule.of(plain))


def _when(value: Value) -> dict[str, Any]:
    said = value.map()
    plain: dict[str, Any] = {"label": said.take("label").text()}
    for name in ("all", "any"):
        if (tests := said.maybe(name)) is not None:
            plain[name] = [_comparison(one) for one in tests.list()]
    said.done()
    return plain


def _comparison(value: Value) -> dict[str, Any]:
    said = value.map()
    plain: dict[str, Any] = {"signal": said.take("signal").text()}
    if (key := said.maybe("key")) is not None:
        plain["key"] = key.text()
    for op in Op:
        if (found := said.maybe(op)) is not None:
            many = op in (Op.IN, Op.TOP_IN)
            plain[str(op)] = [one.scalar() for one in found.list()] if many else found.scalar()
    said.done()
    return plain


def experiment(name: str, value: Value) -> ExperimentRule:
    """`NAME: {task, variants, percent, reports_planned, outcome_low, outcome_high, days, text}`."""
    said = value.map()
    percent, planned = said.maybe("percent"), said.maybe("reports_planned")
    parts: dict[str, Any] = {
        "name": name,
        "task": said.take("task").text(),
        "variants": said.take("variants").texts(),
        "percent": 100 if percent is None else percent.whole(),
        "reports_planned": 0 if planned is None else planned.whole(),
        "text": said.take("text").text(),
    }
    for bound in ("outcome_low", "outcome_high", "days"):
        if (given := said.maybe(bound)) is not None:
            parts[bound] = given.whole()
    said.done()
    return value.sound(lambda: ExperimentRule(**parts))


def retention(value: Value) -> ServiceRetention:
    """`{result_days, audit_days, …}`."""
    said = value.map()
    days = {name: said.take(name).whole() for name in RETENTION}
    said.done()
    return value.sound(lambda: ServiceRetention(**days))
