"""The steps of a round among real processes: exact when all are honest, and what a lie does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crypto import labels
from crypto.errors import FormatError
from crypto.field import FIELD31, FIELD61, Array, Field
from crypto.primitives import hash_
from mpc.child import JobProcess
from mpc.circuit import Circuit, OpenedSum, Zeros
from mpc.errors import OpeningError
from mpc.opening import Lines, interpolate, lines
from tests.mpc_worlds import CONFIGURATIONS, World, share, terms, world

SUMS = [0, 7, 1000, 3]
NOISES = {party: np.array([party, -party, 0, -2 * party], np.int64) for party in range(1, 6)}
ROWS = 6


class PlainCircuit:
    """The same steps on the values themselves, as an oracle has them."""

    def __init__(self, field: Field, noises: list[NDArray[np.int64]]) -> None:
        self._field = field
        self._noises = noises

    async def coin(self, context: bytes) -> bytes:
        """Some coin."""
        return hash_(labels.MPC_COIN, context)

    async def consistent(self, name: str, d: Array) -> Lines:
        """Values are what they are."""
        return Lines(np.ones(len(d), np.bool_), {})

    async def zeros(self, name: str, q: Array) -> Zeros:
        """Looks."""
        return Zeros(np.all(q == 0, axis=1), True)

    async def noise_in(self, name: str, noise: NDArray[np.int64]) -> Array:
        """All parties' noise."""
        return self._field.encode(sum(self._noises, np.zeros(len(noise), np.int64)))

    async def open_sum(self, name: str, noised: Array) -> OpenedSum:
        """It lies open."""
        return OpenedSum(self._field.decode(noised), True)

    async def same(self, name: str, data: bytes) -> None:
        """It is."""


async def small_round(
    field: Field, circuit: Circuit, d: Array, q: Array, sums: Array, noise: NDArray[np.int64]
) -> tuple[bytes, list[bool], list[bool], list[int]]:
    """All steps in the order of a round, whoever takes them."""
    coin = await circuit.coin(b"the set")
    consistent = (await circuit.consistent("b0", d)).consistent
    zero = (await circuit.zeros("b0", q[consistent])).zero
    await circuit.same("verdicts", bytes(zero))
    noises = await circuit.noise_in("noise", noise)
    opened = await circuit.open_sum("sum", field.add(sums, noises))
    return coin, consistent.tolist(), zero.tolist(), opened.values.tolist()


def matrices(
    field: Field, m: int, t: int, spoil: int | None = None
) -> dict[int, tuple[Array, Array]]:
    """Each party's D (row 2 spoiled for one party) and Q (row 4 is not zero)."""
    d = [s.reshape(ROWS, 2) for s in share(field, range(2 * ROWS), m=m, degree=t)]
    if spoil:
        d[spoil - 1][2, 1] ^= np.uint64(1)
    values = [int(row == 4) for row in range(ROWS) for _ in range(2)]
    q = [s.reshape(ROWS, 2) for s in share(field, values, m=m, degree=2 * t, seed=2)]
    return {party: (d[party - 1], q[party - 1]) for party in range(1, m + 1)}


@pytest.mark.parametrize("bits", [31, 61])
@pytest.mark.parametrize(("m", "t"), CONFIGURATIONS)
async def test_a_round_is_exact_and_an_oracle_can_take_its_steps(m: int, t: int, bits: int) -> None:
    """Same coin at all; rows judged right; sums as of the oracle, to the last unit."""
    field = Field.of(bits)
    given = matrices(field, m, t, spoil=m)
    sums = share(field, SUMS, m=m, degree=t, seed=3)
    async with world(terms(m, t, bits), module="mpc.job") as w:
        found = await w.good(
            lambda party, process: small_round(
                field, process, given[party][0], given[party][1], sums[party - 1], NOISES[party]
            )
        )
        assert set((await w.end()).values()) == {0}
    coin, consistent, zero, values = found[1]
    assert all(each == found[1] for each in found.values())
    assert len(coin) == 32
    assert consistent == [row != 2 for row in range(ROWS)]
    assert zero == [row != 4 for row in range(ROWS) if row != 2]
    oracle = PlainCircuit(field, [NOISES[party] for party in range(1, m + 1)])
    plain_q = np.array([[int(row == 4)] for row in range(ROWS)], np.uint64)
    expected = await small_round(
        field, oracle, np.zeros((ROWS, 1), np.uint64), plain_q, field.encode(SUMS), NOISES[1]
    )
    assert values == expected[3]


