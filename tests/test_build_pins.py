"""npm packages come by digest, and the wheel's own needs are a part of the lock."""

import base64
import hashlib
import runpy
import shutil
import tomllib
from pathlib import Path

import pytest

from deploy.certificates import Authority
from tests.programs import program

ROOT = Path(__file__).resolve().parent.parent
NODE = runpy.run_path(str(ROOT / ".ci" / "node_modules.py"))
DEBIAN = runpy.run_path(str(ROOT / ".ci" / "debian.py"))
LOCK = runpy.run_path(str(ROOT / ".ci" / "runtime_lock.py"))


def test_a_tarball_with_another_digest_is_refused(tmp_path: Path) -> None:
    """One changed byte in a package from npm stops the installation."""
    tarball = tmp_path / "x-1.0.0.tgz"
    tarball.write_bytes(b"as published")
    pinned = base64.b64encode(hashlib.sha512(b"as published").digest()).decode()
    NODE["check"](tarball, pinned)
    tarball.write_bytes(b"as publishee")
    with pytest.raises(NODE["PinError"], match=r"x-1\.0\.0\.tgz"):
        NODE["check"](tarball, pinned)


def test_every_pin_is_an_exact_version_and_a_whole_sha512() -> None:
    """Pins of npm packages leave nothing to the registry's choice."""
    for name, version, sha512 in NODE["PINS"]:
        assert [part.isdecimal() for part in version.split(".")] == [True] * 3, name
        assert len(base64.b64decode(sha512, validate=True)) == hashlib.sha512().digest_size, name


def test_the_wheel_gets_no_development_tool() -> None:
    """What a user installs is in the lock, and holds none of the extra `dev` that it needn't."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = set(LOCK["closure"](project["dependencies"]))
    locked = LOCK["entries"]((ROOT / "requirements.lock").read_text()).keys()
    assert wanted <= locked
    assert {"pynacl", "cffi", "grpcio", "protobuf"} <= wanted
    assert not wanted & {"pytest", "mypy", "ruff", "grpcio-tools", "hypothesis", "psutil", "build"}


def test_a_package_keeps_the_rows_for_every_interpreter() -> None:
    """Where the lock has one version for older interpreters and another for newer ones, both
    are installed from."""
    lock = "a==1 ; python_version < '3.12' \\\n  --hash=x\na==2 ; python_version >= '3.12'\nb==1\n"
    assert LOCK["entries"](lock)["a"].splitlines()[::2] == lock.splitlines()[:3:2]
    assert set(LOCK["entries"](lock)) == {"a", "b"}


def test_openssl_that_was_fetched_makes_certificates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the machine has none, nor its configuration: it finds the one that came with it, for
    tests and for the deployment's own authority."""
    folder = tmp_path / "openssl"
    unpacked, config = folder / "usr/bin/openssl", folder / "etc/ssl/openssl.cnf"
    for path in (unpacked, config):
        path.parent.mkdir(parents=True)
    shutil.copy(program("openssl"), unpacked)
    config.write_text("[req]\ndistinguished_name = name\n[name]\n")
    DEBIAN["place"]([unpacked], folder, tmp_path)
    monkeypatch.setenv("OPENSSL_CONF", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert DEBIAN["main"]([str(tmp_path), "openssl"]) == 0
    assert str(tmp_path / "bin/openssl") in capsys.readouterr().out
    made = Authority.create(tmp_path / "authority").sign(tmp_path / "tls", names="DNS:a")
    assert "BEGIN CERTIFICATE" in (made / "tls.crt").read_text()


def test_a_program_on_path_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is on PATH is used, and said with its version; the folder of what is fetched stays
    empty."""
    (tmp_path / "promtool").write_text("#!/bin/sh\necho promtool, version 9.8.7\n")
    (tmp_path / "promtool").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert DEBIAN["main"]([str(tmp_path / "fetched"), "prometheus"]) == 0
    assert capsys.readouterr().out == f"prometheus: 9.8.7, {tmp_path / 'promtool'}\n"
    assert not (tmp_path / "fetched" / "prometheus").exists()


def test_a_program_that_can_not_be_had_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a machine without apt the exit code is 1, and the line says what to do."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert DEBIAN["main"]([str(tmp_path / "fetched"), "prometheus"]) == 1
    assert "put it on PATH" in capsys.readouterr().err
