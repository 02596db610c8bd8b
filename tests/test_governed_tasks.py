"""Tasks under a policy: what it does not declare is not answered, and reads nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from client.device import Device
from client.gate import SignalRefused
from client.measure.errors import Ineligible
from client.measure.participant import Outcome
from client.measure.policy import DAY_MS
from client.measure.records import GIVEN
from client.profile import Name
from client.values import Part, encode
from client.views import AGGREGATION_KEY
from crypto.policy import Bundle
from crypto.policy.flags import Flag
from crypto.policy.purposes import Purpose
from crypto.policy.signals import Reach
from crypto.policy.tasks import TaskRule
from crypto.policy.values import Choices, Delta
from mpc.task import Task
from tests.governed_worlds import govern
from tests.measure_worlds import PURPOSE, Meter, meter, meters, taking_part, together
from tests.policy_samples import MICRO, bundle, signal
from tests.relay_worlds import Relay, manifest, task
from tests.shell_worlds import Fleet, endpoint_of, fleet, put
from tests.test_measure_shell import food, outcomes

OWN: dict[str, Any] = {"purposes": (PURPOSE,), "reach": Reach.AGGREGATE}
RULE = TaskRule(
    "food/cuisine", ("cuisine",), PURPOSE, "histogram", 2, 100_000, 30, None, "What people like."
)


def policy(rule: TaskRule = RULE, **changes: Any) -> Bundle:
    """A favourite that a task counts, and two signals that it has no business with."""
    made: dict[str, Any] = {
        "purposes": (
            Purpose(PURPOSE, "Counts favourites.", "The menu gets better.", False),
            *bundle().purposes,
        ),
        "signals": (
            signal("cuisine", Choices(("thai", "greek", "lao")), collection="food", **OWN),
            signal("diet", Choices(("none", "vegan")), collection="food", **OWN),
            signal("rating", Delta(0, MICRO, 9 * MICRO), collection="rating", keys=("*",), **OWN),
        ),
        "tasks": (rule,),
        "flags": (), "cohorts": (), "experiments": (),
    }  # fmt: skip
    return bundle(**{**made, **changes})


def kill(subject: str, name: str) -> Bundle:
    return policy(flags=(Flag("stop", "kill", (subject, name), True, 100, None),))


@pytest.fixture
async def devices(relay: Relay) -> AsyncIterator[Fleet]:
    """Devices of the relay's service."""
    async with fleet(endpoint_of(relay.service)) as made:
        yield made


@pytest.fixture
def one() -> Meter:
    """A device under that policy, which trusts the publisher and the parties."""
    made = meter()
    held = policy()
    made.measuring.governed = lambda: held
    return made


def under(one: Meter, held: Bundle | None) -> None:
    one.measuring.governed = lambda: held


def cuisine(**changes: Any) -> Task:
    return task("food/cuisine", **changes)


def refusal(one: Meter, made: Task) -> str:
    return one.refusal(made, manifest(made, one.now_ms - 1_000))


def test_a_declared_task_is_answered_in_every_version(one: Meter) -> None:
    """The rule is its source's."""
    for made in (cuisine(), task("food/cuisine/v2")):
        assert refusal(one, made) == "-"


@pytest.mark.parametrize(
    ("held", "made", "rule"),
    [
        (None, cuisine(), "no-policy"),
        (policy(tasks=()), cuisine(), "task-undeclared"),
        (policy(), task("food/diet"), "task-undeclared"),
        (kill("task", "food/cuisine"), cuisine(), "task-killed"),
        (kill("purpose", PURPOSE), cuisine(), "task-killed"),
        (kill("signal", "cuisine"), cuisine(), "task-killed"),
        (policy(replace(RULE, kind="multihot")), cuisine(), "task-kind"),
        (policy(replace(RULE, k_min_at_least=3)), cuisine(), "task-k-min"),
        (policy(replace(RULE, micro_rho_at_most=60_000)), cuisine(), "task-noise"),
    ],
)
def test_a_task_that_the_policy_does_not_let_be_is_not_answered(
    one: Meter, held: Bundle | None, made: Task, rule: str
) -> None:
    """Whoever signed it, and though its purpose is allowed."""
    under(one, held)
    assert made.cost_micro_rho > 60_000
    assert refusal(one, made) == rule


