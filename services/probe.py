"""`rookery-server health`: asks a process of this machine how it is, for container engines.

Where probes of gRPC are known (Kubernetes), they ask by themselves.
"""

from __future__ import annotations

import argparse
import ssl
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.config import ConfigError, of_arguments

_SECONDS = 5.0
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}  # noqa: S104 - not bound


class NotHealthy(Exception):
    """The process does not serve."""


FORESEEN = (ConfigError, NotHealthy, OSError)


def health(arguments: argparse.Namespace) -> None:
    """Ends well if the process serves; NotHealthy with what it said."""
    config = of_arguments(arguments)
    host, _, port = (arguments.address or config.listen).rpartition(":")
    address = f"{_ANYWHERE.get(host, host)}:{port}"
    if config.tls_cert_file and not arguments.address:
        _shakes_hands(address)
        return
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=arguments.service)
        try:
            status = stub.Check(request, timeout=_SECONDS).status
        except grpc.RpcError as error:
            raise NotHealthy(f"{address}: {error.code().name}") from None
    if status != health_pb2.HealthCheckResponse.SERVING:
        raise NotHealthy(f"{address}: {health_pb2.HealthCheckResponse.ServingStatus.Name(status)}")


def _shakes_hands(address: str) -> None:
    """What can be asked of a process with a certificate for a name that is not this address."""
    host, _, port = address.rpartition(":")
    try:
        ssl.get_server_certificate((host.strip("[]"), int(port)), timeout=_SECONDS)
    except OSError as error:
        raise NotHealthy(f"{address}: no TLS handshake ({error})") from None
