"""Which service a device talks to, and what it holds that service to.

The audience goes into every signature, so that a call to one deployment is worth nothing at
another; the server key is pinned, so that a receipt proves who signed it.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

KEY_BYTES = 32
TARGETS_MAX = 16


class EndpointError(ValueError):
    """The address, audience or key is not usable; the message says which and why."""


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """Files of a certificate that is shown to a proxy which asks for one, and of its key.

    Paths, and read for each connection: such certificates live for hours, devices for years.
    """

    chain: Path
    key: Path

    def read(self) -> tuple[bytes, bytes]:
        """The key and the chain, as PEM; EndpointError."""
        try:
            return self.key.read_bytes(), self.chain.read_bytes()
        except OSError as error:
            raise EndpointError(
                f"the client certificate {self.chain} or its key {self.key} can't be read"
                f" ({error.strerror})"
            ) from None


@dataclass(frozen=True, slots=True)
class Superseded:
    """A key that was pinned before; its receipts count until `until_ms`."""

    key: bytes
    until_ms: int


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One deployment. `targets` are `HOST:PORT`s of it, tried in turn."""

    targets: tuple[str, ...]
    audience: str
    server_key: bytes
    tls_ca: bytes | None = None
    insecure: bool = False
    client_certificate: ClientCertificate | None = None
    before: tuple[Superseded, ...] = ()
    """Keys that `server_key` followed while this device had it pinned, oldest first."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.targets) <= TARGETS_MAX:
            raise EndpointError(f"name 1 to {TARGETS_MAX} servers (HOST:PORT, comma between them)")
        for target in self.targets:
            _check_target(target)
        if not self.audience:
            raise EndpointError("an audience is missing: `rookery-server serve` prints it")
        if len(self.server_key) != KEY_BYTES:
            raise EndpointError(
                "the server key is 64 hexadecimal characters: `rookery-server serve` prints it"
            )

    @classmethod
    def parse(
        cls,
        servers: str,
        audience: str,
        server_key: str,
        *,
        tls_ca: bytes | None = None,
        insecure: bool = False,
        client_certificate: ClientCertificate | None = None,
    ) -> Self:
        """From what a person gives; EndpointError says what is wrong."""
        try:
            key = bytes.fromhex(server_key)
        except ValueError:
            key = b""
        targets = tuple(filter(None, map(str.strip, servers.split(","))))
        return cls(targets, audience, key, tls_ca, insecure, client_certificate)

    def plaintext(self, target: str) -> bool:
        """Whether `target` is spoken to without TLS: the flag, or this machine itself.

        A CA file or a client certificate always means TLS.
        """
        if self.tls_ca is not None or self.client_certificate is not None:
            return False
        return self.insecure or is_loopback(target)

    def encode(self) -> bytes:
        """For the vault."""
        shown = self.client_certificate
        return json.dumps(
            {
                "targets": self.targets,
                "audience": self.audience,
                "server_key": self.server_key.hex(),
                "tls_ca": self.tls_ca.decode("ascii") if self.tls_ca is not None else None,
                "insecure": self.insecure,
                "client_certificate": [str(shown.chain), str(shown.key)] if shown else None,
                "before": [[row.key.hex(), row.until_ms] for row in self.before],
            }
        ).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """From the vault; EndpointError if it isn't what `encode` made."""
        try:
            fields = json.loads(data)
            ca = fields["tls_ca"]
            # Vaults of before have no such field.
            shown = fields.get("client_certificate")
            return cls(
                targets=tuple(map(str, fields["targets"])),
                audience=str(fields["audience"]),
                server_key=bytes.fromhex(fields["server_key"]),
                tls_ca=None if ca is None else str(ca).encode("ascii"),
                insecure=bool(fields["insecure"]),
                client_certificate=shown and ClientCertificate(*map(Path, shown)),
                before=tuple(
                    Superseded(bytes.fromhex(key), int(until_ms))
                    for key, until_ms in fields.get("before", ())
                ),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise EndpointError("the stored address of the service is damaged") from error


def _check_target(target: str) -> None:
    host, _, port = target.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise EndpointError(f"{target!r} is no HOST:PORT")


def is_loopback(target: str) -> bool:
    """Whether `HOST:PORT` is this machine: `localhost`, 127.0.0.0/8 or [::1]."""
    host = target.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
