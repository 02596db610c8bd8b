"""`rookery device pair` and `join`, as two people run them: real processes and a real service."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import secrets
import select
import signal
import subprocess
from pathlib import Path

from client.cli.output import UNREACHABLE
from client.cli.qr import terminal_qr
from client.cli.session import UNFINISHED
from client.localkey import KeyFile
from client.pairflow import Invitation
from client.pairing import Inviter
from client.vault import FileVault
from crypto.pairing import LIFETIME_MS
from tests.cli_process import Home, join, up_to_digits
from tests.service_process import ServiceProcess
from tests.shell_worlds import fleet


def test_pairing_by_qr_text_works_too(tmp_path: Path, first: Home, server: ServiceProcess) -> None:
    """The text of the QR is as good as the typed characters."""
    assert join(first, Home(tmp_path, "c", server), by="qr") == (0, 0)


def test_wrong_digits_end_the_pairing(tmp_path: Path, first: Home, server: ServiceProcess) -> None:
    """Both sides are told at once, with an exit code of its own, and nobody was added. The
    next attempt finds nothing in its way."""
    home = Home(tmp_path, "c", server)
    assert join(first, home, spoil=True) == (5, 5)
    assert len(first.run("devices", "--json").json["devices"]) == 1
    assert join(first, home) == (0, 0)


def test_a_wrong_code_leaves_no_state_behind(
    tmp_path: Path, first: Home, server: ServiceProcess
) -> None:
    """A failed join can simply be repeated."""
    home = Home(tmp_path, "c", server)
    done = home.run("join", typed="A" * 26 + "\n", service=True, code=5)
    assert "typing error" in done.err
    assert not [row for row in tmp_path.iterdir() if row.name.startswith("c.db")]


def test_a_qr_fits_a_terminal() -> None:
    """An invitation's QR has at most 60 columns and 30 lines of half blocks."""
    lines = terminal_qr("0" * 224).splitlines()
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    assert len(plain) <= 30
    assert max(map(len, plain)) <= 60


def test_ctrl_c_while_something_is_to_be_typed_ends_at_once(calm: Home) -> None:
    """A prompt does not hold the process."""
    with calm.start("pair") as pair:
        pair.until(event="code")
        pair.process.send_signal(signal.SIGINT)
        assert pair.wait() == 130
        assert "Traceback" not in pair.err
        assert "Fatal" not in pair.err


def test_ctrl_c_in_a_join_leaves_nothing(
    tmp_path: Path, first: Home, server: ServiceProcess
) -> None:
    """The next attempt finds no half of a device in its way."""
    home = Home(tmp_path, "c", server)
    with first.start("pair") as pair, home.start("join", service=True) as joining:
        up_to_digits(pair, joining)
        joining.process.send_signal(signal.SIGINT)
        assert joining.wait() == 130
    assert not [row for row in tmp_path.iterdir() if row.name.startswith("c.db")]


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


def test_a_pair_that_is_stopped_ends_the_join(
    tmp_path: Path, first: Home, server: ServiceProcess
) -> None:
    """Nobody waits for a device that has gone."""
    with (
        first.start("pair") as pair,
        Home(tmp_path, "c", server).start("join", service=True) as joining,
    ):
        up_to_digits(pair, joining)
        pair.process.send_signal(signal.SIGINT)
        assert pair.wait() == 130
        assert joining.until(error="PAIRING")["message"].startswith("The other device ended")
        assert joining.wait() == 5


def test_a_join_that_was_killed_is_told_from_a_device(
    tmp_path: Path, first: Home, server: ServiceProcess
) -> None:
    """Its state says that it has not joined, and the next join takes its place."""
    home = Home(tmp_path, "c", server)
    with first.start("pair") as pair, home.start("join", service=True) as joining:
        up_to_digits(pair, joining)
        joining.kill()
    for more in ((), ("--offline",)):
        done = home.run("status", *more, code=5)
        assert done.err == (
            "rookery: this device has not joined yet: run `rookery device join` again, with a"
            " new code\n"
        )
        assert not done.out
    assert join(first, home) == (0, 0)
    assert home.run("status", "--json").json["account_made"]


def test_a_join_that_was_killed_after_the_digits_is_finished(
    tmp_path: Path, first: Home, server: ServiceProcess
) -> None:
    """What the other device has accepted is a device; the next command finds that out."""
    home = Home(tmp_path, "c", server)
    first.run("set", "ui/theme", "dark")
    with first.start("pair") as pair, home.start("join", service=True) as joining:
        digits = up_to_digits(pair, joining)
        joining.kill()
        pair.say(digits)
        assert pair.wait() == 0
    assert home.run("get", "ui/theme").out == "dark\n"
    home.run("init", service=True, code=1)
    assert home.run("get", "ui/theme", "--offline").out == "dark\n"


async def test_a_join_that_loses_the_service_keeps_what_may_have_been_added(
    tmp_path: Path, own_server: ServiceProcess
) -> None:
    """The service goes away after the proof was sent and stays away until the time is up: the
    keys are kept, and the next command finds out that the other device added them."""
    home = Home(tmp_path, "c", own_server)
    async with fleet(own_server.endpoint) as devices:
        a = await devices.first()
        began_ms = a.transport.server_ms() - LIFETIME_MS + 10_000
        inviter = Inviter(a.core, now_ms=began_ms, rand=secrets.token_bytes)
        invitation = Invitation(a)
        invitation._machine, invitation.invite = inviter, inviter.invite
        with home.start("join", service=True) as joining:
            joining.say(inviter.invite.text())
            _, row = await asyncio.gather(
                invitation.wait_for_reader(), asyncio.to_thread(joining.until, event="digits")
            )
            own_server.stop()
            assert await asyncio.to_thread(joining.wait) == UNREACHABLE
            assert "its keys are kept" in joining.err
        assert "not joined" not in home.run("status", "--json", code=UNREACHABLE).err
        own_server.start()
        inviter.enter(row["digits"], now_ms=began_ms)
        a.save()
        await a.sync_once()
        assert home.run("status", "--json").json["account_made"]
        assert len(home.run("devices", "--json").json["devices"]) == 2


def test_a_state_that_was_never_finished_is_made_anew(
    tmp_path: Path, server: ServiceProcess
) -> None:
    """What a process left that was killed while it asked is in nobody's way."""
    home = Home(tmp_path, "c", server)
    FileVault.create(home.state, KeyFile(), mark=UNFINISHED).close()
    assert "was never finished" in home.run("status", code=1).err
    home.run("init", "--no-recovery", service=True)
    home.run("status")
