"""The real Envoy with the shipped configuration, as processes that tests end. A helper."""

from __future__ import annotations

import asyncio
import dataclasses
import http.client
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
import pytest

from client.endpoint import ClientCertificate, Endpoint
from deploy.certificates import Authority
from deploy.envoy import render
from tests.served import Refusal
from tests.service_process import ServiceProcess

ENVOY = Path(sys.executable).with_name("envoy")
DOMAIN = "spiffe://rookery.example"
EDGE, SERVICE = f"{DOMAIN}/edge", f"{DOMAIN}/service"
PARTIES = tuple(f"{DOMAIN}/party-{number}" for number in (1, 2, 3))
HERE = "IP:127.0.0.1,DNS:localhost"
_PATIENCE_S = 60.0


class Mesh:
    """One authority, and proxies whose certificates it signed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority.create(folder / "authority")
        self._proxies: list[Proxy] = []

    def workload(self, name: str, *, by: Authority | None = None) -> Path:
        """The folder with the certificate of a workload of the mesh."""
        return (by or self.authority).sign(
            self.folder / f"tls-{name}", spiffe=f"{DOMAIN}/{name}", names=HERE
        )

    def start_sidecar(self, service: str, **values: str) -> Proxy:
        """The proxy beside the service that listens at `service`."""
        return self._start(
            "sidecar",
            CERTIFICATES=str(self.workload("service")),
            SERVICE=service,
            EDGE_IDENTITY=EDGE,
            PARTY_IDENTITIES=",".join(PARTIES),
            **values,
        )

    async def sidecar(self, service: str, **values: str) -> Proxy:
        """The same, beside a service of this process."""
        return await asyncio.to_thread(self.start_sidecar, service, **values)

    async def edge(self, *sidecars: Proxy, **values: str) -> Proxy:
        """The proxy that devices dial, in front of these; it has asked for their health once."""
        return await asyncio.to_thread(self.start_edge, *sidecars, **values)

    def start_edge(self, *sidecars: Proxy, **values: str) -> Proxy:
        """The same, where this process serves nothing."""
        return self._start(
            "edge",
            CERTIFICATES=str(self.workload("edge")),
            PUBLIC_CERTIFICATES=str(self.authority.sign(self.folder / "public", names=HERE)),
            SERVICE_IDENTITY=SERVICE,
            SERVICES=",".join(proxy.address for proxy in sidecars),
            **values,
        )

    def _start(self, role: str, **values: str) -> Proxy:
        folder = self.folder / f"{role}-{len(self._proxies)}"
        given = {"LISTEN": "127.0.0.1", "PORT": "0", "ADMIN_PORT": "0", "CONFIG": str(folder)}
        return self.run(render.render(role, folder, given | values))

    def run(self, config: Path) -> Proxy:
        """A proxy with this configuration."""
        proxy = Proxy(config)
        self._proxies.append(proxy)
        proxy.until_ready()
        return proxy

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for proxy in self._proxies:
            proxy.end()


class Proxy:
    """One Envoy."""

    def __init__(self, config: Path) -> None:
        self.folder = config.parent
        self._admin_file = self.folder / "admin"
        with (self.folder / "log").open("wb") as log, (self.folder / "access").open("wb") as access:
            self._process = subprocess.Popen(
                [
                    str(ENVOY), "--config-path", str(config), "--concurrency", "1",
                    "--disable-hot-restart", "--log-level", "warning",
                    "--admin-address-path", str(self._admin_file),
                ],
                stdout=access,
                stderr=log,
            )  # fmt: skip

    def until_ready(self) -> None:
        """Waits until it serves; an AssertionError has its log."""
        limit = time.monotonic() + _PATIENCE_S
        while not self._ready():
            assert time.monotonic() < limit, (self.folder / "log").read_text()
            time.sleep(0.02)
        [listener] = json.loads(self.ask("/listeners?format=json"))["listener_statuses"]
        bound = listener["local_address"]["socket_address"]
        self.address = f"{bound['address']}:{bound['port_value']}"

    def _ready(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError((self.folder / "log").read_text())
        if not (self._admin_file.exists() and self._admin_file.read_text()):
            return False
        try:
            return self.ask("/ready").strip() == "LIVE"
        except ConnectionError:
            return False

    def ask(self, path: str, method: str = "GET") -> str:
        """What its admin interface answers."""
        connection = http.client.HTTPConnection(self._admin_file.read_text().strip(), timeout=20)
        try:
            connection.request(method, path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def stat(self, pattern: str) -> int:
        """The sum of the counters and gauges whose whole name matches."""
        rows = re.findall(r"^(\S+): (\d+)$", self.ask("/stats"), re.MULTILINE)
        return sum(int(value) for name, value in rows if re.fullmatch(pattern, name))

    async def until(self, pattern: str, value: int) -> None:
        """Waits until a statistic has this value: the proxy tells nobody by itself."""
        async with asyncio.timeout(_PATIENCE_S):
            while await asyncio.to_thread(self.stat, pattern) != value:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def access(self) -> list[dict[str, Any]]:
        """The lines of its access log so far."""
        return [json.loads(line) for line in (self.folder / "access").read_text().splitlines()]

    def end(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.wait()


def through(proxy: Proxy, service: ServiceProcess, mesh: Mesh, shown: Path | None) -> Endpoint:
    """The service as it is reached through a proxy, with a workload's certificate or none."""
    certificate = ClientCertificate(shown / "tls.crt", shown / "tls.key") if shown else None
    return dataclasses.replace(
        service.endpoint,
        targets=(proxy.address,),
        tls_ca=mesh.authority.cert.read_bytes(),
        client_certificate=certificate,
    )


def channel(proxy: Proxy, mesh: Mesh, shown: Path | None = None) -> grpc.aio.Channel:
    """The same, for calls that the client library does not make."""
    certificate = ClientCertificate(shown / "tls.crt", shown / "tls.key") if shown else None
    key, chain = certificate.read() if certificate else (None, None)
    credentials = grpc.ssl_channel_credentials(mesh.authority.cert.read_bytes(), key, chain)
    return grpc.aio.secure_channel(proxy.address, credentials)


async def refused(call: Any) -> Refusal:
    """What a call fails with."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return Refusal.of(error.value)
