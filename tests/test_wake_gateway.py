"""The reference gateway: whom it serves, which handles it opens, and what it hands to platforms."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from crypto import wake
from crypto.keys import Recipient
from crypto.request import CallKind
from crypto.wake import HANDLE_BYTES, Platform, PushToken
from mpc.keys import ServiceKey
from rookery.v1 import gateway_pb2
from services.outgoing import signed_metadata
from services.settings import ConfigError
from services.wake import gateway_config
from services.wake.providers import Fcm, Loopback
from services.wake.sender import GatewayDown, Sender, credentials
from services.wake.verdict import GATEWAY_METHOD, HANDLES_MAX, Verdict
from tests.certificates import certificate
from tests.metered import scraped
from tests.served import AUDIENCE, Refusal, config, refusal
from tests.wake_worlds import (
    GATEWAY_AUDIENCE,
    KEY,
    SERVICE_KEY,
    Phones,
    gateway,
    phones,
    token_of,
    waking,
)

DAY_MS = 86_400_000
OK, GONE, RETRY = Verdict.OK, Verdict.GONE, Verdict.RETRY


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def handle(name: str = "a", *, audience: str = AUDIENCE, days: int = 1) -> bytes:
    """A handle of a loopback phone."""
    return sealed(token_of(name), audience=audience, days=days)


def sealed(token: PushToken, *, audience: str = AUDIENCE, days: int = 1) -> bytes:
    """A handle for the gateway of these tests."""
    expires_ms = now_ms() + days * DAY_MS
    return wake.seal(Recipient(KEY.public), token, audience=audience, expires_ms=expires_ms)


class Caller:
    """Whoever calls a gateway."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = channel.unary_unary(GATEWAY_METHOD)

    def signed(
        self,
        *handles: bytes,
        key: ServiceKey = SERVICE_KEY,
        audience: str = GATEWAY_AUDIENCE,
        ts_ms: int | None = None,
    ) -> tuple[bytes, Any]:
        """A call's bytes and its metadata."""
        payload = gateway_pb2.WakeRequest(handles=handles).SerializeToString()
        metadata = signed_metadata(
            key, kind=CallKind.UNARY, method=GATEWAY_METHOD, audience=audience, payload=payload,
            now_ms=now_ms() if ts_ms is None else ts_ms,
        )  # fmt: skip
        return payload, metadata

    async def send(self, payload: bytes, metadata: Any = ()) -> list[Verdict]:
        """The verdicts; Refusal."""
        try:
            raw = await self._stub(payload, metadata=metadata, timeout=20)
        except grpc.aio.AioRpcError as error:
            raise Refusal.of(error) from None
        return [Verdict(number) for number in gateway_pb2.WakeResponse.FromString(raw).verdicts]

    async def wake(self, *handles: bytes, **how: Any) -> list[Verdict]:
        """One call."""
        return await self.send(*self.signed(*handles, **how))


@asynccontextmanager
async def calling(**settings: Any) -> AsyncIterator[tuple[Caller, Phones]]:
    """A gateway, somebody who calls it, and the phones behind it."""
    async with (
        phones() as platform,
        gateway(platform, **settings) as told,
        grpc.aio.insecure_channel(told.address) as channel,
    ):
        yield Caller(channel), platform


async def test_each_handle_has_a_verdict_in_its_place() -> None:
    """Good ones are poked; what can't be opened, has ended or is another's is gone."""
    async with calling() as (caller, platform):
        platform.gone.add("lost")
        own = handle()
        told = await caller.wake(
            own, handle("lost"), handle(audience="else"), handle(days=-1),
            own[:-1] + bytes((own[-1] ^ 1,)), handle("b"),
        )  # fmt: skip
        assert told == [OK, GONE, GONE, GONE, GONE, OK]
        assert sorted(platform.pokes) == ["a", "b", "lost"]


