"""Commands that make or change identities, killed at every write and every call in turn."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from client.device import Device
from client.errors import AccountGone
from client.recoverflow import recover
from client.sync import SyncedDevice
from client.transport import Signer
from crypto import recovery
from tests.cli_process import Home, join
from tests.dying import Dead, DyingTransport, DyingVault, dying
from tests.service_process import ROOT, ServiceProcess
from tests.shell_worlds import Fleet, fleet, like, put, rules, shown as profile

STEPS = [6, pytest.param(1, marks=pytest.mark.soak)]
"""Between the points where a command dies: all of them by `make soak`."""


def killed(
    home: Home, point: int, verb: str, *more: str, service: bool = False
) -> subprocess.CompletedProcess[str]:
    """Runs a command that dies at a point; it may end by itself before it gets there."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.crashing", str(point), *home.arguments(verb, *more)[3:]],
        env=home.variables(service=service),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in run.stderr, run.stderr
    assert run.returncode in (0, -9), run.stderr
    return run


def alarms(home: Home) -> list[str]:
    """Rules of all alarms."""
    notices = home.run("status", "--json").json["notices"]
    return [row["rule"] for row in notices if row["kind"] == "alarm"]


def papers(home: Home) -> list[str]:
    """Ids of the account's recovery keys."""
    rows = home.run("devices", "--json").json["devices"]
    return [row["device"] for row in rows if row["role"] == "recovery"]


def shown(out: str) -> list[str]:
    """Ids of the recovery keys that a command has shown."""
    rows = [json.loads(line) for line in out.splitlines()]
    return [
        recovery.identity(recovery.from_paper(row["recovery_key"])).device_id.hex()
        for row in rows
        if "recovery_key" in row
    ]


@pytest.mark.parametrize("step", [7, pytest.param(2, marks=pytest.mark.soak)])
def test_a_recovery_key_is_shown_before_it_is_sent(first: Home, step: int) -> None:
    """Wherever `recovery-key` dies: no key is in the account that nobody has seen, and one that
    was shown is the one that comes to be there."""
    seen: list[str] = []
    point, late = 1, 0
    while True:
        run = killed(first, point, "recovery-key", "--json")
        seen += shown(run.stdout)
        first.run("sync")
        assert set(papers(first)) <= set(seen)
        late += run.returncode == -9 and seen[-1:] == papers(first)[-1:]
        if run.returncode == 0:
            break
        point += step  # 1 is too many: each key that comes through takes one of 16 places
    assert papers(first)[-1] == seen[-1]
    assert point > 8
    assert late
    assert not alarms(first)


def finished(home: Home, service: ServiceProcess, folder: Path) -> None:
    """Syncs, writes, and another device reads it."""
    home.run("sync")
    home.run("set", "ui/after", "v")
    other = Home(folder, f"{home.state.stem}-other", service)
    assert join(home, other) == (0, 0)
    assert other.run("export").json["settings"]["ui/after"] == "v"
    assert not alarms(home)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.timeout(300)
def test_an_init_that_is_killed_at_any_point_is_begun_again_or_goes_on(
    tmp_path: Path, server: ServiceProcess, step: int
) -> None:
    """Either nothing lives there and `init` makes a device, or one does and it says so; no
    recovery key is in the account that was not shown."""
    ways: set[str] = set()
    point, done = 1, False
    while not done:
        home = Home(tmp_path, f"i{point}", server)
        run = killed(home, point, "init", "--json", service=True)
        done = run.returncode == 0
        again = home.run("init", "--json", service=True, code=None)
        if again.code == 0:
            ways.add("again")
            seen = shown(again.out)
        else:
            assert "is set up at" in again.err
            seen = shown(run.stdout)
            ways.add("goes on")
        assert set(papers(home)) <= set(seen)
        point += step
    assert ways == {"again", "goes on"}
    assert papers(home) == seen
    finished(home, server, tmp_path)


