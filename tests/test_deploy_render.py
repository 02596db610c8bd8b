"""The proxies' templates: what is filled in, what is refused, what the files promise."""

from __future__ import annotations

import base64
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.envoy import render
from services.errors import DETAILS_KEY, UNTAKEN, Overloaded, RateLimited, failure
from tests.manifests import AT_PARTIES, FOR_OPERATORS, FOR_PARTIES, methods
from tests.mesh_processes import EDGE, ENVOY, PARTIES, SERVICE, Mesh
from tests.served import FETCH

GIVEN = {
    "sidecar": {"EDGE_IDENTITY": EDGE, "PARTY_IDENTITIES": ",".join(PARTIES)},
    "edge": {"SERVICE_IDENTITY": SERVICE, "SERVICES": "rookery-0:8443,rookery-1:8443"},
}


def test_the_page_shows_how_to_fill_them_in(tmp_path: Path) -> None:
    """Its commands give what must be given, and its table has the defaults of the templates."""
    page = (Path(render.__file__).parents[1] / "README.md").read_text().replace("\\\n", " ")
    shown = re.findall(r"^\$ python3 deploy/envoy/render\.py (.*)$", page, re.MULTILINE)
    assert [words.split()[0] for words in shown] == ["sidecar", "edge"]
    for words in shown:
        role, _, *values = words.split()
        assert render.main([role, str(tmp_path / role), *values]) == 0
    known = {
        name: default
        for template in Path(render.__file__).parent.glob("*.yaml")
        for name, default in render.placeholders(template.read_text()).items()
    }
    for name in ("CONFIG", "CERTIFICATES", "PUBLIC_CERTIFICATES"):
        assert f"| `{name}` | `{known[name]}` |" in page
    assert f"| `SERVICE` | {known['SERVICE']} |" in page


@pytest.mark.parametrize("role", sorted(GIVEN))
def test_envoy_takes_what_is_shipped(mesh: Mesh, tmp_path: Path, role: str) -> None:
    """Validated by the real one, with the defaults of everything that has one, and without a
    warning (of a field that will be gone)."""
    values = {
        **GIVEN[role],
        "CONFIG": str(tmp_path),
        "CERTIFICATES": str(mesh.workload("edge")),
    }
    if role == "edge":
        values["PUBLIC_CERTIFICATES"] = values["CERTIFICATES"]
    config = render.render(role, tmp_path, values)
    done = subprocess.run(
        [ENVOY, "--mode", "validate", "--config-path", config, "--log-level", "warning"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"EDGE_IDENTITY": EDGE}, "give PARTY_IDENTITIES=..."),
        ({**GIVEN["sidecar"], "PROT": "1"}, "PROT: not known; there are .*PORT"),
        ({**GIVEN["sidecar"], "PORT": "1\nadmin: x"}, "PORT: .* characters"),
        ({**GIVEN["sidecar"], "EDGE_IDENTITY": 'a"'}, "EDGE_IDENTITY: .* characters"),
        ({**GIVEN["sidecar"], "SERVICE": "nowhere"}, "'nowhere' is no HOST:PORT"),
        ({**GIVEN["sidecar"], "PARTY_IDENTITIES": "party"}, "'party' is no SPIFFE id"),
    ],
)
def test_a_wrong_value_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], values: dict[str, str], words: str
) -> None:
    """Nothing is written; the sentence says which value it is."""
    arguments = [f"{name}={value}" for name, value in values.items()]
    assert render.main(["sidecar", str(tmp_path / "out"), *arguments]) == 1
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "out" / "envoy.yaml").exists()


def rendered(role: str, tmp_path: Path) -> dict[str, Any]:
    """What stands in the file."""
    config: dict[str, Any] = yaml.safe_load(render.render(role, tmp_path, GIVEN[role]).read_text())
    return config


def manager(config: dict[str, Any]) -> dict[str, Any]:
    """The part about HTTP."""
    [listener] = config["static_resources"]["listeners"]
    [chain] = listener["filter_chains"]
    found: dict[str, Any] = chain["filters"][0]["typed_config"]
    return found


def route_of(config: dict[str, Any], method: str) -> dict[str, Any] | None:
    """The first route that takes a method."""
    [host] = manager(config)["route_config"]["virtual_hosts"]
    for route in host["routes"]:
        match = route["match"]
        if method == match.get("path") or method.startswith(match.get("prefix", "\0")):
            found: dict[str, Any] = route
            return found
    return None


