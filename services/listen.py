"""Where the service listens and with which certificate, and why it can't, in words."""

from __future__ import annotations

import errno
import socket
import ssl
from pathlib import Path
from typing import Protocol

import grpc
import grpc.aio

from services.settings import ConfigError

_WHY = {
    errno.EADDRINUSE: "is in use",
    errno.EADDRNOTAVAIL: "is not an address of this machine",
    errno.EACCES: "is a port that this user may not take",
}


class Address(Protocol):
    """What of a configuration matters here."""

    @property
    def listen(self) -> str: ...
    @property
    def tls_cert_file(self) -> str: ...
    @property
    def tls_key_file(self) -> str: ...


class ListenError(Exception):
    """The address can't be listened on."""

    def __init__(self, listen: str, why: str, setting: str = "--listen") -> None:
        super().__init__(f"{listen} {why}: choose another {setting}")


def credentials(config: Address) -> grpc.ServerCredentials | None:
    """The certificate and its key; None for no TLS. ConfigError if they don't fit."""
    if not config.tls_cert_file:
        return None
    cert, key = Path(config.tls_cert_file), Path(config.tls_key_file)
    pair = (key.read_bytes(), cert.read_bytes())
    try:
        # gRPC would take anything here and only fail to listen. The empty password keeps
        # OpenSSL from asking for that of an encrypted key.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except (ssl.SSLError, ValueError):
        raise ConfigError(
            f"tls_cert_file, tls_key_file: {cert} and {key} are no PEM certificate with its"
            " unencrypted key"
        ) from None
    return grpc.ssl_server_credentials([pair])


def bind(server: grpc.aio.Server, config: Address) -> str:
    """Binds the server; the address, with the port that it got. ListenError."""
    host, _, _ = config.listen.rpartition(":")
    given = credentials(config)
    try:
        port = (
            server.add_insecure_port(config.listen)
            if given is None
            else server.add_secure_port(config.listen, given)
        )
    except RuntimeError:
        raise ListenError(config.listen, why_not(config.listen)) from None
    return f"{host}:{port}"


def why_not(listen: str) -> str:
    """Why an address can't be listened on. gRPC does not say it: the system is asked again."""
    host, _, port = listen.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
    except socket.gaierror:
        return "is not known as HOST:PORT"
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        return _WHY.get(number or 0, "can't be listened on")
    return "can't be listened on"