async def test_a_new_identity_that_is_killed_at_any_point_comes_to_be_once(
    own_server: ServiceProcess,
) -> None:
    """A copy that dies while it becomes another device goes on: one device more, no edit less,
    no increment twice."""
    point, done = 1, False
    while not done:
        async with fleet(own_server.endpoint) as devices:
            a = await devices.first()
            like(a, "thai", 1)
            await a.sync_once()
            vault, transport = dying(devices, 0)
            vault.apply({**a.vault.load()})
            like(a, "thai", 2)
            await a.sync_once()
            copy = devices.adopt(Device.load(vault.load()), vault, transport)
            put(copy, "lang", "fr")
            like(copy, "thai", 4)
            vault.points.left = point
            try:
                await copy.sync_once()
                done = True
            except Dead:
                copy = devices.again(copy)
            vault.points.left = 0
            for synced in (copy, a, copy, a):
                await synced.sync_once()
            assert copy.core.identity.device_id != a.core.identity.device_id
            assert len(a.core.devices) == 2
            assert rules(copy) == ["cloned"]
            assert not rules(a)
            for synced in (copy, a):
                assert profile(synced) == {"ui/lang": "fr", "cuisine/thai": 7}
                assert synced.core.status.edits_waiting == 0
        point += 1
    assert point > 15


async def test_a_recovery_that_is_killed_at_any_point_leaves_no_orphan(
    own_server: ServiceProcess,
) -> None:
    """Either a stored device goes on, or the account took none and the paper is used again."""
    paper = bytes(range(recovery.SECRET_BYTES))
    went_on = began_again = False
    point, done = 1, False
    while not done:
        async with fleet(own_server.endpoint) as devices:
            a = await devices.first(paper=paper)
            put(a, "theme", "dark")
            await a.sync_once()
            account = a.core.account_id
            vault, transport = dying(devices, point)
            try:
                await recovered(devices, vault, transport, paper, a)
                done = True
            except Dead:
                pass
            vault.points.left = 0
            made = devices.again(a, vault) if vault.load() else None
            try:
                if made is None:
                    raise AccountGone
                await made.sync_once()
                went_on = True
            except AccountGone as gone:
                sentence = str(gone)
                began_again = True
                fresh, line = dying(devices, 0)
                made = await recovered(devices, fresh, line, paper, a)
                assert not vault.load() or "has not taken" in sentence
            await a.sync_once()
            assert made.core.account_id == account
            assert sum(row.active and row.role.value == 1 for row in a.core.devices) == 2
            assert profile(made) == profile(a) == {"ui/theme": "dark"}
        point += 1
    assert went_on
    assert began_again


async def recovered(
    devices: Fleet, vault: DyingVault, transport: DyingTransport, paper: bytes, a: SyncedDevice
) -> SyncedDevice:
    """A new device by the paper, as `rookery device recover` makes it."""
    made: list[SyncedDevice] = []
    await recover(
        transport,
        paper,
        a.core.account_id,
        lambda core: made.append(devices.adopt(core, vault, transport)),
    )
    await made[-1].sync_once()
    return made[-1]


async def test_a_restoring_that_is_killed_at_any_point_is_finished_by_a_sync(
    own_server: ServiceProcess,
) -> None:
    """Once it is stored that the account is wanted back, every sync goes on with it."""
    point, done = 1, False
    while not done:
        async with fleet(own_server.endpoint) as devices:
            vault, transport = dying(devices, 0)
            core = Device.create(
                recovery_secret=None, now_ms=transport.clock.wall_ms(), rand=secrets.token_bytes
            )
            a = devices.adopt(core, vault, transport)
            put(a, "theme", "dark")
            await a.sync_once()
            a.edit(lambda core, _: core.rotate())
            await a.sync_once()
            await a.remote.delete_account(Signer(a.core.identity, a.core.account_id))
            vault.points.left = point
            try:
                await a.make_again()
                done = True
            except Dead:
                a = devices.again(a)
            vault.points.left = 0
            try:
                await a.sync_once()
            except AccountGone:
                assert point == 1
                await a.make_again()
            assert profile(a) == {"ui/theme": "dark"}
            assert set(rules(a)) <= {"account-gone"}
            page = await a.remote.get_chain(-1, all_grants=True)
            assert len(page.items) == a.core.chain.seq + 1
            if done:
                assert profile(await devices.another(a)) == {"ui/theme": "dark"}
        point += 1
    assert point > 10
