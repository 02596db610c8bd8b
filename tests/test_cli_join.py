"""`rookery device pair` and `join`, as two people run them: real processes and a real service."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
from pathlib import Path

from client.cli.qr import terminal_qr
from tests.cli_process import Home, join
from tests.service_process import ServiceProcess


def test_pairing_by_qr_text_works_too(tmp_path: Path, first: Home, server: ServiceProcess) -> None:
    """The text of the QR is as good as the typed characters."""
    assert join(first, Home(tmp_path, "c", server), by="qr") == (0, 0)


def test_wrong_digits_end_the_pairing(tmp_path: Path, first: Home, server: ServiceProcess) -> None:
    """`pair` fails with its own exit code, and nobody was added."""
    codes = join(first, Home(tmp_path, "c", server), spoil=True)
    assert codes[0] == 5
    assert len(first.run("devices", "--json").json["devices"]) == 1


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
        joining.say(pair.until(event="code")["typed"])
        joining.until(event="digits")
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
