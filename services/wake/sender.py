"""The push gateway as the service calls it: handles go out, verdicts come back, nothing else."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from crypto.request import Caller, CallKind
from rookery.v1 import gateway_pb2
from services.config import Config
from services.outgoing import signed_metadata, told
from services.settings import ConfigError
from services.wake.verdict import GATEWAY_METHOD, Verdict


class GatewayDown(Exception):
    """The gateway can't be reached, or takes no call of ours. `reason` is gRPC's code or that of
    its ErrorInfo."""

    def __init__(self, reason: str, retry_ms: int = 0) -> None:
        super().__init__(f"the push gateway: {reason}")
        self.reason = reason
        self.retry_ms = retry_ms


class Sender:
    """One channel to one gateway."""

    def __init__(self, config: Config, key: Caller, wall_ms: Callable[[], int]) -> None:
        self._key = key
        self._audience = config.wake_audience
        self._timeout_s = config.wake_timeout_s
        self._wall_ms = wall_ms
        self._channel = _channel(config)

    async def __call__(self, handles: Sequence[bytes]) -> Sequence[Verdict]:
        """One verdict a handle; GatewayDown."""
        payload = gateway_pb2.WakeRequest(handles=handles).SerializeToString()
        metadata = signed_metadata(
            self._key,
            kind=CallKind.UNARY,
            method=GATEWAY_METHOD,
            audience=self._audience,
            payload=payload,
            now_ms=self._wall_ms(),
        )
        call: Any = self._channel.unary_unary(GATEWAY_METHOD)
        try:
            raw = await call(payload, metadata=metadata, timeout=self._timeout_s)
            answer = gateway_pb2.WakeResponse.FromString(raw)
            verdicts = [Verdict(number) for number in answer.verdicts]
        except grpc.aio.AioRpcError as error:
            reason, retry_ms = told(error)
            raise GatewayDown(reason or error.code().name, retry_ms) from None
        except (DecodeError, ValueError):
            raise GatewayDown("answers what does not parse") from None
        if len(verdicts) != len(handles):
            raise GatewayDown("answers for another number of handles")
        return verdicts

    async def close(self) -> None:
        """Ends the connection."""
        await self._channel.close()


def credentials(config: Config) -> grpc.ChannelCredentials | None:
    """None for no TLS; ConfigError if files don't fit."""
    if not config.wake_tls:
        return None
    trusted, key, cert = (
        Path(file).read_bytes() if file else None
        for file in (config.wake_ca_file, config.wake_tls_key_file, config.wake_tls_cert_file)
    )
    if cert is not None:
        try:
            # gRPC would take anything here and only fail to connect.
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(
                config.wake_tls_cert_file, config.wake_tls_key_file, password=""
            )
        except (ssl.SSLError, ValueError):
            raise ConfigError(
                "wake_tls_cert_file, wake_tls_key_file: are no PEM certificate with its"
                " unencrypted key"
            ) from None
    return grpc.ssl_channel_credentials(trusted, key, cert)


def _channel(config: Config) -> grpc.aio.Channel:
    options = [
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.enable_http_proxy", 0),
    ]
    given = credentials(config)
    if given is None:
        return grpc.aio.insecure_channel(config.wake_gateway, options)
    return grpc.aio.secure_channel(config.wake_gateway, given, options)
