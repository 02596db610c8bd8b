"""`rookery` as a process: run to its end, or talked to line by line. A helper of tests."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import Any, Self

from tests.service_process import ServiceProcess, environment

PROGRAM = (sys.executable, "-m", "client.cli.main")
SECONDS_MAX = 60.0


class Done:
    """How a run ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        """The one line of its output."""
        (line,) = self.out.splitlines()
        return json.loads(line)

    def __repr__(self) -> str:
        return f"Done({self.code}, {self.out!r}, {self.err!r})"


class Home:
    """One device's state, and `rookery device` on it."""

    def __init__(self, folder: Path, name: str, service: ServiceProcess) -> None:
        self.state = folder / f"{name}.db"
        self._service = service

    def arguments(self, verb: str, *more: str) -> list[str]:
        """The whole command line."""
        return [*PROGRAM, "device", verb, "--state", str(self.state), *more]

    def variables(self, *, service: bool = True) -> dict[str, str]:
        """The environment; the service is only named where a device is made."""
        return environment(**(self._service.variables if service else {}))

    def run(
        self, verb: str, *more: str, typed: str = "", code: int | None = 0, service: bool = False
    ) -> Done:
        """Runs to the end; `code` None takes any."""
        run = subprocess.run(
            self.arguments(verb, *more),
            input=typed,
            capture_output=True,
            text=True,
            env=self.variables(service=service),
            timeout=SECONDS_MAX,
            check=False,
        )
        done = Done(run.returncode, run.stdout, run.stderr)
        assert "Traceback" not in run.stderr, run.stderr
        assert code is None or run.returncode == code, done
        return done

    def start(self, verb: str, *more: str, service: bool = False) -> Talk:
        """Starts it."""
        return Talk(self.arguments(verb, "--json", *more), self.variables(service=service))


class Talk:
    """A running process that prints JSON, line by line."""

    def __init__(self, arguments: Sequence[str], variables: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=variables,
        )
        self._lines: Queue[str] = Queue()
        self._err: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_out, daemon=True),
            threading.Thread(target=self._read_err, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read_out(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _read_err(self) -> None:
        assert self.process.stderr is not None
        self._err += list(self.process.stderr)

    @property
    def err(self) -> str:
        """Standard error up to now."""
        return "".join(self._err)

    def say(self, text: str) -> None:
        """Types a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def next(self) -> dict[str, Any]:
        """The next line."""
        try:
            line = self._lines.get(timeout=SECONDS_MAX)
        except Empty:
            raise AssertionError(f"it says nothing; standard error: {self.err}") from None
        assert line, f"it ended; standard error: {self.err}"
        row: dict[str, Any] = json.loads(line)
        return row

    def until(self, **wanted: Any) -> dict[str, Any]:
        """The next line that has these fields."""
        while True:
            row = self.next()
            if all(row.get(name) == value for name, value in wanted.items()):
                return row

    def wait(self) -> int:
        """Its exit code, once it ends by itself."""
        code = self.process.wait(SECONDS_MAX)
        for reader in self._readers:
            reader.join()
        return code

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def join(old: Home, new: Home, *, spoil: bool = False, by: str = "typed") -> tuple[int, int]:
    """Pairs two homes; the exit codes of `pair` and `join`."""
    with old.start("pair") as pair, new.start("join", service=True) as joining:
        digits = up_to_digits(pair, joining, by=by)
        pair.until(event="reader")
        pair.say(f"{(int(digits) + 1) % 10**6:06}" if spoil else digits)
        return pair.wait(), joining.wait()


def up_to_digits(pair: Talk, joining: Talk, *, by: str = "typed") -> str:
    """Takes the code from one to the other; the six digits that are shown then."""
    joining.say(pair.until(event="code")[by])
    digits: str = joining.until(event="digits")["digits"]
    return digits