def test_an_account_answers_one_version_of_a_task_at_a_time() -> None:
    """Whichever of its devices answered: a version of its own is no way to be told again what was
    told, with another draw of the noise. Once the window is over the next one is answered."""
    a, b = meters()
    held = policy()
    for one in (a, b):
        one.measuring.governed = lambda: held
    first = cuisine()
    a.answer(first, manifest(first, a.now_ms - 1_000), 1)
    together(a, b)
    for one in (a, b):
        for version in (2, 3):
            made = task(f"food/cuisine/v{version}")
            assert refusal(one, made) == "source-open"
            with pytest.raises(Ineligible, match="another version"):
                one.answer(made, manifest(made, one.now_ms - 1_000), 1)
    for one in (a, b):
        one.phone.now_ms += first.window_ms
    again = task("food/cuisine/v2")
    assert b.refusal(again, manifest(again, b.now_ms - 500)) == "-"


def test_all_versions_of_a_task_share_what_it_may_cost() -> None:
    """Two rounds fit into the period, by whichever version and device; afterwards there is room
    again. A device under no policy has its own caps alone."""
    a, b = meters()
    cost = cuisine().cost_micro_rho
    held = policy(replace(RULE, micro_rho_at_most=cost, micro_rho_a_period=2 * cost, period_days=3))
    for one in (a, b):
        one.measuring.governed = lambda: held
    for version, one in ((1, a), (2, b)):
        made = task(f"food/cuisine/v{version}")
        one.answer(made, manifest(made, one.now_ms - 1_000), 1)
        together(a, b)
        for other in (a, b):
            other.phone.now_ms += made.window_ms
    third = task("food/cuisine/v3")
    round_ = manifest(third, a.now_ms - 500)
    assert a.refusal(third, round_) == b.refusal(third, round_) == "budget"
    a.measuring.governed = None
    assert a.refusal(third, round_) == "-"
    b.phone.now_ms += 3 * DAY_MS
    assert b.refusal(third, manifest(third, b.now_ms - 500)) == "-"


def test_what_another_device_answered_must_be_readable() -> None:
    """What can't be read may have been anything; of a removed device it stops nobody."""
    a, b = meters()
    held = policy()
    a.measuring.governed = lambda: held
    for name, rule in (("what", "-"), (b.device.identity.device_id.hex(), "budget")):
        a.device.put_reserved(Name(GIVEN, name), [["of a later version"]], now_ms=a.now_ms)
        assert refusal(a, cuisine()) == rule


def test_the_purpose_is_that_of_the_policy(one: Meter) -> None:
    """A task can't ask for the same under another one that the person allows."""
    one.allow("research")
    assert refusal(one, cuisine(purpose="research")) == "task-purpose"


def test_a_task_that_was_killed_meanwhile_is_not_sent_again(one: Meter) -> None:
    """What was stored for it is dropped."""
    made = cuisine()
    one.put("food/cuisine", 1)
    one.answer(made, manifest(made, one.now_ms - 1_000), 1)
    [answered] = one.measuring.unsent()
    under(one, kill("task", "food/cuisine"))
    with pytest.raises(Exception, match="switch") as refused:
        one.measuring.send_again(answered, one.consent, now_ms=one.now_ms)
    assert getattr(refused.value, "rule", "") == "task-killed"
    assert one.measuring.unsent() == []


def test_an_app_s_function_reads_only_what_the_policy_names_for_the_task(one: Meter) -> None:
    """Whatever device it holds: asking is refused, lists leave it out; afterwards all is back."""
    one.put("food/cuisine", "thai")
    one.put("food/diet", "vegan")
    one.device.add_score("rating", "thai", 1, now_ms=one.now_ms)
    one.device.add_member("food", "member", now_ms=one.now_ms)

    def curious(made: Task, device: Device, *, now_ms: int) -> object:
        assert made.purpose == PURPOSE
        asked: tuple[Callable[[], object], ...] = (
            lambda: device.get("food", "diet"),
            lambda: one.device.score("rating", "thai", now_ms=now_ms),
        )
        for ask in asked:
            with pytest.raises(SignalRefused, match="rule task-signal"):
                ask()
        assert device.list("food") == {"cuisine": "thai"}
        assert device.members("food") == {"cuisine"}
        assert device.scores("rating", now_ms=now_ms) == {}
        assert device.collections() == ("food",)
        assert one.consent.allows(PURPOSE), "the library's own records are not the app's"
        return device.get("food", "cuisine")

    one.measures.register("food/cuisine", curious)
    with one.measuring.reading(cuisine()):
        assert one.measures.of(cuisine(), one.device, now_ms=one.now_ms) == "thai"
    assert one.device.get("food", "diet") == "vegan"
    assert one.device.collections() == ("food", "rating")


