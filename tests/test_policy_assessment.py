"""The privacy impact assessment: whatever is new or wider is found, and stands in the way until
what it needs is written down. Through the real command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from client.policykit import changes, risks, verdict, wider as wider_than
from client.policykit.assessment import NONE, Assessment, Mitigation
from crypto.policy import Bundle
from crypto.policy.access import Access, Grant, Role
from crypto.policy.flags import Flag
from crypto.policy.generalise import Bucket, Day, Round, TopK
from crypto.policy.retention import ServiceRetention
from crypto.policy.signals import Reach
from crypto.policy.values import Boolean, Choices, Delta, Members, Number, Text, Vector, Whole
from tests.policy_folders import Folder, rookery, rookery_process
from tests.policy_samples import MICRO, bundle, signal

Edit = Callable[[Folder], None]

NEW_SIGNAL = """
age:
  kind: setting
  collection: about
  keys: age
  values: {type: whole, low: 0, high: 120}
  purposes: [statistics]
  reach: aggregate
  retention_days: 400
  text: How old you are.
"""
PREPARED: dict[str, tuple[Edit, str]] = {
    "a new signal": (
        lambda folder: folder.write("signals", folder.text("signals") + NEW_SIGNAL),
        "new-signal:age:",
    ),
    "a wider range": (
        lambda folder: folder.replace("signals", "low: 1, high: 5}", "low: 0, high: 5}"),
        "wider-values:rating:",
    ),
    "longer retention": (
        lambda folder: folder.edit("signals", "evening", retention_days=91),
        "longer-retention:evening:91",
    ),
    "less noise": (
        lambda folder: folder.edit("tasks", "fl/taste", micro_rho_at_most=200_001),
        "less-noise:fl/taste:200001",
    ),
    "a smaller k": (
        lambda folder: folder.edit("tasks", "ab/home-first", k_min_at_least=49),
        "smaller-k:ab/home-first:49",
    ),
    "a new role": (
        lambda folder: folder.edit(
            "access", "roles", auditor={"identities": ["spiffe://example.org/ns/audit/sa/reader"]}
        ),
        "new-role:auditor:",
    ),
}
HARMLESS: dict[str, Edit] = {
    "another title": lambda folder: folder.write("policy", "title: Another title\n"),
    "a narrower range": lambda folder: folder.replace(
        "signals", "low: 1, high: 5}", "low: 2, high: 5}"
    ),
    "fewer choices": lambda folder: folder.replace("signals", "north-harbour, ", ""),
    "shorter retention": lambda folder: folder.edit("signals", "rating", retention_days=399),
    "a result kept shorter": lambda folder: folder.edit("tasks", "fl/taste", result_days=30),
    "more noise": lambda folder: folder.edit("tasks", "fl/taste", micro_rho_at_most=100),
    "a larger k": lambda folder: folder.edit("tasks", "fl/taste", k_min_at_least=1_000),
    "a coarser step": lambda folder: folder.replace("signals", "round: 1", "round: 2"),
    "a kill that stops": lambda folder: folder.edit("flags", "stop-learning", on=True),
    "a feature for fewer": lambda folder: folder.edit("flags", "mild-evenings", percent=49),
    "a set kept shorter": lambda folder: folder.edit("signals", "hidden", retention_days=1),
    "a call taken away": lambda folder: folder.edit("access", "grants", analyst=None),
    "a comment": lambda folder: folder.write("tasks", "# Reviewed.\n" + folder.text("tasks")),
}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """The shipped policy, to be edited."""
    return Folder.copied(tmp_path / "policy")


def unmet(folder: Folder, code: int = 7) -> list[str]:
    """What `check --against` wants mitigated."""
    done = rookery("check", folder.path, "--against", folder.in_force, "--json")
    assert done.code == code, done
    ids: list[str] = done.json["unmet"]
    return ids


@pytest.mark.parametrize("edit", PREPARED)
def test_what_is_wider_fails_until_its_mitigation_is_written(edit: str, folder: Folder) -> None:
    """Exactly the one change is found; the command ends with 7, and with 0 once it is answered."""
    change, expected = PREPARED[edit]
    change(folder)
    [found] = unmet(folder)
    assert found.startswith(expected)
    shown = rookery_process("check", folder.path, "--against", folder.in_force)
    assert shown.code == 7
    assert found in shown.out
    assert "NOT MET" in shown.out
    folder.answer(found)
    assert unmet(folder, code=0) == []
    answered = rookery("check", folder.path, "--against", folder.in_force)
    assert "What is done about it. (data protection officer, 2026-11-30)" in answered.out


def test_all_at_once_are_all_found(folder: Folder) -> None:
    """Six changes, six ids; with one answered, five stand in the way."""
    for change, _ in PREPARED.values():
        change(folder)
    found = unmet(folder)
    assert len(found) == 6
    for _, expected in PREPARED.values():
        assert sum(one.startswith(expected) for one in found) == 1
    folder.answer(found[2])
    assert unmet(folder) == [*found[:2], *found[3:]]
    folder.answer(*found)
    assert unmet(folder, code=0) == []


@pytest.mark.parametrize("edit", HARMLESS)
def test_a_harmless_edit_needs_nothing(edit: str, folder: Folder) -> None:
    """Nothing is found, and the command ends with 0."""
    HARMLESS[edit](folder)
    done = rookery("check", folder.path, "--against", folder.in_force, "--json")
    assert (done.code, done.json["changes"]) == (0, []), done
    assert bool(done.json["harmless"]) is (edit != "a comment")


def test_a_mitigation_is_for_one_step_only(folder: Folder) -> None:
    """What was written for 91 days is nothing for 92."""
    folder.edit("signals", "evening", retention_days=91)
    folder.answer("longer-retention:evening:91")
    assert unmet(folder, code=0) == []
    folder.edit("signals", "evening", retention_days=92)
    assert unmet(folder) == ["longer-retention:evening:92"]


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("{mitigation: Done., approved_by: me}", "date is missing; add it"),
        ("{mitigation: Done., approved_by: me, date: soon}", "must be a date, as 2027-01-31"),
        ("{mitigation: '', approved_by: me, date: 2026-11-30}", "is empty; write it"),
        ("{mitigation: Done., approved_by: me, date: 2026-11-30, by: x}", "is unknown"),
    ],
)
def test_half_a_mitigation_is_none(entry: str, sentence: str, folder: Folder) -> None:
    """What is done, by whom it was approved, and when: without one of them it is an error."""
    folder.write("assessment", f"longer-retention:evening:91: {entry}\n")
    done = rookery("check", folder.path)
    assert done.code == 1
    assert sentence in done.err
    assert "assessment.yaml, line 1" in done.err


def test_diff_judges_folders_and_compiled_policies_alike(folder: Folder, tmp_path: Path) -> None:
    """A compiled policy holds its assessment's hash: the text is named, and must be that one."""
    folder.edit("signals", "evening", retention_days=91)
    by_folder = rookery("diff", folder.in_force, folder.path, "--json")
    assert by_folder.code == 7
    folder.answer("longer-retention:evening:91")
    compiled = tmp_path / "new.policy"
    assert rookery("build", folder.path, "--unsigned", "-o", compiled).code == 0
    by_file = rookery("diff", folder.in_force, compiled, "--json")
    assert (by_file.code, by_file.json["unmet"]) == (7, by_folder.json["unmet"])
    written = folder.path / "assessment.yaml"
    assert rookery("diff", folder.in_force, compiled, "--assessment", written).code == 0
    folder.answer("something-else:evening:1")
    other = rookery("diff", folder.in_force, compiled, "--assessment", written)
    assert other.code == 1
    assert "not the assessment that this policy was built with" in other.err


