"""What Istio and Linkerd are told: who may make which call, and what is sent again.

Their kinds have no schemas here, so fields are checked against lists, and policies are worked
out method by method. What Istio hands on to its Envoy is run in one.
"""

from __future__ import annotations

import asyncio
import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.envoy import render
from tests.manifests import (
    AT_PARTIES,
    FOR_ALL,
    FOR_OPERATORS,
    FOR_PARTIES,
    Manifest,
    environment,
    for_devices,
    methods,
    of,
    one,
    rendered,
)
from tests.mesh_processes import EDGE, PARTIES, Mesh, channel
from tests.test_deploy_edge import upstream
from tests.test_deploy_render import GIVEN, manager

EDGE_ACCOUNT = ("rookery-edge", "rookery-edge")
PARTY_ACCOUNTS = {(f"rookery-party-{number}", "party") for number in (1, 2, 3)}
OPERATOR_ACCOUNT = ("rookery-operators", "operator")
STRANGERS = {("rookery", "rookery"), ("default", "default"), ("rookery-party-4", "party")}
ACCOUNTS = {EDGE_ACCOUNT, OPERATOR_ACCOUNT, *PARTY_ACCOUNTS, *STRANGERS}
PLACES = ("rookery", *sorted(namespace for namespace, _ in PARTY_ACCOUNTS))
SAFE = {"connect-failure", "refused-stream", "reset-before-request"}
"""What means that nothing of a request was taken; retriable-headers can't be said in Istio."""

Account = tuple[str, str]


def expected(place: str) -> set[tuple[Account, str]]:
    """Who may call what there."""
    if place == "rookery":
        devices = {(EDGE_ACCOUNT, method) for method in for_devices()}
        operators = {(OPERATOR_ACCOUNT, method) for method in FOR_OPERATORS}
        return (devices | operators) | {
            (party, method) for party in PARTY_ACCOUNTS for method in FOR_PARTIES | FOR_ALL
        }
    link = "/rookery.v1.Parties/Link"
    publishers = {(EDGE_ACCOUNT, method) for method in AT_PARTIES - {link}}
    return publishers | {(party, link) for party in PARTY_ACCOUNTS if party[0] != place}


def matches(pattern: str, path: str) -> bool:
    """As Istio matches: a star at the end stands for anything."""
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern


def istio_allows(place: str, account: Account, path: str, port: int) -> bool:
    """What the policies of a namespace let through. Any that applies and has no rule denies
    all that no other allows."""
    principal = f"cluster.local/ns/{account[0]}/sa/{account[1]}"
    policies = of("istio", "AuthorizationPolicy", namespace=place)
    assert any(row["spec"] == {} for row in policies)
    for policy in policies:
        for rule in policy["spec"].get("rules", ()):
            assert policy["spec"]["action"] == "ALLOW"
            principals = {name for row in rule["from"] for name in row["source"]["principals"]}
            for target in (row["operation"] for row in rule["to"]):
                if (
                    principal in principals
                    and str(port) in target["ports"]
                    and any(matches(pattern, path) for pattern in target["paths"])
                ):
                    return True
    return False


@pytest.mark.parametrize("place", PLACES)
def test_istio_lets_each_workload_make_its_own_calls_only(place: str) -> None:
    """Every method, every account: devices' by the edge, parties' by parties; no plain text."""
    port = 7443 if place == "rookery" else 7453
    paths = {*methods(), "/grpc.health.v1.Health/Check", "/rookery.v1.Sync2/Pull", "/"}
    allowed = {
        (account, path)
        for account in ACCOUNTS
        for path in paths
        if istio_allows(place, account, path, port)
    }
    assert allowed == expected(place)
    strict = one("istio", "PeerAuthentication", "strict", place)
    assert strict["spec"] == {"mtls": {"mode": "STRICT"}}


