"""Ways to a service that stands behind the real Envoy. A helper."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from client.endpoint import ClientCertificate, Endpoint
from deploy.proxies import EDGE, ENVOY, PARTIES, SERVICE, Mesh, Proxy
from tests.served import Refusal
from tests.service_process import ServiceProcess

__all__ = [
    "EDGE", "ENVOY", "PARTIES", "SERVICE", "Mesh", "Proxy", "channel", "refused", "through",
]  # fmt: skip


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
