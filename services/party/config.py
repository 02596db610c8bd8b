"""Every setting of `rookery-server party`, in one place: name, default, what it means."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from crypto.primitives import KEY_BYTES
from mpc.task import Task
from services import listed, otlp, settings
from services.listed import Listed
from services.party.links import LinkLimits
from services.settings import ConfigError, Value, setting

ENV_PREFIX = "ROOKERY_PARTY_"
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class PartyConfig:
    """What one party is told. Immutable; made by `load`."""

    listen: str = setting(
        "127.0.0.1:7453",
        "Address and port for other parties and publishers; port 0 takes a free one.",
        group="Address",
    )
    tls_cert_file: str = setting(
        "", "PEM certificate chain. Empty with the key: no TLS (behind a proxy, or loopback)."
    )
    tls_key_file: str = setting("", "PEM private key of tls_cert_file.")
    audience: str = setting(
        "rookery.localhost", "Name of the deployment; signed requests are for one name only."
    )
    relay: str = setting("127.0.0.1:7443", "Address of the relay that holds the boxes.")
    relay_tls: bool = setting(False, "Whether the relay speaks TLS (off: loopback, or a mesh).")
    relay_ca_file: str = setting("", "PEM certificates to trust for it. Empty: the system's.")
    relay_cert_file: str = setting(
        "", "PEM certificate chain to show it, where a proxy asks for one; without a sidecar."
    )
    relay_key_file: str = setting("", "PEM private key of relay_cert_file.")
    peer_tls: bool = setting(
        False, "Whether the other parties speak TLS. What goes over links is sealed either way."
    )
    peer_ca_file: str = setting("", "PEM certificates to trust for them. Empty: the system's.")

    database: str = setting("party.db", "Path of the SQLite database.", group="Storage and keys")
    identity_key_file: str = setting(
        "party.key", "This party's identity key; readable by its owner only."
    )
    peers: tuple[str, ...] = setting(
        (), "The other parties: public identity key (64 hex digits) @ host:port."
    )
    publishers: tuple[str, ...] = setting(
        (),
        "Public keys of those whose tasks this party computes: 64 hex digits, and maybe an end:"
        " KEY until 2027-01-31.",
    )
    policy_keys: tuple[str, ...] = setting(
        (),
        "Public keys of those who publish the policy. With one the party is governed: it signs and"
        " computes no round of a task that the policy does not declare, or has stopped.",
    )
    policy_poll_s: float = setting(
        5.0, "How often the relay is asked whether there is a newer policy.", at_least=0.05
    )

    retention_days: float = setting(
        7.0, "A round without a result is abandoned so long after its window.",
        group="Rounds", at_least=0.00001,
    )  # fmt: skip
    patience_s: float = setting(
        60.0, "How long a party that is down after VERIFIED is waited for.", at_least=0
    )
    tick_s: float = setting(1.0, "How often a waiting round looks again.", at_least=0.01)
    poll_s: float = setting(30.0, "How often the relay is asked for boxes.", at_least=0.05)
    history_days: int = setting(
        400, "How long a round that ended is kept after its window, without its reports.",
        at_least=1,
    )  # fmt: skip
    task_micro_rho_max: int = setting(
        10_000_000, "Most that any task may cost here, whatever its own cap says.", at_least=1
    )

    jobs_max: int = setting(
        4, "Rounds that do or gather for a job at once; each job is a process.",
        group="Jobs", at_least=1,
    )  # fmt: skip
    job_s: float = setting(300.0, "Longest that one job may take.", at_least=1)
    job_stall_s: float = setting(60.0, "Longest wait for one message inside a job.", at_least=0.1)

    peer_payload_bytes_max: int = setting(
        16 << 20,
        "Largest frame of a peer; jobs send 4 MiB.",
        group="Peers",
        at_least=5 << 20,
    )
    peer_bytes_per_s: float = setting(
        float(128 << 20), "What a peer may send a second before it floods.", at_least=1 << 16
    )
    peer_beat_s: float = setting(2.0, "How often an idle link says that it lives.", at_least=0.01)
    peer_stall_s: float = setting(
        10.0, "A link on which nothing comes or goes for so long is dropped.", at_least=0.05
    )
    strangers_max: int = setting(
        32, "Streams at once whose peer has not yet proved who it is.", at_least=1
    )

    log_level: str = setting(
        "info", "What is logged.", group="Logs", one_of=("debug", "info", "warning", "error")
    )
    log_format: str = setting("json", "json or text.", one_of=("json", "text"))

    metrics_listen: str = setting(
        "", "Address and port of Prometheus metrics (GET /metrics, no TLS). Empty: none.",
        group="Telemetry",
    )  # fmt: skip
    traces_endpoint: str = setting(
        "", "Collector that traces go to by OTLP: https://HOST:PORT (http: no TLS). Empty: none."
    )
    traces_ca_file: str = setting("", "PEM certificates to trust for it. Empty: the system's.")
    traces_share: float = setting(
        0.01, "Share of calls and jobs that are traced.", at_least=0, at_most=1
    )
    traces_callers_per_s: float = setting(
        1.0, "Calls a second that are traced because their callers ask; 0: none.", at_least=0
    )

    @property
    def retention_ms(self) -> int:
        """Milliseconds from a window's end to its round's."""
        return int(self.retention_days * _DAY_MS)

    @property
    def patience_ms(self) -> int:
        """Milliseconds that a party is waited for."""
        return int(self.patience_s * 1000)

    @property
    def history_ms(self) -> int:
        """Milliseconds from a window's end to when nothing is known of its round."""
        return self.history_days * _DAY_MS

    def cap_of(self, task: Task) -> int:
        """Micro-rho of all rounds of a task: its own cap, or this party's if it is lower."""
        return min(task.caps.task_micro_rho, self.task_micro_rho_max)

    def link_limits(self) -> LinkLimits:
        """What one peer may do."""
        return LinkLimits(
            payload_bytes_max=self.peer_payload_bytes_max,
            unsent_bytes_max=8 * self.peer_payload_bytes_max,
            bytes_per_s=self.peer_bytes_per_s,
            burst_bytes=int(2 * self.peer_bytes_per_s) + self.peer_payload_bytes_max,
            handshake_s=min(5.0, self.peer_stall_s),
            beat_s=self.peer_beat_s,
            stall_s=self.peer_stall_s,
        )


