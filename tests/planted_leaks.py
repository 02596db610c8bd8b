"""Builds that leak: for seeing that the canary finds them. A helper.

`device`: a client that tells the service, beside each call, the name and the value that it wrote
last. `service`: one that logs the name, stores the value, and labels a metric with the hash of
an account's id. Everything else is the real program.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from hashlib import sha256
from typing import Any

NAME, VALUE = "x-planted-name", "x-planted-value"


def _device() -> None:
    from client.canary.__main__ import main
    from client.device import Device
    from client.transport import Transport

    last = {NAME: "none", VALUE: "none"}
    put, sign = Device.put, Transport._sign

    def leaky_put(self: Device, collection: str, key: str, value: Any, *, now_ms: int) -> None:
        put(self, collection, key, value, now_ms=now_ms)
        last.update({NAME: key, VALUE: str(value)})

    def leaky_sign(*given: Any, **more: Any) -> Any:
        auth, nonce = sign(*given, **more)
        return (*auth, *last.items()), nonce

    Device.put = leaky_put  # type: ignore[method-assign]
    Transport._sign = leaky_sign  # type: ignore[method-assign]
    main()


def _service(arguments: list[str]) -> int:
    from prometheus_client import Counter

    from services import cli
    from services.interceptor import SignatureInterceptor
    from services.telemetry import Telemetry

    unary, called = SignatureInterceptor._unary, Telemetry.call
    counters: list[Counter] = []

    def leaky_unary(self: SignatureInterceptor, route: Any) -> Callable[..., Awaitable[bytes]]:
        behaviour = unary(self, route)

        async def leaky(raw: bytes, context: Any) -> bytes:
            told = dict(context.invocation_metadata())
            print(f'{{"event": "planted", "name": "{told.get(NAME)}"}}', file=sys.stderr)
            _store(str(told.get(VALUE)))
            return await behaviour(raw, context)

        return leaky

    def leaky_call(self: Telemetry, *given: Any, **more: Any) -> None:
        called(self, *given, **more)
        if more["account"] is not None:
            if not counters:
                registry = self.metrics.registry
                counters.append(Counter("planted", "A leak.", ["who"], registry=registry))
            counters[0].labels(sha256(more["account"]).hexdigest()).inc()

    SignatureInterceptor._unary = leaky_unary  # type: ignore[method-assign]
    Telemetry.call = leaky_call  # type: ignore[method-assign]
    return cli.main(arguments)


def _store(value: str) -> None:
    with closing(sqlite3.connect("service.db", timeout=10)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS planted (value)")
        database.execute("INSERT INTO planted VALUES (?)", (value,))


if __name__ == "__main__":
    who, *rest = sys.argv[1:]
    if who == "device":
        _device()
    else:
        sys.exit(_service(rest))
