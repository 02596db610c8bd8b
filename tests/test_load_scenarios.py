"""deploy/load: k6 with what was signed ahead, against a real service."""

from __future__ import annotations

import base64
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.accounts import PULL, PUSH, SUBSCRIBE, Account
from crypto import request
from crypto.request import CallKind
from deploy.load.plan import SCENARIOS, Scenario, Seeded, Spike, device_plan
from rookery.v1 import sync_pb2
from tests.service_process import ROOT, ServiceProcess, environment

LOAD = ROOT / "deploy" / "load"
AUDIENCE = "rookery.localhost"
START_MS = 1_790_000_000_000
# The machine that runs the tests promises no latencies.
UNHURRIED = {name: ["max<60000"] for name in ("push_ms", "pull_ms", "delivery_ms", "stream_ms")} | {
    "calm_ms": ["max<60000"]
}


def load(*arguments: str, slo: dict[str, list[str]]) -> subprocess.CompletedProcess[str]:
    """`make load` as it is run."""
    return subprocess.run(
        [
            sys.executable, "-m", "deploy.load.run", *arguments, "--slo", json.dumps(slo),
            "--devices", "3", "--seconds", "4",
        ],
        cwd=ROOT, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_smoke_does_all_that_was_planned(tmp_path: Path) -> None:
    """k6 sends what Python signed: all of it is taken, and pushes come back on the streams."""
    summary = tmp_path / "summary.json"
    ended = load("smoke", "--summary", str(summary), slo=UNHURRIED)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    metrics = json.loads(summary.read_text())["metrics"]
    # A push a second and device, from the second second to the last but two.
    assert metrics["push_ms"]["count"] >= 3
    assert metrics["delivery_ms"]["count"] == metrics["push_ms"]["count"]
    assert metrics["stream_ms"]["count"] == 3
    assert metrics["done"]["value"] == 1
    assert metrics["unexpected"]["count"] == metrics["bare_refusals"]["count"] == 0


def test_a_missed_objective_is_an_exit_code(tmp_path: Path) -> None:
    """A threshold that can't be met ends with 99, here at a service that was there before."""
    with ServiceProcess(tmp_path) as service:
        ended = load(
            "smoke",
            "--target", service.variables["ROOKERY_SERVER"],
            "--audience", service.variables["ROOKERY_AUDIENCE"],
            "--server-key", service.variables["ROOKERY_SERVER_KEY"],
            slo={**UNHURRIED, "push_ms": ["max<0"]},
        )  # fmt: skip
    assert ended.returncode == 99, ended.stdout + ended.stderr
    assert "push_ms" in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "127.0.0.1:1"], "--audience and --server-key"),
        (["--slo", "push"], "--slo is JSON"),
        (["--seconds", "1"], "four seconds"),
    ],
)
def test_what_is_missing_is_said(arguments: list[str], said: str) -> None:
    """Bad arguments end with 2 and a sentence."""
    ended = subprocess.run(
        [sys.executable, "-m", "deploy.load.run", *arguments],
        cwd=ROOT, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert said in ended.stderr


def test_every_scenario_has_its_objectives() -> None:
    """A name of plan.py is a script beside it, and the other way round."""
    assert {file.stem for file in LOAD.glob("*.js")} == set(SCENARIOS)


def _plan(scenario: Scenario) -> tuple[Account, dict[str, Any]]:
    seeded = Seeded(Account.make(AUDIENCE), b"cursor")
    return seeded.account, device_plan(seeded, scenario, start_ms=START_MS, rng=random.Random(1))


def test_a_plan_is_signed_for_the_moments_that_it_names() -> None:
    """Every signature verifies over the bytes that k6 will send, for its moment, once."""
    account, plan = _plan(Scenario(devices=1, seconds=90, push_every_s=5, pull_every_s=9))
    nonces = set()
    names = set()

    def check(at: int, auth: str, method: str, payload: bytes, kind: CallKind) -> None:
        parsed = request.parse(base64.b64decode(auth))
        request.verify(parsed, account.identity.ik_pk, payload)
        request.check_context(parsed, kind=kind, method=method, audience=AUDIENCE)
        assert parsed.ts_ms == START_MS + at
        assert parsed.nonce not in nonces
        nonces.add(parsed.nonce)

    for call in plan["calls"]:
        names.add(call["method"])
        if call["method"] == "Subscribe":
            continue
        if call["method"] == "Push":
            ops = [base64.b64decode(op) for op in call["body"]["ops"]]
            method, payload = PUSH, sync_pb2.PushRequest(ops=ops).SerializeToString()
        else:
            cursor = base64.b64decode(call["body"]["cursor"])
            method, payload = PULL, sync_pb2.PullRequest(cursor=cursor).SerializeToString()
        assert call["auth"][0][0] == call["at"]
        for at, auth in call["auth"]:
            check(at, auth, method, payload, CallKind.UNARY)
    payload = sync_pb2.SubscribeRequest(cursor=b"cursor").SerializeToString()
    for at, auth in plan["streams"]:
        check(at, auth, SUBSCRIBE, payload, CallKind.STREAM)
    assert names == {"Push", "Pull", "Subscribe"}


def test_a_spike_is_as_many_times_as_dense_and_a_wave_is_one_moment() -> None:
    """The shapes of the scenarios."""
    spike = Spike(begin_s=20, end_s=40, times=10)
    _, plan = _plan(Scenario(1, 100, push_every_s=4, pull_every_s=50, spike=spike))
    moments = [call["at"] for call in plan["calls"] if call["method"] == "Push"]
    hot = [at for at in moments if 20_000 <= at < 40_000]
    assert 48 <= len(hot) <= 51
    assert 17 <= len(moments) - len(hot) <= 20
    _, plan = _plan(Scenario(1, 60, push_every_s=10, pull_every_s=30, waves_s=(15, 30)))
    opened = [call["at"] for call in plan["calls"] if call["method"] == "Subscribe"]
    assert opened[1:] == [15_000, 30_000]
    assert opened[0] <= 1_000
