"""Make what compose.yaml wants and no repository holds: `prepare.py [DIR]`, once.

Keys of the service and the parties, a password, an authority with a certificate for each
workload, the proxies' configurations, folders for data, and `.env`, all below DIR (default:
`made` beside this file). What is there already is left alone; certificates last 30 days and are
signed anew by `prepare.py --certificates`. REDIS_IMAGE, ENVOY_IMAGE and PROMETHEUS_IMAGE in the
environment name the images with their digests; `.env` keeps them.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "proto")]

from deploy.certificates import Authority, CertificateError  # noqa: E402
from deploy.envoy import render  # noqa: E402
from mpc.keys import PartyKey  # noqa: E402
from services import keys  # noqa: E402
from services.keys import KeyFileError  # noqa: E402

COMPOSE = Path(__file__).resolve().with_name("compose.yaml")
DOMAIN = "spiffe://rookery.localhost"
PARTIES = ("party-1", "party-2", "party-3")
# What compose.yaml was written for. A tag is whatever its registry says next: a digest pins it.
IMAGES = {
    "REDIS_IMAGE": "redis:7.4-bookworm",
    "ENVOY_IMAGE": "envoyproxy/envoy:v1.36-latest",
    "PROMETHEUS_IMAGE": "prom/prometheus:v3.5.0",
}
_PINNED = re.compile(r"[a-z0-9][\w./:-]*@sha256:[0-9a-f]{64}", re.ASCII)
# Of the image; a person's own id where it isn't root's, so that bind mounts are theirs.
NOBODY = 65532
# The proxies' folders as their containers see them.
CONFIG, CERTIFICATES, PUBLIC = "/etc/envoy", "/etc/rookery/tls", "/etc/rookery/public"
REDIS = """\
# An acknowledged write is on the disk; nothing is ever evicted.
dir /data
appendonly yes
appendfsync always
maxmemory-policy noeviction
protected-mode yes
requirepass {password}
"""


class ImageError(Exception):
    """An image is not named, or not by its digest."""


def images(given: Mapping[str, str], env_file: Path) -> dict[str, str]:
    """References with a digest, as given or as `.env` has kept them; ImageError."""
    rows = env_file.read_text().splitlines() if env_file.exists() else []
    kept = dict(row.split("=", 1) for row in rows if "=" in row)
    found = {name: given.get(name) or kept.get(name, "") for name in IMAGES}
    for name, usual in IMAGES.items():
        if not _PINNED.fullmatch(found[name]):
            tag = found[name].partition("@")[0] or usual
            raise ImageError(
                f"{name}: {found[name] or 'is not set'}; set it to {tag}@sha256:…, with the digest"
                f" that `docker buildx imagetools inspect {tag} --format"
                " '{{.Manifest.Digest}}'` shows"
            )
    return found


def secret_files(folder: Path) -> None:
    """Keys and the password, each in its own file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("identity.key", "pepper", *(f"{party}.key" for party in PARTIES)):
        if not (folder / name).exists():
            keys.create(folder / name, secrets.token_bytes(keys.KEY_BYTES))
    password = folder / "redis-password"
    if not password.exists():
        text = secrets.token_urlsafe(32)
        _write(password, text + "\n")
        _write(folder / "redis.conf", REDIS.format(password=text))


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def certificates(folder: Path) -> None:
    """One for each workload of the mesh, and the one that devices see."""
    kept = Authority(folder / "authority/ca.crt", folder / "authority/ca.key")
    authority = kept if kept.key.exists() else Authority.create(folder / "authority")
    for name in ("edge", "service", *PARTIES):
        names = "DNS:rookery,DNS:localhost" if name == "service" else "DNS:localhost"
        authority.sign(folder / f"tls/{name}", spiffe=f"{DOMAIN}/{name}", names=names)
    authority.sign(folder / "tls/public", names="DNS:rookery.localhost,DNS:localhost,IP:127.0.0.1")


def proxies(folder: Path) -> None:
    """Their configurations, from the templates that are tested."""
    places = {"CONFIG": CONFIG, "CERTIFICATES": CERTIFICATES}
    render.render(
        "sidecar",
        folder / "envoy/sidecar",
        {
            **places,
            "EDGE_IDENTITY": f"{DOMAIN}/edge",
            "PARTY_IDENTITIES": ",".join(f"{DOMAIN}/{party}" for party in PARTIES),
        },
    )
    render.render(
        "edge",
        folder / "envoy/edge",
        {
            **places,
            "PUBLIC_CERTIFICATES": PUBLIC,
            "PORT": "8443",
            "SERVICE_IDENTITY": f"{DOMAIN}/service",
            "SERVICES": "rookery:8443",
        },
    )


def variables(folder: Path, user: int, group: int) -> dict[str, str]:
    """What compose.yaml leaves open."""
    public = {
        party: PartyKey(keys.read(folder / f"secrets/{party}.key")).public.hex()
        for party in PARTIES
    }
    found = {"MADE": str(folder), "ROOKERY_USER": f"{user}:{group}"}
    for party in PARTIES:
        peers = [f"{public[other]}@{other}:7453" for other in PARTIES if other != party]
        found[f"PEERS_OF_{party.upper().replace('-', '_')}"] = ",".join(peers)
    return found


def prepare(folder: Path, *, anew: bool) -> None:
    """All of it."""
    folder = folder.absolute()
    pinned = images(os.environ, folder / ".env")
    secret_files(folder / "secrets")
    if anew or not (folder / "tls").exists():
        certificates(folder)
    proxies(folder)
    for name in ("redis", "prometheus", *PARTIES):
        (folder / "data" / name).mkdir(parents=True, exist_ok=True)
    user, group = os.getuid() or NOBODY, os.getgid() or NOBODY
    rows = variables(folder, user, group) | pinned
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in rows.items()))
    if os.getuid() == 0:
        for path in (folder / part for part in ("secrets", "tls", "data")):
            for entry in (path, *path.rglob("*")):
                os.chown(entry, user, group)


def main(argv: Sequence[str] | None = None) -> int:
    """0 if everything is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent / "made")
    parser.add_argument("--certificates", action="store_true", help="sign them anew")
    arguments = parser.parse_args(argv)
    try:
        prepare(arguments.folder, anew=arguments.certificates)
    except (CertificateError, ImageError, KeyFileError, OSError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    words = ["-f", COMPOSE, "--env-file", arguments.folder.absolute() / ".env", "up"]
    print(shlex.join(["docker", "compose", *map(str, words)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
