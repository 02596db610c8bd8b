"""MPyC in the process of a job: what it leaves alone, what it refuses, and that it ends.

The parties are real processes; what a hostile one sends is put on the wire between them.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crypto.errors import FormatError
from crypto.field import FIELD31, FIELD61, Field
from crypto.shares import at_zero, off_line
from mpc.codec import Received, ShareCodec
from mpc.description import Description, Exit
from mpc.errors import JobError, PeerLost
from mpc.prss import Agreement
from mpc.session import Limits
from mpc.terms import Terms
from tests.mpc_worlds import Wire, World, terms, world


def from_party_3(arrives: Callable[[bytes], bytes | None], *, to: int = 1) -> Wire:
    """A wire on which what party 3 sends to one other is changed."""
    return lambda sender, receiver, payload: (
        arrives(payload) if (sender, receiver) == (3, to) else payload
    )


async def coin_of(w: World) -> dict[int, Any]:
    """What a coin gives at each party, errors included."""
    return await w.all(lambda _, process: process.coin(b"x"))


def is_lost(error: Any, rule: str, party: int = 3) -> bool:
    """Whether it is the PeerLost of that rule and party."""
    return isinstance(error, PeerLost) and (error.rule, error.party) == (rule, party)


# --- MPyC as a library


async def test_a_process_is_left_as_it_was_but_for_mpyc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing MPyC changes no arguments, logging, policy, handler; settings don't reach it."""
    monkeypatch.setenv("MPYC_NOPRSS", "1")
    monkeypatch.setenv("MPYC_NONUMPY", "1")
    async with world(terms(3, 1)) as w:
        for found in (await w.step("hygiene", "")).values():
            assert found["before"] == found["after"]
            assert found["after"]["environment"] == ["MPYC_NONUMPY", "MPYC_NOPRSS"]
        assert (await w.step("product", ""))[1]["values"] == [15, 28]


async def test_what_trusts_peers_is_closed_and_a_process_has_one_runtime() -> None:
    """transfer(), shutdown(), start() and run() raise; so does a second runtime."""
    async with world(terms(3, 1)) as w:
        for found in (await w.step("doors", "")).values():
            assert [name for name, _ in found["closed"]] == ["transfer", "shutdown", "start", "run"]
        for error in (await w.all(lambda _, process: process.step("again", ""))).values():
            assert isinstance(error, JobError)
            assert error.rule == "runtime"
        assert set((await w.end()).values()) == {Exit.SERVICE}


@pytest.mark.parametrize(("m", "t", "bits"), [(3, 1, 61), (5, 2, 31)])
async def test_mpyc_computes_with_the_codec_and_the_checked_openings(
    m: int, t: int, bits: int
) -> None:
    """Inputs, products, tests for zero and openings of MPyC give what they should."""
    async with world(terms(m, t, bits)) as w:
        for found in (await w.step("product", "")).values():
            assert found["values"] == [15, 28]
        for found in (await w.step("is_zero", "")).values():
            assert (found["one"], found["many"]) == ([True, False], [True, False])
            assert found["opened"] == [0, 6]
        assert set((await w.end()).values()) == {Exit.DONE}


async def test_every_opening_above_degree_t_is_masked() -> None:
    """No party sends the share that it holds of a product when that is opened."""
    async with world(terms(3, 1)) as w:
        found = await w.step("is_zero", "")
        for party, answer in found.items():
            sent = [payload for sender, _, payload in w.seen if sender == party]
            assert answer["raw"] not in sent
            assert len(answer["raw"]) in {len(payload) for payload in sent}


async def test_steps_may_begin_in_another_order_at_each_party() -> None:
    """The program counter follows from job and step, not from what ran before."""
    async with world(terms(3, 1)) as w:
        found = await w.step("together", "")
        assert found[1] == found[2] == found[3]
        assert found[1]["a"] != found[1]["b"]


# --- Pickles