def test_a_policy_with_something_unanswered_is_not_built(folder: Folder, tmp_path: Path) -> None:
    """Nothing is written, and the command ends with 7."""
    folder.edit("signals", "evening", retention_days=91)
    out = tmp_path / "next.policy"
    done = rookery("build", folder.path, "--previous", folder.in_force, "--unsigned", "-o", out)
    assert done.code == 7
    assert "longer-retention:evening:91" in done.out
    assert not out.exists()
    folder.answer("longer-retention:evening:91")
    built = rookery(
        "build", folder.path, "--previous", folder.in_force, "--unsigned", "-o", out, "--json"
    )
    assert (built.code, built.json["sequence"]) == (0, 2)


# --- every rule, on the small bundle of tests ---

OLD = bundle()


def ids(new: Bundle, old: Bundle = OLD) -> list[str]:
    """What is found, without the detail."""
    return [change.id.rpartition(":")[0] for change in changes.find(old, new)]


def with_signal(name: str, among: Bundle = OLD, **fields: Any) -> Bundle:
    """The bundle with a signal changed."""
    changed = tuple(
        replace(one, **fields) if one.name == name else one for one in among.signals
    )  # fmt: skip
    return replace(among, signals=changed)


def with_task(source: str, among: Bundle = OLD, **fields: Any) -> Bundle:
    """The bundle with a task's rule changed."""
    changed = tuple(
        replace(one, **fields) if one.source == source else one for one in among.tasks
    )  # fmt: skip
    return replace(among, tasks=changed)


