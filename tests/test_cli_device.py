"""`rookery device`, as a person or a script runs it: real processes and a real service."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.cli.qr import terminal_qr
from client.cli.times import ago
from tests.cli_process import PROGRAM, Home, join
from tests.service_process import ServiceProcess, environment


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """One service for all; each test has an account of its own."""
    with ServiceProcess(tmp_path_factory.mktemp("service")) as process:
        yield process


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, service: ServiceProcess) -> Home:
    """A device whose account nobody changes."""
    home = Home(tmp_path_factory.mktemp("calm"), "calm", service)
    home.run("init", "--no-recovery", "--json", service=True)
    return home


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[ServiceProcess]:
    """A service that the test may stop."""
    folder = tmp_path / "service"
    folder.mkdir()
    with ServiceProcess(folder) as process:
        yield process


@pytest.fixture
def a(tmp_path: Path, service: ServiceProcess) -> Home:
    """The first device of an account."""
    home = Home(tmp_path, "a", service)
    home.run("init", "--no-recovery", "--json", service=True)
    return home


@pytest.fixture
def b(tmp_path: Path, service: ServiceProcess, a: Home) -> Home:
    """A second one."""
    home = Home(tmp_path, "b", service)
    assert join(a, home) == (0, 0)
    return home


def test_init_prints_the_recovery_kit_once(tmp_path: Path, service: ServiceProcess) -> None:
    """The kit stands on standard output; nothing of it is stored, and later commands need no
    address of the service."""
    home = Home(tmp_path, "a", service)
    done = home.run("init", service=True)
    key = re.search(r"([A-Z2-7]{4}-){8}[A-Z2-7]{4}", done.out)
    assert key is not None
    assert "there is no reset" in done.out
    status = home.run("status", "--json").json
    assert status["account_made"]
    assert status["account"] in done.out
    assert key[0] not in json.dumps(status)
    assert stat.S_IMODE(home.state.stat().st_mode) == 0o600


def test_init_without_recovery_says_what_that_means(
    tmp_path: Path, service: ServiceProcess
) -> None:
    """Who declines the recovery key is told what is lost with all devices."""
    done = Home(tmp_path, "a", service).run("init", "--no-recovery", service=True)
    assert "loses the data" in done.err


def test_a_second_init_on_one_state_is_refused(calm: Home) -> None:
    """An existing device is never overwritten."""
    before = calm.state.read_bytes()
    done = calm.run("init", service=True, code=1)
    assert "already" in done.err
    assert calm.state.read_bytes() == before


def test_init_without_a_service_names_what_is_missing(
    tmp_path: Path, service: ServiceProcess
) -> None:
    """The sentence names the three options and where their values come from."""
    home = Home(tmp_path, "a", service)
    done = home.run("init", code=1)
    assert "--server, --audience and --server-key" in done.err
    assert not home.state.exists()


def test_init_while_the_service_is_away_goes_on_later(
    tmp_path: Path, mortal: ServiceProcess
) -> None:
    """The device is kept, the exit code says unreachable, and `sync` makes the account."""
    mortal.stop()
    home = Home(tmp_path, "a", mortal)
    done = home.run("init", "--json", service=True, code=4)
    assert done.json["recovery_key"]
    assert not done.json["account_made"]
    home.run("set", "ui/theme", "dark")
    mortal.start()
    home.run("sync")
    assert home.run("status", "--json").json["account_made"]
    assert home.run("get", "ui/theme").out == "dark\n"


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("text", "dark", "dark"),
        ("text", "7", "7"),
        ("int", "7", 7),
        ("float", "0.5", 0.5),
        ("bool", "yes", True),
        ("json", '["a", {"b": null}]', ["a", {"b": None}]),
        ("bytes", "AAEC", {"base64": "AAEC"}),
    ],
)
def test_values_have_types(calm: Home, kind: str, text: str, value: object) -> None:
    """What was set as a type comes back as that type."""
    calm.run("set", "ui/theme", text, "--type", kind, "--offline")
    assert calm.run("get", "ui/theme", "--json", "--offline").json["value"] == value


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


def test_a_name_that_is_not_there_has_its_own_exit_code(calm: Home) -> None:
    """Scripts can tell nothing from an error."""
    assert calm.run("get", "ui/none", "--json", code=3).json["error"] == "NOT_FOUND"


def test_a_value_can_come_from_standard_input(calm: Home) -> None:
    """`-` keeps a value out of the process list."""
    calm.run("set", "ui/secret", "-", "--offline", typed="hush\n")
    assert calm.run("get", "ui/secret", "--offline").out == "hush\n"


def test_settings_scores_and_sets_travel(a: Home, b: Home) -> None:
    """Everything that one device sets, the other lists; removed things are gone."""
    a.run("set", "ui/theme", "dark")
    a.run("like", "cuisine/thai", "2")
    b.run("like", "cuisine/thai")
    a.run("add", "allergens/nuts")
    a.run("add", "allergens/milk")
    b.run("sync")
    b.run("remove", "allergens/milk")
    b.run("set", "ui/lang", "fr")
    b.run("unset", "ui/lang")
    wanted = {"allergens/nuts": True, "cuisine/thai": 3, "ui/theme": "dark"}
    for home in (a, b):
        rows = home.run("list", "--json").json
        assert rows["synced"]
        assert {row["name"]: row["value"] for row in rows["items"]} == wanted
    assert "cuisine/thai = 3" in a.run("list", "cui").out
    exported = a.run("export", "--offline").json
    assert exported["settings"] == {"allergens/nuts": True, "ui/theme": "dark"}
    assert exported["scores"] == {"cuisine/thai": 3}


def test_edits_without_a_service_wait_and_are_sent_later(
    tmp_path: Path, mortal: ServiceProcess
) -> None:
    """A set succeeds while the service is away, says that it waits, and arrives later."""
    a, b = Home(tmp_path, "a", mortal), Home(tmp_path, "b", mortal)
    a.run("init", "--no-recovery", service=True)
    assert join(a, b) == (0, 0)
    mortal.stop()
    done = a.run("set", "ui/theme", "dark", "--json")
    assert done.json == {"name": "ui/theme", "synced": False, "waiting": 1}
    assert "not synced" in done.err
    assert a.run("get", "ui/theme").out == "dark\n"
    a.run("sync", code=4)
    mortal.start()
    a.run("sync")
    assert b.run("get", "ui/theme").out == "dark\n"


def test_pairing_by_qr_text_works_too(tmp_path: Path, a: Home, service: ServiceProcess) -> None:
    """The text of the QR is as good as the typed characters."""
    assert join(a, Home(tmp_path, "c", service), by="qr") == (0, 0)


def test_wrong_digits_end_the_pairing(tmp_path: Path, a: Home, service: ServiceProcess) -> None:
    """`pair` fails with its own exit code, and nobody was added."""
    codes = join(a, Home(tmp_path, "c", service), spoil=True)
    assert codes[0] == 5
    assert len(a.run("devices", "--json").json["devices"]) == 1


def test_a_wrong_code_leaves_no_state_behind(
    tmp_path: Path, a: Home, service: ServiceProcess
) -> None:
    """A failed join can simply be repeated."""
    home = Home(tmp_path, "c", service)
    done = home.run("join", typed="A" * 26 + "\n", service=True, code=5)
    assert "typing error" in done.err
    assert not [row for row in tmp_path.iterdir() if row.name.startswith("c.db")]


def test_a_qr_fits_a_terminal() -> None:
    """An invitation's QR has at most 60 columns and 30 lines of half blocks."""
    lines = terminal_qr("0" * 224).splitlines()
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    assert len(plain) <= 30
    assert max(map(len, plain)) <= 60


