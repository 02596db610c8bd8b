"""Every setting of `rookery-server`, in one place: name, default, what it means.

Defaults yield to the TOML file, the file to the environment (`ROOKERY_` and the name in
capitals), the environment to the command line. What is not a setting is refused, with the
name that it comes nearest to: a setting that is misspelt and ignored is a hole.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from services.store.base import Limits

ENV_PREFIX = "ROOKERY_"
# Read by devices, parties and tools on the same machine; none of them is a server's setting.
_FOREIGN = ("SERVER", "SERVER_KEY", "SERVER_CA", "HOME", "STATE", "PASSPHRASE", "PROFILE")
_FOREIGN_PREFIXES = ("CLIENT_", "DEVICE_", "PARTY_", "DEMO_", "BENCH_", "TEST_")
_DAY_MS = 86_400_000

Value = str | int | float | bool | tuple[str, ...]


class ConfigError(Exception):
    """A setting is unknown, or its value is not of the kind or in the range that it must be."""


def _setting(
    default: Any,
    doc: str,
    *,
    group: str = "",
    at_least: float | None = None,
    at_most: float | None = None,
    one_of: tuple[str, ...] = (),
) -> Any:
    return field(
        default=default,
        metadata={
            "doc": doc,
            "group": group,
            "at_least": at_least,
            "at_most": at_most,
            "one_of": one_of,
        },
    )


@dataclass(frozen=True, slots=True)
class Config:
    """What one process is told. Immutable; made by `load`."""

    listen: str = _setting(
        "127.0.0.1:7443",
        "Address and port to listen on; port 0 takes a free one.",
        group="Address",
    )
    tls_cert_file: str = _setting(
        "", "PEM certificate chain. Empty with the key: no TLS (behind a proxy, or loopback)."
    )
    tls_key_file: str = _setting("", "PEM private key of tls_cert_file.")
    audience: str = _setting(
        "rookery.localhost",
        "Name of this deployment. Signed requests and enrolment tokens are for one name only.",
    )
    reflection: bool = _setting(False, "Serve gRPC reflection.")

    database: str = _setting("rookery.db", "Path of the SQLite database.", group="Storage and keys")
    identity_key_file: str = _setting(
        "rookery-server.key", "Identity key that signs receipts; readable by its owner only."
    )
    pepper_file: str = _setting(
        "rookery-server.pepper", "Secret for subject rows, kept outside the store; same mode."
    )

    enrolment: str = _setting(
        "open",
        "Who may make an account: open (proof of work), token (signed by the app), or both.",
        group="Enrolment",
        one_of=("open", "token", "both"),
    )
    pow_bits: int = _setting(18, "Leading zero bits of the proof of work.", at_least=0, at_most=40)
    token_issuers: tuple[str, ...] = _setting(
        (), "Ed25519 public keys (64 hex digits) of the backends that sign tokens."
    )

    records_max: int = _setting(
        50_000, "Live records per account.", group="Limits of an account", at_least=1
    )
    active_devices_max: int = _setting(16, "Active devices per account.", at_least=1, at_most=255)
    chain_links_max: int = _setting(10_000, "Links per device chain.", at_least=2)
    accounts_per_subject_max: int = _setting(3, "Accounts per subject (tokens).", at_least=1)
    pairing_mailboxes_max: int = _setting(10_000, "Pairing mailboxes at once.", at_least=1)
    grace_days: int = _setting(
        30, "How long ops of the epoch before are taken after a rotation.", at_least=0
    )

    publishers: tuple[str, ...] = _setting(
        (), "Ed25519 public keys (64 hex digits) of those who may publish tasks and open rounds.",
        group="Joint aggregates",
    )  # fmt: skip
    analysts: tuple[str, ...] = _setting(
        (), "Public keys of those who may read tasks, rounds and results, and nothing else."
    )
    tasks_max: int = _setting(1_000, "Tasks, those that are over included.", at_least=1)
    rounds_max: int = _setting(10_000, "Rounds that are held, with their results.", at_least=1)
    round_contributions_max: int = _setting(
        1_000_000, "Contributions per round.", at_least=1, at_most=(1 << 32) - 1
    )
    box_retention_days: int = _setting(
        7, "How long sealed boxes wait for a result after their window; then they go.", at_least=1
    )
    result_retention_days: int = _setting(
        400, "How long a round and its result are kept after its window.", at_least=1
    )

    account_calls_per_s: float = _setting(
        50.0, "Calls per account and second; 0: no bound, as for all rates.",
        group="Rates", at_least=0,
    )  # fmt: skip
    account_calls_burst: int = _setting(400, "Calls an account may have saved up.", at_least=1)
    account_ops_per_s: float = _setting(500.0, "Ops per account and second.", at_least=0)
    account_ops_burst: int = _setting(10_000, "Ops an account may have saved up.", at_least=256)
    ip_unsigned_per_s: float = _setting(
        20.0, "Unsigned calls (enrolment, pairing) per address and second.", at_least=0
    )
    ip_unsigned_burst: int = _setting(400, "Unsigned calls an address may save up.", at_least=1)
    ip_failures_per_s: float = _setting(
        5.0, "Calls per address and second that fail to authenticate.", at_least=0
    )
    ip_failures_burst: int = _setting(200, "Failures an address may save up.", at_least=1)
    ip_mailboxes_per_s: float = _setting(
        0.2, "Pairing mailboxes that an address may make a second.", at_least=0
    )
    ip_mailboxes_burst: int = _setting(40, "Mailboxes an address may save up.", at_least=1)
    nonces_max: int = _setting(
        4_000_000,
        "Signed calls within five minutes, all accounts together; 100 bytes of memory each.",
        at_least=1,
    )
    nonces_account_max: int = _setting(
        100_000, "The same of one account; more than its rate lets through.", at_least=1
    )
    rate_keys_max: int = _setting(
        100_000, "Addresses and accounts whose rates are remembered.", at_least=1
    )

    pushes_max: int = _setting(
        1_024, "Pushes at once; more are shed, not queued. 0: no bound, as below.",
        group="At once", at_least=0,
    )  # fmt: skip
    pulls_max: int = _setting(256, "Pulls at once.", at_least=0)
    streams_max: int = _setting(20_000, "Open streams.", at_least=0)
    guests_max: int = _setting(
        64, "Open calls that watch the health, or ask for reflection.", at_least=1
    )
    streams_per_account_max: int = _setting(64, "Open streams of one account.", at_least=1)
    pairing_waits_max: int = _setting(2_000, "Waiting calls of FetchMessage.", at_least=1)

    heartbeat_s: float = _setting(
        45.0, "Seconds between heartbeats of an idle stream.",
        group="Streams", at_least=0.05, at_most=60,
    )  # fmt: skip
    backlog_ops_max: int = _setting(
        4_096, "Ops sent in one go; a stream that is further behind is told RESYNC.", at_least=1
    )
    stall_s: float = _setting(
        60.0, "A stream whose client takes nothing for so long is ended.", at_least=1
    )

    client_ip_header: str = _setting(
        "",
        "Header that names the caller's address, as x-forwarded-for. Empty: the peer's.",
        group="Behind a proxy",
    )
    client_ip_hops: int = _setting(
        1, "Which entry of it, counted from the right: how many proxies are ours.", at_least=1
    )

    max_pending_requests: int = _setting(
        4_000,
        "Calls that wait to be taken up: about one second of work. More are shed.",
        group="gRPC",
        at_least=1,
    )
    max_connection_age_s: int = _setting(
        1_800, "Connections are asked to close after so long, so that load spreads.", at_least=1
    )
    max_connection_age_grace_s: int = _setting(
        60, "What is open then has so long to end.", at_least=0
    )
    min_ping_interval_ms: int = _setting(
        10_000, "Clients may send HTTP/2 pings that often while idle.", at_least=0
    )
    receive_bytes_max: int = _setting(
        2 << 20, "Largest message taken.", at_least=(1 << 20) + (64 << 10)
    )
    metadata_bytes_max: int = _setting(16 << 10, "Metadata of one call.", at_least=4096)
    drain_s: float = _setting(
        20.0, "How long calls in flight have to finish when the process is told to end.",
        at_least=0,
    )  # fmt: skip
    verify_threads: int = _setting(
        1, "Threads that verify signatures of uploaded ops.", at_least=1, at_most=64
    )

    log_level: str = _setting(
        "info", "What is logged.", group="Logs", one_of=("debug", "info", "warning", "error")
    )
    log_format: str = _setting("json", "json or text.", one_of=("json", "text"))
    access_log_share: float = _setting(
        0.01, "Share of successful calls that get a line; failures of the service always do.",
        at_least=0, at_most=1,
    )  # fmt: skip

    def limits(self) -> Limits:
        """The part that the store wants."""
        return Limits(
            records_max=self.records_max,
            active_devices_max=self.active_devices_max,
            chain_links_max=self.chain_links_max,
            accounts_per_subject_max=self.accounts_per_subject_max,
            pairing_mailboxes_max=self.pairing_mailboxes_max,
            grace_ms=self.grace_days * _DAY_MS,
            tasks_max=self.tasks_max,
            rounds_max=self.rounds_max,
            contributions_max=self.round_contributions_max,
            boxes_ms=self.box_retention_days * _DAY_MS,
            results_ms=self.result_retention_days * _DAY_MS,
        )


def _fields() -> dict[str, Field[Any]]:
    return {row.name: row for row in fields(Config)}


def load(
    file: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Value] | None = None
) -> Config:
    """Defaults < file < environment < overrides. ConfigError says what is wrong and where."""
    values: dict[str, Value] = {}
    if file is not None:
        values |= _from_file(file)
    values |= _from_environ(environ)
    values |= dict(overrides or {})
    for name, value in values.items():
        _check_range(name, value)
    config = Config(**values)  # type: ignore[arg-type]
    _check_whole(config)
    return config


def _from_file(file: Path) -> dict[str, Value]:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: can't be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: is not TOML ({error})") from None
    return {name: _typed(name, value, str(file)) for name, value in table.items()}


def _from_environ(environ: Mapping[str, str]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for variable, text in environ.items():
        name = variable.removeprefix(ENV_PREFIX)
        if name == variable or name in _FOREIGN or name.startswith(_FOREIGN_PREFIXES):
            continue
        known = _known(name.lower(), variable, lambda near: ENV_PREFIX + near.upper())
        values[known.name] = _parse(known, text, variable)
    return values


def _known(name: str, where: str, spell: Any = str) -> Field[Any]:
    known = _fields()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    raise ConfigError(f"{where}: there is no such setting; did you mean {spell(near[0])}?")


def _typed(name: str, value: object, where: str) -> Value:
    row = _known(name, f"{where}: {name}")
    wanted = type(row.default)
    if wanted is float and type(value) is int:
        return float(value)
    if wanted is tuple and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if type(value) is wanted and isinstance(value, str | int | float | bool):
        return value
    raise ConfigError(f"{where}: {name} must be {_KINDS[wanted]}")


_KINDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a list of texts",
}


def _parse(row: Field[Any], text: str, where: str) -> Value:
    wanted: type = type(row.default)
    try:
        if wanted is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if wanted is tuple:
            return tuple(part.strip() for part in text.split(",") if part.strip())
        if wanted in (int, float):
            number: int | float = wanted(text)
            return number
    except (KeyError, ValueError):
        raise ConfigError(f"{where}: must be {_KINDS[wanted]}") from None
    return text


def _check_range(name: str, value: Value) -> None:
    meta = _fields()[name].metadata
    if meta["one_of"] and value not in meta["one_of"]:
        raise ConfigError(f"{name}: must be one of {', '.join(meta['one_of'])}")
    low, high = meta["at_least"], meta["at_most"]
    if isinstance(value, int | float):
        # Not "value < low": every comparison with a NaN is false.
        if low is not None and not value >= low:
            raise ConfigError(f"{name}: must be at least {low}")
        if high is not None and not value <= high:
            raise ConfigError(f"{name}: must be at most {high}")


def _check_whole(config: Config) -> None:
    if bool(config.tls_cert_file) != bool(config.tls_key_file):
        raise ConfigError("tls_cert_file and tls_key_file go together")
    if not config.audience:
        raise ConfigError("audience: must not be empty")
    if config.enrolment != "open" and not config.token_issuers:
        raise ConfigError("token_issuers: enrolment by token wants at least one public key")
    if config.result_retention_days < config.box_retention_days:
        raise ConfigError("result_retention_days: must not be less than box_retention_days")
    for name in ("token_issuers", "publishers", "analysts"):
        public_keys(config, name)


def public_keys(config: Config, name: str) -> tuple[bytes, ...]:
    """The public keys of a setting as bytes; ConfigError if one is not 64 hex digits."""
    try:
        keys = tuple(bytes.fromhex(text) for text in getattr(config, name))
    except ValueError:
        keys = (b"",)
    if any(len(key) != 32 for key in keys):
        raise ConfigError(f"{name}: a public key has 64 hex digits")
    return keys


def commented_toml() -> str:
    """A configuration file that sets every setting to its default and says what it does."""
    return "\n".join(_toml_lines()) + "\n"


def _toml_lines() -> Iterator[str]:
    yield "# Settings of rookery-server. Each can also come from the environment:"
    yield f"# {ENV_PREFIX}LISTEN for `listen`, and so on; the environment wins."
    for row in fields(Config):
        meta = row.metadata
        if meta["group"]:
            yield f"\n# --- {meta['group']} ---"
        yield f"\n# {meta['doc']}"
        value = list(row.default) if isinstance(row.default, tuple) else row.default
        yield f"{row.name} = {json.dumps(value)}"