def with_access(roles: tuple[Role, ...] | None = None, *grants: Grant) -> Bundle:
    """The bundle with roles instead, and grants beside."""
    access = OLD.access
    return replace(
        OLD,
        access=Access(access.roles if roles is None else roles, (*access.grants, *grants)),
    )


def with_purpose(**fields: Any) -> Bundle:
    """The bundle with its first purpose changed."""
    first, *rest = OLD.purposes
    return replace(OLD, purposes=(replace(first, **fields), *rest))


OPERATOR, READER = OLD.access.roles
EVERY_RULE = [
    (with_signal("spicy", kind="set", values=Members(1)), "new-signal:spicy"),
    (with_signal("age", collection="else"), "new-signal:age"),
    (with_signal("region", values=Choices(("north", "south", "east"))), "wider-values:region"),
    (with_signal("saved", keys=("soup", "cake", "pie")), "wider-keys:saved"),
    (with_signal("saved", keys=("*",)), "wider-keys:saved"),
    (with_signal("age", generalise=()), "less-generalised:age"),
    (with_signal("note", retention_days=91), "longer-retention:note"),
    (with_signal("taste", half_life_days=31), "longer-half-life:taste"),
    (with_signal("taste", half_life_days=None), "longer-half-life:taste"),
    (with_signal("note", reach=Reach.SYNC), "wider-reach:note"),
    (with_signal("spicy", reach=Reach.AGGREGATE), "wider-reach:spicy"),
    (with_signal("age", purposes=("advice", "statistics")), "new-purpose:age"),
    (with_purpose(intrusive=True), "intrusive-purpose:advice"),
    (with_purpose(text="Other words."), "changed-text:advice"),
    (with_purpose(benefit="Other words."), "changed-text:advice"),
    (
        replace(OLD, purposes=tuple(replace(p, intrusive=False) for p in OLD.purposes)),
        "less-guarded-purpose:statistics",
    ),
    (
        replace(OLD, tasks=(*OLD.tasks, replace(OLD.tasks[0], source="app/again"))),
        "new-task:app/again",
    ),
    (with_task("app/region", kind="count"), "new-task:app/region"),
    (with_task("app/region", signals=("region", "taste")), "task-reads-more:app/region"),
    (
        with_task("ab/order", with_task("ab/order", signals=("taste", "region")), cohort="region"),
        "task-reads-more:ab/order",
    ),
    (with_task("app/region", micro_rho_at_most=100_001), "less-noise:app/region"),
    (with_task("app/region", k_min_at_least=49), "smaller-k:app/region"),
    (with_task("app/region", result_days=181), "longer-retention:app/region.result"),
    (
        replace(OLD, flags=tuple(replace(f, percent=100) for f in OLD.flags)),
        "flag-wider:new-order",
    ),
    (
        replace(OLD, flags=tuple(replace(f, cohort=None) for f in OLD.flags)),
        "flag-wider:north",
    ),
    (with_access((OPERATOR, READER, Role("new", (), ()))), "new-role:new"),
    (
        with_access((replace(OPERATOR, keys=("61" * 32, "62" * 32)), READER)),
        "new-identity:operator",
    ),
    (
        with_access((OPERATOR, replace(READER, identities=(*READER.identities, "spiffe://e/a")))),
        "new-identity:reader:spiffe",
    ),
    (with_access((OPERATOR, replace(READER, identities=()))), "unrestricted-role:reader"),
    (
        with_access(None, Grant("reader", "/rookery.v1.Rounds/*", ("*",))),
        "new-grant:reader:Rounds/*",
    ),
    (
        with_access(None, Grant("operator", "/rookery.v1.Sync/Push", ("*",))),
        "new-grant:operator:Sync/Push",
    ),
    (
        replace(OLD, cohorts=tuple(replace(one, version=9) for one in OLD.cohorts[:1])),
        "new-cohort:region",
    ),
    (
        replace(OLD, experiments=tuple(replace(one, percent=51) for one in OLD.experiments)),
        "wider-experiment:order",
    ),
    *(
        (replace(OLD, experiments=(made,)), "wider-experiment:order")
        for made in (
            replace(OLD.experiments[0], outcome_high=101),
            replace(OLD.experiments[0], outcome_low=-1),
            replace(OLD.experiments[0], days=91),
        )
    ),
    (with_signal("note", text="Other words."), "changed-words:note"),
    (with_task("app/region", text="Other words."), "changed-words:app/region"),
    (
        replace(OLD, experiments=tuple(replace(e, reports_planned=2) for e in OLD.experiments)),
        "earlier-verdict:order",
    ),
    (
        replace(OLD, experiments=tuple(replace(e, reports_planned=0) for e in OLD.experiments)),
        "earlier-verdict:order",
    ),
    (
        replace(OLD, retention=replace(OLD.retention, audit_days=1)),
        "shorter-audit:service.audit_days",
    ),
    (
        replace(OLD, retention=replace(OLD.retention, boxes_days=15)),
        "longer-retention:service.boxes_days",
    ),
]


