"""`rookery device`, as a person or a script runs it: real processes and a real service."""

from __future__ import annotations

import json
import re
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from client.cli.times import ago
from tests.cli_process import PROGRAM, Home
from tests.service_process import ServiceProcess, environment


def test_init_prints_the_recovery_kit_once(tmp_path: Path, server: ServiceProcess) -> None:
    """The kit stands on standard output; nothing of it is stored, and later commands need no
    address of the service."""
    home = Home(tmp_path, "a", server)
    done = home.run("init", service=True)
    key = re.search(r"([A-Z2-7]{4}-){8}[A-Z2-7]{4}", done.out)
    assert key is not None
    assert "there is no reset" in done.out
    assert f"{home.state}.key" in done.err
    status = home.run("status", "--json").json
    assert status["account_made"]
    assert status["account"] in done.out
    assert key[0] not in json.dumps(status)
    assert stat.S_IMODE(home.state.stat().st_mode) == 0o600


def test_init_without_recovery_says_what_that_means(tmp_path: Path, server: ServiceProcess) -> None:
    """Who declines the recovery key is told what is lost with all devices."""
    done = Home(tmp_path, "a", server).run("init", "--no-recovery", service=True)
    assert "loses the data" in done.err


def test_a_second_init_on_one_state_is_refused(calm: Home) -> None:
    """An existing device is never overwritten."""
    before = calm.state.read_bytes()
    done = calm.run("init", service=True, code=1)
    assert "already" in done.err
    assert calm.state.read_bytes() == before


def test_init_without_a_service_names_what_is_missing(
    tmp_path: Path, server: ServiceProcess
) -> None:
    """The sentence names the three options and where their values come from."""
    home = Home(tmp_path, "a", server)
    done = home.run("init", code=1)
    assert "--server, --audience and --server-key" in done.err
    assert not home.state.exists()


def test_init_while_the_service_is_away_goes_on_later(
    tmp_path: Path, own_server: ServiceProcess
) -> None:
    """The device is kept, the exit code says unreachable, and `sync` makes the account."""
    own_server.stop()
    home = Home(tmp_path, "a", own_server)
    done = home.run("init", "--json", service=True, code=4)
    assert done.json["recovery_key"]
    assert not done.json["account_made"]
    home.run("set", "ui/theme", "dark")
    own_server.start()
    home.run("sync")
    assert home.run("status", "--json").json["account_made"]
    assert home.run("get", "ui/theme").out == "dark\n"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("set", "theme", "dark"), "COLLECTION/KEY"),
        (("set", "ui/Theme", "dark"), "a-z"),
        (("set", ".rookery/x", "dark"), "dot"),
        (("set", "ui/theme", "seven", "--type", "int"), "no int"),
        (("set", "ui/theme", "{", "--type", "json"), "no json"),
        (("set", "ui/theme", "x" * 40_000), "too long"),
        (("revoke", "deadbeef"), "no active device"),
        (("revoke", "de"), "at least 4"),
        (("revoke", "#0"), "itself"),
    ],
)
def test_what_can_not_be_done_is_said_in_a_sentence(
    calm: Home, arguments: tuple[str, ...], word: str
) -> None:
    """Exit code 1, one sentence with what to do, and with --json an object that says so."""
    done = calm.run(*arguments, "--json", code=1)
    assert done.json["message"] in done.err
    assert word in done.json["message"]


def test_a_removed_device_is_told_and_can_still_export(first: Home, second: Home) -> None:
    """revoke makes a new epoch; the removed device keeps what it has and says so."""
    first.run("set", "ui/theme", "dark")
    second.run("sync")
    device = second.run("status", "--json").json["device"]
    assert first.run("revoke", device[:8], "--json").json == {"epoch": 2, "revoked": [device]}
    done = second.run("sync", code=6)
    assert "stays" in done.err
    assert second.run("export", "--offline").json["settings"] == {"ui/theme": "dark"}
    rows = first.run("devices", "--json").json["devices"]
    assert [row["active"] for row in rows] == [True, False]


def test_a_new_key_without_removing_anybody(first: Home, second: Home) -> None:
    """rotate begins an epoch that all devices follow."""
    first.run("set", "ui/theme", "dark")
    assert first.run("rotate", "--json").json["epoch"] == 2
    assert second.run("get", "ui/theme").out == "dark\n"
    assert second.run("status", "--json").json["epoch"] == 2


def test_recovery_removes_the_lost_devices(tmp_path: Path, server: ServiceProcess) -> None:
    """The kit makes a new device with the whole profile, and the lost one is out."""
    lost = Home(tmp_path, "lost", server)
    kit = lost.run("init", "--json", service=True).json
    lost.run("set", "ui/theme", "dark")
    new = Home(tmp_path, "new", server)
    done = new.run(
        "recover", "--account", kit["account"], "--revoke-others", "--json",
        typed=kit["recovery_key"].lower() + "\n", service=True,
    )  # fmt: skip
    assert done.json["revoked"] == [kit["device"]]
    assert new.run("get", "ui/theme").out == "dark\n"
    lost.run("sync", code=6)


def test_a_typing_error_in_the_recovery_key_is_named(calm: Home, tmp_path: Path) -> None:
    """The check characters find it before anything is asked."""
    home = Home(tmp_path, "new", calm._service)
    typed = "-".join(["AAAA"] * 9)
    done = home.run("recover", "--account", "00" * 32, typed=typed + "\n", service=True, code=1)
    assert "typing error" in done.err


