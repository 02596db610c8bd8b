"""The leak canary: it finds nothing in what we ship, and what is planted, each by its kind."""

from __future__ import annotations

import base64
import json
import secrets
import shlex
import sys
from typing import Any

import pytest

from crypto.marks import Finder, Mark
from services import cli
from services.canary.rules import DUE, PLACES
from services.canary.run import Verdict
from services.canary.search import Leak, Piece, Search
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
    code, found, err = canary(capsys)
    assert found["leaks"] == []
    assert found["left_after_deletion"] == []
    assert found["not_seen"] == []
    assert (code, found["ok"]) == (0, True)
    assert found["marks"] > 300
    assert found["bytes_searched"] > 1_000_000
    told = err.splitlines()
    assert len(told) > 3
    assert all(line.startswith("canary: ") for line in told), "progress, and nothing else"


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


def test_what_had_to_be_seen_and_was_not_is_told() -> None:
    """A canary that looks at nothing finds no leak, and says that it saw nothing."""
    search = Search()
    assert search.blind() == sorted(DUE)
    mark = Mark("account id", secrets.token_bytes(32))
    search.add(mark, is_own=True)
    search.look([Piece("store", "service.db", b"..." + mark.raw)], "lived")
    assert search.leaks == []
    assert search.blind() == sorted(DUE - {("account id", "store")})


def test_what_a_deletion_leaves_in_a_store_is_told() -> None:
    """Of the account's own marks; of others nothing has to go."""
    search = Search()
    own, other = (Mark("tag", secrets.token_bytes(16)) for _ in range(2))
    search.add(own, is_own=True)
    search.add(other, is_own=False)
    pieces = [
        Piece("store", "service.db-wal", other.raw + own.raw.hex().encode()),
        Piece("device-frames", "stream 1", own.raw),
    ]
    [left] = search.left(pieces)
    assert (left.place, left.name, left.form, left.offset) == ("store", "service.db-wal", "hex", 16)
    assert search.left([Piece("party-store", "party1.db", other.raw)]) == []


@pytest.mark.parametrize("place", sorted(PLACES))
def test_a_secret_is_a_leak_wherever_it_stands(place: str) -> None:
    """And so is what nobody listed; the report names the place and the sort, not the secret."""
    for sort in ("secret key", "name", "something new"):
        search = Search()
        mark = Mark(sort, secrets.token_bytes(32))
        search.add(mark, is_own=False)
        search.look([Piece(place, "file", b"x" * 5 + base64.b64encode(mark.raw))], "stopped")
        assert [(leak.place, leak.sort) for leak in search.leaks] == [(place, sort)]
        assert not Finder([mark]).find(str(search.leaks[0]).encode())


def test_the_verdict_is_the_last_line() -> None:
    """That nothing was found, or how many of which."""
    leak = Leak("store", "service.db", 16, "hex", "tag", "lived")

    def last(leaks: int, left: int, blind: int) -> str:
        unseen = (("account id", "store"),) * blind
        found = Verdict((leak,) * leaks, (leak,) * left, unseen, 922, 43_162, 5_600_000, 39.0)
        lines = found.lines()
        assert lines[-2] == "922 marks, 43,162 forms, 5.6 MB, 39 s"
        assert len(lines) == 2 + leaks + left + blind
        return lines[-1]

    assert last(0, 0, 0) == "ok: nothing found"
    assert last(2, 0, 0) == "found: 2 leaked"
    assert last(1, 3, 2) == (
        "found: 1 leaked, 3 left after the deletion, 2 had to be seen and were not"
    )


KEYS = {"place", "file", "offset", "form", "sort", "moment"}


@pytest.mark.soak
def test_nothing_stands_where_it_must_not_on_redis(capsys: pytest.CaptureFixture[str]) -> None:
    """Every key, and the append-only file; of a deleted account nothing once it was rewritten."""
    server = str(program("redis-server"))
    code, found, _ = canary(capsys, "--store", "redis", "--redis-server", server)
    assert (code, found["leaks"], found["left_after_deletion"], found["not_seen"]) == (
        0, [], [], [],
    )  # fmt: skip
