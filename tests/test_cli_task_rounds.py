"""`rookery task collect` and `result`: rounds that parties sign, and what is read of them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from client.analyst.journal import Journal
from client.analyst.times import instant_ms
from crypto import canonical
from mpc import manifest as manifests, task as tasks
from mpc.manifest import Manifest
from mpc.task import Task
from rookery.v1 import parties_pb2
from tests.analyst_samples import result as round_result
from tests.analyst_worlds import Counter, Desktop, counter, task_file
from tests.relay_worlds import (
    ANALYST,
    FINISH,
    PARTIES,
    PUBLISHER,
    RIVAL,
    Relay,
    abandonment,
    result,
)  # fmt: skip
from tests.scripted import Seen, answer, held, refuse, scripted


@dataclass(slots=True)
class Scene:
    """A publisher with a task, and three parties."""

    relay: Relay
    publisher: Desktop
    parties: Sequence[Counter]

    @property
    def options(self) -> list[str]:
        """All parties, pinned."""
        return [part for one in self.parties for part in ("--party", one.option)]

    async def collect(self, *more: str, code: int = 0) -> Any:
        """One run of `collect`, with all parties."""
        done = await self.publisher.run(
            "collect", "cuisine", *self.options, "--json", *more, code=code
        )
        return done.json

    async def opened(self, *more: str) -> tuple[Task, Manifest]:
        """A round, as the relay has it."""
        round_id = bytes.fromhex((await self.collect(*more))["round_id"])
        held = await self.relay.round(PUBLISHER, round_id)
        return tasks.decode(held.task.task), manifests.parse(held.manifest)

    async def finish(
        self, of: Task, round_: Manifest, values: Sequence[Any], by: Sequence[int] = (1, 2, 3)
    ) -> bytes:
        """What these parties sign of these values, once the window is over."""
        said = round_result(of, values, seed=1).encode(of)
        with self.relay.later(of.window_ms + 1):
            await self.relay.call(PARTIES[by[0] - 1], FINISH, result(round_, said, by))
        return said


@pytest.fixture
async def scene(relay: Relay, tmp_path: Path) -> AsyncIterator[Scene]:
    async with contextlib.AsyncExitStack() as stack:
        parties = [
            await stack.enter_async_context(counter(tmp_path, actor)) for actor in PARTIES
        ]  # fmt: skip
        publisher = Desktop.of(tmp_path, relay.service, PUBLISHER.seed)
        await publisher.run("publish", task_file(tmp_path))
        yield Scene(relay, publisher, parties)


# --- opening a round ---


async def test_a_round_is_signed_by_all_parties_and_listed(scene: Scene) -> None:
    """With the parties in the order that was given; its window is the task's."""
    of, round_ = await scene.opened()
    held = await scene.relay.round(PUBLISHER, round_.round_id)
    round_.signed(held.sigs)
    assert [one.ik_pk for one in round_.parties] == [one.actor.public for one in scene.parties]
    assert round_.close_ms - round_.open_ms == of.window_ms
    [listed] = (await scene.publisher.run("list", "--json")).json["tasks"]
    [row] = listed["rounds"]
    assert (row["round_id"], row["state"]) == (round_.round_id.hex(), "open")
    assert row["close_ms"] == round_.close_ms
    assert round_.round_id.hex() in (await scene.publisher.run("list")).out


async def test_a_second_round_of_a_window_is_refused_and_next_opens_behind_it(
    scene: Scene,
) -> None:
    """Before any party is asked."""
    _, first = await scene.opened()
    refused = await scene.collect(code=1)
    assert "`--open next` opens one behind it" in refused["message"]
    _, second = await scene.opened("--open", "next")
    assert second.open_ms == first.close_ms
    assert second.round_id != first.round_id


async def test_a_party_that_is_down_is_named_and_the_next_run_finishes_the_round(
    scene: Scene, tmp_path: Path
) -> None:
    """The parties that were there keep what they gave: it is the same round."""
    [*others, last] = scene.parties
    async with scripted(refuse(grpc.StatusCode.UNAVAILABLE)) as nobody:
        scene.parties = [*others, Counter(last.actor, nobody.target)]
        failed = await scene.collect(code=4)
    assert failed["error"] == "PARTIES"
    assert f"party 3 at {nobody.target}: can't be reached" in failed["message"]
    assert "party 1" not in failed["message"]
    [begun] = Journal.beside(scene.publisher.key).plans()
    assert not begun.collected
    scene.parties = [*others, last]
    _, round_ = await scene.opened()
    assert (round_.round_id, round_.open_ms) == (begun.round_id, begun.open_ms)
    [done] = Journal.beside(scene.publisher.key).plans()
    assert done.collected