def load(
    file: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Value] | None = None
) -> PartyConfig:
    """Defaults < file < environment < overrides. ConfigError says what is wrong and where."""
    config = settings.load(
        PartyConfig, ENV_PREFIX, file, environ, overrides or {}, is_foreign=lambda _: False
    )
    settings.check_together(config, "tls_cert_file", "tls_key_file")
    for name in ("relay", "peer"):
        ca_file = getattr(config, f"{name}_ca_file")
        if ca_file and not getattr(config, f"{name}_tls"):
            raise ConfigError(f"{name}_ca_file: is for {name}_tls, which is off")
        if ca_file and not Path(ca_file).is_file():
            raise ConfigError(f"{name}_ca_file: {ca_file} is not there")
    settings.check_together(config, "relay_cert_file", "relay_key_file")
    if config.relay_cert_file and not config.relay_tls:
        raise ConfigError("relay_cert_file: is for relay_tls, which is off")
    if config.history_days < 2 * config.retention_days:
        raise ConfigError(
            "history_days: must be at least twice retention_days, for so long a result is handed in"
        )
    otlp.check(config)
    if not config.audience:
        raise ConfigError("audience: must not be empty")
    if config.peer_stall_s <= 2 * config.peer_beat_s:
        raise ConfigError("peer_stall_s: must be more than two beats (peer_beat_s)")
    peers(config)
    publishers(config)
    policy_keys(config)
    return config


def peers(config: PartyConfig) -> dict[bytes, str]:
    """Identity key to address; ConfigError."""
    found = {}
    for text in config.peers:
        key, at, address = text.partition("@")
        if not at or not address:
            raise ConfigError("peers: a peer is 64 hex digits @ host:port")
        found[_key("peers", key)] = address
    return found


def publishers(config: PartyConfig) -> tuple[Listed, ...]:
    """Pinned public keys; ConfigError."""
    return listed.parse("publishers", config.publishers)


def policy_keys(config: PartyConfig) -> tuple[Listed, ...]:
    """Pinned public keys; ConfigError."""
    return listed.parse("policy_keys", config.policy_keys)


def of_arguments(arguments: argparse.Namespace) -> PartyConfig:
    """What `rookery-server party` was told, in whichever of the ways."""
    given = settings.of_options(arguments, "listen", "database")
    return load(arguments.config, os.environ, given)


def _key(name: str, text: str) -> bytes:
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{name}: a public key has 64 hex digits")
    return key


def commented_toml() -> str:
    """A configuration file that sets every setting to its default and says what it does."""
    return settings.commented_toml(PartyConfig, "rookery-server party", ENV_PREFIX, "listen")
