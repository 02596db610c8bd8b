"""What is committed beside proto/ is what proto/ says, and the packages keep their layers."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import grpc
import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(script: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Runs one of the checks of .ci/ with this interpreter."""
    return subprocess.run(
        [sys.executable, ROOT / ".ci" / script, *args],
        capture_output=True,
        text=True,
        check=False,
    )


def test_generated_code_is_current() -> None:
    """Generating anew gives the committed files, byte for byte."""
    result = run("genproto.py", "--check")
    assert result.returncode == 0, result.stdout + result.stderr


def test_layers_hold() -> None:
    """No package imports what the table of layers keeps from it."""
    result = run("contracts.py")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", ["accounts", "pairing", "sync"])
def test_stubs_load_beside_the_installed_grpc(name: str) -> None:
    """Stubs made with the lowest supported grpcio load, and serve, with the one installed."""
    module = importlib.import_module(f"rookery.v1.{name}_pb2_grpc")
    with grpc.insecure_channel("localhost:1") as channel:
        assert getattr(module, f"{name.title()}Stub")(channel)


@pytest.mark.parametrize("name", ["accounts", "pairing", "sync"])
def test_package_and_service_names_are_those_that_requests_sign(name: str) -> None:
    """The path of a method, a part of every signed request, starts with its full name."""
    descriptor = importlib.import_module(f"rookery.v1.{name}_pb2").DESCRIPTOR
    assert list(descriptor.services_by_name) == [name.title()]
    assert descriptor.package == "rookery.v1"


def test_the_wheel_has_every_package() -> None:
    """A package in the house, but for the benchmarks, is in the wheel and says it is typed."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    packages = {init.parent.name for init in ROOT.glob("[a-z]*/__init__.py")} - {"bench"}
    assert packages <= set(build["targets"]["wheel"]["packages"])
    assert [name for name in packages if not (ROOT / name / "py.typed").is_file()] == []
