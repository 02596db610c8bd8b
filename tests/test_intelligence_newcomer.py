"""A new account gets a sensible ranking from a joint aggregate that it had no part in."""

from __future__ import annotations

from client.intelligence import blend
from client.intelligence.context import Context
from client.intelligence.ondevice import OnDevice
from client.measure.errors import Ineligible
from client.measure.participant import Participant
from client.vault import MemoryVault
from mpc.task import Task
from tests.governed_worlds import govern
from tests.measure_worlds import taking_part
from tests.relay_worlds import FINISH, GRACE_MS, PARTIES, WINDOW_MS, Relay, manifest, result, task
from tests.shell_worlds import Clock, endpoint_of, fleet
from tests.test_intelligence_blend import result_of
from tests.test_intelligence_ondevice import COUNTS, popular, shipped

CLOSED_MS = WINDOW_MS + GRACE_MS


def wanted(made: Task) -> bool:
    """What counts by cohort."""
    return made.task_id.startswith("popular/")


def said(made: Task, counts: dict[str, int]) -> bytes:
    """What the parties sign."""
    labels = made.kind.labels  # type: ignore[attr-defined]
    told = [counts.get(label, 0) for label in labels]
    return result_of(made, told, 3_000).encode(made)


async def test_a_newcomer_ranks_by_what_others_said_and_tells_nothing(relay: Relay) -> None:
    """The round was over before the account was there. Its device finds the result by the list
    of tasks, verifies it, keeps it over a restart, and ranks by it; it contributed to nothing,
    and nothing of a profile was pushed. A task that is not wanted is not asked for."""
    bundle = shipped()
    made, other = popular(bundle), task("food/bin")
    for one in (made, other):
        await relay.publish(one)
    opened, unasked = (manifest(one, relay.now_ms - 1_000, one.task_id) for one in (made, other))
    for round_ in (opened, unasked):
        await relay.collect(round_)
    later = Clock(CLOSED_MS)
    with relay.later(CLOSED_MS):
        await relay.call(PARTIES[0], FINISH, result(opened, said(made, COUNTS), by=(1, 3)))
        async with fleet(endpoint_of(relay.service)) as devices:
            newcomer = taking_part(await devices.first(clock=later), allow=False)
            await newcomer.synced.sync_once()
            seen = newcomer.synced.core.cursor
            assert await newcomer.fetch_results() == []
            assert not newcomer.results.ended
            govern(newcomer.synced, bundle)
            assert await newcomer.fetch_newest(OnDevice(newcomer.synced).counts) == []
            again = Participant(
                devices.again(newcomer.synced, MemoryVault(newcomer.synced.vault.load()))
            )
            [kept] = again.results.ended.values()
            assert (kept.shown.manifest.digest, kept.signers) == (opened.digest, (1, 3))
            rule = bundle.cohort("palate")
            assert rule is not None
            assert blend.newest([kept], made.task_id, rule) is not None
            await newcomer.synced.sync_once()
            assert newcomer.synced.core.cursor == seen
            assert not (await newcomer.rounds.round(opened.round_id)).contributed
            ranked = OnDevice(again.synced).rank(
                "rating", Context(), ended=again.results.ended.values()
            )
            assert [one.item for one in ranked] == ["italian", "korean", "thai"]


async def test_a_result_that_does_not_verify_is_no_prior(relay: Relay) -> None:
    """Parties that sign what is no result of the task, and a publisher that is not trusted:
    refused by name, and nothing is kept."""
    made = popular(shipped())
    await relay.publish(made)
    opened = manifest(made, relay.now_ms - 1_000)
    await relay.collect(opened)
    with relay.later(CLOSED_MS):
        await relay.call(PARTIES[0], FINISH, result(opened, b"no result"))
        async with fleet(endpoint_of(relay.service)) as devices:
            one = taking_part(await devices.first(clock=Clock(CLOSED_MS)), allow=False)
            [(task_id, error)] = await one.fetch_newest(wanted)
            assert task_id == made.task_id
            assert isinstance(error, Ineligible)
            stranger = Participant(await devices.first(clock=Clock(CLOSED_MS)))
            [(_, error)] = await stranger.fetch_newest(wanted)
            assert error.rule == "publisher"
            assert not one.results.ended
            assert not stranger.results.ended
