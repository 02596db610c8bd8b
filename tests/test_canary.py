"""The leak canary: it finds nothing in what we ship, and what is planted, each by its kind."""

from __future__ import annotations

import json
import shlex
import sys
from typing import Any

import pytest

from services import cli
from tests.programs import program

pytestmark = pytest.mark.timeout(300)


def planted(who: str) -> str:
    """A build with leaks in it."""
    return shlex.join([sys.executable, "-m", "tests.planted_leaks", who])


def canary(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    """The command as people run it: exit code, what it found, and what it says of that."""
    code = cli.main(["audit", "--canary", "--json", *arguments])
    out, err = capsys.readouterr()
    return code, json.loads(out.splitlines()[-1]), err


def test_nothing_stands_where_it_must_not(capsys: pytest.CaptureFixture[str]) -> None:
    """In no store, log, metric, trace or frame; a deleted account is in no store; and all that
    the table lets stand somewhere was seen there, so the canary sees."""
    code, found, _ = canary(capsys)
    assert found["leaks"] == []
    assert found["left_after_deletion"] == []
    assert found["not_seen"] == []
    assert (code, found["ok"]) == (0, True)
    assert found["marks"] > 300
    assert found["bytes_searched"] > 1_000_000


def test_what_is_planted_is_found_each_by_its_kind(capsys: pytest.CaptureFixture[str]) -> None:
    """A build that logs a name, stores a value and labels a metric with the hash of an id: it
    fails for each, and says where and what sort of thing, not which."""
    code, found, err = canary(
        capsys, "--service-command", planted("service"), "--device-command", planted("device")
    )
    kinds = {(leak["place"], leak["sort"], leak["form"]) for leak in found["leaks"]}
    assert ("service-log", "name", "raw") in kinds
    assert ("store", "value", "raw") in kinds
    assert ("service-metrics", "account id", "sha256, hex") in kinds
    assert {place for place, _, _ in kinds} == {
        "service-log", "store", "service-metrics", "device-frames", "party-frames",
    }  # fmt: skip
    assert (code, found["ok"]) == (1, False)
    assert "the canary found" in err
    assert all(set(leak) == KEYS for leak in found["leaks"])


KEYS = {"place", "file", "offset", "form", "sort", "moment"}


@pytest.mark.soak
def test_nothing_stands_where_it_must_not_on_redis(capsys: pytest.CaptureFixture[str]) -> None:
    """Every key, and the append-only file; of a deleted account nothing once it was rewritten."""
    server = str(program("redis-server"))
    code, found, _ = canary(capsys, "--store", "redis", "--redis-server", server)
    assert (code, found["leaks"], found["left_after_deletion"], found["not_seen"]) == (
        0, [], [], [],
    )  # fmt: skip