@pytest.mark.parametrize("step", ["PrepareRound", "SignManifest"])
async def test_a_run_that_is_killed_in_the_middle_is_finished_by_the_next(
    scene: Scene, step: str
) -> None:
    """Whether parties have prepared the round or signed it."""
    [*others, last] = scene.parties
    reached, hold = held()

    async def stall(seen: Seen, context: Any) -> bytes:
        if seen.method.endswith(step):
            return await hold(seen, context)
        async with grpc.aio.insecure_channel(last.address) as channel:
            call: Any = channel.unary_unary(seen.method)
            passed: bytes = await call(
                seen.payload, metadata=(("rookery-auth-bin", seen.auth),), timeout=20
            )
            return passed

    async with scripted(stall) as slow:
        process = await scene.publisher.start(
            "collect", "cuisine",
            *[part for one in others for part in ("--party", one.option)],
            "--party", f"{slow.target}={last.actor.public.hex()}",
        )  # fmt: skip
        await reached.wait()
        process.kill()
        await process.communicate()
    [begun] = Journal.beside(scene.publisher.key).plans()
    _, round_ = await scene.opened()
    assert round_.round_id == begun.round_id


async def test_a_run_that_died_after_the_service_took_the_round_ends_well(scene: Scene) -> None:
    """What it could not write down any more is asked for again, and is the same."""
    _, round_ = await scene.opened()
    journal = Journal.beside(scene.publisher.key)
    [done] = journal.plans()
    journal.write(replace(done, collected=False))
    _, again = await scene.opened()
    assert again.digest == round_.digest


async def test_a_begun_round_is_no_other_round(scene: Scene) -> None:
    """Other parties, or another time, are not what was begun; --new gives it up."""
    [*others, last] = scene.parties
    async with scripted(refuse(grpc.StatusCode.UNAVAILABLE)) as nobody:
        scene.parties = [*others, Counter(last.actor, nobody.target)]
        await scene.collect("--open", "2190-01-01T00:00Z", code=4)
    scene.parties = [last, *others]
    assert "begun with other parties" in (await scene.collect(code=1))["message"]
    scene.parties = [*others, last]
    refused = await scene.collect("--open", "2190-01-02T00:00Z", code=1)
    assert "opens at 2190-01-01 00:00:00Z was begun" in refused["message"]
    _, round_ = await scene.opened("--open", "2190-01-02T00:00Z", "--new")
    assert round_.open_ms == instant_ms("2190-01-02T00:00Z")


async def test_a_party_with_another_key_is_not_taken(scene: Scene) -> None:
    """However well it signs: whom to trust is not the network's to say."""
    first, second, third = scene.parties
    scene.parties = [
        first,
        Counter(third.actor, second.address),
        Counter(second.actor, third.address),
    ]
    failed = await scene.collect(code=1)
    assert "party 2 at" in failed["message"]
    assert "party 3 at" in failed["message"]
    assert "not the one that is pinned" in failed["message"]


async def test_a_party_that_does_not_sign_is_named(scene: Scene) -> None:
    """A signature that does not verify opens no round."""
    [*others, last] = scene.parties
    keys = parties_pb2.PrepareRoundResponse(ik=last.actor.public, box_key=last.actor.box.public)
    forged = parties_pb2.SignManifestResponse(sig=bytes(64))
    async with scripted(answer(keys), answer(forged)) as liar:
        scene.parties = [*others, Counter(last.actor, liar.target)]
        failed = await scene.collect(code=1)
    assert (
        f"party 3 at {liar.target}: its signature of the round does not verify"
        in (failed["message"])
    )


async def test_parties_that_all_refuse_leave_nothing_begun(scene: Scene, tmp_path: Path) -> None:
    """Each says why in its words; the next run draws another round."""
    rival = Desktop.of(tmp_path, scene.relay.service, RIVAL.seed, "rival.key")
    await rival.run("publish", task_file(tmp_path, id='"rivals"'))
    done = await rival.run("collect", "rivals", *scene.options, code=1)
    assert done.err.count("does not take this key: its setting `publishers` must have it") == 3
    assert Journal.beside(rival.key).plans() == []