async def test_coins_differ_by_context_job_and_round() -> None:
    """And nobody can have the same again: keys are fresh."""
    coins = []
    for _ in range(2):
        async with world(terms(3, 1)) as w:
            for context in (b"a", b"b"):
                found = await w.good(lambda _, p: p.coin(context))  # noqa: B023
                assert found[1] == found[2] == found[3]
                coins.append(found[1])
    assert len(set(coins)) == 4


# --- Lies


async def opened_with_a_lie(
    w: World, liars: tuple[int, ...], *, degree: int, m: int
) -> dict[int, Any]:
    """What a vector opens to at the honest while the liars send another share to all."""
    field = FIELD61
    shares = share(field, [5, -6, 7], m=m, degree=degree)
    for liar in liars:
        await w.parties[liar].step("lie", "")
    found = await w.all(
        lambda party, p: p.step(
            "open", "v", shares=field.to_bytes(shares[party - 1]), count=3, degree=degree
        )
    )
    return {party: each for party, each in found.items() if party not in liars}


@pytest.mark.parametrize(
    ("m", "t", "is_linear", "outcome"),
    [
        (3, 1, True, "refused"), (3, 1, False, "wrong"),
        (4, 1, True, "corrected"), (4, 1, False, "refused"),
        (5, 1, True, "corrected"), (5, 1, False, "corrected"),
        (5, 2, True, "refused"), (5, 2, False, "wrong"),
    ],
)  # fmt: skip
async def test_what_lies_do_to_an_opening(m: int, t: int, is_linear: bool, outcome: str) -> None:
    """t parties lie at once. A wrong value comes out only where it is said to be unchecked."""
    liars = tuple(range(2, 2 + t))
    async with world(terms(m, t)) as w:
        found = await opened_with_a_lie(w, liars, degree=t if is_linear else 2 * t, m=m)
    for each in found.values():
        if outcome == "refused":
            assert isinstance(each, OpeningError)
            assert (each.rule, each.opening) == ("lie", "v")
        elif outcome == "corrected":
            assert each == {"values": [5, -6, 7], "checked": True, "liars": list(liars)}
        else:
            assert each["values"] != [5, -6, 7]
            assert not each["checked"]


async def take(w: World, step: str, m: int, t: int) -> dict[int, Any]:
    """One step of a round at all parties, errors included."""
    given = matrices(FIELD61, m, t)
    sums = share(FIELD61, SUMS, m=m, degree=t, seed=3)

    async def one(party: int, process: JobProcess) -> Any:
        d, q = given[party]
        if step == "coin":
            return await process.coin(b"x")
        if step == "consistent":
            return await process.consistent("b0", d)
        if step == "zeros":
            return await process.zeros("b0", q)
        noises = await process.noise_in("noise", NOISES[party])
        return await process.open_sum("sum", FIELD61.add(sums[party - 1], noises))

    return await w.all(one)


@pytest.mark.parametrize("step", ["coin", "open_sum"])
@pytest.mark.parametrize(("m", "t"), [(3, 1), (5, 1)])
async def test_a_lie_in_coin_or_sum_is_refused_by_name_or_corrected(
    step: str, m: int, t: int
) -> None:
    """Never a wrong result."""
    async with world(terms(m, t)) as w:
        await w.parties[2].step("lie", "")
        found = await take(w, step, m, t)
    honest = [found[party] for party in (1, 3)]
    for each in honest:
        if (m, t) == (5, 1):
            if step == "coin":
                assert each == honest[0]
            else:
                noise = sum(NOISES[party] for party in range(1, m + 1))
                assert each.values.tolist() == (np.array(SUMS) + noise).tolist()
                assert each.liars == (2,)
        else:
            assert isinstance(each, OpeningError)
            assert each.opening == ("coin" if step == "coin" else "sum")


@pytest.mark.parametrize(("m", "t"), [(3, 1), (5, 1)])
async def test_a_lie_among_lines_drops_reports_and_shows_whom_to_suspect(m: int, t: int) -> None:
    """It can't be told from reports that are spoiled for one party: they are out."""
    async with world(terms(m, t)) as w:
        await w.parties[2].step("lie", "")
        found = await take(w, "consistent", m, t)
    for each in found.values():
        assert not each.consistent.any()
        assert each.suspects == ({} if m == 3 else {2: ROWS})


@pytest.mark.parametrize(("m", "t"), [(3, 1), (4, 1), (5, 1)])
async def test_a_lie_among_zeros_is_unseen_refused_or_corrected(m: int, t: int) -> None:
    """At (3,1) it flips verdicts and says that it was unchecked; (4,1) refuses; (5,1) corrects."""
    async with world(terms(m, t)) as w:
        await w.parties[2].step("lie", "")
        found = await take(w, "zeros", m, t)
    each = found[1]
    if m == 3:
        assert (each.checked, each.zero.any()) == (False, False)
    elif m == 4:
        assert isinstance(each, OpeningError)
        assert (each.rule, each.opening) == ("lie", "b0")
    else:
        assert each.liars == (2,)
        assert each.zero.tolist() == [row != 4 for row in range(ROWS)]