class Hostile:
    """What runs a command where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("step", ["stock_input", "coin"])
async def test_a_pickle_from_a_peer_is_refused_and_not_run(step: str, tmp_path: Path) -> None:
    """It is garbage of that peer, and nothing happens."""
    bait = tmp_path / "ran"
    evil = pickle.dumps(Hostile(bait))
    evil += b"." * (-len(evil) % 8)
    pickle.loads(evil)  # noqa: S301 - our own: it does what it says
    assert bait.is_dir()
    bait.rmdir()
    async with world(terms(3, 1)) as w:
        w.wire = from_party_3(lambda _: evil)
        errors = await w.all(lambda _, process: process.step(step, "s", context=b""))
        assert is_lost(errors[1], "garbage")
        assert not bait.exists()
        assert (await w.end())[1] == Exit.PEER_LOST


@pytest.mark.parametrize("field", [FIELD31, FIELD61])
def test_the_codec_takes_vectors_of_the_field_only(field: Field) -> None:
    """Numbers go through; a wrong length, a number of p and objects do not."""
    codec = ShareCodec(field)
    vector = np.array([0, 1, field.p - 1], dtype=object)
    assert codec.loads(codec.dumps(vector)).tolist() == vector.tolist()
    assert len(codec.dumps(vector)) == 3 * field.element_bytes
    for bad in (np.array([field.p]), np.array([-1], dtype=object), np.array([{}]), np.eye(2)):
        with pytest.raises(JobError):
            codec.dumps(bad)
    for data in (b"abc", field.p.to_bytes(field.element_bytes, "little")):
        with pytest.raises(FormatError):
            codec.loads(data)
        with pytest.raises(PeerLost) as caught:
            codec.loads(Received.of(2, data))
        assert caught.value.party == 2


# --- Keys and masks


def masks(found: dict[int, Any], kind: str, field: Field) -> dict[int, Any]:
    """The shares of a mask by party."""
    return {party: field.from_bytes(answer[kind], 5) for party, answer in found.items()}


@pytest.mark.parametrize(("m", "t"), [(3, 1), (5, 2)])
async def test_masks_are_sharings_of_the_right_degree_and_never_come_again(m: int, t: int) -> None:
    """Lines have degree t, zeros 2t and open to 0; a job run twice draws others."""
    drawn = []
    for _ in range(2):
        async with world(terms(m, t)) as w:
            found = await w.step("masks", "1", count=5)
            more = await w.step("masks", "2", count=5)
        for each in (found, more):
            lines, zeros = masks(each, "lines", FIELD61), masks(each, "zeros", FIELD61)
            assert not off_line(FIELD61, lines, t).any()
            assert off_line(FIELD61, lines, t - 1).all()
            assert not off_line(FIELD61, zeros, 2 * t).any()
            assert off_line(FIELD61, zeros, 2 * t - 1).all()
            assert not at_zero(FIELD61, zeros, 2 * t).any()
            drawn += [at_zero(FIELD61, lines, t).tobytes(), zeros[1].tobytes()]
    assert len(set(drawn)) == len(drawn)


def agreed(job: Terms, seed: int = 0) -> dict[int, Agreement]:
    """All sides of an agreement, with nonces that are the same each time."""
    sides = {
        party: Agreement(job, party, lambda size, p=party: bytes([p + seed]) * size)  # type: ignore[misc]
        for party in job.present
    }
    for one in job.present:
        for other in job.present:
            if one != other:
                sides[one].take_hello(other, sides[other].hello(one))
    return sides


def test_every_set_of_parties_has_its_own_key_which_is_the_jobs() -> None:
    """Members agree, others don't know, and any change of terms or one nonce changes all."""
    job = terms(4, 1)
    sides = agreed(job)
    keys: dict[tuple[int, ...], bytes] = {}
    for party, side in sides.items():
        for subset, key in side.keys().items():
            assert party in subset
            assert keys.setdefault(subset, key) == key
        for other in job.present:
            if other != party:
                side.check_proof(other, sides[other].proof(party))
    assert len(set(keys.values())) == 4
    changed = (
        terms(4, 1, job_id=b"k" * 16), terms(4, 1, round_digest=b"s" * 32), terms(4, 1, 31),
        terms(4, 1, present=(1, 2, 3)),
    )  # fmt: skip
    for other_terms in changed:
        assert not set(agreed(other_terms)[1].keys().values()) & set(keys.values())
    assert not set(agreed(job, seed=9)[1].keys().values()) & set(keys.values())


async def test_a_party_that_gives_two_peers_other_nonces_is_found_out() -> None:
    """Peers compare their keys before one is used."""

    def spoil(payload: bytes) -> bytes:
        return payload[:-1] + bytes((payload[-1] ^ 1,)) if len(payload) > 32 else payload

    async with world(terms(4, 1), wire=from_party_3(spoil, to=2), is_ready=False) as w:
        errors = await w.all(lambda _, process: process.ready())
        assert is_lost(errors[2], "keys", 3)
        assert is_lost(errors[4], "keys", 2)


async def test_parties_of_two_jobs_tell_each_other() -> None:
    """Another job, round or field is named as such, and nothing waits for a deadline."""
    others = {3: terms(3, 1, round_digest=b"s" * 32)}
    async with world(terms(3, 1), others=others, is_ready=False) as w:
        errors = await w.all(lambda _, process: process.ready())
        assert is_lost(errors[1], "job")
        assert is_lost(errors[2], "job")


def test_terms_that_cannot_be_are_refused() -> None:
    """Too few parties, too many liars, an unsorted list."""
    for m, t, present in ((3, 0, (1, 2, 3)), (4, 2, (1, 2, 3)), (3, 1, (1,)), (3, 1, (2, 1)),
                          (3, 1, (1, 1)), (3, 1, (0, 1)), (17, 1, (1, 2))):  # fmt: skip
        with pytest.raises(FormatError):
            terms(m, t, present=present)


# --- Peers that die, stall, flood or send garbage


async def test_a_killed_party_is_lost_to_the_others_at_once() -> None:
    """PeerLost, long before any limit of time."""
    async with world(terms(3, 1), limits=Limits(seconds=3600, stall_seconds=3600)) as w:
        w.wire = lambda sender, receiver, payload: None if sender == 3 else payload
        waiting = asyncio.create_task(coin_of(w))
        os.kill(w.parties[3].pid, signal.SIGKILL)
        errors = await waiting
        assert is_lost(errors[1], "gone")
        assert is_lost(errors[2], "gone")
        codes = await w.end()
        assert codes == {1: Exit.PEER_LOST, 2: Exit.PEER_LOST, 3: -signal.SIGKILL}