def test_what_stays_on_the_device_is_not_read_for_a_task_either(one: Meter) -> None:
    """A task can't name it, so that it is always left out."""
    core = one.device._core
    core.local.put(Name("notes", "a"), encode("x"), one.now_ms, core.journal)
    core.local.put_score(Name("notes", "b"), Part(1, one.now_ms), core.journal)
    assert one.device.collections() == ("notes",)
    with one.measuring.reading(cuisine()):
        assert one.device.collections() == ()
        assert one.device.list("notes") == {}
        assert one.device.scores("notes", now_ms=one.now_ms) == {}


def test_what_was_recorded_to_stay_on_the_device_stays_though_a_later_policy_lets_it_go(
    one: Meter,
) -> None:
    """A setting and a score of reach `device`: under a bundle that a task reads them by, the task
    gets what the account's devices share, and nothing of what was kept here."""
    names = {"cuisine": Name("food", "cuisine"), "rating": Name("rating", "thai")}
    core, now_ms = one.device._core, one.now_ms
    one.device.add_score("rating", "thai", 1, now_ms=now_ms)
    core.local.put(names["cuisine"], encode("lao"), now_ms, core.journal)
    core.local.put_score(names["rating"], Part(2, now_ms), core.journal)
    under(one, policy(replace(RULE, signals=("cuisine", "rating"))))
    assert one.device.get("food", "cuisine") == "lao"
    assert one.device.score("rating", "thai", now_ms=now_ms) == 3
    with one.measuring.reading(cuisine()):
        assert one.device.get("food", "cuisine") is None
        assert one.device.list("food") == {}
        assert one.device.members("food") == frozenset()
        assert one.device.score("rating", "thai", now_ms=now_ms) == 1
        assert one.device.shares("rating", "thai").keys() == {0}
        assert one.device.collections() == ("rating",)
        assert one.measures.of(cuisine(), one.device, now_ms=now_ms) is None
    assert one.device.get("food", "cuisine") == "lao"


def test_a_task_learns_nothing_of_names_that_it_may_not_read(one: Meter) -> None:
    """Neither that something is there, nor when or where it was written; nor the account's
    secret, which nobody reads as a record."""
    core, now_ms = one.device._core, one.now_ms
    one.put("food/diet", "vegan")
    one.device.add_score("rating", "thai", 1, now_ms=now_ms)
    core.local.put(Name("notes", "a"), encode("x"), now_ms, core.journal)
    core.local.put_score(Name("notes", "a"), Part(1, now_ms), core.journal)
    names = (("food", "diet"), ("rating", "thai"), ("notes", "a"), ("notes", "nothing"))

    def learned() -> list[tuple[object, ...]]:
        device = one.device
        return [
            (
                device.origins.setting(*name), device.origins.parts(*name), device.is_here(*name),
                device.written_ms(*name), device.shares(*name),
            )
            for name in names
        ]  # fmt: skip

    *there, nothing = learned()
    assert nothing not in there
    with one.measuring.reading(cuisine()):
        assert learned() == [nothing] * 4
        assert [one.device.stored(name) for name, _ in names] == [()] * 4
    assert one.device.aggregation_key is not None
    assert one.device.get(*AGGREGATION_KEY) is None
    assert one.device.list(AGGREGATION_KEY.collection) == {}
    assert one.device.stored(AGGREGATION_KEY.collection) == ()


async def test_a_governed_device_answers_out_of_what_the_policy_declares(
    relay: Relay, devices: Fleet
) -> None:
    """By the shell: declared tasks are answered, others and values given by hand are not."""
    synced = await devices.first()
    put(synced, "cuisine", "thai", "food")
    put(synced, "diet", "vegan", "food")
    held = policy()
    govern(synced, held)
    await synced.consenting.grant(PURPOSE)
    one = taking_part(synced)

    def curious(made: Task, device: Device, *, now_ms: int) -> object:
        return device.get("food", "diet")

    one.measures.register("food/cuisine/v3", curious)
    for name in ("food/cuisine", "food/cuisine/v2", "food/cuisine/v3", "food/diet"):
        await food(relay, name)
    [given] = await one.contribute_once(only="food/cuisine/v2", said="thai")
    assert (given.outcome, given.rule) == (Outcome.REFUSED, "task-value")
    assert outcomes(await one.contribute_once()) == {
        "food/cuisine": (Outcome.CONTRIBUTED, ""),
        "food/cuisine/v2": (Outcome.REFUSED, "source-open"),
        "food/cuisine/v3": (Outcome.REFUSED, "task-signal"),
        "food/diet": (Outcome.REFUSED, "task-undeclared"),
    }