async def test_verdicts_and_calls_are_counted() -> None:
    """Two that are woken, one that is gone, in one call; no label says whom, or how."""
    async with (
        phones() as platform,
        gateway(platform, metrics_listen="127.0.0.1:0") as told,
        grpc.aio.insecure_channel(told.address) as channel,
    ):
        await Caller(channel).wake(handle(), handle("b"), handle(days=-1))
        page = await scraped(told.gateway.scrape.address)
    assert page["rookery_gateway_verdicts_total", (("verdict", "ok"),)] == 2
    assert page["rookery_gateway_verdicts_total", (("verdict", "gone"),)] == 1
    labels = (("method", "rookery.v1.Gateway/Wake"), ("status", "OK"))
    assert page["rookery_call_seconds_count", labels] == 1


async def test_strangers_and_wrong_signatures_all_get_one_answer() -> None:
    """Another key, no signature, one for another gateway: nobody is woken."""
    async with calling() as (caller, platform):
        stranger = ServiceKey(b"\x99" * 32)
        refused = [
            await refusal(caller.wake(handle(), key=stranger)),
            await refusal(caller.wake(handle(), audience="gateway.elsewhere")),
            await refusal(caller.send(caller.signed(handle())[0])),
            await refusal(caller.send(caller.signed(handle())[0], caller.signed(handle())[1])),
        ]
        assert {one.reason for one in refused} == {"UNAUTHENTICATED"}
        assert platform.pokes == []


async def test_a_call_is_good_once_and_not_for_the_next_process() -> None:
    """A captured call wakes nobody again, not even after a restart that forgot it."""
    async with calling() as (caller, platform):
        before_ms = now_ms()
        call = caller.signed(handle())
        assert await caller.send(*call) == [OK]
        assert (await refusal(caller.send(*call))).reason == "UNAUTHENTICATED"
        early = caller.signed(handle(), ts_ms=before_ms - 60_000)
        assert (await refusal(caller.send(*early))).reason == "CLOCK_SKEW"
        assert platform.pokes == ["a"]


async def test_what_is_no_call_of_handles_is_refused_whole() -> None:
    """None, too many, a wrong length."""
    async with calling() as (caller, _):
        for bad in ((), (b"h" * (HANDLE_BYTES - 1),), (handle(), b"")):
            assert (await refusal(caller.wake(*bad))).reason == "MALFORMED"
        many = await refusal(caller.wake(*[handle()] * (HANDLES_MAX + 1)))
        assert (many.reason, many.metadata["limit"]) == ("QUOTA", "handles_per_call")
        assert len(await caller.wake(*[handle()] * HANDLES_MAX)) == HANDLES_MAX


async def test_a_token_is_poked_so_often_whatever_its_handle() -> None:
    """Who registers one phone a hundred times wakes it no more often."""
    async with calling(token_pokes_per_s=0.001, token_pokes_burst=2) as (caller, platform):
        told = await caller.wake(*(handle() for _ in range(5)), handle("b"))
        assert sorted(told) == sorted([OK, OK, RETRY, RETRY, RETRY, OK])
        assert sorted(platform.pokes) == ["a", "a", "b"]


async def test_a_platform_that_is_away_or_not_served_is_asked_later() -> None:
    """RETRY, not GONE: nothing is known of the token."""
    async with calling() as (caller, platform):
        fcm = sealed(PushToken(Platform.FCM, b"some-token"))
        assert await caller.wake(fcm) == [RETRY]
        await platform.stop()
        assert await caller.wake(handle()) == [RETRY]
        await platform.start()


