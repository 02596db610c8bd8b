"""Rounds from devices to a signed result, over a real relay and five party processes.

All of them run at once, in one town. Noise is of the smallest sigma that a task may have, so
that sums are exact, or off by one, but for chances below one in a million.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cbor2
import grpc
import grpc.aio
import pytest

from crypto import labels
from crypto.field import FIELD31, FIELD61
from crypto.primitives import verify
from mpc import oracle, result as results
from mpc.kinds import Experiment, Histogram, Kind, Mean, Quantile, Vector
from mpc.manifest import Manifest
from mpc.noise import Law, Mechanism
from mpc.result import Bins, RoundResult, Sums, Undecided
from mpc.tail import Ranked
from mpc.tail_params import AtQuantiles, Threshold
from mpc.task import Caps, Task
from rookery.v1 import rounds_pb2
from services.party.states import State
from tests.bad_reports import Crafted, Device, crafted
from tests.party_process import PartyProcess, Town, contribution, task, town, until

pytestmark = pytest.mark.timeout(300)
WIDE = Caps(1_000_000_000, 86_400_000, 1_000_000_000)
NEARLY_NONE = Law(Mechanism.LAPLACE, 1)
WINDOW_MS = 5_000


@dataclass(frozen=True)
class Case:
    """A round with honest and hostile devices, which must be exact over the honest."""

    kind: Kind
    values: Sequence[Any]
    invalid: Sequence[Sequence[int]]
    """Vectors that no allowed value has."""
    sigma_milli: int
    off: int
    """What the noise may put on a sum, but for once in a million."""


CASES: dict[tuple[int, int], Case] = {
    (3, 1): Case(
        Histogram(FIELD31, 4, ()),
        [0, 1, 1, 2, 2, 2, 3],
        [[1, 1, 0, 0], [5, 0, 0, 0], [0, 0, 0, 0], [5, -4, 0, 0]],
        sigma_milli=1, off=0,
    ),
    (4, 1): Case(
        Vector(FIELD61, 2, 3, 4),
        [[1, -1], [0, 2], [0, 0], [-2, 0]],
        [[0, 1, 1, 1, 1, 1, 0, 0, 0], [3, 0, 0, 0, 0, 1, 0, 0, 0]],
        sigma_milli=100, off=3,
    ),
    (5, 1): Case(
        Mean(FIELD61, 1, 3, True),
        [1, 3, 3, 2],
        [[1, 0, 1], [0, 2, 1]],
        sigma_milli=100, off=3,
    ),
    (5, 2): Case(
        Experiment(FIELD31, 2, (), 0, 1),
        [(0, 1), (1, 0), (1, 1), (0, 1)],
        [[1, 1, 1, 1, 1, 1, 1], [0, 0, 1, 0, 0, 0, 0]],
        sigma_milli=100, off=3,
    ),
}  # fmt: skip


@dataclass
class Played:
    """What came of one round."""

    task: Task
    manifest: Manifest
    crafted: Crafted | None = None
    answer: rounds_pb2.GetResultResponse | None = None

    def result(self) -> RoundResult:
        """As an analyst reads it."""
        assert self.answer is not None
        sigs = {row.party: row.sig for row in self.answer.sigs}
        return results.open_(self.answer.result, sigs, self.manifest, self.task)

    def reasons(self) -> list[tuple[str, str]]:
        """Why parties gave up, and in which opening, as they signed it."""
        assert self.answer is not None
        assert not self.answer.result
        said = []
        for row in self.answer.abandonments:
            key = self.manifest.parties[row.party - 1].ik_pk
            verify(key, labels.ABANDONMENT, self.manifest.digest + row.statement, row.sig)
            statement = cbor2.loads(row.statement)
            said.append((statement["reason"], statement["opening"]))
        return said


LIES = {
    "set": (3, 1), "coin": (3, 1), "shares": (3, 1), "sum": (3, 1), "validity": (4, 1),
    "pickle": (3, 1),
}  # fmt: skip
VOTES = [0, 1, 1, 2, 2, 2]


def exact(name: str, kind: Kind, sigma_milli: int = 1, **more: Any) -> Task:
    """A task with hardly any noise."""
    law = Law(Mechanism.LAPLACE, sigma_milli)
    kappa = 2 if kind.field.bits == 31 else 1
    given = {"kind": kind, "kappa": kappa, "noise": law, "caps": WIDE, "window_ms": WINDOW_MS}
    return task(name, **{**given, **more})


async def hostile(world: Town, sizes: tuple[int, int]) -> Played:
    """A round of honest and hostile devices."""
    (m, t), case = sizes, CASES[sizes]
    made = exact(f"sizes/{m}/{t}", case.kind, case.sigma_milli, m=m, t=t)
    manifest = await world.parties.collect(made, by=world.parties.all[:m])
    kind = case.kind
    valid = [int(one) for one in kind.field.decode(kind.encode(case.values[0]))]
    bad = crafted(made, manifest, valid, case.invalid)
    good = [
        contribution(made, manifest, kind.encode(value), number)
        for number, value in enumerate(case.values)
    ]
    await world.give(good + bad.reports)
    device = Device(made, manifest, "replays")
    replays = [device.report(valid, id_of=good[0]), device.report(valid, account_of=good[1])]
    await world.give(replays, first=len(good) + len(bad.reports))
    for counts in bad.refused:
        counts.update({"replayed-id": 1, "replayed-nullifier": 1})
    return Played(made, manifest, bad, await world.parties.finished(manifest))


async def plain(
    world: Town, made: Task, values: Sequence[Any], abandoned: int = 1
) -> Played:  # fmt: skip
    """A round of honest devices."""
    manifest = await world.parties.collect(made, by=world.parties.all[: made.m])
    await world.vote(made, manifest, values)
    return Played(made, manifest, None, await world.parties.finished(manifest, abandoned))


async def play(world: Town) -> dict[object, Played]:
    """All rounds of this file at once."""
    histogram = Histogram(FIELD31, 4, ())
    rounds: dict[object, Coroutine[Any, Any, Played]] = {
        sizes: hostile(world, sizes) for sizes in CASES
    }
    for how, (m, t) in LIES.items():
        made = exact(f"lies/2/{how}", histogram, m=m, t=t)
        rounds[how] = plain(world, made, VOTES, abandoned=m)
    corrected = exact("lies/3/sum", histogram, m=5, t=1)
    rounds["corrected"] = plain(world, corrected, VOTES)
    few = exact("few", histogram, k_min=7)
    rounds["few"] = plain(world, few, VOTES, abandoned=3)
    hidden = exact("threshold", histogram, tail=Threshold(2))
    rounds["threshold"] = plain(world, hidden, VOTES)
    loud = task(
        "undecided", kind=Quantile(FIELD31, (0, 2, 4, 6)), tail=AtQuantiles((500_000,)),
        noise=Law(Mechanism.GAUSSIAN, 100_000), window_ms=WINDOW_MS,
    )  # fmt: skip
    rounds["undecided"] = plain(world, loud, VOTES)
    found = await asyncio.gather(*rounds.values())
    return dict(zip(rounds, found, strict=True))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("rounds")
    with town(folder, 5, 24, ROOKERY_PARTY_TASK_MICRO_RHO_MAX="1000000000") as made:
        yield made


@pytest.fixture(scope="module")
def played(world: Town) -> dict[object, Played]:
    return asyncio.run(play(world))


@pytest.mark.parametrize("sizes", CASES, ids=str)
def test_a_round_is_exact_over_the_honest_and_counts_every_bad_report(
    played: dict[object, Played], sizes: tuple[int, int]
) -> None:
    """Each rule of bad input by one device, behind a relay that sees only sizes."""
    one, case = played[sizes], CASES[sizes]
    assert one.crafted is not None
    result = one.result()
    truth = oracle.aggregate(case.kind, case.values)
    assert isinstance(result.outcome, Sums)
    for got, true in zip(result.outcome.sums, truth.sums, strict=True):
        assert abs(got - true) <= case.off
    counted = result.counted
    assert (counted.valid, counted.invalid) == (len(case.values), one.crafted.invalid)
    assert counted.inconsistent == one.crafted.inconsistent
    assert [dict(counts) for counts in counted.refused] == [
        dict(counts) for counts in one.crafted.refused
    ]
    assert result.noise_of == tuple(range(1, sizes[0] + 1))
    assert result.checked
    assert one.answer is not None
    assert len(one.answer.sigs) >= one.manifest.quorum


@pytest.mark.parametrize(
    ("how", "reason", "opening"),
    [
        ("set", "set_disagreed", ""),
        ("coin", "opening_refused", "coin"),
        # Which can't be told from devices that spoiled their reports for one party.
        ("shares", "too_few_valid", ""),
        ("sum", "opening_refused", "sum"),
        ("validity", "opening_refused", "q0"),
    ],
)
def test_a_lie_ends_the_round_and_says_in_which_opening(
    played: dict[object, Played], how: str, reason: str, opening: str
) -> None:
    """Every honest party that sees it says so; one that is told of it may have given up on that."""
    said = played[how].reasons()
    assert (reason, opening) in said
    assert set(said) <= {(reason, opening), ("party_gave_up", "")}


def test_five_parties_correct_one_that_lies_about_the_sum(played: dict[object, Played]) -> None:
    """Exact, and all five can sign it: the liar opens the same."""
    result = played["corrected"].result()
    assert result.outcome == Sums((1, 2, 3, 0))
    assert result.checked


def test_a_pickle_from_a_peer_is_refused_and_the_round_goes_on(
    world: Town, played: dict[object, Played]
) -> None:
    """Nobody unpickled it: the job ended as garbage at the others, and was done again."""
    assert played["pickle"].result().outcome == Sums((1, 2, 3, 0))
    for party in world.parties.all:
        assert not (party.folder / "pickled").exists()
    honest = world.parties.all[0], world.parties.all[2]
    assert all('"rule": "garbage"' in party.log for party in honest)


def test_too_few_valid_reports_open_nothing(world: Town, played: dict[object, Played]) -> None:
    """And cost nothing: no party has it in its ledger."""
    one = played["few"]
    said = one.reasons()
    assert ("too_few_valid", "") in said
    assert set(said) <= {("too_few_valid", ""), ("party_gave_up", "")}
    for party in world.parties.all:
        spent = party.stored("SELECT * FROM ledger WHERE spec_hash = ?", one.task.spec_hash)
        assert not spent


def test_what_a_tail_can_not_decide_is_a_result_too(played: dict[object, Played]) -> None:
    """Noise is wider than the counts: all parties sign that nothing can be said."""
    assert played["undecided"].result().outcome == Undecided()


def test_only_what_the_tail_lets_through_is_in_the_result(played: dict[object, Played]) -> None:
    """Each party applies it to sums that carry noise."""
    assert played["threshold"].result().outcome == Bins((Ranked(1, 2), Ranked(2, 3)))


def test_the_end_of_a_round_leaves_nothing_of_a_report(
    world: Town, played: dict[object, Played]
) -> None:
    """No key, row, id, noise or share; a signed result, and one entry in the ledger."""
    one = played[3, 1]
    for party in world.parties.all[:3]:
        asyncio.run(until(lambda: party.state(one.manifest) is State.SIGNED))  # noqa: B023
        [(number, key)] = party.stored(
            "SELECT round_n, box_sk FROM round WHERE round_id = ?", one.manifest.round_id
        )
        tables = [name for (name,) in party.stored("SELECT name FROM sqlite_master")]
        assert key is None
        assert not [name for name in tables if name.startswith(f"r{number}_")]
        kept = {name for (name,) in party.stored("SELECT name FROM item WHERE round_n = ?", number)}
        assert kept <= {"manifest-sig", "result", "result-sig", "handed-in"}
        spent = party.stored("SELECT * FROM ledger WHERE spec_hash = ?", one.task.spec_hash)
        assert len(spent) == 1


def traces(world: Town) -> list[bytes]:
    """Whatever could tell a party who somebody is."""
    found = []
    for person in world.people:
        account = bytes(person.account_id)
        devices = [bytes(author.identity.device_id) for author in person.authors]
        for one in (account, *devices):
            found += [one, one.hex().encode()]
    return found


def test_no_party_keeps_or_logs_an_account_or_a_device(
    world: Town, played: dict[object, Played]
) -> None:
    """Searched for as bytes and as hex, in all that five parties wrote; the relay has them."""
    assert played
    for party in world.parties.all:
        wrote = b"".join(file.read_bytes() for file in party.folder.glob("party.*"))
        for trace in traces(world):
            assert trace not in wrote


async def refusal(call: Any) -> grpc.StatusCode:
    """The code that a call is refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    code: grpc.StatusCode = error.value.code()
    return code


