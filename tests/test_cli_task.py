"""`rookery task` as people run it: keys, tasks, rounds, results, against a real relay."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

from services.audit.record import of_key
from tests.analyst_worlds import Desktop, task_file
from tests.cli_process import PROGRAM
from tests.relay_worlds import ANALYST, PUBLISHER, STRANGER, Relay
from tests.service_process import environment

# --- keys ---


def rookery(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`rookery task`, where no service is."""
    return subprocess.run(
        [*PROGRAM, "task", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_key_is_made_once_and_only_its_public_half_is_shown(tmp_path: Path) -> None:
    """Mode 0600; never over a file that is there."""
    path = tmp_path / "publisher.key"
    made = rookery("keygen", "--out", str(path))
    assert made.returncode == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = path.read_text().strip()
    public = rookery("key", str(path)).stdout.strip()
    assert public in made.stdout
    assert secret not in made.stdout + made.stderr
    logged = of_key(bytes.fromhex(public))
    assert logged in made.stdout
    assert logged in rookery("key", str(path)).stderr, "beside the output that scripts take"
    assert json.loads(rookery("key", str(path), "--json").stdout)["audit_id"] == logged
    again = rookery("keygen", "--out", str(path), "--json")
    assert again.returncode == 1
    assert "is not overwritten" in json.loads(again.stdout)["message"]
    assert path.read_text().strip() == secret


def test_a_key_that_is_missing_or_open_is_one_sentence(tmp_path: Path) -> None:
    """It says what makes one, or what closes it."""
    path = tmp_path / "a.key"
    assert "`rookery task keygen` makes" in rookery("key", str(path)).stderr
    assert rookery("keygen", "--out", str(path)).returncode == 0
    path.chmod(0o644)
    assert "chmod 600" in rookery("key", str(path)).stderr
    assert "--key says which key signs" in rookery("list").stderr


# --- tasks ---


def test_a_dry_run_needs_no_key_and_no_service(tmp_path: Path) -> None:
    """It shows cost, noise and the hash that the task will have."""
    done = rookery("publish", task_file(tmp_path), "--dry-run", "--json")
    data = json.loads(done.stdout)
    assert (data["published"], data["field"], data["kappa"]) == (False, 31, 2)
    shown = rookery("publish", task_file(tmp_path), "--dry-run").stdout
    assert data["spec_hash"] in shown
    assert f"rho = {data['rho']:g} of zCDP" in shown
    assert "each of 3 counts" in shown


async def test_a_task_is_published_for_good_and_listed(relay: Relay, tmp_path: Path) -> None:
    """Again is fine; another one under its id is refused in words."""
    publisher = Desktop.of(tmp_path, relay.service, PUBLISHER.seed)
    done = await publisher.run("publish", task_file(tmp_path), "--json")
    spec_hash = done.json["spec_hash"]
    assert done.json["published"]
    assert spec_hash in (await publisher.run("publish", task_file(tmp_path))).out
    changed = task_file(tmp_path, title='"Another title"')
    refused = await publisher.run("publish", changed, code=1)
    assert "a changed one needs another id" in refused.err
    reader = Desktop.of(tmp_path, relay.service, ANALYST.seed, "reader.key")
    [listed] = (await reader.run("list", "--json")).json["tasks"]
    assert (listed["spec_hash"], listed["own"], listed["rounds"]) == (spec_hash, False, [])
    assert listed["publisher"] == PUBLISHER.public.hex()
    shown = (await publisher.run("list")).out
    assert "cuisine  Favourite cuisine" in shown
    assert "published by this key" in shown


async def test_a_key_that_the_service_does_not_take_learns_what_to_set(
    relay: Relay, tmp_path: Path
) -> None:
    """Unknown, or known in another role."""
    stranger = Desktop.of(tmp_path, relay.service, STRANGER.seed, "stranger.key")
    done = await stranger.run("publish", task_file(tmp_path), code=1)
    assert "its setting `publishers` must have " + STRANGER.public.hex() in done.err
    assert (await stranger.run("list", "--json", code=1)).json["error"] == "KeyRefused"
    reader = Desktop.of(tmp_path, relay.service, ANALYST.seed, "reader.key")
    done = await reader.run("publish", task_file(tmp_path), code=1)
    assert "the service knows this key, but it may not do that" in done.err


async def test_a_reports_size_that_the_service_refuses_is_explained(
    relay: Relay, tmp_path: Path
) -> None:
    """The rule alone would tell nobody what to change."""
    large = task_file(
        tmp_path,
        kind='{ name = "vector", size = 2_500, bits = 24, norm2_max = 1_000 }',
        parties="{ m = 15, t = 1 }",
        sigma_milli="400_000",
    )
    publisher = Desktop.of(tmp_path, relay.service, PUBLISHER.seed)
    done = await publisher.run("publish", large, code=1)
    assert "receive_bytes_max" in done.err


# --- what it costs others ---


def test_other_commands_load_nothing_of_it() -> None:
    """Starting up is most of what a short command costs."""
    code = (
        "import sys; from client.cli.parser import parser, command;"
        "parser('device'); command('profile:get');"
        "print(*[name for name in sys.modules if name.split('.')[0] in ('mpc', 'numpy')"
        " or name.startswith(('client.analyst', 'client.rounds', 'client.cli.task'))])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == []


def test_no_command_of_it_loads_mpyc() -> None:
    """Nor what runs it: an analyst's machine is no party."""
    code = (
        "import sys; from client.cli.parser import command;"
        "[command(f'{name}:{run}') for name, run in (('taskkeys', 'keygen'), ('tasklist', 'list_'),"
        " ('taskpublish', 'publish'), ('taskcollect', 'collect'), ('taskresult', 'result'))];"
        "print(*[name for name in sys.modules if name.split('.')[0] == 'mpyc'"
        " or name in ('mpc.runtime', 'mpc.circuit', 'mpc.job')])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == []
