"""`rookery device trust`, `allow`, `tasks`, `contribute`, `results`, as processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.localkey import KeyFile
from client.measure.participant import Participant
from client.sync import ENDPOINT_ROW
from client.vault import FileVault
from crypto.field import FIELD31
from mpc.kinds import Histogram
from mpc.manifest import Manifest
from mpc.noise import Law, Mechanism
from mpc.task import Caps, Task
from tests.cli_process import Home, join
from tests.measure_worlds import sums_of, taking_part
from tests.relay_worlds import (
    FINISH,
    GRACE_MS,
    PARTIES,
    PUBLISH,
    PUBLISHER,
    RIVAL,
    WINDOW_MS,
    Relay,
    attached,
    manifest,
    result,
    signed_task,
    task,
)
from tests.served import AUDIENCE
from tests.service_process import ROOT, ServiceProcess, environment
from tests.shell_worlds import Clock, endpoint_of, fleet, put

FOOD: dict[str, Any] = {
    "kind": Histogram(FIELD31, 3, ("thai", "italian", "georgian")),
    "window_ms": 3_600_000,
}
KEYS = [party.public.hex() for party in PARTIES]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service process with two publishers."""
    keys = f"{PUBLISHER.public.hex()},{RIVAL.public.hex()}"
    folder = tmp_path_factory.mktemp("relay")
    with ServiceProcess(folder, ROOKERY_PUBLISHERS=keys, ROOKERY_AUDIENCE=AUDIENCE) as process:
        yield process


def device(folder: Path, name: str, service: ServiceProcess, *, trust: bool = True) -> Home:
    """The first device of an account, that may trust the publisher and the parties."""
    home = Home(folder, name, service)
    home.run("init", "--no-recovery", "--json", service=True)
    if trust:
        parties = [f"--party={key}" for key in KEYS]
        home.run("trust", "--publisher", PUBLISHER.public.hex(), *parties)
    return home


async def opened(relay: Relay, name: str, **changes: Any) -> tuple[Task, Manifest]:
    """A task with a round that is open for an hour."""
    made = task(name, **(FOOD | changes))
    await relay.publish(made)
    round_ = manifest(made, relay.now_ms - 1_000, name)
    await relay.collect(round_)
    return made, round_


def said(text: str) -> str:
    """Without the line breaks of a terminal."""
    return " ".join(text.split())


def test_trust_is_shown_and_changed_without_asking_anybody(
    tmp_path: Path, service: ServiceProcess
) -> None:
    """Keys by option or from the file that `rookery task` takes; what each means is said."""
    home = device(tmp_path, "a", service, trust=False)
    shown = home.run("trust")
    assert "none: no task is answered (--publisher KEY)" in shown.out
    assert "epsilon 2.14 at" in shown.out
    panel = tmp_path / "panel.toml"
    panel.write_text(
        f'publishers = ["{PUBLISHER.public.hex()}"]\n'
        + "".join(f'[[party]]\naddress = "127.0.0.1:{at}"\nkey = "{key}"\n'
                  for at, key in enumerate(KEYS, 1))
    )  # fmt: skip
    changed = home.run("trust", "--panel", str(panel), "--json").json
    assert changed["publishers"] == [PUBLISHER.public.hex()]
    assert changed["panels"] == [{"t": 1, "parties": KEYS}]
    home.run("trust", "--panel", str(panel), "--round-micro-rho", "7", "--period-days", "3")
    again = home.run("trust", "--json").json
    assert again == changed | {"round_micro_rho": 7, "period_days": 3}
    assert "in 3 days" in home.run("trust").out
    home.run("trust", "--remove", KEYS[1][:8])
    assert home.run("trust", "--json").json["panels"] == []
    for arguments, sentence in (
        (["--publisher", "abc"], "--publisher is not a public key of 64 hex digits"),
        (["--party", KEYS[0]], "a panel has 3 to 16 parties"),
        (["--t", "1"], "give its parties, too"),
        (["--remove", "zz"], "in hexadecimal"),
        (["--remove", "00" * 32], "no such key is trusted"),
        (["--round-micro-rho", "-1"], "--round-micro-rho is a number from 0"),
    ):
        assert sentence in home.run("trust", *arguments, code=1).err


