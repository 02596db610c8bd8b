"""compose.yaml and what prepare.py makes for it: read as an engine would, for want of one."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.compose import prepare
from mpc.keys import PartyKey
from services import keys
from services.config import load
from services.party import config as party_config
from tests.mesh_processes import ENVOY
from tests.programs import program

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = ROOT / "deploy/compose/compose.yaml"
SERVICE_KEYS = {
    "restart", "user", "read_only", "cap_drop", "security_opt", "tmpfs", "logging", "image",
    "entrypoint", "command", "healthcheck", "stop_grace_period", "depends_on", "networks",
    "network_mode", "secrets", "environment", "volumes", "ports",
}  # fmt: skip
"""Of the Compose specification, those that are used."""


IMAGES = {name: f"{tag}@sha256:{'0a' * 32}" for name, tag in prepare.IMAGES.items()}
"""Pinned, to nothing that there is."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What prepare.py makes."""
    folder = tmp_path_factory.mktemp("compose") / "made"
    with pytest.MonkeyPatch.context() as environment:
        for name, reference in IMAGES.items():
            environment.setenv(name, reference)
        assert prepare.main([str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def compose(made: Path) -> dict[str, Any]:
    """The file with its variables filled in, as Compose does it."""
    rows = (made / ".env").read_text().splitlines()
    values = dict(row.split("=", 1) for row in rows)

    def filled(match: re.Match[str]) -> str:
        name, kind, text = match.groups()
        if name in values:
            return values[name]
        assert kind == ":-", f"{name} is wanted and not made"
        return text

    text = re.sub(r"\$\{([A-Z_0-9]+)(:-|:\?)([^}]*)\}", filled, COMPOSE.read_text())
    read: dict[str, Any] = yaml.safe_load(text.replace("$$", "$"))
    return read


def test_services_ask_for_what_there_is(compose: dict[str, Any], made: Path) -> None:
    """Keys of the specification; networks, secrets and other services exist; files are made."""
    services = compose["services"]
    assert services.keys() == {
        "redis", "rookery", "sidecar", "edge", "party-1", "party-2", "party-3", "prometheus",
    }  # fmt: skip
    for name, service in services.items():
        assert service.keys() <= SERVICE_KEYS, name
        assert set(service.get("networks", ())) <= compose["networks"].keys()
        assert service.get("depends_on", {}).keys() <= services.keys()
        for wanted in service.get("secrets", ()):
            source = wanted if isinstance(wanted, str) else wanted["source"]
            path = Path(compose["secrets"][source]["file"])
            assert path.is_file()
            assert path.stat().st_mode & 0o077 == 0
        for volume in service.get("volumes", ()):
            place = volume.split(":")[0]
            assert (COMPOSE.parent / place).exists(), place
    user = os.getuid() or prepare.NOBODY
    assert {path.stat().st_uid for path in (made / "secrets").iterdir()} == {user}


def test_images_of_others_are_pinned(compose: dict[str, Any]) -> None:
    """Each is the one that was named with its digest; ours is built here."""
    used = {service["image"] for service in compose["services"].values()}
    assert used == {*IMAGES.values(), "rookery:0.1.0"}
    assert not re.search(r"_IMAGE:-(?!rookery:)", COMPOSE.read_text())


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "redis:7.4-bookworm",
        "redis@sha256:0a",
        f"@sha256:{'0a' * 32}",
        f"a b@sha256:{'0a' * 32}",
    ],
)
def test_an_image_without_a_digest_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reference: str,
) -> None:
    """In words that say how to get it, before anything is made."""
    for name, pinned in (IMAGES | {"REDIS_IMAGE": reference}).items():
        monkeypatch.setenv(name, pinned)
    assert prepare.main([str(tmp_path / "made")]) == 1
    said = capsys.readouterr().err
    assert "REDIS_IMAGE" in said
    assert "docker buildx imagetools inspect" in said
    assert not (tmp_path / "made").exists()