def linkerd_allows(place: str, account: Account, path: str) -> bool:
    """What routes of the Server of a namespace let through, and to whom."""
    identities = {
        row["metadata"]["name"]: {
            (reference["namespace"], reference["name"]) for reference in row["spec"]["identityRefs"]
        }
        for row in of("linkerd", "MeshTLSAuthentication", namespace=place)
    }
    for route in of("linkerd", "HTTPRoute", namespace=place):
        name = route["metadata"]["name"]
        [rule] = route["spec"]["rules"]
        paths = [row["path"] for row in rule["matches"]]
        assert {row["method"] for row in rule["matches"]} == {"POST"}
        if not any(
            path == row["value"] if row["type"] == "Exact" else path.startswith(row["value"])
            for row in paths
        ):
            continue
        for policy in of("linkerd", "AuthorizationPolicy", namespace=place):
            target = policy["spec"]["targetRef"]
            if (target["kind"], target["name"]) != ("HTTPRoute", name):
                continue
            for reference in policy["spec"]["requiredAuthenticationRefs"]:
                if reference["kind"] == "NetworkAuthentication":
                    return True
                if account in identities[reference["name"]]:
                    return True
    return False


@pytest.mark.parametrize("place", PLACES)
def test_linkerd_lets_each_workload_make_its_own_calls_only(place: str) -> None:
    """The same, and the health for the kubelet, which has no identity."""
    health = "/grpc.health.v1.Health/Check"
    paths = {*methods(), health, "/grpc.health.v1.Health/Watch", "/rookery.v1.Sync2/Pull"}
    allowed = {
        (account, path)
        for account in ACCOUNTS
        for path in paths
        if linkerd_allows(place, account, path)
    }
    assert allowed == expected(place) | {(account, health) for account in ACCOUNTS}
    for server in of("linkerd", "Server", namespace=place):
        assert server["spec"]["accessPolicy"] == "deny"
    namespace = one("linkerd", "Namespace", place)
    annotations = namespace["metadata"]["annotations"]
    assert annotations["config.linkerd.io/default-inbound-policy"] == "deny"
    assert annotations["linkerd.io/inject"] == "enabled"


def test_istio_sends_nothing_again_that_may_have_been_taken() -> None:
    """Each route says so for itself: Istio's default would retry on `unavailable`. Streams have
    no time-out and a pool of their own."""
    routed = {}
    for service in of("istio", "VirtualService"):
        for route in service["spec"]["http"]:
            assert set(route["retries"]["retryOn"].split(",")) == SAFE
            streams = route["name"] == "streams"
            assert route["timeout"] == ("0s" if streams else "60s")
            [target] = route["route"]
            assert target["destination"]["subset"] == route["name"]
            for method, is_stream in methods().items():
                if method not in routed and any(
                    method == row["uri"].get("exact")
                    or method.startswith(row["uri"].get("prefix", "\0"))
                    for row in route["match"]
                ):
                    routed[method] = streams
                    assert streams == is_stream, method
    assert routed.keys() == for_devices() | FOR_PARTIES | FOR_OPERATORS
    rule = one("istio", "DestinationRule", "rookery")["spec"]
    assert rule["trafficPolicy"]["tls"] == {"mode": "ISTIO_MUTUAL"}
    assert {row["name"] for row in rule["subsets"]} == {"streams", "calls"}
    for row in rule["subsets"]:
        # A subset's policy stands in the place of the whole, not beside it.
        assert row["trafficPolicy"].keys() == {
            "loadBalancer", "outlierDetection", "connectionPool",
        }  # fmt: skip


