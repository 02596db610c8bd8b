"""What hands a push to a platform. A provider says what became of it and keeps no token.

FCM's HTTP v1 API is spoken over the standard library. APNs itself is not: it wants HTTP/2, which
the standard library lacks. Phones of both kinds are reached by FCM, if their app registers with
it. The access token comes from a file, because making one takes RSA signatures; what runs on
Google's machines, or `gcloud auth print-access-token`, makes them.
"""

from __future__ import annotations

import asyncio
import http.client
import ipaddress
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from crypto.wake import Platform
from services.settings import ConfigError
from services.wake.gateway_config import GatewayConfig
from services.wake.verdict import Verdict

_ANSWER_BYTES_MAX = 64 << 10
_LINE_BYTES_MAX = 64
_GONE_CODES = frozenset({"UNREGISTERED", "SENDER_ID_MISMATCH"})


class Provider(Protocol):
    """One platform's push service."""

    async def push(self, token: bytes) -> Verdict:
        """Wakes an app without showing anything. OSError and TimeoutError mean: later."""
        ...

    def close(self) -> None:
        """Lets go of what it holds."""
        ...


class Loopback:
    """Writes the token in hex to a socket beside the gateway, and reads `ok` or `gone`."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        if not _is_this_machine(host):
            raise ConfigError("loopback: must be HOST:PORT of this machine")
        self._place = host.strip("[]"), int(port)

    async def push(self, token: bytes) -> Verdict:
        """See `Provider.push`."""
        reader, writer = await asyncio.open_connection(*self._place, limit=_LINE_BYTES_MAX)
        try:
            writer.write(token.hex().encode() + b"\n")
            await writer.drain()
            line = await reader.readline()
        except ValueError:  # longer than the limit
            return Verdict.RETRY
        finally:
            writer.close()
        return {b"ok\n": Verdict.OK, b"gone\n": Verdict.GONE}.get(line, Verdict.RETRY)

    def close(self) -> None:
        """Nothing to let go of."""


class Fcm:
    """Firebase Cloud Messaging, HTTP v1: a data message without content, of high priority."""

    def __init__(
        self, project: str, access_token_file: Path, url: str, *, threads: int, timeout_s: float
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise ConfigError("fcm_url: must be an https URL")
        if parts.scheme == "http" and not _is_this_machine(parts.hostname):
            raise ConfigError("fcm_url: without TLS only on this machine")
        self._kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._place = parts.hostname, parts.port
        self._path = f"/v1/projects/{project}/messages:send"
        self._file = access_token_file
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(threads, "fcm")
        self._local = threading.local()

    async def push(self, token: bytes) -> Verdict:
        """See `Provider.push`."""
        try:
            text = token.decode("ascii")
        except UnicodeDecodeError:
            return Verdict.GONE
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._push, text)

    def close(self) -> None:
        """Ends the threads once they have nothing to do."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _push(self, token: str) -> Verdict:
        body = json.dumps({"message": message(token)}).encode()
        headers = {
            "Authorization": f"Bearer {self._file.read_text('ascii').strip()}",
            "Content-Type": "application/json",
        }
        try:
            return self._ask(body, headers)
        except (http.client.HTTPException, OSError):
            # A connection that waited was closed by the other side: once more, on a new one.
            self._local.connection = None
        try:
            return self._ask(body, headers)
        except http.client.HTTPException:
            return Verdict.RETRY

    def _ask(self, body: bytes, headers: dict[str, str]) -> Verdict:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            host, port = self._place
            connection = self._local.connection = self._kind(host, port, timeout=self._timeout_s)
        connection.request("POST", self._path, body, headers)
        answer = connection.getresponse()
        raw = answer.read(_ANSWER_BYTES_MAX)
        if answer.status == http.client.OK:
            return Verdict.OK
        return Verdict.GONE if error_code(raw) in _GONE_CODES else Verdict.RETRY


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def message(token: str) -> dict[str, Any]:
    """What FCM is asked to send: it wakes, and says nothing."""
    return {
        "token": token,
        "data": {"rookery": "wake"},
        "android": {"priority": "HIGH", "collapse_key": "rookery"},
        "apns": {
            "headers": {"apns-push-type": "background", "apns-priority": "5"},
            "payload": {"aps": {"content-available": 1}},
        },
    }


def error_code(raw: bytes) -> str:
    """FCM's own code in an error; empty if there is none."""
    try:
        details = json.loads(raw)["error"]["details"]
        return next(str(row["errorCode"]) for row in details if "errorCode" in row)
    except (ValueError, KeyError, TypeError, StopIteration):
        return ""


def providers(config: GatewayConfig) -> dict[Platform, Provider]:
    """Those that are configured; ConfigError."""
    found: dict[Platform, Provider] = {}
    if config.loopback:
        found[Platform.LOOPBACK] = Loopback(config.loopback)
    if config.fcm_project:
        found[Platform.FCM] = Fcm(
            config.fcm_project,
            Path(config.fcm_access_token_file),
            config.fcm_url,
            threads=config.pushes_max,
            timeout_s=config.push_timeout_s,
        )
    return found
