"""What Kubernetes is given: overlays as kubectl renders them, and what stands in them. A helper."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from rookery.v1 import (
    accounts_pb2,
    operations_pb2,
    pairing_pb2,
    parties_pb2,
    policy_pb2,
    rounds_pb2,
    sync_pb2,
    wake_pb2,
)

ROOT = Path(__file__).resolve().parent.parent
OVERLAYS = ROOT / "deploy/kubernetes/overlays"
Manifest = dict[str, Any]


@functools.cache
def kubectl() -> str:
    """Where it is; fetched the first time, on a machine that lacks it."""
    done = subprocess.run(
        [sys.executable, ROOT / ".ci/kubectl.py", ROOT / ".cache/kubectl"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@functools.cache
def rendered(overlay: str) -> tuple[Manifest, ...]:
    """All objects of an overlay."""
    done = subprocess.run(
        [kubectl(), "kustomize", OVERLAYS / overlay], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def of(overlay: str, kind: str, name: str = "", namespace: str = "") -> list[Manifest]:
    """Those of a kind, by name and namespace if given."""
    return [
        row
        for row in rendered(overlay)
        if row["kind"] == kind
        and name in ("", row["metadata"]["name"])
        and namespace in ("", row["metadata"].get("namespace"))
    ]


def one(overlay: str, kind: str, name: str, namespace: str = "") -> Manifest:
    """The one object of a kind with this name."""
    [found] = of(overlay, kind, name, namespace)
    return found


def pods(overlay: str) -> Iterator[tuple[Manifest, Manifest]]:
    """Each thing that makes pods, and its pod's spec."""
    for row in rendered(overlay):
        if "template" in row.get("spec", {}):
            yield row, row["spec"]["template"]["spec"]


def environment(overlay: str, workload: Manifest) -> dict[str, str]:
    """What the first container finds in its environment."""
    [container] = workload["spec"]["template"]["spec"]["containers"]
    found: dict[str, str] = {}
    for source in container["envFrom"]:
        reference = source["configMapRef"]["name"]
        found |= one(overlay, "ConfigMap", reference, workload["metadata"]["namespace"])["data"]
    return found


@functools.cache
def methods() -> dict[str, bool]:
    """Every method of the API that a service or a party serves, and whether it is a stream."""
    modules: list[ModuleType] = [
        accounts_pb2, pairing_pb2, parties_pb2, rounds_pb2, sync_pb2, wake_pb2,
        policy_pb2, operations_pb2,
    ]  # fmt: skip
    return {
        f"/{service.full_name}/{method.name}": method.server_streaming
        for module in modules
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


FOR_PARTIES = {"/rookery.v1.Parties/StreamBoxes", "/rookery.v1.Parties/PublishResult"}
"""What parties ask of the service, and nobody else."""
FOR_OPERATORS = {
    f"/rookery.v1.Operations/{name}"
    for name in ("GetPrivacyHealth", "GetExposure", "ListAudit", "GetRoundsOverview")
}
"""What operators ask of it, from inside the mesh."""
FOR_ALL = {"/rookery.v1.Policy/GetPolicy"}
"""What they ask as devices do."""
AT_PARTIES = {f"/rookery.v1.Parties/{name}" for name in ("PrepareRound", "SignManifest", "Link")}
"""What a party serves: the first two for publishers, Link for the other parties."""


def for_devices() -> set[str]:
    """What devices, publishers and analysts ask of the service."""
    return set(methods()) - FOR_PARTIES - FOR_OPERATORS - AT_PARTIES