def test_linkerd_sends_nothing_again() -> None:
    """It would go by status. Streams have an idle time-out above the heartbeats, and no other."""
    text = json.dumps(rendered("linkerd"))
    assert "retry.linkerd.io" not in text
    routes = {row["metadata"]["name"]: row for row in of("linkerd", "GRPCRoute")}
    assert routes["streams"]["metadata"]["annotations"] == {"timeout.linkerd.io/idle": "180s"}
    assert routes["calls"]["metadata"]["annotations"] == {"timeout.linkerd.io/request": "60s"}
    routed: dict[str, str] = {}
    for name in ("streams", "calls"):
        [rule] = routes[name]["spec"]["rules"]
        for method in methods():
            service, _, call = method[1:].partition("/")
            if any(
                row["method"]["service"] == service and row["method"].get("method", call) == call
                for row in rule["matches"]
            ):
                routed.setdefault(method, name)
    assert routed.keys() == for_devices() | FOR_PARTIES | FOR_OPERATORS
    assert {name for name, where in routed.items() if where == "streams"} == {
        name for name, streams in methods().items() if streams and name in routed
    }


FIELDS = {
    "Gateway": {"selector", "servers"},
    "VirtualService": {"hosts", "gateways", "http"},
    "DestinationRule": {"host", "trafficPolicy", "subsets"},
    "EnvoyFilter": {"workloadSelector", "configPatches"},
    "PeerAuthentication": {"mtls"},
    "Server": {"podSelector", "port", "proxyProtocol", "accessPolicy"},
    "HTTPRoute": {"parentRefs", "rules"},
    "GRPCRoute": {"parentRefs", "rules"},
    "MeshTLSAuthentication": {"identityRefs"},
    "NetworkAuthentication": {"networks"},
    "HTTPLocalRateLimitPolicy": {"targetRef", "total", "identity", "overrides"},
}


@pytest.mark.parametrize("overlay", ["istio", "linkerd"])
def test_what_has_no_schema_has_no_field_that_was_not_looked_up(overlay: str) -> None:
    """By the reference pages of both, read by hand."""
    for row in rendered(overlay):
        kind = row["kind"]
        if kind == "AuthorizationPolicy":
            known = (
                {"selector", "action", "rules"}
                if row["apiVersion"].startswith("security.istio.io")
                else {"targetRef", "requiredAuthenticationRefs"}
            )
            assert row["spec"].keys() <= known
        elif kind in FIELDS:
            assert row["spec"].keys() <= FIELDS[kind]


@pytest.mark.parametrize("overlay", ["istio", "linkerd"])
def test_policies_name_what_there_is(overlay: str) -> None:
    """Selectors find pods; ports are theirs; the audience is the host that devices dial."""
    labels = [
        row["spec"]["template"]["metadata"]["labels"]
        for row in rendered(overlay)
        if "template" in row.get("spec", {})
    ]
    for row in rendered(overlay):
        spec = row.get("spec", {})
        chosen = spec.get("podSelector") or spec.get("selector") or {}
        if row["kind"] in ("Server", "AuthorizationPolicy") and chosen:
            assert any(chosen["matchLabels"].items() <= found.items() for found in labels)
    if overlay == "istio":
        workload = one("istio", "Deployment", "rookery")
        audience = environment("istio", workload)["ROOKERY_AUDIENCE"]
        assert one("istio", "VirtualService", "rookery-edge")["spec"]["hosts"] == [audience]


# --- what Istio hands on to its Envoy ---


def merged(into: Any, more: Any) -> Any:
    """As Envoy merges messages: fields one by one, lists appended."""
    if isinstance(into, dict) and isinstance(more, dict):
        return {key: merged(into.get(key), more.get(key)) for key in {**into, **more}}
    if isinstance(into, list) and isinstance(more, list):
        return into + more
    return into if more is None else more