class Google(BaseHTTPRequestHandler):
    """What FCM answers, by the token that it is asked for."""

    asked: list[tuple[str, str, Any]]
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, self.headers["Authorization"], body))
        status, code = {
            "good": (200, ""),
            "old": (404, "UNREGISTERED"),
            "other": (403, "SENDER_ID_MISMATCH"),
            "busy": (429, "QUOTA_EXCEEDED"),
            "broken": (500, "INTERNAL"),
        }[body["message"]["token"]]
        details = [{"@type": "type.googleapis.com/x"}, {"errorCode": code}]
        raw = json.dumps({"name": "x"} if status == 200 else {"error": {"details": details}})
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw.encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing."""


@contextmanager
def google() -> Iterator[tuple[str, list[tuple[str, str, Any]]]]:
    """Its address, and what it was asked."""
    asked: list[tuple[str, str, Any]] = []
    handler = type("Handler", (Google,), {"asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def test_what_fcm_is_asked_and_what_its_answers_mean(tmp_path: Path) -> None:
    """A silent message with the token and the project's access token, read anew each time."""
    file = tmp_path / "access"
    file.write_text("first\n")
    with google() as (url, asked):
        fcm = Fcm("proj", file, url, threads=1, timeout_s=5)
        verdicts = [await fcm.push(b"good")]
        file.write_text("second\n")
        verdicts += [await fcm.push(name) for name in (b"old", b"other", b"busy", b"broken")]
        assert verdicts == [OK, GONE, GONE, RETRY, RETRY]
        assert await fcm.push("tökén".encode()) == GONE
        path, bearer, body = asked[0]
        assert path == "/v1/projects/proj/messages:send"
        assert (bearer, asked[1][1]) == ("Bearer first", "Bearer second")
        assert body["message"]["apns"]["payload"] == {"aps": {"content-available": 1}}
        assert "notification" not in body["message"]
        fcm.close()
    fcm = Fcm("proj", file, url, threads=1, timeout_s=5)
    with pytest.raises(OSError, match="refused"):
        await fcm.push(b"good")
    fcm.close()


async def test_a_gateway_hands_tokens_of_fcm_to_fcm(tmp_path: Path) -> None:
    """Through handles, the whole way."""
    (tmp_path / "access").write_text("t")
    with google() as (url, asked):
        settings = {"fcm_project": "p", "fcm_access_token_file": str(tmp_path / "access")}
        async with calling(fcm_url=url, **settings) as (caller, _):
            good, old = (sealed(PushToken(Platform.FCM, name)) for name in (b"good", b"old"))
            assert await caller.wake(good, old) == [OK, GONE]
        assert len(asked) == 2


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"services": ("ab@x",)}, "64 hex digits @"),
        ({"services": ("ab" * 32,)}, "64 hex digits @"),
        ({"services": (f"{'ab' * 32}@x", f"{'ab' * 32}@y")}, "a key of its own"),
        ({"fcm_project": "x"}, "go together"),
        ({"tls_cert_file": "x"}, "go together"),
        ({"audience": ""}, "must not be empty"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_words(
    settings: dict[str, Any], word: str
) -> None:
    """Each names what to do."""
    with pytest.raises(ConfigError, match=word):
        gateway_config.load(None, {}, settings)


def test_tokens_go_nowhere_without_tls(tmp_path: Path) -> None:
    """A loopback is of this machine, and FCM is spoken to over TLS unless it is."""
    for address in ("10.0.0.1:80", "example.org:80"):
        with pytest.raises(ConfigError, match="this machine"):
            Loopback(address)
    for url in ("http://fcm.googleapis.com", "ftp://x", "nonsense"):
        with pytest.raises(ConfigError, match="fcm_url"):
            Fcm("p", tmp_path, url, threads=1, timeout_s=1)


async def test_a_service_speaks_tls_to_its_gateway_and_only_to_one_it_trusts(
    tmp_path: Path,
) -> None:
    """With a CA of its own, and a certificate to show; a gateway of another one is down."""
    cert, key = certificate(tmp_path, "gateway")
    other, _ = certificate(tmp_path, "other")
    files = {"tls_cert_file": str(cert), "tls_key_file": str(key)}
    shown = {"wake_tls_cert_file": str(cert), "wake_tls_key_file": str(key)}
    async with phones() as platform, gateway(platform, **files) as told:
        for trusted, is_good in ((cert, True), (other, False)):
            tls = {"wake_tls": True, "wake_ca_file": str(trusted), **shown}
            told_settings = config(tmp_path, **waking(tmp_path, told.address, **tls))
            sender = Sender(told_settings, SERVICE_KEY, now_ms)
            if is_good:
                assert await sender([handle()]) == [OK]
            else:
                with pytest.raises(GatewayDown, match="UNAVAILABLE"):
                    await sender([handle()])
            await sender.close()
    with pytest.raises(ConfigError, match="no PEM certificate"):
        credentials(replace(told_settings, wake_tls_key_file=str(other)))