@pytest.mark.parametrize("role", sorted(GIVEN))
def test_every_method_has_its_route(tmp_path: Path, role: str) -> None:
    """Streams: no time-out but that of idleness, and a cluster of their own, with all that a
    crowd of calls must not shut out. Parties' calls and operators': not at the edge."""
    config = rendered(role, tmp_path)
    for method, streams in methods().items():
        route = route_of(config, method)
        if method in AT_PARTIES or (role == "edge" and method in FOR_PARTIES | FOR_OPERATORS):
            assert role == "sidecar" or route is None
            continue
        assert route is not None, method
        apart = streams or method in (FETCH, *FOR_PARTIES, *FOR_OPERATORS)
        assert route["route"]["cluster"] == f"service_{'streams' if apart else 'unary'}"
        if streams:
            assert route["route"]["timeout"] == "0s"
            # Heartbeats come every 45 s.
            assert int(route["route"]["idle_timeout"].rstrip("s")) >= 3 * 45


def says(row: dict[str, Any], error: Exception) -> None:
    """A header to add has the details with which the service answers an error."""
    [(key, value)] = failure(error).trailing
    assert row["header"]["key"] == key == DETAILS_KEY
    padded = row["header"]["value"] + "=" * (-len(row["header"]["value"]) % 4)
    assert base64.b64decode(padded) == value


def test_what_is_limited_at_the_edge_is_said_in_the_service_s_words(tmp_path: Path) -> None:
    """The constant in the template is what the service itself would answer."""
    [limit, _] = manager(rendered("edge", tmp_path))["http_filters"]
    [row] = limit["typed_config"]["response_headers_to_add"]
    says(row, RateLimited("edge", 1_000))


@pytest.mark.parametrize("role", sorted(GIVEN))
def test_what_is_too_much_at_once_is_said_in_the_service_s_words(tmp_path: Path, role: str) -> None:
    """Code, message and details are those of the service's own OVERLOADED, and nothing invites
    a proxy to send it again."""
    mappers = manager(rendered(role, tmp_path))["local_reply_config"]["mappers"]
    [mapper] = [
        mapper for mapper in mappers if "UO" in mapper["filter"]["response_flag_filter"]["flags"]
    ]
    said = failure(Overloaded(1_000))
    assert mapper["body"]["inline_string"] == said.message
    code, details = mapper["headers_to_add"]
    assert code["header"] == {"key": "grpc-status", "value": str(said.code.value[0])}
    says(details, Overloaded(1_000))


@pytest.mark.parametrize("role", sorted(GIVEN))
def test_nothing_that_may_have_been_taken_is_sent_again(tmp_path: Path, role: str) -> None:
    """One retry policy for all, without a word of Envoy's that means "after it was taken"."""
    config = rendered(role, tmp_path)
    [host] = manager(config)["route_config"]["virtual_hosts"]
    policy = host["retry_policy"]
    assert set(policy["retry_on"].split(",")) == {
        "connect-failure", "refused-stream", "reset-before-request", "retriable-headers",
    }  # fmt: skip
    [header] = policy["retriable_headers"]
    assert (header["name"], header["string_match"]["exact"].encode()) == UNTAKEN
    assert all("retry_policy" not in route.get("route", {}) for route in host["routes"])


@pytest.mark.parametrize("role", sorted(GIVEN))
def test_the_access_log_has_no_caller_in_it(tmp_path: Path, role: str) -> None:
    """No address, no header, no path: those hold who called, or what a caller made up."""
    [log] = manager(rendered(role, tmp_path))["access_log"]
    for text in log["typed_config"]["log_format"]["json_format"].values():
        assert not re.search(r"ADDRESS|REQ\(|PATH|TRAILER|RESP\(|CERT|FINGERPRINT|SUBJECT", text)


@pytest.mark.parametrize("role", sorted(GIVEN))
def test_the_admin_interface_is_on_loopback(tmp_path: Path, role: str) -> None:
    """It can end the proxy and shows its certificates."""
    address = rendered(role, tmp_path)["admin"]["address"]["socket_address"]
    assert address["address"] == "127.0.0.1"