def test_an_old_manifest_or_a_second_one_is_not_signed(
    world: Town, played: dict[object, Played]
) -> None:
    """Nor is a second round prepared in a window that was measured; the first signature is
    given again, and gains nobody anything."""
    one = played[3, 1]
    parties: Sequence[PartyProcess] = world.parties.all

    async def ask() -> None:
        old = one.manifest
        assert await world.parties.sign(parties[0], old) == await world.parties.sign(
            parties[0], old
        )
        other = Manifest(
            old.round_id, old.spec_hash, old.t, old.open_ms, old.close_ms, old.k_min,
            old.parties[::-1],
        )  # fmt: skip
        aborted, closed = grpc.StatusCode.ABORTED, grpc.StatusCode.FAILED_PRECONDITION
        assert await refusal(world.parties.sign(parties[0], other)) is aborted
        again = world.parties.prepare(parties[0], one.task, old.round_id, old.open_ms)
        assert await refusal(again) is closed
        overlap = world.parties.prepare(
            parties[0], one.task, b"another-round-id", old.open_ms + 3_600_000
        )
        await overlap  # behind the window: free
        twice = world.parties.prepare(
            parties[0], one.task, b"a-third-round-id", old.open_ms + 3_601_000
        )
        await twice  # the one before it was only prepared: it blocks nobody

    asyncio.run(ask())


def test_a_task_without_noise_is_refused_by_a_party(world: Town) -> None:
    """There is no setting that would allow it."""
    made = task("noiseless", noise=None)
    ask = world.parties.prepare(world.parties.all[0], made, b"r" * 16, 1 << 45)
    assert asyncio.run(refusal(ask)) is grpc.StatusCode.INVALID_ARGUMENT