async def test_a_person_answers_a_task_and_can_tell_why_not(
    tmp_path: Path, service: ServiceProcess
) -> None:
    """Nothing is answered before the purpose is allowed, and nothing twice."""
    home = device(tmp_path, "b", service)
    async with attached(service) as relay:
        _, round_ = await opened(relay, "food/cuisine")
        await opened(relay, "food/loud", noise=Law(Mechanism.GAUSSIAN, 3_000),
                     caps=Caps(10**9, 1, 10**9))  # fmt: skip
        rival = task("food/rival", **FOOD)
        await relay.call(RIVAL, PUBLISH, signed_task(rival, RIVAL))
    shown = home.run("tasks")
    assert "Favourite cuisine" in shown.out
    assert "histogram (thai, italian, georgian), of food/cuisine in the profile" in shown.out
    assert "for the purpose product, epsilon 1.66" in shown.out
    assert "`rookery device allow product` allows it" in shown.out
    assert "1 more by publishers that this device does not trust" in shown.out
    assert "not answered: its purpose is not allowed" in home.run("contribute").out
    refused = home.run("contribute", "--task", "food/cuisine", "--json", code=1)
    assert refused.json["error"] == "CONSENT"
    home.run("allow", "product")
    rows = {row["task"]: row for row in home.run("tasks", "--json").json["tasks"]}
    assert (rows["food/cuisine"]["state"], rows["food/loud"]["rule"]) == ("open", "noise")
    assert rows["food/cuisine"]["rounds"][0]["round"] == round_.round_id.hex()
    assert rows["food/rival"]["rule"] == "publisher"
    assert 1.6 < rows["food/cuisine"]["epsilon_at_delta_1e-6"] < 1.7
    nothing = home.run("contribute", "--task", "food/cuisine")
    assert nothing.out == "food/cuisine: the profile has nothing at food/cuisine\n"
    home.run("set", "food/cuisine", "thai")
    done = home.run("contribute", "--json").json["reports"]
    assert [(row["task"], row["outcome"], row["rule"]) for row in done] == [
        ("food/cuisine", "contributed", ""),
        ("food/loud", "refused", "noise"),
        ("food/rival", "refused", "publisher"),
    ]
    again = home.run("contribute", "--task", "food/cuisine")
    assert "this account has contributed to this round" in again.out
    assert "done: this account has" in home.run("tasks").out
    assert "spent so far    62,501 micro-rho" in home.run("trust").out
    results = home.run("results")
    assert f"round {round_.round_id.hex()}: no result yet" in said(results.out)
    assert home.run("results", "--json", "--offline").json["results"][0]["took_part"] == "given"
    withdrawn = home.run("disallow", "product")
    assert "can't be taken back" in withdrawn.out


async def test_a_value_can_be_given_for_one_task(tmp_path: Path, service: ServiceProcess) -> None:
    """As JSON, checked by the kind; it is neither printed nor kept."""
    home = device(tmp_path, "c", service)
    home.run("allow", "product")
    async with attached(service) as relay:
        await opened(relay, "food/given")
    for arguments, sentence in (
        (["--value", "1"], "give --task, too"),
        (["--task", "food/given", "--value", "thai"], "a text has quotes"),
        (["--task", "food/given", "--value", "null"], "null says nothing"),
        (["--task", "food/given", "--value", '"mexican"'], "none of the task's labels"),
        (["--task", "food/given", "--value", "3"], "from 0 to 2"),
        (["--task", "food/none"], "lists no task food/none"),
    ):
        refused = home.run("contribute", *arguments, code=1)
        assert sentence in refused.err
        assert "mexican" not in refused.err
    done = home.run("contribute", "--task", "food/given", "--value", "-", typed='"thai"\n')
    assert done.out == "food/given: contributed\n"


