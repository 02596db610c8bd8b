"""`rookery-server check`: is the service fit to start, or to go on? Needs no lock, changes nothing.

It may run beside the service, and reads the store as it is at the moment.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc import RpcError

from rookery.v1 import accounts_pb2
from services.access.hop import LOOPBACK
from services.audit.trimming import gone_before_by
from services.audit.walk import untimely
from services.config import Config
from services.keeping import checks, copying, ring
from services.keeping.checks import DAY_MS
from services.keeping.current import Secrets, Trusted
from services.keeping.errors import KeepingError
from services.keeping.findings import Check, Finding, Level, failed, ok, warning
from services.listed import valid
from services.store.governance import Head, first_broken
from services.store.mark import BEAT_S, Mark
from services.store.opening import look_at_redis
from services.store.sqlite_governance import audit_anchor, policies, read_audit
from services.store.sqlite_schema import AUDIT_SCHEMA, MIGRATIONS, check_stays
from services.wake import waking

_KEYS = "/rookery.v1.Accounts/GetServerKeys"
_MAILBOX_MS = 300_000
_PEER_S = 5.0
_AUDIT_ROWS = 512
_LOCAL = ("127.", "localhost", "[::1]")


@dataclass(frozen=True, slots=True)
class Peer:
    """Another server of the deployment, to compare with."""

    address: str
    ca: bytes | None


def of_service(
    config: Config, *, source: str, peer: Peer | None, deep: bool
) -> Iterator[tuple[str, Check]]:
    """All checks of a service, by name. `source`: where the settings came from."""
    now_ms = checks.wall_ms()
    newest: list[int] = []
    yield "settings", lambda: _settings(config, source)
    yield "store", lambda: _store(config, newest, deep=deep)
    yield "clock", lambda: checks.clock(max(newest, default=None), now_ms)
    yield "keys", lambda: _keys(config, now_ms)
    yield "enrolment", lambda: _enrolment(config, now_ms)
    yield "lists", lambda: _lists(config, now_ms)
    if config.wake_gateway:
        yield "wake", lambda: _wake(config)
    yield "tls", lambda: checks.certificate(config, now_ms)
    yield "listen", lambda: [checks.address(config.listen, tls=bool(config.tls_cert_file))]
    if peer is not None:
        yield "peer", lambda: _peer(config, peer)


def _settings(config: Config, source: str) -> Iterator[Finding]:
    yield ok("settings", f"audience {config.audience}, {source}")
    here = config.listen.startswith(_LOCAL)
    if config.trusted_hop == LOOPBACK and not here:
        yield warning(
            "settings",
            "trusted_hop is loopback and listen is not: only its sidecar should reach the service",
        )
    if not here and config.audience == Config().audience:
        yield warning("settings", "audience is the default: name your deployment before clients do")
    if not here and not config.tls_cert_file and not config.client_ip_header:
        yield warning(
            "settings",
            "no TLS and no client_ip_header: behind a proxy, set the header, or all callers share"
            " one address's rates; without one, set tls_cert_file",
        )


def _store(config: Config, newest: list[int], *, deep: bool) -> Iterator[Finding]:
    if config.redis_url:
        yield from _redis(config)
        return
    path = Path(config.database)
    if not path.exists():
        yield warning(
            "store",
            f"{path} is not there: the service makes it when it starts; another one is named by"
            " --database, --config or ROOKERY_DATABASE",
        )
        yield checks.free_space(path, 0)
        return
    with copying.moment(path) as moment, copying.reported(path):
        check_stays(moment)
        yield from _mark(moment, path)
        newest += _newest(moment)
        yield from _schema(moment, path)
        if deep:
            copying.check_sound(moment, path)
            yield ok("store", "every page of it is sound")
            yield from _audit(moment, config)
    yield from checks.private("store", path)
    yield checks.free_space(path, path.stat().st_size)


def _audit(moment: sqlite3.Connection, config: Config) -> Iterator[Finding]:
    """Whether the audit log is the chain that it claims to be."""
    (version,) = moment.execute("PRAGMA user_version").fetchone()
    if version < AUDIT_SCHEMA:
        return
    head = anchor = audit_anchor(moment)
    while rows := read_audit(moment, head.seq, _AUDIT_ROWS):
        broken = first_broken(rows, head)
        if broken is not None:
            yield failed("audit", f"entry {broken} is altered, missing or not in its place")
            return
        head = Head(rows[-1].seq, rows[-1].hash)
    if anchor.seq:
        listed = frozenset(one.key for one in Trusted.of(config).policy)
        bound_ms = gone_before_by(policies(moment), listed, now_ms=checks.wall_ms())
        why = untimely(anchor, read_audit(moment, anchor.seq, 1), bound_ms)
        if why:
            yield failed("audit", why)
            return
    yield ok("audit", f"the log is one chain up to entry {head.seq}")


def _redis(config: Config) -> Iterator[Finding]:
    if config.redis_password_file:
        yield from checks.password_file(Path(config.redis_password_file))
    looked = asyncio.run(look_at_redis(config))
    yield ok("store", "Redis answers, and its settings keep what they must")
    if not looked.made:
        yield warning("store", "Redis is empty: the service makes its store when it starts")
    if looked.renews:
        yield warning(
            "store",
            "Redis may have lost writes: whoever opens the store next renews its generation, and"
            " clients compare",
        )
    for clock in looked.clocks:
        yield checks.skew(clock.name, clock.told_ms, clock.asked_ms, clock.got_ms)


def _schema(moment: sqlite3.Connection, path: Path) -> Iterator[Finding]:
    (version,) = moment.execute("PRAGMA user_version").fetchone()
    (accounts,) = moment.execute("SELECT count(*) FROM account").fetchone()
    size = path.stat().st_size >> 20
    text = f"{path}, schema {version}, {accounts} accounts, {size} MiB"
    if version < len(MIGRATIONS):
        text += f"; the next start brings it to schema {len(MIGRATIONS)}: take a backup before"
        yield warning("store", text)
    else:
        yield ok("store", text)


def _mark(moment: sqlite3.Connection, path: Path) -> Iterator[Finding]:
    """A running service counts on between the two looks: that is no sign of anything."""
    meta = dict(
        moment.execute("SELECT name, value FROM meta WHERE name IN ('generation', 'beats')")
    )
    told = Mark(path).read()
    if told is None:
        behind = int(meta.get("beats", 0)) > 0
    else:
        behind = told[0] != meta["generation"] or told[1] > int(meta["beats"]) + 2 / BEAT_S
    if behind:
        yield warning(
            "store",
            "the file is not the one that was served last (a restored copy): the next start gives"
            " it a new generation, and clients compare",
        )


def _newest(moment: sqlite3.Connection) -> list[int]:
    """Times that the service wrote by its own clock."""
    rows = (
        ("SELECT max(ended_ms) FROM epoch_end", 0),
        ("SELECT max(expires_ms) FROM mailbox", _MAILBOX_MS),
    )
    found = []
    for query, ahead_ms in rows:
        (value,) = moment.execute(query).fetchone()
        if value is not None:
            found.append(int(value) - ahead_ms)
    return found


def _keys(config: Config, now_ms: int) -> Iterator[Finding]:
    identity, pepper = Path(config.identity_key_file), Path(config.pepper_file)
    found = [*checks.key_file("identity", identity), *checks.key_file("pepper", pepper)]
    yield from found
    if any(row.level is Level.FAILED for row in found):
        return
    secrets = Secrets.read(config)
    yield ok("identity", f"server_key {secrets.server_key.public.hex()}")
    if identity.with_name(identity.name + ring.NEXT).exists():
        yield warning("identity", "a rotation was cut off: run `keys rotate identity` again")
    statements = ring.read_successions(identity, audience=config.audience)
    if len(secrets.successions) < len(statements):
        yield warning(
            "identity",
            f"{identity}{ring.SUCCESSIONS} has successions that lead to another key than the one"
            " in force: is that an old copy?",
        )
    over = [row for _, row in statements if row.until_ms + 365 * DAY_MS < now_ms]
    if over:
        yield warning(
            "identity",
            f"{len(over)} keys are over for more than a year: `keys retire identity"
            f" {over[-1].old.hex()[:16]}` once all clients have come",
        )
    if secrets.peppers_before:
        yield warning(
            "pepper",
            f"{len(secrets.peppers_before)} before still count: `keys list`, then `keys retire"
            " pepper` once accounts under them need not count",
        )


def _enrolment(config: Config, now_ms: int) -> Iterator[Finding]:
    issuers = Trusted.of(config).issuers
    yield from checks.listed_keys("token issuers", issuers, now_ms)
    if config.enrolment != "open" and not valid(issuers, now_ms):
        yield failed("enrolment", "every token issuer has ended: nobody can make an account")
    elif config.enrolment != "token" and config.pow_bits == 0:
        yield warning("enrolment", "open without proof of work: set pow_bits")
    else:
        yield ok("enrolment", config.enrolment)


def _wake(config: Config) -> Iterator[Finding]:
    waking.check(config)
    yield ok("wake", f"wake_key {waking.key(config).public.hex()}")


def _lists(config: Config, now_ms: int) -> Iterator[Finding]:
    trusted = Trusted.of(config)
    yield from checks.listed_keys("publishers", trusted.publishers, now_ms)
    yield from checks.listed_keys("analysts", trusted.analysts, now_ms)
    yield from checks.listed_keys("policy_keys", trusted.policy, now_ms)


def _peer(config: Config, peer: Peer) -> Iterator[Finding]:
    """Clock and key of another server."""
    sent_ms = checks.wall_ms()
    with _channel(peer) as channel:
        ask: Any = channel.unary_unary(_KEYS)
        try:
            answer = accounts_pb2.GetServerKeysResponse.FromString(ask(b"", timeout=_PEER_S))
        except RpcError as error:
            code = getattr(error, "code", lambda: "no code")()
            raise KeepingError(f"{peer.address} does not answer ({code})") from None
    yield checks.skew(peer.address, answer.info.server_ms, sent_ms, checks.wall_ms())
    if answer.server_key != Secrets.read(config).server_key.public:
        yield warning(
            "peer",
            f"{peer.address} signs with another key ({answer.server_key.hex()[:16]}…): a rotation"
            " that has not reached both, or another deployment",
        )
    else:
        yield ok("peer", f"{peer.address} signs with the same key")


def _channel(peer: Peer) -> grpc.Channel:
    if peer.ca is None:
        return grpc.insecure_channel(peer.address, options=[("grpc.enable_http_proxy", 0)])
    return grpc.secure_channel(peer.address, grpc.ssl_channel_credentials(peer.ca))
