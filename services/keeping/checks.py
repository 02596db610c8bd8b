"""What can be wrong around any process of ours: its clock, files, certificate, address, lists."""

from __future__ import annotations

import ctypes
import os
import shutil
import ssl
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services import keys
from services.keeping.findings import Finding, failed, ok, warning
from services.keys import KeyFileError
from services.listed import Listed
from services.listen import Address, credentials, why_not

DAY_MS = 86_400_000
SOON_MS = 14 * DAY_MS
SKEW_MS_MAX = 120_000
"""Signed requests are taken within so much of the service's clock."""
SKEW_MS_ODD = 5_000
FREE_BYTES_MIN = 256 << 20
FREE_SHARE_MIN = 0.1
_PEER_S = 2.0
_TIME_ERROR = 5
_TIMEX_BYTES = 512
"""More than struct timex has anywhere; zeros ask and change nothing."""


def clock(newest_ms: int | None, now_ms: int) -> Iterator[Finding]:
    """Whether the system keeps it, and whether the store has seen later times."""
    state = _clock_state()
    if state is None:
        yield warning("clock", "this system does not say whether its clock is kept: use NTP")
    elif state == _TIME_ERROR:
        yield warning(
            "clock", "the system says that nothing keeps its clock: run an NTP client (chrony)"
        )
    else:
        yield ok("clock", "is kept, says the system")
    if newest_ms is not None and newest_ms > now_ms + SKEW_MS_MAX:
        yield failed(
            "clock",
            f"the store was written {(newest_ms - now_ms) / 1000:.0f} s in the future of this"
            " clock: set the clock before starting",
        )


def _clock_state() -> int | None:
    """What adjtimex(2) returns; None where there is none."""
    if sys.platform != "linux":
        return None
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    if adjtimex is None:
        return None
    state = int(adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    return state if state >= 0 else None


def skew(name: str, their_ms: int, sent_ms: int, got_ms: int) -> Finding:
    """Another clock, asked over the network."""
    off_ms = their_ms - (sent_ms + got_ms) // 2
    text = f"{name} is {abs(off_ms) / 1000:.1f} s {'ahead' if off_ms > 0 else 'behind'}"
    if abs(off_ms) > SKEW_MS_MAX:
        return failed("clock", text + ": calls that are signed by one of these clocks are refused")
    if abs(off_ms) > SKEW_MS_ODD:
        return warning("clock", text + ": one of the two is not kept")
    return ok("clock", text)


def key_file(check: str, path: Path) -> Iterator[Finding]:
    """There, whole, its owner's alone, and its owner is who runs this."""
    try:
        keys.read(path)
    except KeyFileError as error:
        yield failed(check, str(error))
        return
    owner = path.stat().st_uid
    if owner not in (0, os.geteuid()):
        yield warning(check, f"{path}: belongs to another user ({owner}): chown it")
    else:
        yield ok(check, f"{path} is in order")


def listed_keys(check: str, rows: Iterable[Listed], now_ms: int) -> Iterator[Finding]:
    """Those that ended or will soon."""
    count = 0
    for row in rows:
        name = row.key.hex()[:16]
        if row.until_ms is None:
            count += 1
        elif not row.is_valid(now_ms):
            yield warning(check, f"{name}… has ended: take it out of the list")
        elif row.until_ms - now_ms < SOON_MS:
            count += 1
            days = (row.until_ms - now_ms) // DAY_MS
            yield warning(check, f"{name}… ends in {days} days: list its successor")
        else:
            count += 1
    yield ok(check, f"{count} in force")


def free_space(path: Path, needed: int) -> Finding:
    """Of the disk that a file is on, or will be."""
    usage = shutil.disk_usage(path.parent)
    text = f"{usage.free >> 20} MiB free of {usage.total >> 20} MiB at {path.parent}"
    if usage.free < FREE_BYTES_MIN:
        return failed("disk", text + ": writes will be refused soon; make room")
    if usage.free < max(FREE_SHARE_MIN * usage.total, needed):
        return warning("disk", text + f": make room for {needed >> 20} MiB at least")
    return ok("disk", text)


def private(check: str, path: Path) -> Iterator[Finding]:
    """A database is its owner's alone."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        yield warning(check, f"{path}: others may read it (mode {mode:04o}): chmod 600 it")


def password_file(path: Path) -> Iterator[Finding]:
    """It is for nobody but who may read a key file."""
    try:
        found = path.stat()
    except OSError:
        return  # whoever connects says so
    if keys.open_to_others(found, os.geteuid(), os.getegid()):
        yield warning("store", f"{path}: others may read Redis's password: chmod 600 it")


def certificate(config: Address, now_ms: int) -> Iterator[Finding]:
    """It fits its key, and how long it lasts."""
    if not config.tls_cert_file:
        yield ok("tls", "off: for a proxy in front, or loopback")
        return
    credentials(config)
    try:
        begins_ms, ends_ms = _validity(Path(config.tls_cert_file), Path(config.tls_key_file))
    except ssl.SSLCertVerificationError as error:
        yield failed("tls", f"{config.tls_cert_file}: {error.verify_message}: renew it")
        return
    days = (ends_ms - now_ms) // DAY_MS
    if ends_ms <= now_ms:
        yield failed("tls", f"{config.tls_cert_file}: has ended: renew it and restart")
    elif begins_ms > now_ms:
        yield failed("tls", f"{config.tls_cert_file}: is not valid yet; look at the clock")
    elif ends_ms - now_ms < SOON_MS:
        yield warning("tls", f"{config.tls_cert_file}: ends in {days} days: renew it and restart")
    else:
        yield ok("tls", f"{config.tls_cert_file} fits its key and lasts {days} days")


def _validity(cert: Path, key: Path) -> tuple[int, int]:
    """By a handshake in memory, which is how Python is asked what is in a certificate."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key, password="")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cert)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True))
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    found = ends[0].getpeercert()
    if found is None:
        return 0, 0
    begins, ends_at = str(found["notBefore"]), str(found["notAfter"])
    return ssl.cert_time_to_seconds(begins) * 1000, ssl.cert_time_to_seconds(ends_at) * 1000


def address(listen: str, *, tls: bool) -> Finding:
    """Free to listen on; or one of ours listens there."""
    host, _, port = listen.rpartition(":")
    why = why_not(listen)
    if why == "can't be listened on":
        return ok("listen", f"{listen} is free" if port != "0" else f"a free port of {host}")
    if why != "is in use":
        return failed("listen", f"{listen} {why}: set `listen` to another")
    if tls:
        return warning("listen", f"{listen} is in use: by the process that runs, it is hoped")
    if _is_serving(listen):
        return ok("listen", f"{listen} is served")
    return failed("listen", f"{listen} is in use by something else: set `listen` to another")


def _is_serving(listen: str) -> bool:
    with grpc.insecure_channel(listen, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=_PEER_S)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def wall_ms() -> int:
    """This machine's clock."""
    return time.time_ns() // 1_000_000