async def test_a_budget_that_is_spent_says_what_is_left(scene: Scene, tmp_path: Path) -> None:
    """The party's cap, in the words of who asks."""
    actor = PARTIES[2]
    spent = refuse(grpc.StatusCode.FAILED_PRECONDITION, "BUDGET_EXHAUSTED", cap="task", left="1500")
    async with scripted(spent) as poor:
        scene.parties = [*scene.parties[:2], Counter(actor, poor.target)]
        failed = await scene.collect(code=1)
    assert "has no budget left for the task: 1,500 micro-rho of its cap task" in failed["message"]


async def test_what_a_stranger_sends_does_not_steer_the_terminal(scene: Scene) -> None:
    """A party's refusal is shown by words that are known, or by its status."""
    rude = refuse(grpc.StatusCode.ABORTED, "\x1b[2J", rule="\x1b[1m")
    async with scripted(rude) as stranger:
        scene.parties = [*scene.parties[:2], Counter(PARTIES[2], stranger.target)]
        failed = await scene.collect(code=1)
    assert failed["message"].endswith("refuses (ABORTED)")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["cuisine"], 1, "--panel, says who computes the round"),
        (["cuisine", "--party", "00" * 32], 1, "party 1 has no address"),
        (["cuisine", "--party", "a:1=zz"], 1, "is not a public key of 64 hex digits"),
        (["cuisine", "--party", f"a:1={'00' * 32}"], 1, "the task is for 3 parties, and 1 are"),
        (["pizza", "--party", f"a:1={'00' * 32}"], 3, "has published no task 'pizza'"),
    ],
)
async def test_what_is_asked_for_wrongly_is_one_sentence(
    scene: Scene, arguments: list[str], code: int, sentence: str
) -> None:
    """Nothing is begun by it."""
    done = await scene.publisher.run("collect", *arguments, code=code)
    assert sentence in done.err
    assert len(done.err.splitlines()) == 1
    assert Journal.beside(scene.publisher.key).plans() == []


async def test_times_that_make_no_round_are_refused(scene: Scene) -> None:
    """Over, behind the task's end, or no time."""
    for when, sentence in (
        ("2020-01-01T00:00Z", "would be over already"),
        ("2199-12-31T23:30Z", "after the task expires"),
        ("soon", "--open soon"),
    ):
        assert sentence in (await scene.collect("--open", when, code=1))["message"]


# --- reading what came out ---


async def test_a_result_is_read_kept_and_verified_offline(scene: Scene, tmp_path: Path) -> None:
    """By the publisher, who pinned the parties when it opened the round; by anybody with pins."""
    of, round_ = await scene.opened()
    await scene.finish(of, round_, [0] * 300 + [1] * 200 + [2] * 5, by=(1, 3))
    kept = str(tmp_path / "kept.json")
    shown = await scene.publisher.run("result", round_.round_id.hex(), "--out", kept)
    assert "Favourite cuisine" in shown.out
    assert "of valid" in shown.out
    assert "505 valid of 510 reports" in shown.out
    assert "Signed by parties 1 and 3 of 3." in shown.out
    assert "█" in shown.out
    pins = [part for one in PARTIES for part in ("--party", one.public.hex())]
    pins += ["--publisher", PUBLISHER.public.hex()]
    data = (await scene.publisher.run("verify", kept, *pins, "--json", key=False)).json
    assert (data["valid"], data["signed_by"], data["pinned"]) == (505, [1, 3], True)
    assert [one["label"] for one in data["estimates"]] == ["thai", "italian", "other"]
    again = await scene.publisher.run("result", round_.round_id.hex(), "--out", kept, code=1)
    assert "is not overwritten" in again.err