@pytest.mark.parametrize("step", ["consistent", "zeros"])
async def test_telling_two_parties_different_shares_is_found_out(step: str) -> None:
    """Verdicts that differ between parties are compared before anybody builds on them."""

    def wire(sender: int, receiver: int, payload: bytes) -> bytes:
        if (sender, receiver) == (2, 3) and len(payload) == ROWS * 2 * 8:
            return bytes((payload[0] ^ 1,)) + payload[1:]
        return payload

    async with world(terms(3, 1)) as w:
        w.wire = wire
        found = await take(w, step, 3, 1)
    errors = [each for each in found.values() if isinstance(each, OpeningError)]
    assert errors
    assert {(error.rule, error.opening) for error in errors} == {("disagree", "b0")}
    assert isinstance(found[3], Exception)


# --- Fewer parties


async def test_noise_of_all_is_opened_by_those_that_are_left() -> None:
    """A sharing outlives its job: any two open the same sum later, the third one's noise in it."""
    field, sums = FIELD61, share(FIELD61, SUMS, m=3, degree=1, seed=3)
    async with world(terms(3, 1)) as w:
        noises = await w.good(lambda party, p: p.noise_in("noise", NOISES[party]))
    expected = (np.array(SUMS) + NOISES[1] + NOISES[2] + NOISES[3]).tolist()
    for present in ((1, 2), (2, 3), (1, 2, 3)):
        async with world(terms(3, 1, present=present)) as w:
            found = await w.good(
                lambda party, p: p.open_sum("sum", field.add(sums[party - 1], noises[party]))
            )
        for each in found.values():
            assert (each.values.tolist(), each.checked) == (expected, len(present) == 3)


async def test_two_of_three_open_a_sum_unchecked_and_nothing_else() -> None:
    """The result says that it is unchecked; a coin is refused."""
    job = terms(3, 1, present=(1, 3))
    async with world(job) as w:
        found = await take(w, "open_sum", 3, 1)
        assert found[1].values.tolist() == (np.array(SUMS) + NOISES[1] + NOISES[3]).tolist()
        assert not found[1].checked
        for error in (await take(w, "coin", 3, 1)).values():
            assert isinstance(error, OpeningError)
            assert (error.rule, error.opening) == ("few", "coin")
    async with world(job) as w:
        for error in (await take(w, "zeros", 3, 1)).values():
            assert isinstance(error, OpeningError)
            assert (error.rule, error.opening) == ("few", "b0")


async def test_nothing_to_judge_is_no_error() -> None:
    """A micro-batch of which nothing is left goes through."""
    empty = np.zeros((0, 2), np.uint64)
    async with world(terms(3, 1)) as w:
        for each in (await w.good(lambda _, p: p.zeros("b0", empty))).values():
            assert each.zero.shape == (0,)
        for lines_ in (await w.good(lambda _, p: p.consistent("b0", empty))).values():
            assert lines_.consistent.shape == (0,)


# --- Judging, without processes


@pytest.mark.parametrize("field", [FIELD31, FIELD61])
def test_no_two_liars_pass_for_one(field: Field) -> None:
    """At (5,1) errors of two parties in one vector are refused, though each could be corrected."""
    vectors = share(field, [1, 2], m=5, degree=1)
    vectors[0] = field.add(vectors[0], np.array([1, 0], np.uint64))
    vectors[1] = field.add(vectors[1], np.array([0, 1], np.uint64))
    with pytest.raises(OpeningError):
        interpolate("v", field, dict(enumerate(vectors, 1)), degree=1, t=1)


def test_a_row_spoiled_for_one_party_is_out_and_blamed_on_it_only() -> None:
    """Rows are judged apart; the suspect is counted where there are shares enough to tell."""
    rows = [s.reshape(3, 1) for s in share(FIELD61, [1, 2, 3], m=5, degree=1)]
    rows[3][1, 0] ^= np.uint64(1)
    found = lines(FIELD61, dict(enumerate(rows, 1)), 1)
    assert found.consistent.tolist() == [True, False, True]
    assert found.suspects == {4: 1}


def test_noise_that_does_not_fit_the_field_is_refused() -> None:
    """Before anything is sent."""
    with pytest.raises(FormatError):
        FIELD31.encode(np.array([2**40]))