def test_a_recovery_key_can_be_made_later(first: Home) -> None:
    """An account without one gets one, and all devices list it."""
    key = first.run("recovery-key", "--json").json["recovery_key"]
    assert len(key.replace("-", "")) == 36
    roles = [row["role"] for row in first.run("devices", "--json").json["devices"]]
    assert roles == ["full", "recovery"]


def test_deleting_wants_a_yes_and_prints_the_signed_receipt(first: Home, second: Home) -> None:
    """Without the typed word nothing happens; with it the receipt is printed."""
    done = first.run("delete-account", typed="no\n", code=1)
    assert "nothing was deleted" in done.err
    data = first.run("delete-account", "--json", typed="delete\n").json
    assert len(bytes.fromhex(data["receipt"])) == 200
    second.run("sync", code=6)


def test_two_processes_on_one_state_are_refused_in_words(first: Home) -> None:
    """While a watch runs, another command says who is in the way."""
    with first.start("watch") as watch:
        watch.until(event="live")
        done = first.run("set", "ui/theme", "dark", code=1)
        assert "another process is using" in done.err
        watch.process.send_signal(signal.SIGINT)
        assert watch.wait() == 130
        assert "Traceback" not in watch.err
    first.run("set", "ui/theme", "dark")


def test_a_passphrase_protects_the_state(tmp_path: Path, server: ServiceProcess) -> None:
    """Without a key file, the passphrase opens; a wrong one says so."""
    home = Home(tmp_path, "p", server)
    init = [*home.arguments("init", "--no-recovery", "--passphrase")]
    right = environment(**server.variables, ROOKERY_PASSPHRASE="right")
    made = subprocess.run(init, env=right, check=True, capture_output=True, text=True)
    assert ".key" not in made.stderr
    assert not home.state.with_name("p.db.key").exists()
    status = home.arguments("status", "--offline")
    subprocess.run(status, env=right, check=True, capture_output=True)
    wrong = environment(ROOKERY_PASSPHRASE="wrong")
    run = subprocess.run(status, env=wrong, check=False, capture_output=True, text=True)
    assert run.returncode == 1
    assert "does not open" in run.stderr


def test_another_audience_is_refused_by_the_service(first: Home) -> None:
    """A signature for one deployment is worth nothing at another."""
    done = first.run("sync", "--audience", "elsewhere", code=6)
    assert "no longer takes this device" in done.err


def test_a_wrong_server_key_is_noticed(first: Home) -> None:
    """A receipt that the pinned key did not sign is an alarm in the status."""
    assert "1 alarm: see" in first.run("sync", "--server-key", "11" * 32).err
    rules = [row["rule"] for row in first.run("status", "--json").json["notices"]]
    assert "receipt-signature" in rules


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [("--server-key", "11" * 32, "another key"), ("--audience", "other", "--audience")],
)
def test_init_at_a_service_that_is_not_meant_writes_nothing(
    tmp_path: Path, server: ServiceProcess, option: str, value: str, word: str
) -> None:
    """No state, no kit: the person corrects the option and starts again."""
    done = Home(tmp_path, "a", server).run("init", option, value, service=True, code=1)
    assert word in done.err
    assert not done.out
    assert not [row for row in tmp_path.iterdir() if row.name.startswith("a.db")]


def test_status_tells_and_forgets_notices(first: Home, second: Home) -> None:
    """All devices announce a new one, until the person has read it."""
    notices = first.run("status", "--json").json["notices"]
    assert ["was added" in row["message"] for row in notices] == [True]
    number = str(notices[0]["number"])
    assert first.run("status", "--json", "--dismiss", number).json["notices"] == []


@pytest.mark.parametrize("arguments", [(), ("device",), ("device", "set"), ("device", "nothing")])
def test_wrong_usage_is_code_2(arguments: tuple[str, ...]) -> None:
    """argparse's own exit code and words."""
    run = subprocess.run(
        [*PROGRAM, *arguments], env=environment(), capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert "usage: rookery" in run.stderr


def test_help_lists_the_exit_codes() -> None:
    """They are documented where one looks."""
    run = subprocess.run(
        [*PROGRAM, "--help"], env=environment(), capture_output=True, text=True, check=True
    )
    assert "130  stopped by Ctrl-C" in run.stdout


def test_vectors_are_run(tmp_path: Path) -> None:
    """`rookery vectors` has an exit code of its own for a file that it can't read."""
    file = tmp_path / "none.json"
    run = subprocess.run(
        [*PROGRAM, "vectors", str(file)], env=environment(), capture_output=True, check=False
    )
    assert run.returncode == 2


def test_times_are_said_as_people_say_them() -> None:
    """A clock that is ahead counts as now."""
    assert [ago(None, 0), ago(0, 59_999), ago(0, 60_000), ago(0, 3 * 86_400_000), ago(9, 0)] == [
        "never", "just now", "1 minute ago", "3 days ago", "just now",
    ]  # fmt: skip


def test_a_reader_that_leaves_is_no_traceback(calm: Home) -> None:
    """`rookery … | head` ends quietly."""
    command = " ".join(calm.arguments("export", "--offline"))
    run = subprocess.run(
        ["bash", "-c", f"{command} | true"], env=calm.variables(service=False),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in run.stderr