async def test_an_analyst_pins_publisher_and_parties(scene: Scene, tmp_path: Path) -> None:
    """By a file or by options; without them nothing is believed, unless that is wanted."""
    of, round_ = await scene.opened()
    await scene.finish(of, round_, [0, 1, 2])
    reader = Desktop.of(tmp_path, scene.relay.service, ANALYST.seed, "reader.key")
    asked = ("result", round_.round_id.hex())
    assert "is no publisher that is pinned" in (
        await reader.run(*asked, *_parties_of(PARTIES), code=1)
    ).err  # fmt: skip
    assert "--party for each party" in (await reader.run(*asked, code=1)).err
    panel = tmp_path / "panel.toml"
    rows = "".join(f'[[party]]\nkey = "{one.public.hex()}"\n' for one in PARTIES)
    await asyncio.to_thread(
        panel.write_text, f'publishers = ["{PUBLISHER.public.hex()}"]\n{rows}'
    )  # fmt: skip
    assert "Signed by parties 1, 2 and 3" in (await reader.run(*asked, "--panel", str(panel))).out
    swapped = _parties_of([PARTIES[1], PARTIES[0], PARTIES[2]])
    refused = await reader.run(
        *asked, *swapped, "--publisher", PUBLISHER.public.hex(), "--json", code=1
    )
    assert refused.json["error"] == "NotVerified"
    assert "rule party-set" in refused.json["message"]
    shown = await reader.run(*asked, "--unpinned")
    assert "NOT PINNED" in shown.out
    assert PUBLISHER.public.hex() in shown.out


def _parties_of(actors: Sequence[Any]) -> list[str]:
    return [part for one in actors for part in ("--party", one.public.hex())]


async def test_a_kept_result_that_was_changed_is_refused(scene: Scene, tmp_path: Path) -> None:
    """One count more in the sums, or another round's signatures."""
    of, round_ = await scene.opened()
    said = await scene.finish(of, round_, [0, 1, 2])
    kept = tmp_path / "kept.json"
    await scene.publisher.run("result", round_.round_id.hex(), "--out", str(kept))
    fields = json.loads(await asyncio.to_thread(kept.read_text))
    sums = canonical.decode(said)["sums"]
    more = canonical.encode(canonical.decode(said) | {"sums": [sums[0] + 1, *sums[1:]]})
    fields["result"] = base64.b64encode(more).decode()
    await asyncio.to_thread(kept.write_text, json.dumps(fields))
    pins = [*_parties_of(PARTIES), "--publisher", PUBLISHER.public.hex()]
    refused = await scene.publisher.run("verify", str(kept), *pins, code=1, key=False)
    assert "the result is not verified: signature does not verify" in refused.err
    missing = await scene.publisher.run("verify", "missing.json", *pins, code=1, key=False)
    assert "can't be read" in missing.err


async def test_a_result_that_is_not_there_says_where_the_round_stands(scene: Scene) -> None:
    """Open, closed, or unknown to the service."""
    of, round_ = await scene.opened()
    asked = ("result", round_.round_id.hex())
    assert "takes contributions until" in (await scene.publisher.run(*asked, code=1)).err
    with scene.relay.later(of.window_ms + 1):
        assert "the parties are at work" in (await scene.publisher.run(*asked, code=1)).err
    unknown = await scene.publisher.run("result", "00" * 16, *scene.options, code=3)
    assert "knows no such round" in unknown.err
    assert "is no round" in (await scene.publisher.run("result", "00", code=1)).err


async def test_waiting_ends_with_the_result(scene: Scene) -> None:
    """It says on the side what it waits for."""
    of, round_ = await scene.opened()
    with scene.relay.later(of.window_ms + 1):
        process = await scene.publisher.start(
            "result", round_.round_id.hex(), "--wait", "--json"
        )  # fmt: skip
        assert process.stderr is not None
        assert b"waiting: it is closed" in await process.stderr.readline()
        said = round_result(of, [0, 1, 1], seed=1).encode(of)
        await scene.relay.call(PARTIES[0], FINISH, result(round_, said, (1, 2)))
        out, _ = await process.communicate()
    assert json.loads(out)["valid"] == 3


async def test_a_round_that_was_given_up_says_why(scene: Scene) -> None:
    """One party's word may not be the end; two of three are."""
    of, round_ = await scene.opened()
    asked = ("result", round_.round_id.hex())
    statement = canonical.encode({"version": 1, "reason": "too_few_valid"})
    with scene.relay.later(of.window_ms + 1):
        await scene.relay.call(PARTIES[0], FINISH, abandonment(round_, 1, statement))
        once = await scene.publisher.run(*asked, code=1)
        await scene.relay.call(PARTIES[1], FINISH, abandonment(round_, 2, statement))
        twice = await scene.publisher.run(*asked, "--wait", "--json", code=1)
    assert "given up by 1 of 3 parties (party 1: fewer valid reports" in once.err
    assert "The others may still end it" in once.err
    assert twice.json["error"] == "NoResult"
    assert "given up by 2 of 3 parties" in twice.json["message"]