def patched(config: Manifest, name: str) -> Manifest:
    """A proxy's configuration with the patches of an EnvoyFilter, on top of none of ours."""
    config = copy.deepcopy(config)
    http = manager(config)
    for field in ("forward_client_cert_details", "set_current_client_cert_details"):
        http.pop(field, None)
    router = http["http_filters"][-1]
    http["http_filters"] = [row for row in http["http_filters"] if "rbac" in row["name"]]
    for patch in one("istio", "EnvoyFilter", name)["spec"]["configPatches"]:
        value = patch["patch"]["value"]
        if patch["applyTo"] == "NETWORK_FILTER":
            assert patch["patch"]["operation"] == "MERGE"
            [chain] = config["static_resources"]["listeners"][0]["filter_chains"]
            chain["filters"][0]["typed_config"] = http = merged(http, value["typed_config"])
        else:
            assert patch["patch"]["operation"] == "INSERT_BEFORE"
            http["http_filters"].append(value)
    http["http_filters"].append(router)
    return config


async def test_the_filters_for_istio_s_sidecar_do_what_ours_does(
    mesh: Mesh, tmp_path: Path
) -> None:
    """In the real Envoy: whose certificate it was, and no address that a party claims."""
    async with upstream() as (target, calls):
        values = {
            **GIVEN["sidecar"],
            "LISTEN": "127.0.0.1",
            "PORT": "0",
            "ADMIN_PORT": "0",
            "CONFIG": str(tmp_path),
            "CERTIFICATES": str(mesh.workload("service")),
            "SERVICE": target,
        }
        path = render.render("sidecar", tmp_path, values)
        config = patched(yaml.safe_load(path.read_text()), "rookery-inbound")
        for route in manager(config)["route_config"]["virtual_hosts"][0]["routes"]:
            route.pop("request_headers_to_remove", None)
        path.write_text(json.dumps(config))
        proxy = await asyncio.to_thread(mesh.run, path)
        for workload, method in (
            ("edge", "/rookery.v1.Sync/Pull"),
            ("party-1", "/rookery.v1.Parties/PublishResult"),
        ):
            async with channel(proxy, mesh, mesh.workload(workload)) as dialled:
                stub: Any = dialled.unary_unary(method)
                claims = (("x-forwarded-client-cert", "URI=x"), ("x-forwarded-for", "192.0.2.1"))
                await stub(b"", timeout=20, metadata=claims)
    edge, party = (call.metadata for call in calls)
    assert edge["x-forwarded-client-cert"].endswith(f"URI={EDGE}")
    assert party["x-forwarded-client-cert"].endswith(f"URI={PARTIES[0]}")
    assert edge["x-forwarded-for"] == "192.0.2.1"
    assert "x-forwarded-for" not in party


async def test_the_filters_for_istio_s_gateway_do_what_ours_does(
    mesh: Mesh, tmp_path: Path
) -> None:
    """In the real Envoy: the same limits, word for word; it takes them and serves."""
    shipped = yaml.safe_load(render.render("edge", tmp_path / "shipped", GIVEN["edge"]).read_text())
    limit = manager(shipped)["http_filters"][0]
    patches = one("istio", "EnvoyFilter", "rookery-edge")["spec"]["configPatches"]
    assert patches[1]["patch"]["value"] == limit
    async with upstream() as (target, calls):
        sidecar = await mesh.sidecar(target)
        values = {
            **GIVEN["edge"],
            "SERVICES": sidecar.address,
            "LISTEN": "127.0.0.1",
            "PORT": "0",
            "ADMIN_PORT": "0",
            "CONFIG": str(tmp_path),
            "CERTIFICATES": str(mesh.workload("edge")),
            "PUBLIC_CERTIFICATES": str(mesh.workload("public")),
        }
        path = render.render("edge", tmp_path, values)
        config = patched(yaml.safe_load(path.read_text()), "rookery-edge")
        http = manager(config)
        http["internal_address_config"]["cidr_ranges"] = http["internal_address_config"][
            "cidr_ranges"
        ][:1]
        path.write_text(json.dumps(config))
        proxy = await asyncio.to_thread(mesh.run, path)
        async with channel(proxy, mesh) as dialled:
            stub: Any = dialled.unary_unary("/rookery.v1.Sync/Pull")
            await stub(b"", timeout=20)
    assert len(calls) == 1