async def test_what_a_party_sent_before_it_was_gone_counts() -> None:
    """Messages that came before a stream's end are read after it."""
    sent = asyncio.Event()
    came: set[int] = set()

    def wire(sender: int, receiver: int, payload: bytes) -> bytes:
        if sender == 3:
            came.add(receiver)
            if came == {1, 2}:
                sent.set()
        return payload

    async with world(terms(3, 1)) as w:
        w.wire = wire
        early = asyncio.gather(
            *(w.parties[party].coin(b"x") for party in (2, 3)), return_exceptions=True
        )
        await sent.wait()
        os.kill(w.parties[3].pid, signal.SIGKILL)
        await w.parties[3].gone
        w.parties[1].lose(3)
        coin = await w.parties[1].coin(b"x")
        assert coin == (await early)[0]


async def test_a_silent_party_is_lost_when_its_time_is_up() -> None:
    """The wait for one message is bounded; the error says who did not answer."""
    async with world(terms(3, 1), limits=Limits(stall_seconds=1)) as w:
        w.wire = from_party_3(lambda _: None)
        errors = await coin_of(w)
        assert is_lost(errors[1], "stalled")


@pytest.mark.parametrize("step", ["coin", "stock_input"])
async def test_a_job_ends_at_its_deadline(step: str) -> None:
    """Also inside MPyC's own protocols, which know no time."""
    hurried = {1: Limits(seconds=2, stall_seconds=60)}
    async with world(terms(3, 1), limits_of=hurried) as w:
        w.wire = from_party_3(lambda _: None)
        errors = await w.all(lambda _, process: process.step(step, "s", context=b""))
        assert is_lost(errors[1], "stalled")


async def test_a_job_that_gets_no_steps_ends_at_its_deadline() -> None:
    """A service that forgot a job leaves no process behind."""
    async with world(terms(3, 1), limits=Limits(seconds=1)) as w:
        await w.parties[1].gone
        assert (await w.end())[1] == Exit.SERVICE


@pytest.mark.parametrize("garbage", [b"", b"\xff" * 48], ids=["none", "range"])
async def test_garbage_is_the_loss_of_the_party_that_sent_it(garbage: bytes) -> None:
    """A message of a wrong length, or with a number that is none, ends the job by name."""
    async with world(terms(3, 1)) as w:
        w.wire = from_party_3(lambda _: garbage)
        errors = await coin_of(w)
        assert is_lost(errors[1], "garbage")
        assert (await w.end())[1] == Exit.PEER_LOST


async def test_a_flood_is_the_loss_of_the_party_that_sent_it() -> None:
    """Messages that nobody waits for are kept up to a bound."""
    async with world(terms(3, 1), limits=Limits(unread_max=8)) as w:
        for pc in range(100, 109):
            w.parties[1].deliver(3, pc, b"x")
        assert is_lost((await coin_of(w))[1], "flood")
    async with world(terms(3, 1), limits=Limits(unread_bytes_max=1000)) as w:
        for pc in range(100, 102):
            w.parties[1].deliver(3, pc, b"x" * 600)
        assert is_lost((await coin_of(w))[1], "flood")


async def test_a_long_message_is_the_loss_of_its_sender_and_the_stream_goes_on() -> None:
    """It is thrown away unread; other parties' messages behind it arrive."""
    async with world(terms(3, 1), limits=Limits(frame_bytes_max=1000)) as w:
        w.parties[1].deliver(3, 100, b"x" * 100_000)
        assert is_lost((await coin_of(w))[1], "flood")


async def test_a_message_sent_twice_is_garbage() -> None:
    """One place, one message."""
    async with world(terms(3, 1)) as w:
        for _ in range(2):
            w.parties[1].deliver(3, 100, b"x")
        assert is_lost((await coin_of(w))[1], "garbage")


# --- The service's side


async def test_a_step_that_cannot_be_done_is_the_services_fault() -> None:
    """Unknown steps, steps done twice and shares out of range are refused, by name."""
    for steps, rule in (
        ([("nothing", {})], "step"),
        ([("coin", {"context": b""}), ("coin", {"context": b""})], "step"),
    ):
        async with world(terms(3, 1)) as w:
            for do, more in steps[:-1]:
                await w.step(do, "", **more)
            do, more = steps[-1]
            for error in (await w.all(lambda _, p: p.step(do, "", **more))).values():  # noqa: B023
                assert isinstance(error, JobError)
                assert error.rule == rule


def test_a_description_is_read_back_or_refused() -> None:
    """Nothing missing, nothing more, no wrong type."""
    description = Description(terms(3, 1), 2, Limits())
    data = description.to_bytes()
    assert Description.from_bytes(data) == description
    for bad in (b"", data[:-1], data.replace(b"bits", b"bitz"), b"\xa0"):
        with pytest.raises(JobError):
            Description.from_bytes(bad)
