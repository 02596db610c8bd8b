"""The manifests, rendered by kubectl: true to their schemas, to the service, and to each other."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from services.config import load
from services.party import config as party_config
from services.server import ALIVE, SERVED
from tests.manifests import (
    OVERLAYS,
    Manifest,
    environment,
    of,
    one,
    pods,
    rendered,
)

ALL = sorted(path.name for path in OVERLAYS.iterdir())
# The lowest that has all that is used here (preStop: sleep), and the newest that is known.
VERSIONS = ("1.30.0", kubernetes_validate.latest_version())


def builtin(row: Manifest) -> bool:
    """Whether Kubernetes itself knows this kind, and so its schemas do."""
    group = row["apiVersion"].rpartition("/")[0]
    return "." not in group or (group.endswith(".k8s.io") and "gateway" not in group)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid(version: str) -> None:
    """By the schemas of Kubernetes, strictly: no field that there isn't."""
    # Overlays share most of what they hold, and parties differ by a digit; schemas take time.
    distinct = {
        re.sub(r"party-\d|-[a-z0-9]{10}\b|\d{64}", "", json.dumps(row)): row
        for overlay in ALL
        for row in rendered(overlay)
    }
    checked = [row for row in distinct.values() if builtin(row)]
    for row in checked:
        kubernetes_validate.validate(row, version, strict=True)
    assert {row["kind"] for row in checked} >= {"Deployment", "StatefulSet", "NetworkPolicy"}


def test_a_field_that_there_is_not_would_be_noticed() -> None:
    """The control of the test above."""
    pod = one("dev", "StatefulSet", "rookery")
    broken: dict[str, Any] = {**pod, "spec": {**pod["spec"], "replica": 1}}
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


@pytest.mark.parametrize("overlay", ALL)
def test_no_object_stands_twice_and_all_have_their_namespace(overlay: str) -> None:
    """Names are unique; a namespace that is used is made, with the strictest pod standard."""
    rows = rendered(overlay)
    names = [
        (row["apiVersion"], row["kind"], row["metadata"].get("namespace"), row["metadata"]["name"])
        for row in rows
    ]
    assert len(set(names)) == len(names)
    made = {row["metadata"]["name"]: row["metadata"] for row in of(overlay, "Namespace")}
    assert {row["metadata"].get("namespace") for row in rows} - {None} <= made.keys()
    for row, _ in pods(overlay):
        labels = made[row["metadata"]["namespace"]]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("overlay", ALL)
def test_no_pod_may_more_than_it_needs(overlay: str) -> None:
    """Not root, nothing of root's powers, nothing to write on but its volumes, no token."""
    for row, pod in pods(overlay):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        account = one(
            overlay, "ServiceAccount", pod["serviceAccountName"], row["metadata"]["namespace"]
        )
        assert account["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("overlay", ALL)
def test_secrets_are_named_and_not_written_down(overlay: str) -> None:
    """No Secret, no value of one; key files are readable by the group of the process alone."""
    assert of(overlay, "Secret") == []
    for _, pod in pods(overlay):
        for volume in pod.get("volumes", ()):
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] == 0o440
                # services.keys takes them from root for a process of this group.
                context = pod["securityContext"]
                assert context["fsGroup"] == context["runAsGroup"] != 0


def workloads(overlay: str, name: str) -> list[Manifest]:
    """What runs our image under this name."""
    return [row for row, _ in pods(overlay) if row["metadata"]["name"] == name]


@pytest.mark.parametrize("overlay", [name for name in ALL if name != "parties"])
def test_the_service_takes_its_settings(overlay: str) -> None:
    """Every variable is a setting; ports, files and times of pod and settings agree."""
    [workload] = workloads(overlay, "rookery")
    config = load(None, environment(overlay, workload))
    pod = workload["spec"]["template"]["spec"]
    [container] = pod["containers"]
    ports = {row["name"]: row["containerPort"] for row in container["ports"]}
    assert config.listen.endswith(f":{ports['grpc']}")
    assert config.metrics_listen.endswith(f":{ports['metrics']}")
    mounted = {row["mountPath"] for row in container["volumeMounts"]}
    files = [config.identity_key_file, config.pepper_file]
    files += [config.redis_password_file, config.redis_ca_file] if config.redis_url else []
    files += [] if config.redis_url else [config.database]
    assert {str(Path(name).parent) for name in files} == mounted
    # As many hops as deploy/README.md says there are.
    assert (config.client_ip_header, config.client_ip_hops) == ("x-forwarded-for", 1)
    stop_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    streams_s = 5
    wanted_s = stop_s + config.drain_delay_s + streams_s + config.drain_s
    assert pod["terminationGracePeriodSeconds"] >= wanted_s + 10


