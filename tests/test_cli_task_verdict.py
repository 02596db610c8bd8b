"""`rookery task verdict` as a process: an experiment's round, from the service and from a file."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tests.analyst_worlds import Desktop, counter, task_file
from tests.relay_worlds import PARTIES, PUBLISHER, Relay
from tests.test_cli_task_rounds import Scene

KIND = (
    '{ name = "experiment", variants = 2, labels = ["as-before", "home-first"],'
    " low = 0, high = 10 }"
)
VALUES = [(at % 2, 3 + at % 3 + 2 * (at % 2)) for at in range(600)]


async def test_a_verdict_is_read_of_a_round_and_of_a_kept_file(
    relay: Relay, tmp_path: Path
) -> None:
    """Effect, interval, p, power and the warning of reading early; the same from the file, which
    a task of another kind is not."""
    async with contextlib.AsyncExitStack() as stack:
        parties = [await stack.enter_async_context(counter(tmp_path, one)) for one in PARTIES]
        publisher = Desktop.of(tmp_path, relay.service, PUBLISHER.seed)
        caps = "{ device_micro_rho = 900_000_000, period_ms = '1d', task_micro_rho = 900_000_000 }"
        await publisher.run(
            "publish", task_file(tmp_path, kind=KIND, caps=caps, sigma_milli="20_000")
        )
        scene = Scene(relay, publisher, parties)
        of, round_ = await scene.opened()
        await scene.finish(of, round_, VALUES)
        round_id, kept = round_.round_id.hex(), str(tmp_path / "kept.json")
        asked = ("--planned", "2000", "--effect", "0.5")
        shown = (await publisher.run("verdict", round_id, *asked)).out
        assert "home-first is higher than as-before" in shown
        assert "EARLY: 600 of 2,000 planned reports" in shown
        await publisher.run("result", round_id, "--out", kept)
        pins = [part for one in PARTIES for part in ("--party", one.public.hex())]
        pins += ["--publisher", PUBLISHER.public.hex()]
        data = (await publisher.run("verdict", kept, *asked, *pins, "--json")).json
        [one] = data["comparisons"]
        assert (one["variant"], one["first"], one["verdict"]) == (
            "home-first", "as-before", "higher",
        )  # fmt: skip
        assert one["low"] < 2 < one["high"]
        assert one["p"] < 0.001
        assert 0.9 < one["power"] <= 1
        assert (data["early"], data["reports"], data["pinned"]) == (True, 600, True)
        wrong = await publisher.run("verdict", kept, *pins, "--alpha", "2", code=1)
        assert "alpha is above 0" in wrong.err
