"""Components that an operator adds to an overlay: what they set, and what they let through."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from services.config import load
from tests.manifests import OVERLAYS, environment, of, one, rendered

COMPONENTS = OVERLAYS.parent / "components"


def with_components(folder: Path, base: str, *names: str) -> str:
    """An operator's overlay, for `tests.manifests`."""
    # Where the folder really is: kustomize goes by that.
    folder = folder.resolve()
    kustomization: dict[str, Any] = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(OVERLAYS / base, folder)],
        "components": [os.path.relpath(COMPONENTS / name, folder) for name in names],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return str(folder)


@pytest.mark.parametrize("base", ["dev", "production", "istio", "linkerd"])
def test_the_gateway_and_the_collector_are_reached_where_they_are_wanted(
    tmp_path: Path, base: str
) -> None:
    """The settings name a service, and the network lets the service's pods through to that
    namespace and port, and nobody to it without the components."""
    overlay = with_components(tmp_path, base, "wake", "traces")
    [workload] = of(overlay, "Deployment", "rookery") + of(overlay, "StatefulSet", "rookery")
    config = load(None, environment(overlay, workload))
    pod = workload["spec"]["template"]
    [container] = pod["spec"]["containers"]
    assert str(Path(config.wake_key_file).parent) in {
        row["mountPath"] for row in container["volumeMounts"]
    }
    endpoint = urlsplit(config.traces_endpoint)
    collector = f"{endpoint.hostname}:{endpoint.port}"
    for name, address in (("rookery-wake", config.wake_gateway), ("rookery-traces", collector)):
        assert not of(base, "NetworkPolicy", name)
        policy = one(overlay, "NetworkPolicy", name, "rookery")
        kubernetes_validate.validate(policy, "1.30.0", strict=True)
        selector = policy["spec"]["podSelector"]["matchLabels"]
        assert selector.items() <= pod["metadata"]["labels"].items()
        assert policy["spec"]["policyTypes"] == ["Egress"]
        [rule] = policy["spec"]["egress"]
        [peer] = rule["to"]
        host, _, port = address.rpartition(":")
        namespace = host.split(".")[1]
        assert peer["namespaceSelector"]["matchLabels"] == {
            "kubernetes.io/metadata.name": namespace
        }
        assert peer["podSelector"]["matchLabels"]
        assert rule["ports"] == [{"protocol": "TCP", "port": int(port)}]
    assert len(rendered(overlay)) == len(rendered(base)) + 2