def test_prepare_says_what_starts_it(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the file and the folder, from wherever it is typed."""
    assert prepare.main([str(made)]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[:3] == ["docker", "compose", "-f"]
    assert Path(words[3]).is_absolute()
    assert Path(words[3]).samefile(COMPOSE)
    assert words[4:] == ["--env-file", str(made / ".env"), "up"]


def test_no_service_may_more_than_it_needs(compose: dict[str, Any]) -> None:
    """Not root, read-only, without powers, asked for its health; no secret in an environment."""
    for name, service in compose["services"].items():
        user, _, group = service["user"].partition(":")
        assert int(user) > 0, name
        assert int(group) > 0
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        # The image of the service has its own.
        assert name == "rookery" or "test" in service["healthcheck"]
        for variable, value in service.get("environment", {}).items():
            if re.search("KEY|PASSWORD|PEPPER", variable):
                assert value.startswith("/"), variable
    for name, network in compose["networks"].items():
        assert name in ("public", "parties") or network == {"internal": True}
    assert "public" not in compose["services"]["rookery"]["networks"]


def test_the_service_and_parties_take_their_settings(compose: dict[str, Any], made: Path) -> None:
    """Every variable is a setting; each party pins the keys that were made for the others."""
    services = compose["services"]
    config = load(None, services["rookery"]["environment"])
    assert config.listen == "127.0.0.1:7443"
    assert config.redis_url
    grace_s = int(services["rookery"]["stop_grace_period"].rstrip("s"))
    assert grace_s > config.drain_delay_s + 5 + config.drain_s
    public = {
        name: PartyKey(keys.read(made / f"secrets/{name}.key")).public for name in prepare.PARTIES
    }
    for name in prepare.PARTIES:
        environment = services[name]["environment"]
        mounted = made / f"tls/{name}"
        # Files as they stand outside the container.
        outside = {
            key: value.replace("/etc/rookery/tls", str(mounted))
            for key, value in environment.items()
        }
        party = party_config.load(None, outside)
        peers = party_config.peers(party)
        assert {address.partition(":")[0] for address in peers.values()} == {*prepare.PARTIES} - {
            name
        }
        for other, key in public.items():
            assert (key in peers) == (other != name)


@pytest.mark.parametrize("role", ["sidecar", "edge"])
def test_the_proxies_take_what_was_made(made: Path, tmp_path: Path, role: str) -> None:
    """In the real Envoy, with the folders where the containers have them."""
    places = {
        prepare.CONFIG: made / f"envoy/{role}",
        prepare.PUBLIC: made / "tls/public",
        prepare.CERTIFICATES: made / f"tls/{'service' if role == 'sidecar' else role}",
    }
    for file in places[prepare.CONFIG].iterdir():
        text = file.read_text()
        for place, folder in places.items():
            text = text.replace(place, str(tmp_path if place == prepare.CONFIG else folder))
        (tmp_path / file.name).write_text(text)
    done = subprocess.run(
        [ENVOY, "--mode", "validate", "-c", tmp_path / "envoy.yaml", "--log-level", "warning"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_redis_takes_its_configuration_and_loses_nothing(made: Path, tmp_path: Path) -> None:
    """The real one starts with it, and says what the service asks for."""
    conf = tmp_path / "redis.conf"
    conf.write_text((made / "secrets/redis.conf").read_text().replace("/data", str(tmp_path)))
    password = (made / "secrets/redis-password").read_text().strip()
    socket = tmp_path / "s"
    with subprocess.Popen(
        [program("redis-server"), conf, "--port", "0", "--unixsocket", socket],
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            assert any("ready to accept" in line.lower() for line in server.stdout)
            asked = subprocess.run(
                [program("redis-cli"), "-s", socket, "CONFIG", "GET", "*"],
                env={**os.environ, "REDISCLI_AUTH": password},
                capture_output=True,
                text=True,
                check=True,
            ).stdout.splitlines()
        finally:
            server.kill()
    said = dict(zip(asked[::2], asked[1::2], strict=False))
    assert said["appendonly"] == "yes"
    assert said["appendfsync"] == "always"
    assert said["maxmemory-policy"] == "noeviction"
    assert said["requirepass"] == password


def test_what_is_made_is_made_once(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Again: the same keys, other certificates only if they are asked for."""
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    for name in IMAGES:
        monkeypatch.delenv(name, raising=False)
    assert prepare.main([str(made)]) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert prepare.main([str(made), "--certificates"]) == 0
    changed = {path.name for path in before if path.read_bytes() != before[path]}
    assert changed == {"tls.crt", "tls.key"}
