"""Peers and publishers of a running party are other ones: no restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from crypto import request
from crypto.request import METADATA_KEY, NO_ACCOUNT, CallKind
from mpc.keys import PartyKey
from services import keys
from services.keeping.reload import Reloader
from services.metrics import CallMetrics
from services.party.config import PartyConfig
from services.party.daemon import Daemon, open_daemon
from services.party.lists import Lists
from services.settings import ConfigError
from tests.party_process import PUBLISHER
from tests.served import AUDIENCE, nonce

PREPARE = "/rookery.v1.Parties/PrepareRound"


async def start(folder: Path, seed: bytes, *peers: Daemon) -> Daemon:
    """A party on a file of its own, whose relay is away."""
    key = folder / f"{seed.hex()[:4]}.key"
    keys.create(key, seed)
    return await open_daemon(
        PartyConfig(
            listen="127.0.0.1:0",
            audience=AUDIENCE,
            relay="127.0.0.1:1",
            database=str(key.with_suffix(".db")),
            identity_key_file=str(key),
            peers=tuple(listed(peer) for peer in peers),
            peer_beat_s=0.05,
            log_level="error",
        )
    )


def listed(peer: Daemon) -> str:
    """How others list it."""
    return f"{peer.key.public.hex()}@{peer.address}"


async def until(holds: Callable[[], bool]) -> None:
    """The test's time limit is the bound."""
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def prepare(daemon: Daemon) -> grpc.StatusCode:
    """How a publisher's empty call is answered."""
    signed = request.sign(
        PUBLISHER, kind=CallKind.UNARY, method=PREPARE, audience=AUDIENCE, account_id=NO_ACCOUNT,
        ts_ms=time.time_ns() // 1_000_000, nonce=nonce(), payload=b"",
    )  # fmt: skip
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        call: Any = channel.unary_unary(PREPARE)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"", metadata=((METADATA_KEY, signed),), timeout=20)
    code: grpc.StatusCode = refused.value.code()
    return code


async def test_a_peer_with_a_successor_is_listed_twice_and_then_once(tmp_path: Path) -> None:
    """The old key and the new one are linked at the same time; the old one is let go when it is
    listed no more, and the new one's link does not notice."""
    seeds = sorted((bytes((at,)) * 32 for at in range(1, 4)), key=lambda row: PartyKey(row).public)
    old = await start(tmp_path, seeds[1])
    new = await start(tmp_path, seeds[2])
    me = await start(tmp_path, seeds[0], old)
    try:
        for other in (old, new):
            other.take(replace(other.config, peers=(listed(me),)))
        await until(lambda: old.key.public in me.links.up)
        me.take(replace(me.config, peers=(listed(old), listed(new))))
        await until(lambda: me.links.up == {old.key.public, new.key.public})
        me.take(replace(me.config, peers=(listed(new),)))
        await until(lambda: me.links.up == {new.key.public})
        await until(lambda: not old.links.up)
        assert new.links.up == {me.key.public}
    finally:
        for daemon in (me, old, new):
            await daemon.stop()


async def test_a_publisher_comes_and_goes_and_a_broken_list_changes_nothing(tmp_path: Path) -> None:
    """By what a reload reads; the metric says when it is broken."""
    daemon = await start(tmp_path, b"\x01" * 32)
    told = [daemon.config]

    def load() -> PartyConfig:
        if not told:
            raise ConfigError("broken")
        return told[-1]

    lists = Lists(daemon, load, tmp_path / "party.toml")
    metrics = CallMetrics()
    keeper = Reloader(lists.take, lists.watched, daemon.telemetry, metrics)

    def refused() -> float | None:
        return metrics.registry.get_sample_value("rookery_reload_refused")

    try:
        assert await prepare(daemon) is grpc.StatusCode.UNAUTHENTICATED
        told.append(replace(daemon.config, publishers=(PUBLISHER.ik_pk.hex(),), tick_s=7.0))
        assert await keeper.reload()
        assert await lists.take() == {"waiting": "tick_s"}
        assert await prepare(daemon) is not grpc.StatusCode.UNAUTHENTICATED
        told.clear()
        assert not await keeper.reload()
        assert refused() == 1
        assert await prepare(daemon) is not grpc.StatusCode.UNAUTHENTICATED
        ended = f"{PUBLISHER.ik_pk.hex()} until 2020-01-01"
        told.append(replace(daemon.config, publishers=(ended,)))
        assert await keeper.reload()
        assert refused() == 0
        assert await prepare(daemon) is grpc.StatusCode.UNAUTHENTICATED
    finally:
        await daemon.stop()
