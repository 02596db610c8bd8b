"""The stage of a canary run: a governed service, three parties, a push gateway and a collector
of spans, each behind a tap, on free ports of loopback."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from crypto.primitives import sign_keypair
from services import keys
from services.canary import redis, spans
from services.canary.processes import PROGRAM, Running
from services.canary.redis import Redis
from services.canary.search import Piece
from services.canary.spans import Spans
from services.canary.tap import Tap

AUDIENCE: Final = "canary.localhost"
GATEWAY_AUDIENCE: Final = "gateway.canary.localhost"
PARTIES: Final = 3
SEED_BYTES: Final = 32
_TELLING: Final = {
    "METRICS_LISTEN": "127.0.0.1:0",
    "TRACES_SHARE": "1",
    "TRACES_CALLERS_PER_S": "1000",
    "LOG_LEVEL": "debug",
}


@dataclass(frozen=True, slots=True)
class Seeds:
    """Secret keys of everybody who is no device. Its repr hides them."""

    publisher: bytes = field(repr=False)
    policy: bytes = field(repr=False)
    operator: bytes = field(repr=False)
    wake: bytes = field(repr=False)
    gateway: bytes = field(repr=False)
    parties: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def fresh(cls) -> Seeds:
        """New ones, for one run."""
        a, b, c, d, e, *parties = (secrets.token_bytes(SEED_BYTES) for _ in range(5 + PARTIES))
        return cls(a, b, c, d, e, tuple(parties))

    def all(self) -> tuple[bytes, ...]:
        """Every one of them."""
        return (
            self.publisher, self.policy, self.operator, self.wake, self.gateway, *self.parties,
        )  # fmt: skip


@dataclass(slots=True)
class Stage:
    """What runs, and what of it is searched."""

    folder: Path
    seeds: Seeds
    spans: Spans
    taps: dict[str, list[Tap]]
    service: Running
    parties: Sequence[Running]
    gateway: Running
    redis: Redis | None

    def told(self) -> dict[str, Any]:
        """What the client's part of the scenario must know, for its standard input."""
        taps = self.taps["party-frames"]
        return {
            "service": self.taps["device-frames"][0].address,
            "audience": AUDIENCE,
            "server_key": self.service.ready["server_key"],
            "traces": self.spans.endpoint,
            "publisher": self.seeds.publisher.hex(),
            "policy": self.seeds.policy.hex(),
            "operator": self.seeds.operator.hex(),
            "gateway_key": self.gateway.ready["gateway_key"],
            "parties": [
                {"key": sign_keypair(seed)[0].hex(), "address": tap.address}
                for seed, tap in zip(self.seeds.parties, taps, strict=True)
            ],
        }

    async def metrics(self) -> list[Piece]:
        """All pages, as they are now."""
        return [
            Piece("service-metrics", "service", await self.service.metrics()),
            Piece("gateway-metrics", "gateway", await self.gateway.metrics()),
            *[Piece("party-metrics", one.name, await one.metrics()) for one in self.parties],
        ]

    def stores(self) -> Iterator[Piece]:
        """All that the service and the parties have stored, as it is now."""
        if self.redis is not None:
            yield from (Piece("store", f"keys {name}", data) for name, data in self.redis.walk())
            yield from (Piece("store", one.name, one.read_bytes()) for one in self.redis.files())
        yield from _database("store", self.service)
        for party in self.parties:
            yield from _database("party-store", party)

    def written(self) -> Iterator[Piece]:
        """Logs, traces and frames, from the beginning."""
        yield Piece("service-log", "service.log", self.service.log.read_bytes())
        yield Piece("gateway-log", "gateway.log", self.gateway.log.read_bytes())
        for party in self.parties:
            yield Piece("party-log", f"{party.name}.log", party.log.read_bytes())
        for number, batch in enumerate(self.spans.batches, 1):
            yield Piece("traces", f"batch {number}", batch)
        for place, taps in self.taps.items():
            streams = [stream for tap in taps for stream in tap.streams]
            for number, stream in enumerate(streams, 1):
                yield Piece(place, f"stream {number}", stream)

    async def stop(self) -> None:
        """Ends all processes: what they still held back is written."""
        await asyncio.gather(*(one.stop() for one in (*self.parties, self.service, self.gateway)))


def _database(place: str, of: Running) -> Iterator[Piece]:
    # The log before the file: a checkpoint in between moves rows from the one into the other.
    for path in sorted(of.folder.glob(f"{of.name}.db*"), reverse=True):
        yield Piece(place, path.name, path.read_bytes())