def test_a_removed_device_is_told_and_can_still_export(a: Home, b: Home) -> None:
    """revoke makes a new epoch; the removed device keeps what it has and says so."""
    a.run("set", "ui/theme", "dark")
    b.run("sync")
    device = b.run("status", "--json").json["device"]
    assert a.run("revoke", device[:8], "--json").json == {"epoch": 2, "revoked": [device]}
    done = b.run("sync", code=6)
    assert "stays" in done.err
    assert b.run("export", "--offline").json["settings"] == {"ui/theme": "dark"}
    rows = a.run("devices", "--json").json["devices"]
    assert [row["active"] for row in rows] == [True, False]


def test_a_new_key_without_removing_anybody(a: Home, b: Home) -> None:
    """rotate begins an epoch that all devices follow."""
    a.run("set", "ui/theme", "dark")
    assert a.run("rotate", "--json").json["epoch"] == 2
    assert b.run("get", "ui/theme").out == "dark\n"
    assert b.run("status", "--json").json["epoch"] == 2


def test_recovery_removes_the_lost_devices(tmp_path: Path, service: ServiceProcess) -> None:
    """The kit makes a new device with the whole profile, and the lost one is out."""
    lost = Home(tmp_path, "lost", service)
    kit = lost.run("init", "--json", service=True).json
    lost.run("set", "ui/theme", "dark")
    new = Home(tmp_path, "new", service)
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


def test_a_recovery_key_can_be_made_later(a: Home) -> None:
    """An account without one gets one, and all devices list it."""
    key = a.run("recovery-key", "--json").json["recovery_key"]
    assert len(key.replace("-", "")) == 36
    roles = [row["role"] for row in a.run("devices", "--json").json["devices"]]
    assert roles == ["full", "recovery"]


def test_deleting_wants_a_yes_and_prints_the_signed_receipt(a: Home, b: Home) -> None:
    """Without the typed word nothing happens; with it the receipt is printed."""
    done = a.run("delete-account", typed="no\n", code=1)
    assert "nothing was deleted" in done.err
    data = a.run("delete-account", "--json", typed="delete\n").json
    assert len(bytes.fromhex(data["receipt"])) == 200
    b.run("sync", code=6)


