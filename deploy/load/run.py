"""`make load`: one k6 scenario against a deployment, or against a service started for it.

The exit code is k6's: 0 if every objective of the scenario was met, 99 if one was not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench import processes
from bench.subscribers import DEFAULTS
from client.endpoint import Endpoint, EndpointError
from client.remoteerrors import RemoteError
from crypto.enrol import TokenKey
from deploy.load import seed
from deploy.load.plan import SCENARIOS, PlanError, Scenario

HERE = Path(__file__).resolve().parent
PROTO = HERE.parent.parent / "proto"
USAGE = 2
# Until k6 has read the plan and made its users.
_LEAD_S, _LEAD_S_EACH = 2.0, 0.02


class UsageError(Exception):
    """What was asked for can't be done; says what to give instead."""


def main() -> int:
    """Runs one scenario; the exit code."""
    chosen = _parser().parse_args()
    try:
        scenario = _scenario(chosen)
        k6 = _k6()
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            target = stack.enter_context(_target(chosen, folder))
            return _run(target, chosen, scenario, k6, folder)
    except (UsageError, PlanError, EndpointError) as error:
        print(f"load: {error}", file=sys.stderr)
        return USAGE
    except RemoteError as error:
        print(f"load: the target refused: {error}", file=sys.stderr)
        return USAGE


def _run(
    target: seed.Target, chosen: argparse.Namespace, scenario: Scenario, k6: str, folder: Path
) -> int:
    print(f"load: {scenario.devices} accounts at {target.endpoint.targets[0]}", file=sys.stderr)
    seeded = asyncio.run(seed.make_accounts(target, scenario.devices))
    try:
        plan = folder / "plan.json"
        lead_s = _LEAD_S + scenario.devices * _LEAD_S_EACH
        with plan.open("w") as file:
            for line in seed.plan(target, seeded, scenario, lead_s=lead_s):
                file.write(json.dumps(line, separators=(",", ":")) + "\n")
        return _k6_run(k6, chosen, plan)
    finally:
        if chosen.target:
            asyncio.run(seed.delete_accounts(target, seeded))


def _k6_run(k6: str, chosen: argparse.Namespace, plan: Path) -> int:
    environment = {
        **os.environ,
        "K6_NO_USAGE_REPORT": "true",
        "PLAN": str(plan),
        "PROTO": str(PROTO),
        "SLO": chosen.slo,
    }
    command = [k6, "run", "--quiet", "--no-usage-report"]
    if chosen.summary:
        command += ["--summary-export", str(chosen.summary.resolve())]
    command.append(str(HERE / f"{chosen.scenario}.js"))
    return subprocess.run(command, env=environment, check=False).returncode


def _scenario(chosen: argparse.Namespace) -> Scenario:
    scenario = SCENARIOS[chosen.scenario]
    if chosen.devices is not None:
        scenario = replace(scenario, devices=chosen.devices)
    if chosen.seconds is not None:
        scenario = replace(scenario, seconds=chosen.seconds)
    if scenario.devices < 1 or scenario.seconds < 4:
        raise UsageError("at least one device and four seconds")
    try:
        slo = json.loads(chosen.slo)
    except ValueError:
        slo = None
    if not isinstance(slo, dict):
        raise UsageError('--slo is JSON as in {"push_ms": ["p(95)<100"]}')
    return scenario


@contextlib.contextmanager
def _target(chosen: argparse.Namespace, folder: Path) -> Iterator[seed.Target]:
    if chosen.target:
        if not chosen.audience or not chosen.server_key:
            raise UsageError("--target wants --audience and --server-key, too")
        ca = None if chosen.tls_ca is None else chosen.tls_ca.read_bytes()
        endpoint = Endpoint.parse(chosen.target, chosen.audience, chosen.server_key, tls_ca=ca)
        key = None if chosen.token_key is None else chosen.token_key.read_text().strip()
        yield seed.Target(endpoint, None if key is None else TokenKey(bytes.fromhex(key)))
        return
    with processes.service(folder, settings=DEFAULTS) as service:
        ready = service.ready
        endpoint = Endpoint.parse(service.address, ready["audience"], ready["server_key"])
        yield seed.Target(endpoint)


def _k6() -> str:
    beside = Path(sys.executable).parent / "k6"
    found = str(beside) if beside.exists() else shutil.which("k6")
    if found is None:
        raise UsageError("k6 is missing: `make venv` installs it")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.load.run", description=__doc__)
    parser.add_argument("scenario", nargs="?", default="smoke", choices=sorted(SCENARIOS))
    parser.add_argument("--devices", type=int, help="instead of the scenario's number")
    parser.add_argument("--seconds", type=float, help="instead of the scenario's duration")
    parser.add_argument("--slo", default="{}", help="JSON of thresholds instead of the scenario's")
    parser.add_argument("--summary", type=Path, help="file for k6's figures as JSON")
    parser.add_argument("--target", help="HOST:PORT; without it a service is started here")
    parser.add_argument("--audience", help="of the target")
    parser.add_argument("--server-key", help="of the target, 64 hex digits")
    parser.add_argument("--tls-ca", type=Path, help="PEM file of the target's authority")
    parser.add_argument(
        "--token-key", type=Path, help="key (hex) that signs enrolment tokens for the target"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