@asynccontextmanager
async def staged(
    folder: Path, *, redis_program: str = "", service_command: Sequence[str] = PROGRAM
) -> AsyncIterator[Stage]:
    """For the time of the block. `redis_program`: the service's store is a Redis. CanaryError."""
    seeds = Seeds.fresh()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        collector = await enter(spans.collecting())
        telling = {**_TELLING, "TRACES_ENDPOINT": collector.endpoint}
        store = (
            await enter(redis.serving(redis_program, folder / "redis")) if redis_program else None
        )
        platform = await enter(_platform())
        taps: dict[str, list[Tap]] = {
            "device-frames": [await enter(Tap())],
            "relay-frames": [await enter(Tap())],
            "gateway-frames": [await enter(Tap())],
            "party-frames": [await enter(Tap()) for _ in range(PARTIES)],
        }
        gateway = await enter(_gateway(folder, seeds, platform))
        taps["gateway-frames"][0].target = gateway.address
        service = await enter(
            _service(folder, seeds, telling, taps["gateway-frames"][0].address, store,
                     service_command)
        )  # fmt: skip
        for name in ("device-frames", "relay-frames"):
            taps[name][0].target = service.address
        parties = {}
        for number, party in _parties(folder, seeds, telling, taps):
            parties[number] = await enter(party)
            taps["party-frames"][number].target = party.address
        in_order = [parties[number] for number in range(PARTIES)]
        yield Stage(folder, seeds, collector, taps, service, in_order, gateway, store)


def _settings(prefix: str, settings: dict[str, str]) -> dict[str, str]:
    return {f"{prefix}_{name}": value for name, value in settings.items()}


def _service(
    folder: Path,
    seeds: Seeds,
    telling: dict[str, str],
    gateway: str,
    store: Redis | None,
    command: Sequence[str],
) -> Running:
    keys.create(folder / "rookery-server.wake", seeds.wake)
    settings = {
        **telling,
        "AUDIENCE": AUDIENCE,
        "ACCESS_LOG_SHARE": "1",
        "POW_BITS": "4",
        # One address enrols everybody; a deployment keeps its rates.
        "IP_UNSIGNED_PER_S": "0",
        "IP_MAILBOXES_PER_S": "0",
        "PUBLISHERS": sign_keypair(seeds.publisher)[0].hex(),
        "POLICY_KEYS": sign_keypair(seeds.policy)[0].hex(),
        "WAKE_GATEWAY": gateway,
        "WAKE_AUDIENCE": GATEWAY_AUDIENCE,
        "WAKE_DEBOUNCE_S": "0.1",
        "WAKE_SPREAD_S": "0.05",
        **({} if store is None else {"REDIS_URL": store.url}),
    }
    arguments = ["serve", "--dev", "--listen", "127.0.0.1:0", "--database", "service.db"]
    return Running("service", folder, [*command, *arguments], _settings("ROOKERY", settings))


def _gateway(folder: Path, seeds: Seeds, platform: str) -> Running:
    keys.create(folder / "gateway.key", seeds.gateway)
    settings = {
        "AUDIENCE": GATEWAY_AUDIENCE,
        "SERVICES": f"{sign_keypair(seeds.wake)[0].hex()}@{AUDIENCE}",
        "LOOPBACK": platform,
        "LOG_LEVEL": "debug",
        "METRICS_LISTEN": "127.0.0.1:0",
    }
    command = [*PROGRAM, "gateway", "--listen", "127.0.0.1:0"]
    return Running("gateway", folder, command, _settings("ROOKERY_GATEWAY", settings))


def _parties(
    folder: Path, seeds: Seeds, telling: dict[str, str], taps: dict[str, list[Tap]]
) -> Iterator[tuple[int, Running]]:
    """Those with the higher key first: the others dial them."""
    publics = [sign_keypair(seed)[0] for seed in seeds.parties]
    for number in sorted(range(PARTIES), key=lambda at: publics[at], reverse=True):
        place = folder / f"party{number + 1}"
        place.mkdir()
        keys.create(place / "party.key", seeds.parties[number])
        peers = [
            f"{publics[other].hex()}@{taps['party-frames'][other].address}"
            for other in range(PARTIES)
            if other != number
        ]
        settings = {
            **telling,
            "AUDIENCE": AUDIENCE,
            "RELAY": taps["relay-frames"][0].address,
            "PEERS": ",".join(peers),
            "PUBLISHERS": sign_keypair(seeds.publisher)[0].hex(),
            "POLICY_KEYS": sign_keypair(seeds.policy)[0].hex(),
            "TICK_S": "0.1",
            "POLL_S": "0.5",
            "POLICY_POLL_S": "0.2",
            "PEER_BEAT_S": "0.2",
        }
        command = [
            *PROGRAM, "party", "--listen", "127.0.0.1:0", "--database", f"{place.name}.db",
        ]  # fmt: skip
        yield number, Running(place.name, place, command, _settings("ROOKERY_PARTY", settings))


@asynccontextmanager
async def _platform() -> AsyncIterator[str]:
    """What the gateway pokes phones by: it takes every token, and keeps none."""

    async def poked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"ok\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(poked, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        server.close()


def key_marks(seeds: Seeds) -> Iterator[tuple[str, bytes]]:
    """Sort and bytes of what is known of the stage itself."""
    for seed in seeds.all():
        yield "secret key", seed
    yield "publisher key", sign_keypair(seeds.publisher)[0]
    yield "address", b"127.0.0.1"


__all__ = ["AUDIENCE", "Seeds", "Stage", "key_marks", "staged"]