def test_two_processes_on_one_state_are_refused_in_words(a: Home) -> None:
    """While a watch runs, another command says who is in the way."""
    with a.start("watch") as watch:
        watch.until(event="live")
        done = a.run("set", "ui/theme", "dark", code=1)
        assert "another process is using" in done.err
        watch.process.send_signal(signal.SIGINT)
        assert watch.wait() == 130
        assert "Traceback" not in watch.err
    a.run("set", "ui/theme", "dark")


def test_ctrl_c_while_something_is_to_be_typed_ends_at_once(calm: Home) -> None:
    """A prompt does not hold the process."""
    with calm.start("pair") as pair:
        pair.until(event="code")
        pair.process.send_signal(signal.SIGINT)
        assert pair.wait() == 130
        assert "Traceback" not in pair.err
        assert "Fatal" not in pair.err


def test_a_passphrase_protects_the_state(tmp_path: Path, service: ServiceProcess) -> None:
    """Without a key file, the passphrase opens; a wrong one says so."""
    home = Home(tmp_path, "p", service)
    init = [*home.arguments("init", "--no-recovery", "--passphrase")]
    right = environment(**service.variables, ROOKERY_PASSPHRASE="right")
    subprocess.run(init, env=right, check=True, capture_output=True)
    assert not home.state.with_name("p.db.key").exists()
    status = home.arguments("status", "--offline")
    subprocess.run(status, env=right, check=True, capture_output=True)
    wrong = environment(ROOKERY_PASSPHRASE="wrong")
    run = subprocess.run(status, env=wrong, check=False, capture_output=True, text=True)
    assert run.returncode == 1
    assert "does not open" in run.stderr


def test_another_audience_is_refused_by_the_service(a: Home) -> None:
    """A signature for one deployment is worth nothing at another."""
    done = a.run("sync", "--audience", "elsewhere", code=6)
    assert "does not know this device" in done.err


def test_a_wrong_server_key_is_noticed(a: Home) -> None:
    """A receipt that the pinned key did not sign is an alarm in the status."""
    assert "1 alarm: see" in a.run("sync", "--server-key", "11" * 32).err
    rules = [row["rule"] for row in a.run("status", "--json").json["notices"]]
    assert "receipt-signature" in rules


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [("--server-key", "11" * 32, "another key"), ("--audience", "other", "--audience")],
)
def test_init_at_a_service_that_is_not_meant_writes_nothing(
    tmp_path: Path, service: ServiceProcess, option: str, value: str, word: str
) -> None:
    """No state, no kit: the person corrects the option and starts again."""
    done = Home(tmp_path, "a", service).run("init", option, value, service=True, code=1)
    assert word in done.err
    assert not done.out
    assert not [row for row in tmp_path.iterdir() if row.name.startswith("a.db")]


def test_ctrl_c_in_a_join_leaves_nothing(tmp_path: Path, a: Home, service: ServiceProcess) -> None:
    """The next attempt finds no half of a device in its way."""
    home = Home(tmp_path, "c", service)
    with a.start("pair") as pair, home.start("join", service=True) as joining:
        joining.say(pair.until(event="code")["typed"])
        joining.until(event="digits")
        joining.process.send_signal(signal.SIGINT)
        assert joining.wait() == 130
    assert not [row for row in tmp_path.iterdir() if row.name.startswith("c.db")]


def test_what_is_not_there_is_not_said_to_be_removed(a: Home) -> None:
    """`unset` and `--dismiss` have the exit code of names that are not there."""
    a.run("unset", "a/zip", "--offline", code=3)
    a.run("status", "--dismiss", "77", "--offline", code=3)


def test_status_tells_and_forgets_notices(a: Home, b: Home) -> None:
    """All devices announce a new one, until the person has read it."""
    notices = a.run("status", "--json").json["notices"]
    assert ["was added" in row["message"] for row in notices] == [True]
    number = str(notices[0]["number"])
    assert a.run("status", "--json", "--dismiss", number).json["notices"] == []


def test_a_person_at_a_terminal_is_asked(calm: Home) -> None:
    """At a terminal `pair` shows QR, typed code and what to do."""
    main, other = pty.openpty()
    process = subprocess.Popen(
        calm.arguments("pair"), stdin=other, stdout=other, stderr=other, env=calm.variables()
    )
    os.close(other)
    seen = b""
    while b"five minutes" not in seen:
        ready, _, _ = select.select([main], [], [], 30)
        assert ready, seen
        seen += os.read(main, 65536)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    os.close(main)
    assert b"rookery device join" in seen
    assert re.search(rb"([A-Z2-7]{4} ){6}[A-Z2-7]{2}", seen)


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