@pytest.mark.parametrize(
    ("most", "days", "found"),
    [
        (500_000, 30, []),
        (400_000, 31, []),
        (500_001, 30, ["less-noise:app/region.period"]),
        (500_000, 29, ["less-noise:app/region.period"]),
        (None, None, ["less-noise:app/region.period"]),
    ],
)
def test_more_rounds_of_a_task_in_a_time_are_less_noise(
    most: int | None, days: int | None, found: list[str]
) -> None:
    """As is a bound that goes; one that comes, or is narrower, needs nothing."""
    bounded = with_task("app/region", micro_rho_a_period=500_000, period_days=30)
    assert ids(with_task("app/region", micro_rho_a_period=most, period_days=days), bounded) == found
    assert ids(bounded) == []


@pytest.mark.parametrize(("new", "expected"), EVERY_RULE)
def test_every_rule_finds_what_it_is_for(new: Bundle, expected: str) -> None:
    """Each change is found under its own id, or among what goes along with it."""
    assert expected in ids(new)


def test_every_rule_is_tried() -> None:
    """None of the rules has no example above."""
    tried = {expected.split(":")[0] for _, expected in EVERY_RULE}
    assert {rule.name for rule in risks.RULES} == tried | {"kill-lifted"}


def test_a_kill_that_is_lifted_is_a_use_that_goes_on() -> None:
    """Off again, removed, or about something else; another kill about the same still stops it."""
    stopped = replace(OLD, flags=tuple(replace(f, on=True) for f in OLD.flags))
    assert ids(OLD, stopped) == ["kill-lifted:stop-region"]
    assert ids(replace(stopped, flags=stopped.flags[1:]), stopped) == ["kill-lifted:stop-region"]
    other = Flag("other", "kill", ("signal", "region"), True, 100, None)
    assert ids(replace(stopped, flags=(other, *stopped.flags[1:])), stopped) == []


def test_less_noise_is_said_in_epsilon() -> None:
    """Before and after, at one delta; what protects nobody is called so."""
    [change] = changes.find(OLD, with_task("app/region", micro_rho_at_most=200_000))
    assert change.was == "rho 0.1 a round (epsilon 2.14 at delta 1e-06)"
    assert change.now == "rho 0.2 a round (epsilon 3.13 at delta 1e-06)"
    [change] = changes.find(OLD, with_task("app/region", micro_rho_at_most=1 << 53))
    assert "protects nobody" in change.now


