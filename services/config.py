"""Every setting of `rookery-server serve`, in one place: name, default, what it means."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from services import listed, otlp, settings
from services.access.hop import TrustedHop
from services.settings import ConfigError, Value, setting
from services.store.base import Limits
from services.store.redis_address import Address

ENV_PREFIX = "ROOKERY_"
# Read by devices, parties and tools on the same machine; none of them is a server's setting.
_FOREIGN = ("SERVER", "SERVER_KEY", "SERVER_CA", "HOME", "STATE", "PASSPHRASE", "PROFILE")
_FOREIGN_PREFIXES = ("CLIENT_", "DEVICE_", "PARTY_", "DEMO_", "BENCH_", "TEST_")
_DAY_MS = 86_400_000
ACCEPTED_LOSS = "acknowledged writes may be lost"

__all__ = [
    "ENV_PREFIX",
    "Config",
    "ConfigError",
    "Value",
    "commented_toml",
    "load",
    "of_arguments",
    "sources",
    "store_absent",
]


@dataclass(frozen=True, slots=True)
class Config:
    """What one process is told. Immutable; made by `load`."""

    listen: str = setting(
        "127.0.0.1:7443",
        "Address and port to listen on; port 0 takes a free one.",
        group="Address",
    )
    tls_cert_file: str = setting(
        "", "PEM certificate chain. Empty with the key: no TLS (behind a proxy, or loopback)."
    )
    tls_key_file: str = setting("", "PEM private key of tls_cert_file.")
    audience: str = setting(
        "rookery.localhost",
        "Name of this deployment. Signed requests and enrolment tokens are for one name only.",
    )
    reflection: bool = setting(False, "Serve gRPC reflection; never while policy_keys are set.")

    database: str = setting("rookery.db", "Path of the SQLite database.", group="Storage and keys")
    redis_url: str = setting(
        "",
        "Redis to store in, instead of SQLite: redis://HOST:PORT, redis+sentinel://H:P,H:P/MASTER"
        " or redis+cluster://H:P,H:P; rediss for TLS; USER@ before the host; ?db=N where it has"
        " several.",
    )
    redis_password_file: str = setting("", "File with Redis's password.")
    redis_ca_file: str = setting(
        "", "PEM certificates that Redis's is judged by. Empty: those of the system."
    )
    redis_replicas_min: int = setting(
        0,
        "Replicas of each Redis master that hold a write before it is acknowledged. What is"
        " acknowledged survives a failover if this is all of them.",
        at_least=0,
    )
    redis_persistence: str = setting(
        "ask",
        "ask: Redis's own settings, by CONFIG GET. Where an operator forbids that, what it"
        " promises: synced (no acknowledged write is lost, to crash or failover) or lossy.",
        one_of=("ask", "synced", "lossy"),
    )
    redis_accept_loss: str = setting(
        "", f'Exactly "{ACCEPTED_LOSS}": start where Redis may lose them. Clients heal.'
    )
    identity_key_file: str = setting(
        "rookery-server.key", "Identity key that signs receipts; readable by its owner only."
    )
    pepper_file: str = setting(
        "rookery-server.pepper", "Secret for subject rows, kept outside the store; same mode."
    )

    enrolment: str = setting(
        "open",
        "Who may make an account: open (proof of work), token (signed by the app), or both.",
        group="Enrolment",
        one_of=("open", "token", "both"),
    )
    pow_bits: int = setting(18, "Leading zero bits of the proof of work.", at_least=0, at_most=40)
    token_issuers: tuple[str, ...] = setting(
        (),
        "Ed25519 public keys of the backends that sign tokens: 64 hex digits, and maybe an end:"
        " KEY until 2027-01-31. So too below.",
    )

    records_max: int = setting(
        50_000, "Live records per account.", group="Limits of an account", at_least=1
    )
    active_devices_max: int = setting(16, "Active devices per account.", at_least=1, at_most=255)
    chain_links_max: int = setting(10_000, "Links per device chain.", at_least=2)
    accounts_per_subject_max: int = setting(3, "Accounts per subject (tokens).", at_least=1)
    pairing_mailboxes_max: int = setting(10_000, "Pairing mailboxes at once.", at_least=1)
    consents_max: int = setting(
        10_000, "Entries of consent per account: each grant and each withdrawal is one."
        " What is on can be withdrawn beyond it.",
        at_least=1,
    )  # fmt: skip
    grace_days: int = setting(
        30, "How long ops of the epoch before are taken after a rotation.", at_least=0
    )

    publishers: tuple[str, ...] = setting(
        (), "Ed25519 public keys of those who may publish tasks and open rounds.",
        group="Joint aggregates",
    )  # fmt: skip
    analysts: tuple[str, ...] = setting(
        (), "Public keys of those who may read tasks, rounds and results, and nothing else."
    )
    tasks_max: int = setting(1_000, "Tasks, those that are over included.", at_least=1)
    rounds_max: int = setting(10_000, "Rounds that are held, with their results.", at_least=1)
    round_contributions_max: int = setting(
        1_000_000, "Contributions per round.", at_least=1, at_most=(1 << 32) - 1
    )
    box_retention_days: int = setting(
        7, "How long sealed boxes wait for a result after their window; then they go.", at_least=1
    )
    result_retention_days: int = setting(
        400, "How long a round and its result are kept after its window.", at_least=1
    )

    policy_keys: tuple[str, ...] = setting(
        (),
        "Public keys of those who may publish the policy. With one the service is governed: the"
        " newest bundle says who may call what.",
        group="Governance",
    )
    trusted_hop: str = setting(
        "",
        "Whose word counts on which workload called (x-forwarded-client-cert): loopback, unix,"
        " or the sidecar's address. Empty: nobody's.",
    )
    audit_calls_per_s: float = setting(
        5.0,
        "Calls that each key without an account may make a second; every one is in the audit log.",
        at_least=0,
    )
    audit_calls_burst: int = setting(1_000, "The same that it may have saved up.", at_least=1)

    account_calls_per_s: float = setting(
        50.0, "Calls per account and second; 0: no bound, as for all rates.",
        group="Rates", at_least=0,
    )  # fmt: skip
    account_calls_burst: int = setting(400, "Calls an account may have saved up.", at_least=1)
    account_ops_per_s: float = setting(500.0, "Ops per account and second.", at_least=0)
    account_ops_burst: int = setting(10_000, "Ops an account may have saved up.", at_least=256)
    ip_unsigned_per_s: float = setting(
        20.0, "Unsigned calls (enrolment, pairing) per address and second.", at_least=0
    )
    ip_unsigned_burst: int = setting(400, "Unsigned calls an address may save up.", at_least=1)
    ip_failures_per_s: float = setting(
        5.0, "Calls per address and second that fail to authenticate.", at_least=0
    )
    ip_failures_burst: int = setting(200, "Failures an address may save up.", at_least=1)
    ip_mailboxes_per_s: float = setting(
        0.2, "Pairing mailboxes that an address may make a second.", at_least=0
    )
    ip_mailboxes_burst: int = setting(40, "Mailboxes an address may save up.", at_least=1)
    nonces_max: int = setting(
        4_000_000,
        "Signed calls within five minutes, all accounts together; 100 bytes of memory each.",
        at_least=1,
    )
    nonces_account_max: int = setting(
        100_000, "The same of one account; more than its rate lets through.", at_least=1
    )
    rate_keys_max: int = setting(
        100_000, "Addresses and accounts whose rates are remembered.", at_least=1
    )

    pushes_max: int = setting(
        256, "Pushes at once; more are shed, not queued. 0: no bound, as below.",
        group="At once", at_least=0,
    )  # fmt: skip
    pulls_max: int = setting(256, "Pulls at once.", at_least=0)
    streams_max: int = setting(20_000, "Open streams.", at_least=0)
    queue_target_ms: int = setting(
        250,
        "While new calls wait longer than this to be taken up, a share of them is refused with"
        " OVERLOADED. 0: never.",
        at_least=0,
        at_most=10_000,
    )
    guests_max: int = setting(
        64, "Open calls that watch the health, or ask for reflection.", at_least=1
    )
    streams_per_account_max: int = setting(64, "Open streams of one account.", at_least=1)
    pairing_waits_max: int = setting(2_000, "Waiting calls of FetchMessage.", at_least=1)

    heartbeat_s: float = setting(
        45.0, "Seconds between heartbeats of an idle stream.",
        group="Streams", at_least=0.05, at_most=60,
    )  # fmt: skip
    backlog_ops_max: int = setting(
        4_096, "Ops sent in one go; a stream that is further behind is told RESYNC.", at_least=1
    )
    stall_s: float = setting(
        60.0, "A stream whose client takes nothing for so long is ended.", at_least=1
    )

    client_ip_header: str = setting(
        "",
        "Header that names the caller's address, as x-forwarded-for. Empty: the peer's.",
        group="Behind a proxy",
    )
    client_ip_hops: int = setting(
        1, "Which entry of it, counted from the right: how many proxies are ours.", at_least=1
    )

    max_pending_requests: int = setting(
        4_000,
        "Calls that wait to be taken up: about one second of work. More are shed.",
        group="gRPC",
        at_least=1,
    )
    max_connection_age_s: int = setting(
        1_800, "Connections are asked to close after so long, so that load spreads.", at_least=1
    )
    max_connection_age_grace_s: int = setting(
        60, "What is open then has so long to end.", at_least=0
    )
    min_ping_interval_ms: int = setting(
        10_000, "Clients may send HTTP/2 pings that often while idle.", at_least=0
    )
    receive_bytes_max: int = setting(
        2 << 20, "Largest message taken.", at_least=(1 << 20) + (64 << 10)
    )
    metadata_bytes_max: int = setting(16 << 10, "Metadata of one call.", at_least=4096)
    drain_s: float = setting(
        20.0, "How long calls in flight have to finish when the process is told to end.",
        at_least=0,
    )  # fmt: skip
    drain_delay_s: float = setting(
        0.0, "Before that: how long new calls are still taken while the health says NOT_SERVING.",
        at_least=0,
    )  # fmt: skip
    verify_threads: int = setting(
        1, "Threads that verify signatures of uploaded ops.", at_least=1, at_most=64
    )

    wake_gateway: str = setting(
        "", "Address of the push gateway that wakes sleeping phones. Empty: nobody is woken.",
        group="Waking phones",
    )  # fmt: skip
    wake_audience: str = setting(
        "gateway.rookery.localhost", "The gateway's own name; calls are signed for it only."
    )
    wake_tls: bool = setting(False, "Whether the gateway speaks TLS (off: loopback, or a mesh).")
    wake_ca_file: str = setting("", "PEM certificates to trust for it. Empty: the system's.")
    wake_tls_cert_file: str = setting(
        "", "PEM certificate of ours to show it. Empty with the key: none."
    )
    wake_tls_key_file: str = setting("", "PEM private key of wake_tls_cert_file.")
    wake_key_file: str = setting(
        "rookery-server.wake", "Key that signs calls of the gateway; readable by its owner only."
    )
    wake_debounce_s: float = setting(
        60.0, "A device is poked at most once in so long.", at_least=0, at_most=3_600
    )
    wake_spread_s: float = setting(
        2.0, "Pokes are put off by up to so long, each device's by itself.",
        at_least=0, at_most=600,
    )  # fmt: skip
    wake_handle_days: int = setting(
        90, "Wake handles that are not renewed are forgotten after so long.", at_least=1
    )
    wake_batch_max: int = setting(
        100, "Handles in one call of the gateway.", at_least=1, at_most=100
    )
    wake_queue_max: int = setting(
        10_000, "Accounts with new ops that wait to be looked at; the oldest are dropped.",
        at_least=1,
    )  # fmt: skip
    wake_timeout_s: float = setting(
        10.0, "Longest wait for an answer of the gateway.", at_least=0.1
    )

    log_level: str = setting(
        "info", "What is logged.", group="Logs", one_of=("debug", "info", "warning", "error")
    )
    log_format: str = setting("json", "json or text.", one_of=("json", "text"))
    access_log_share: float = setting(
        0.01, "Share of calls that get a line. A store that is away and defects always do.",
        at_least=0, at_most=1,
    )  # fmt: skip

    metrics_listen: str = setting(
        "", "Address and port of Prometheus metrics (GET /metrics, no TLS). Empty: none.",
        group="Telemetry",
    )  # fmt: skip
    traces_endpoint: str = setting(
        "", "Collector that traces go to by OTLP: https://HOST:PORT (http: no TLS). Empty: none."
    )
    traces_ca_file: str = setting("", "PEM certificates to trust for it. Empty: the system's.")
    traces_share: float = setting(0.01, "Share of calls that are traced.", at_least=0, at_most=1)
    traces_callers_per_s: float = setting(
        1.0, "Calls a second that are traced because their callers ask; 0: none.", at_least=0
    )

    def limits(self) -> Limits:
        """The part that the store wants."""
        return Limits(
            records_max=self.records_max,
            active_devices_max=self.active_devices_max,
            chain_links_max=self.chain_links_max,
            accounts_per_subject_max=self.accounts_per_subject_max,
            pairing_mailboxes_max=self.pairing_mailboxes_max,
            consents_max=self.consents_max,
            grace_ms=self.grace_days * _DAY_MS,
            tasks_max=self.tasks_max,
            rounds_max=self.rounds_max,
            contributions_max=self.round_contributions_max,
            boxes_ms=self.box_retention_days * _DAY_MS,
            results_ms=self.result_retention_days * _DAY_MS,
        )


def load(
    file: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Value] | None = None
) -> Config:
    """Defaults < file < environment < overrides. ConfigError says what is wrong and where."""
    config = settings.load(
        Config,
        ENV_PREFIX,
        file,
        environ,
        overrides or {},
        is_foreign=lambda name: name in _FOREIGN or name.startswith(_FOREIGN_PREFIXES),
    )
    _check_whole(config)
    return config


def of_arguments(arguments: argparse.Namespace) -> Config:
    """What a command of `rookery-server` was told, in whichever of the ways."""
    given = settings.of_options(arguments, "listen", "database", "audience")
    return load(arguments.config, os.environ, given)


def sources(arguments: argparse.Namespace) -> str:
    """Where `of_arguments` took settings from, for people: no value is in it."""
    file = f"file {arguments.config}" if arguments.config else "no file (--config)"
    known = {row.name for row in fields(Config)}
    variables = sorted(
        name
        for name in os.environ
        if name.startswith(ENV_PREFIX) and name.removeprefix(ENV_PREFIX).lower() in known
    )
    options = settings.of_options(arguments, "listen", "database", "audience")
    told = [*variables, *(f"--{name}" for name in options)]
    return f"from {file}; {', '.join(told) or f'no variable {ENV_PREFIX}...'}"


def store_absent(config: Config) -> str:
    """What to say to who looks for a store in a file that is not there."""
    return (
        f"{config.database}: is not there; say which store it is by --database, by --config"
        f" (the service's file) or by {ENV_PREFIX}DATABASE"
    )


def _check_whole(config: Config) -> None:
    settings.check_together(config, "tls_cert_file", "tls_key_file")
    otlp.check(config)
    if not config.audience:
        raise ConfigError("audience: must not be empty")
    if config.enrolment != "open" and not config.token_issuers:
        raise ConfigError("token_issuers: enrolment by token wants at least one public key")
    if config.result_retention_days < config.box_retention_days:
        raise ConfigError("result_retention_days: must not be less than box_retention_days")
    if config.redis_url:
        try:
            Address.parse(config.redis_url)
        except ValueError as error:
            raise ConfigError(f"redis_url: {error}") from None
    if config.redis_accept_loss not in ("", ACCEPTED_LOSS):
        raise ConfigError(f'redis_accept_loss: say "{ACCEPTED_LOSS}", or nothing')
    settings.check_together(config, "wake_tls_cert_file", "wake_tls_key_file")
    if config.wake_tls_cert_file and not config.wake_tls:
        raise ConfigError("wake_tls_cert_file: is shown over TLS only; set wake_tls")
    for name in ("token_issuers", "publishers", "analysts", "policy_keys"):
        listed.parse(name, getattr(config, name))
    TrustedHop.parse(config.trusted_hop)


def commented_toml() -> str:
    """A configuration file that sets every setting to its default and says what it does."""
    return settings.commented_toml(Config, "rookery-server", ENV_PREFIX, "listen")
