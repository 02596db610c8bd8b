"""Every setting of `rookery-server gateway`, in one place: name, default, what it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from crypto.primitives import KEY_BYTES
from services import settings
from services.settings import ConfigError, Value, setting

ENV_PREFIX = "ROOKERY_GATEWAY_"


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """What one gateway is told. Immutable; made by `load`."""

    listen: str = setting(
        "127.0.0.1:7463",
        "Address and port for services; port 0 takes a free one.",
        group="Address",
    )
    tls_cert_file: str = setting(
        "", "PEM certificate chain. Empty with the key: no TLS (behind a proxy, or loopback)."
    )
    tls_key_file: str = setting("", "PEM private key of tls_cert_file.")
    audience: str = setting(
        "gateway.rookery.localhost", "This gateway's name; services sign calls for it only."
    )
    box_key_file: str = setting(
        "gateway.key", "Key that opens handles; readable by its owner only.", group="Keys"
    )
    services: tuple[str, ...] = setting(
        (),
        "Who may call: public key (64 hex digits) @ audience whose handles it may use. Two of one"
        " audience are fine, while a service changes its key.",
    )

    service_calls_per_s: float = setting(
        100.0, "Calls per service's key and second, of up to 100 handles each; 0: no bound.",
        group="Rates", at_least=0,
    )  # fmt: skip
    token_pokes_per_s: float = setting(0.05, "Pokes per token and second; 0: no bound.", at_least=0)
    token_pokes_burst: int = setting(3, "Pokes a token may have saved up.", at_least=1)
    tokens_max: int = setting(100_000, "Tokens whose rates are remembered.", at_least=1)
    pushes_max: int = setting(64, "Pushes to platforms at once.", at_least=1)
    push_timeout_s: float = setting(5.0, "Longest wait for a platform.", at_least=0.1)

    fcm_project: str = setting(
        "", "Firebase project. Empty: FCM tokens are put off.", group="Platforms"
    )
    fcm_access_token_file: str = setting(
        "", "OAuth access token for it, which something else keeps fresh in this file."
    )
    fcm_url: str = setting("https://fcm.googleapis.com", "Where FCM's HTTP v1 API is.")
    loopback: str = setting(
        "", "Address on this machine that is told of loopback tokens, for trying out."
    )

    log_level: str = setting(
        "info", "What is logged.", group="Logs", one_of=("debug", "info", "warning", "error")
    )
    log_format: str = setting("json", "json or text.", one_of=("json", "text"))

    metrics_listen: str = setting(
        "", "Address and port of Prometheus metrics (GET /metrics, no TLS). Empty: none.",
        group="Telemetry",
    )  # fmt: skip


def load(
    file: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Value] | None = None
) -> GatewayConfig:
    """Defaults < file < environment < overrides. ConfigError says what is wrong and where."""
    config = settings.load(
        GatewayConfig, ENV_PREFIX, file, environ, overrides or {}, is_foreign=lambda name: False
    )
    settings.check_together(config, "tls_cert_file", "tls_key_file")
    settings.check_together(config, "fcm_project", "fcm_access_token_file")
    if not config.audience:
        raise ConfigError("audience: must not be empty")
    callers(config)
    return config


def callers(config: GatewayConfig) -> dict[bytes, str]:
    """Public key to the audience whose handles it may use; ConfigError."""
    found: dict[bytes, str] = {}
    for text in config.services:
        digits, _, audience = text.partition("@")
        try:
            key = bytes.fromhex(digits.strip())
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES or not audience:
            raise ConfigError("services: a service is 64 hex digits @ its audience")
        if key in found:
            raise ConfigError("services: each service has a key of its own")
        found[key] = audience.strip()
    return found


def commented_toml() -> str:
    """A configuration file that sets every setting to its default and says what it does."""
    return settings.commented_toml(GatewayConfig, "rookery-server gateway", ENV_PREFIX, "listen")