def test_turning_it_round_finds_nothing_or_something_else() -> None:
    """What a rule found going one way, it does not find going back."""
    both = {
        "changed-text", "changed-words", "new-task", "new-cohort", "new-signal",
        "wider-experiment",
    }  # fmt: skip
    for new, expected in EVERY_RULE:
        rule = expected.split(":")[0]
        back = ids(OLD, new)
        assert rule in both or not any(found.startswith(rule) for found in back), (rule, back)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (Whole(0, 9), Whole(1, 8)),
        (Number(0, 9 * MICRO), Whole(0, 9)),
        (Number(0, 9), Number(1, 9)),
        (Choices(("a", "b")), Choices(("b",))),
        (Boolean(), Boolean()),
        (Text(9), Text(8)),
        (Text(9), Choices(("a", "bbb"))),
        (Vector(9, 0, 9), Vector(8, 0, 9)),
        (Delta(0, 9, 9), Delta(1, 8, 8)),
        (Members(9), Members(8)),
    ],
)
def test_narrower_values_need_nothing(old: Any, new: Any) -> None:
    """And the way back does, unless nothing changed."""
    one, other = (
        bundle(
            signals=(signal("x", values),),
            **dict.fromkeys(("tasks", "flags", "cohorts", "experiments"), ()),
        )
        for values in (old, new)
    )
    assert ids(other, one) == []
    assert ids(one, other) == ([] if old == new else ["wider-values:x"])


@pytest.mark.parametrize(
    ("old", "new", "wider"),
    [
        ((), (Day(),), False),
        ((Day(),), (), True),
        ((Bucket((0, 1, 2)),), (Bucket((0, 2)),), False),
        ((Bucket((0, 2)),), (Bucket((0, 1, 2)),), True),
        ((Round(10),), (Round(20),), False),
        ((Round(10),), (Round(15),), True),
        ((Round(10),), (Bucket((0,)),), True),
        ((TopK(5),), (TopK(4),), False),
        ((TopK(5),), (TopK(6),), True),
        ((Round(10), Bucket((0,))), (Bucket((0,)), Round(10)), True),
        ((Round(10),), (Bucket((0,)), Round(10)), False),
    ],
)
def test_coarser_is_coarser(old: Any, new: Any, wider: bool) -> None:
    """A step that is gone, finer or moved is less generalised; one more is not."""
    assert wider_than.less_generalised(old, new) is wider


def test_the_same_bundle_has_nothing_new() -> None:
    """Neither found nor harmless."""
    judged = verdict.judge(OLD, OLD, NONE)
    assert (judged.findings, judged.harmless, judged.unmet) == ((), (), ())


@settings(max_examples=50, deadline=None)
@given(st.sets(st.sampled_from(range(len(EVERY_RULE)))))
def test_what_is_unmet_is_what_nobody_wrote_about(answered: set[int]) -> None:
    """Of any findings, those without an entry stand in the way, and no others."""
    written = {
        change.id: Mitigation("Done.", "officer", "2026-11-30")
        for at in answered
        for change in changes.find(OLD, EVERY_RULE[at][0])
    }
    for new, _ in EVERY_RULE[:6]:
        judged = verdict.judge(OLD, new, Assessment(written))
        assert {one.change.id for one in judged.unmet} == {
            change.id for change in changes.find(OLD, new)
        } - written.keys()


def test_the_hash_stands_for_every_word_of_an_assessment() -> None:
    """Another word, another hash; nothing written, zeros."""
    one = Mitigation("Done.", "officer", "2026-11-30")
    hashes = {
        Assessment(entries).hash
        for entries in (
            {},
            {"a": one},
            {"b": one},
            {"a": replace(one, mitigation="Done!")},
            {"a": replace(one, approved_by="other")},
            {"a": replace(one, date="2026-12-01")},
        )
    }
    assert len(hashes) == 6
    assert bytes(32) in hashes


def test_retention_of_the_service_may_get_shorter() -> None:
    """Fewer days need nothing, but for the audit log's."""
    short = ServiceRetention(365, 730, 0, 1, 1)
    assert ids(replace(OLD, retention=short)) == []
    short = replace(short, audit_days=700)
    assert ids(replace(OLD, retention=short)) == ["shorter-audit:service.audit_days"]
