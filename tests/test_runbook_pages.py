"""Six run books, from their first block to their last, against real processes."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from client import keyfile
from crypto import enrol
from services import keys
from tests.consent_worlds import COUNTING, policy
from tests.governed_worlds import KEY
from tests.runbook_worlds import RUNBOOKS, TASK, Book, Deployment, Shell, blocks, deployment
from tests.service_process import ServiceProcess
from tests.test_policy_processes import governed_process, publish

pytestmark = pytest.mark.timeout(240)
PAGES = {
    "stolen-device.md", "leaked-service-key.md", "dishonest-party.md", "lost-store.md",
    "wrong-aggregate.md", "consent-complaint.md",
}  # fmt: skip


# --- one device and its service ---


async def test_a_stolen_device_is_out_by_the_run_book(tmp_path: Path) -> None:
    """By another device, by the paper when there is none, and with the account in the end: each
    time the stolen one gets nothing more."""
    with governed_process(tmp_path) as service:
        await publish(service, policy())
        shell = Shell(tmp_path, service.variables)
        await asyncio.to_thread(_stolen, shell)


def _stolen(shell: Shell) -> None:
    made = shell.json("rookery device init --state laptop.rookery")
    account = shell.words["ACCOUNT"] = made["account"]
    paper = made["recovery_key"]
    shell.run(
        f"rookery device trust --policy {KEY.public.hex()} --state laptop.rookery\n"
        f"rookery device consent grant {COUNTING} --state laptop.rookery\n"
        "rookery device set food/cuisine thai --state laptop.rookery\n"
    )
    recover = f"rookery device recover --account {account} --state"
    shell.run(f"{recover} phone.rookery", typed=paper + "\n")
    shell.run("rookery device sync --state laptop.rookery")
    stolen = shell.json("rookery device status --state phone.rookery")["device"]
    page = Book("stolen-device.md", shell)
    assert stolen[:8] in page.next("rookery device devices").out
    shell.words["DEVICE"] = stolen
    page.next("rookery device revoke")
    refused = shell.run("rookery device sync --state phone.rookery || true").err
    assert "removed" in refused
    page.next("rookery device consent")
    shown = page_of(page, "rookery device recover", typed=paper + "\n")
    assert "food/cuisine" in shown
    assert "removed" in shell.run("rookery device sync --state laptop.rookery || true").err
    page.next("rookery device export")
    assert "thai" in (shell.folder / "everything.json").read_text()
    thief = shell.run(f"{recover} thief.rookery", typed=paper + "\n", code=1)
    assert "no such account with this recovery key" in thief.err
    page.finished()


def page_of(page: Book, expected: str, **more: Any) -> str:
    """What the next block prints."""
    return page.next(expected, **more).out


def test_a_leaked_key_is_good_for_nothing_by_the_run_book(tmp_path: Path) -> None:
    """Beside a service that runs: the identity key changes hands, the pepper is retired, the
    publisher's key is exchanged, and the audit log is whole."""
    old = random.Random("leaked publisher").randbytes(32)
    keyfile.create(tmp_path / "publisher.key", old)
    config = tmp_path / "rookery.toml"
    config.write_text('database = "service.db"\nlisten = "127.0.0.1:0"\n')
    shell = Shell(tmp_path, {})
    public = shell.run("rookery task key publisher.key").out.strip()
    config.write_text(config.read_text() + f'publishers = ["{public}"]\n')
    with ServiceProcess(tmp_path, "--config", "rookery.toml") as service:
        shell.variables = service.variables
        shell.run("rookery task list --key publisher.key")
        before = service.endpoint.server_key.hex()
        pepper = keys.read(tmp_path / "rookery-server.pepper")
        shell.words["MARK"] = enrol.pepper_mark(pepper).hex()
        page = Book("leaked-service-key.md", shell)
        page.next("rookery-server keys list")
        page.next("rookery-server keys rotate pepper")
        new = page_of(page, "rookery task keygen").strip().splitlines()[-1]
        shell.words |= {"OLD": public, "NEW": new}
        assert new in page_of(page, "sed")
        until_taken_up(shell)
        refused = shell.run("rookery task list --key publisher.key", code=1)
        assert "does not know this key" in refused.err
        shown = page_of(page, "rookery-server audit")
        assert "ok:" in shown
        assert "keys rotate" in shown
        page.finished()
        key = service.variables["ROOKERY_SERVER_KEY"]
        assert key == before, "what was pinned leads on"
        shell.run("rookery device init --no-recovery --state phone.rookery")


def until_taken_up(shell: Shell) -> None:
    """The service looks at its settings by itself; the test's time limit is the bound."""
    while "ok" in shell.run("rookery task list --key publisher.key >&2 && echo ok || true").out:
        time.sleep(0.2)