@pytest.mark.parametrize("overlay", [name for name in ALL if name != "parties"])
def test_alive_and_ready_are_different_questions(overlay: str) -> None:
    """Liveness asks for what stays SERVING while the process drains, readiness for what does
    not (test_services_server.py)."""
    [workload] = workloads(overlay, "rookery")
    [container] = workload["spec"]["template"]["spec"]["containers"]
    asked = {
        name: container[f"{name}Probe"]["grpc"]["service"]
        for name in ("startup", "liveness", "readiness")
    }
    assert asked == {"startup": ALIVE, "liveness": ALIVE, "readiness": ""}


@pytest.mark.parametrize("overlay", ["parties", "istio", "linkerd"])
def test_parties_take_their_settings(overlay: str) -> None:
    """Each dials the two others where they listen, and the service."""
    namespaces = set()
    for workload in workloads(overlay, "party"):
        namespace = workload["metadata"]["namespace"]
        namespaces.add(namespace)
        config = party_config.load(None, environment(overlay, workload))
        peers = {address.split(".")[1] for address in party_config.peers(config).values()}
        assert peers == {f"rookery-party-{number}" for number in (1, 2, 3)} - {namespace}
        assert workload["spec"]["replicas"] == 1
        [container] = workload["spec"]["template"]["spec"]["containers"]
        probe = container["readinessProbe"]["grpc"]
        assert config.listen.endswith(f":{probe['port']}")
        assert probe["service"] in SERVED
        mounted = {row["mountPath"] for row in container["volumeMounts"]}
        files = (config.identity_key_file, config.database)
        assert {str(Path(name).parent) for name in files} == mounted
    assert len(namespaces) == 3


def test_sqlite_is_one_process_and_stays_one() -> None:
    """A stateful set of one, with its own volume; nothing scales it."""
    stateful = one("dev", "StatefulSet", "rookery")
    assert stateful["spec"]["replicas"] == 1
    assert of("dev", "Deployment") == of("dev", "HorizontalPodAutoscaler") == []
    assert stateful["spec"]["serviceName"] in {
        row["metadata"]["name"] for row in of("dev", "Service")
    }


@pytest.mark.parametrize("overlay", ["production", "istio", "linkerd"])
def test_replicas_come_one_by_one_and_go_one_by_one(overlay: str) -> None:
    """Rolling restarts never have fewer; disruptions and the autoscaler take one at a time."""
    deployment = one(overlay, "Deployment", "rookery")
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    # The autoscaler says how many: a number here would undo it at each apply.
    assert "replicas" not in deployment["spec"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    budget = one(overlay, "PodDisruptionBudget", "rookery")
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    scaler = one(overlay, "HorizontalPodAutoscaler", "rookery")
    assert scaler["spec"]["minReplicas"] >= 2
    assert scaler["spec"]["behavior"]["scaleDown"]["policies"] == [
        {"type": "Pods", "value": 1, "periodSeconds": 300}
    ]
    spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert {row["topologyKey"] for row in spread} == {
        "topology.kubernetes.io/zone", "kubernetes.io/hostname",
    }  # fmt: skip


@pytest.mark.parametrize("overlay", ALL)
def test_services_find_their_pods_and_say_that_they_speak_grpc(overlay: str) -> None:
    """Selectors and ports name what there is."""
    for service in of(overlay, "Service"):
        namespace = service["metadata"]["namespace"]
        [pod] = [
            row["spec"]["template"]
            for row, _ in pods(overlay)
            if row["metadata"]["namespace"] == namespace
            and service["spec"]["selector"].items()
            <= row["spec"]["template"]["metadata"]["labels"].items()
        ]
        for port in service["spec"]["ports"]:
            if port["name"] == "grpc":
                assert port["appProtocol"] == "grpc"
                names = [row["name"] for row in pod["spec"]["containers"][0]["ports"]]
                assert port["targetPort"] in names


@pytest.mark.parametrize("overlay", ALL)
def test_the_network_lets_through_what_is_named_only(overlay: str) -> None:
    """Each namespace of ours denies all; what comes in reaches a port that a pod has; nothing
    is open to everybody."""
    ours = {row["metadata"]["namespace"] for row, _ in pods(overlay)} - {"rookery-edge"}
    for namespace in ours:
        policies = of(overlay, "NetworkPolicy", namespace=namespace)
        [deny] = [row for row in policies if row["metadata"]["name"] == "default-deny"]
        assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        served = {
            port["containerPort"]
            for row, pod in pods(overlay)
            if row["metadata"]["namespace"] == namespace
            for container in pod["containers"]
            for port in container["ports"]
        }
        for policy in policies:
            spec = policy["spec"]
            for rule in itertools.chain(spec.get("ingress", ()), spec.get("egress", ())):
                assert rule["ports"]
                assert all("namespaceSelector" in peer for peer in rule.get("from", rule.get("to")))
            for rule in spec.get("ingress", ()):
                assert {port["port"] for port in rule["ports"]} <= served