def test_consent_reaches_the_other_devices(tmp_path: Path, service: ServiceProcess) -> None:
    """It is the person's, not the device's; a name that is no purpose is refused."""
    home = device(tmp_path, "d", service)
    other = Home(tmp_path, "d2", service)
    assert join(home, other) == (0, 0)
    home.run("allow", "research/taste")
    state = other.run("sync", "--json").json
    assert state["synced"]
    offline = other.run("disallow", "research/taste", "--offline", "--json").json
    assert offline == {"name": "research/taste", "synced": False, "waiting": 1}
    assert "a purpose is 1 to 128" in home.run("allow", "Research", code=1).err


def killed(home: Home, point: int, name: str) -> bool:
    """Contributes and dies at a point; False if it ended by itself before."""
    arguments = home.arguments("contribute", "--task", name, "--value", '"thai"', "--json")
    run = subprocess.run(
        [sys.executable, "-m", "tests.crashing", str(point), *arguments[3:]],
        env=home.variables(service=False), cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in run.stderr, run.stderr
    assert run.returncode in (0, -9), run.stderr
    return run.returncode != 0


async def test_a_contribution_that_is_killed_at_any_point_is_finished_by_the_next(
    tmp_path: Path, service: ServiceProcess
) -> None:
    """SIGKILL before and after writes and calls in turn: one report, the same bytes."""
    home = device(tmp_path, "e", service)
    home.run("allow", "product")
    home.run("trust", "--period-micro-rho", str(10**9), "--all-time-micro-rho", str(10**9))
    outcomes, point, ended = [], 1, False
    while not ended:
        name = f"food/killed/v{point}"
        async with attached(service) as relay:
            await opened(relay, name)
        ended = not killed(home, point, name)
        again = home.run("contribute", "--task", name, "--value", '"georgian"', "--json")
        outcomes.append(again.json["reports"][-1]["outcome"])
        point += 5
    # Up to the write with the ledger another value could still be given; after it, never.
    assert outcomes[0] == "contributed"
    assert outcomes[-1] == "already"
    rows = home.run("results", "--offline", "--json").json["results"]
    assert {row["took_part"] for row in rows} == {"given"}
    assert len(rows) == len(outcomes)


async def test_results_are_shown_as_they_were_kept(tmp_path: Path, relay: Relay) -> None:
    """A table with the noise, who signed, and whether this account took part; by task."""
    made = task("food/bin")
    await relay.publish(made)
    round_ = manifest(made, relay.now_ms - 1_000)
    await relay.collect(round_)
    clock, state = Clock(), tmp_path / "f.db"
    async with fleet(endpoint_of(relay.service)) as devices:
        vault = FileVault.create(state, KeyFile())
        synced = await devices.first(vault, clock=clock)
        vault.apply({ENDPOINT_ROW: synced.transport.endpoint.encode()})
        put(synced, "bin", 0, "food")
        one: Participant = taking_part(synced)
        await one.contribute_once()
        clock.offset_ms = WINDOW_MS + GRACE_MS
        with relay.later(WINDOW_MS + GRACE_MS):
            await relay.call(PARTIES[0], FINISH, result(round_, sums_of(made), by=(1, 3)))
            assert await one.fetch_results() == []
    shown = _offline(state)
    for part in (
        "food/bin, round",
        "3 valid of 3 reports",
        "Signed by parties 1 and 3 of 3",
        "This account took part.",
    ):
        assert part in said(shown)
    [row] = json.loads(_offline(state, "--json"))["results"]
    assert (row["state"], row["took_part"], row["valid"]) == ("done", "given", 3)
    assert "no round that this account was asked about" in _offline(state, "--task", "other")


def _offline(state: Path, *more: str) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "client.cli.main", "device", "results", "--offline",
         "--state", str(state), *more],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return run.stdout


def test_other_commands_import_no_arithmetic() -> None:
    """numpy and the kinds are for who takes part; a profile's edit starts without them."""
    code = (
        "import sys; import client.cli.main, client.cli.profile, client.cli.account,"
        " client.cli.consent; print(sorted(m for m in sys.modules if m.split('.')[0] in"
        " ('numpy', 'mpc', 'mpyc')))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert run.stdout == "[]\n"
    code = (
        "import sys; import client.cli.measure, client.cli.outcomes, client.cli.trust;"
        " print('mpyc' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert run.stdout == "False\n"