def test_a_lost_store_comes_back_by_the_run_book(tmp_path: Path) -> None:
    """An old copy is put in its place, its generation renewed; then nothing is left at all, and
    one device brings its account back."""
    (tmp_path / "rookery.toml").write_text('database = "rookery.db"\n')
    with serving(tmp_path) as service:
        shell = Shell(tmp_path, {**service.variables, "ROOKERY_STATE": "laptop.rookery"})
        shell.words["FILE"] = "rookery.toml"
        shell.run("rookery device init --no-recovery")
        shell.run("rookery device set ui/theme dark")
        (tmp_path / "backup").mkdir()
        with (
            closing(sqlite3.connect(tmp_path / "rookery.db")) as source,
            closing(sqlite3.connect(tmp_path / "backup" / "rookery.db")) as copy,
        ):
            source.backup(copy)
        shell.run("rookery device set ui/size big")
        page = Book("lost-store.md", shell)
        service.stop()
        page.next("cp backup")
        page.next("rookery-server new-generation")
        service.start()
        shell.run("rookery device sync")
        with closing(sqlite3.connect(tmp_path / "rookery.db")) as look:
            assert look.execute("SELECT count(*) FROM live").fetchone()[0] > 1
        service.stop()
        for path in tmp_path.glob("rookery.db*"):
            path.unlink()
        service.start()
        page.next("rookery device restore-account", typed="restore\n")
        assert "big" in shell.run("rookery device get ui/size").out
        page.finished()


@contextmanager
def serving(folder: Path) -> Iterator[ServiceProcess]:
    """A service on `rookery.db`."""
    with ServiceProcess(folder, "--database", "rookery.db") as service:
        yield service


# --- a governed deployment with three parties ---


def test_rounds_and_consent_are_looked_into_and_stopped_by_the_run_books(tmp_path: Path) -> None:
    """A complaint about consent, a wrong aggregate and a dishonest party, one after the other, in
    one deployment whose parties computed a round."""
    with deployment(tmp_path) as there:
        _complaint(there)
        _wrong(there)
        _dishonest(there)


def _complaint(there: Deployment) -> None:
    """The receipts hold without us; after the withdrawal nothing is contributed any more."""
    page = there.book("consent-complaint.md")
    assert "alarm" not in page_of(page, "rookery device sync")
    assert "statistics  granted" in page_of(page, "rookery device consent")
    exported = json.loads((there.shell.folder / "export.json").read_text())
    assert [one["task"] for one in exported["contributions"]] == [TASK]
    assert page_of(page, ".venv/bin/python") == "1 statistics granted these words\n"
    assert exported["receipts"][0]["text"] in " ".join(page_of(page, "rookery policy show").split())
    page.next("rookery device consent withdraw", typed="withdraw\n")
    shown = page_of(page, "rookery operator health")
    assert "consent.entry" in shown
    assert "PublishPolicy" in shown
    page.finished()


def _wrong(there: Deployment) -> None:
    """The next round of the task is refused, and a device says why it does not answer."""
    page = there.book("wrong-aggregate.md")
    assert TASK in page_of(page, "rookery task list")
    page.next("cat >> policy/flags.yaml")
    there.number += 1
    shown = page_of(page, "rookery operator health")
    assert f"stopped   task {TASK}" in shown
    refused = page.next("rookery task collect", code=1)
    assert "task-killed" in refused.err
    assert "GetResult" in page_of(page, "rookery operator audit")
    page.finished()


def _dishonest(there: Deployment) -> None:
    """The evidence verifies; afterwards devices trust another panel."""
    folder = there.shell.folder
    party = there.parties.all[0]
    settings = {"database": "party1/party.db", "identity_key_file": "party1/party.key"}
    peers = ", ".join(f'"{one.ik.hex()}@{one.address}"' for one in there.parties.all[1:])
    lines = [f'{name} = "{value}"' for name, value in settings.items()]
    (folder / "party1" / "party.toml").write_text("\n".join([*lines, f"peers = [{peers}]"]) + "\n")
    party.stop()
    page = there.book("dishonest-party.md")
    page.next("rookery task result")
    assert there.shell.words["ROUND"] in page_of(page, "rookery operator rounds")
    page.next("rookery-server party")
    page.next("cat >> policy/flags.yaml")
    page.next("rookery device trust")
    trusted = there.shell.run("rookery device trust --state phone.rookery").out
    assert there.shell.words["PARTY"] not in trusted
    assert "7a" * 32 in trusted
    page.finished()


def test_no_page_is_left_out() -> None:
    """The six pages of the design are there, and each has commands."""
    for page in PAGES:
        assert (RUNBOOKS / page).is_file(), page
        assert blocks(page), page
