"""`rookery device consent`, `pause`, `reset` and their kin, as processes on a governed service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from crypto.keys import device_id
from tests.cli_process import Home
from tests.consent_worlds import ADVICE, COUNTING, PURPOSES, policy
from tests.governed_worlds import KEY, killing
from tests.service_process import ServiceProcess
from tests.test_policy_processes import governed_process, publish

INTRUSIVE = policy(purposes=(PURPOSES[0], replace(PURPOSES[1], intrusive=True)))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    with governed_process(tmp_path) as process:
        yield process


@pytest.fixture
async def home(tmp_path: Path, service: ServiceProcess) -> Home:
    """A device under a policy with two purposes, one of them intrusive."""
    await publish(service, INTRUSIVE)
    made = Home(tmp_path, "phone", service)
    made.run("init", "--no-recovery", service=True)
    made.run("trust", "--policy", KEY.public.hex())
    return made


async def test_a_person_agrees_and_takes_it_back(home: Home) -> None:
    """What is shown before and after, and how programs read it."""
    shown = home.run("consent").out
    assert f"{COUNTING}  off" in shown
    assert PURPOSES[0].text in shown
    assert f"for you: {PURPOSES[0].benefit}" in shown
    refused = home.run("set", "food/cuisine", "thai", code=1)
    assert f"consent grant PURPOSE` allows it; PURPOSE is {COUNTING} (rule" in refused.err
    granted = home.run("consent", "grant", COUNTING, "--json").json
    assert (granted["standing"], granted["policy_sequence"]) == ("granted", 1)
    home.run("set", "food/cuisine", "thai")
    rows = {row["purpose"]: row for row in home.run("consent", "--json").json["purposes"]}
    assert rows[COUNTING]["standing"] == "granted"
    assert rows[ADVICE]["standing"] == "never"
    done = home.run("consent", "withdraw", COUNTING, "--json", typed="withdraw\n")
    assert "nobody can tell your part from the rest" in done.err
    assert done.json["deleted"] == [{"name": "food/cuisine", "kind": "setting"}]
    assert len(done.json["receipt"]) == 64
    home.run("consent", "grant", COUNTING)
    home.run("set", "food/cuisine", "thai")
    assert "sealed history" in home.run("consent", "withdraw", COUNTING, "--yes").out
    assert f"{COUNTING}  withdrawn" in home.run("consent", "--offline").out
    exported = home.run("export", "--offline").json
    assert [one["granted"] for one in exported["receipts"]] == [True, False] * 2
    assert {one["text"] for one in exported["receipts"]} == {PURPOSES[0].text}
    assert exported["policy"]["sequence"] == 1
    assert exported["settings"] == {}
    assert [one["this_device"] for one in exported["devices"]] == [True]
    (device,) = exported["devices"]
    assert device_id(bytes.fromhex(device["key"])).hex() == device["device"]
    assert exported["spent"]["rounds"] == 0


async def test_an_edit_that_is_refused_takes_the_newer_policy_first(
    home: Home, service: ServiceProcess
) -> None:
    """A kill that ended since is found out by the edit itself; offline it says how."""
    home.run("consent", "grant", COUNTING)
    killed = policy(INTRUSIVE, flags=(killing("signal", "cuisine"),))
    await publish(service, killed)
    home.run("sync")
    assert "rule killed" in home.run("set", "food/cuisine", "thai", code=1).err
    await publish(service, policy(killed, flags=()))
    refused = home.run("set", "food/cuisine", "thai", "--offline", code=1)
    assert "`rookery device sync` (rule killed)" in refused.err
    assert home.run("set", "food/cuisine", "thai", "--json").json["synced"]


async def test_what_is_intrusive_is_asked_for_by_itself(home: Home) -> None:
    """A word has to be typed, with the words before one's eyes; no purpose is granted by name of
    another."""
    refused = home.run("consent", "grant", ADVICE, typed="no\n", code=1)
    assert "nothing was granted" in refused.err
    home.run("consent", "grant", ADVICE, typed="grant\n")
    home.run("allow", COUNTING)
    assert "nothing was withdrawn" in home.run("disallow", COUNTING, typed="no\n", code=1).err
    assert home.run("disallow", COUNTING, "--yes", "--json").json["standing"] == "withdrawn"
    assert "lists all" in home.run("consent", "grant", "elsewhere", code=3).err
    assert "never granted" in home.run("consent", "withdraw", "elsewhere", code=3).err
    assert "name a purpose" in home.run("consent", "grant", code=1).err


async def test_without_a_terminal_what_asks_says_how_to_go_on(home: Home) -> None:
    """Nothing is done, and the sentence names `--yes`."""
    home.run("consent", "grant", COUNTING)
    asking = (
        ("consent", "withdraw", COUNTING), ("consent", "grant", ADVICE), ("allow", ADVICE),
        ("disallow", COUNTING), ("reset",), ("forget-me",),
    )  # fmt: skip
    for words in asking:
        refused = home.run(*words, code=1)
        assert "nothing was typed" in refused.err, words
        assert "--yes" in refused.err, words
    rows = {row["purpose"]: row for row in home.run("consent", "--json").json["purposes"]}
    assert (rows[COUNTING]["standing"], rows[ADVICE]["standing"]) == ("granted", "never")


async def test_words_that_changed_are_shown_before_they_are_agreed_to(
    home: Home, service: ServiceProcess
) -> None:
    """The command that hears of them says them, and grants nothing; the next one does."""
    home.run("consent")
    changed = (replace(PURPOSES[0], text="Counts, and sells."), INTRUSIVE.purposes[1])
    await publish(service, policy(INTRUSIVE, purposes=changed))
    refused = home.run("consent", "grant", COUNTING, code=1)
    assert "Counts, and sells." in refused.err
    assert home.run("export").json["receipts"] == []
    assert home.run("consent", "grant", COUNTING, "--json").json["policy_sequence"] == 2
    [receipt] = home.run("export").json["receipts"]
    assert receipt["text"] == "Counts, and sells."


async def test_recording_stops_goes_on_and_starts_anew(home: Home) -> None:
    """`pause`, `resume`, `reset`, `undo`; a withdrawal and a pause need no service."""
    home.run("consent", "grant", COUNTING)
    home.run("set", "food/cuisine", "thai")
    assert home.run("pause", "--offline", "--json").json == {"paused": True, "synced": False}
    assert "paused" in home.run("set", "food/cuisine", "lao", code=1).err
    assert "everything is paused" in home.run("consent").out
    assert "everything is paused" in home.run("rank", "rating", "--offline").out
    shown = home.run("status", "--offline").out
    assert "everything is paused" in shown
    assert "policy       number 1" in shown
    home.run("resume")
    refused = home.run("reset", typed="no\n", code=1)
    assert "nothing was reset" in refused.err
    assert home.run("reset", "--yes", "--json").json["removed"] == 1
    assert home.run("list", "--json").json["items"] == []
    assert json.loads(home.run("export").out)["undo_until_ms"] > 0
    assert home.run("undo", "--json").json["restored"] == 1
    assert home.run("get", "food/cuisine").out.strip() == "thai"
    home.run("undo", code=3)
    done = home.run("consent", "withdraw", COUNTING, "--yes", "--offline", "--json").json
    assert (done["receipt"], done["synced"]) == (None, False)
    home.run("sync")
    assert [one["granted"] for one in home.run("export").json["receipts"]] == [True, False]


async def test_forget_me_says_before_what_can_not_be_taken_back(home: Home) -> None:
    """And is `delete-account` by another name."""
    told = home.run("forget-me", typed="no\n", code=1)
    assert "nothing was deleted" in told.err
    done = home.run("forget-me", "--yes", "--json")
    assert "results that came out stay as they are" in done.err
    assert len(bytes.fromhex(done.json["receipt"])) == 200
    home.run("sync", code=6)


async def test_a_device_under_no_policy_is_told_what_to_use(
    tmp_path: Path, service: ServiceProcess
) -> None:
    """Its consent is a setting, as it was; it can't pause what asks no gate."""
    await publish(service, INTRUSIVE)
    made = Home(tmp_path, "free", service)
    assert "trust --policy KEY" in made.run("init", "--no-recovery", service=True).err
    status = made.run("status")
    assert "this device is under none" in status.out
    assert "trust --policy KEY" in status.err
    assert "under no policy" in made.run("consent", code=1).err
    assert "disallow PURPOSE" in made.run("pause", code=1).err
    made.run("allow", COUNTING)
    made.run("set", "food/cuisine", "thai")
    made.run("reset", "--yes")
    made.run("undo")
    assert made.run("export").json["settings"] == {"food/cuisine": "thai"}
    assert made.run("export").json["consent"] == [{"purpose": COUNTING, "standing": "allowed"}]


def test_before_the_first_policy_a_new_account_is_told_why_it_is_refused(
    tmp_path: Path, service: ServiceProcess
) -> None:
    """A governed service allows nothing by then; nothing is left of the attempt."""
    made = Home(tmp_path, "early", service)
    refused = made.run("init", "--no-recovery", service=True, code=1)
    assert "has no policy" in refused.err
    assert "`rookery policy publish`" in refused.err
    assert not made.state.exists()
