"""A service and three parties that say all they can, while devices, a publisher and a round
pass by; and the search for what they must not say. A helper.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from client import methods
from client.analyst.collect import AskedParty, collect, plan
from client.analyst.panel import PinnedParty
from client.analyst.publisher import PartyLine, Publisher
from client.endpoint import Endpoint
from client.remote import Remote
from client.remoteerrors import RemoteError
from client.steps import Push
from client.tracing import Tracing
from client.transport import Signer, Transport
from crypto.marks import Finder, Mark
from mpc.keys import PublisherKey
from mpc.manifest import Manifest
from mpc.task import Task
from rookery.v1 import sync_pb2
from tests.collector import Collector, collecting
from tests.metered import http
from tests.party_process import PUBLISHER, Parties, contribution, task
from tests.relay_worlds import Relay, attached
from tests.served import AUDIENCE, refusal
from tests.service_process import ServiceProcess
from tests.worlds import World

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
NAME, VALUE = "secret-setting-name", b"secret-setting-value"
TASK_NAME = "favourite-cuisine-of-everybody"


def leaks(said: bytes, hidden: Sequence[Mark]) -> set[str]:
    """What of it stands in what was said."""
    return {hit.mark.sort for hit in Finder(hidden).find(said)}


@dataclass(slots=True)
class Said:
    """All that the processes said, and what they must not have said."""

    pages: dict[str, bytes] = field(default_factory=dict)
    lines: dict[str, bytes] = field(default_factory=dict)
    collector: Collector = field(default_factory=Collector)
    hidden: list[Mark] = field(default_factory=list)

    def hide(self, what: str, *raws: bytes) -> None:
        """Must not be said."""
        self.hidden += [Mark(what, raw) for raw in raws if raw]


def watched(folder: Path) -> Said:
    """Two devices, a push, a pull, a stream, refused calls, pairing messages, a round."""
    said = Said()
    place = folder / "relay"
    place.mkdir(parents=True)
    with collecting() as said.collector:
        telling = {
            "METRICS_LISTEN": "127.0.0.1:0",
            "TRACES_ENDPOINT": said.collector.endpoint,
            "TRACES_SHARE": "1",
            "TRACES_CALLERS_PER_S": "1000",
            "LOG_LEVEL": "debug",
        }
        with ServiceProcess(
            place,
            ROOKERY_AUDIENCE=AUDIENCE,
            ROOKERY_PUBLISHERS=PUBLISHER.ik_pk.hex(),
            ROOKERY_ACCESS_LOG_SHARE="1",
            **{f"ROOKERY_{name}": value for name, value in telling.items()},
        ) as process:
            [address] = process.endpoint.targets
            parties = Parties(
                folder,
                address,
                3,
                **{f"ROOKERY_PARTY_{name}": one for name, one in telling.items()},
            )
            try:
                parties.start()
                asyncio.run(_live(said, process, parties))
                for one in parties.all:
                    one.stop()
                process.stop()
            finally:
                parties.end()
        said.lines["service"] = (place / "service.log").read_bytes()
        for number, one in enumerate(parties.all, 1):
            said.lines[f"party{number}"] = one.log.encode()
    return said


async def _live(said: Said, process: ServiceProcess, parties: Parties) -> None:
    tracing = Tracing(said.collector.endpoint)
    async with attached(process) as relay:
        people = [World.create(f"watched {at}") for at in range(3)]
        people[0].add()
        for world in people:
            await relay.service.create(world)
        await _sync(said, relay, people[0], process.endpoint, tracing)
        made = task(TASK_NAME, window_ms=8_000)
        manifest = await _collected(parties, process.endpoint, made, tracing)
        _hide_people(said, people)
        _hide_round(said, made, manifest)
        for at, world in enumerate(people):
            given = contribution(made, manifest, made.kind.encode(at), at)
            said.hide("report", given.header, *given.boxes)
            await relay.service.signed(
                world, "/rookery.v1.Rounds/Contribute", given.SerializeToString()
            )
        assert (await parties.finished(manifest)).result
        stream = relay.service.subscribe(people[0])
        await stream.caught_up()
        await relay.service.push(people[0], people[0].op(key=NAME, value=VALUE))
        await stream.next()
        # Cancelled before the service knows that its frame was taken, it was no delivery.
        while b"delivery_lag_seconds_count 1.0" not in await _page(process.metrics):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        stream.call.cancel()
    await asyncio.to_thread(tracing.close)
    scraped = {"service": process.metrics} | {
        f"party{number}": one.metrics for number, one in enumerate(parties.all, 1)
    }
    for name, address in scraped.items():
        said.pages[name] = await _page(address)


async def _page(address: str) -> bytes:
    status, _, page = await http(address, GET)
    assert status == 200
    return page.encode()


async def _sync(
    said: Said, relay: Relay, world: World, endpoint: Endpoint, tracing: Tracing
) -> None:
    transport = Transport(endpoint, tracing=tracing)
    remote = Remote(transport, Signer(world.authors[0].identity, world.account_id))
    ops = [world.op(key=f"{NAME}/{at}", value=VALUE) for at in range(3)]
    with tracing.whole("device:sync"):
        await remote.push(Push(tuple(one.raw for one in ops)))
        page = await remote.pull(b"")
        again = await transport.call(methods.PULL, sync_pb2.PullRequest(), remote.signer)
        said.hide("nonce", again.nonce)
        try:
            await remote.push(Push((world.fork().op(lamport=1 << 40).raw,)))
        except RemoteError as refused:
            assert refused.reason == "LAMPORT_AHEAD"  # noqa: PT017
    await transport.close()
    for one in ops:
        said.hide("tag", one.header.tag)
        said.hide("op hash", one.op_hash)
        said.hide("ciphertext", one.raw[-128:-64])
        said.hide("signature", one.raw[-64:])
    said.hide("cursor", page.cursor)
    stranger = World.create("stranger")
    payload = stranger.op().raw
    method = "/rookery.v1.Sync/Push"
    once = random.Random("nonce").randbytes(16)
    said.hide("nonce", once)
    value = relay.service.auth(stranger.authors[0].identity, stranger, method, payload, once=once)
    await refusal(relay.service.raw(method, payload, [value]))
    _hide_people(said, [stranger])
    rendezvous = random.Random("rendezvous").randbytes(16)
    await relay.service.post(rendezvous, 1, b"sealed message of a pairing")
    said.hide("rendezvous", rendezvous)
    said.hide("pairing message", b"sealed message of a pairing")


async def _collected(
    parties: Parties, endpoint: Endpoint, made: Task, tracing: Tracing
) -> Manifest:
    """A publisher that traces opens a round: its calls to all parties and the service."""
    await parties.publish(made)
    key = PublisherKey(b"\x07" * 32)
    service = Transport(endpoint, tracing=tracing)
    lines = [
        Transport(Endpoint((one.address,), AUDIENCE, one.ik, insecure=True), tracing=tracing)
        for one in parties.all
    ]
    publisher = Publisher(service, key)
    asked = [
        AskedParty(PinnedParty(one.ik, one.address), PartyLine(line, key))
        for one, line in zip(parties.all, lines, strict=True)
    ]
    now_ms = service.clock.wall_ms()
    planned = plan(
        made,
        random.Random("watched round").randbytes(16),
        [one.pinned for one in asked],
        open_ms=now_ms,
        now_ms=now_ms,
    )
    with tracing.whole("task:collect"):
        manifest = await collect(publisher, asked, publisher.signed(made), made, planned)
    for one in (service, *lines):
        await one.close()
    return manifest


def _hide_people(said: Said, people: Sequence[World]) -> None:
    for world in people:
        said.hide("account id", world.account_id)
        for author in world.authors:
            said.hide("device id", author.device_id)
            said.hide("identity key", author.identity.ik_pk)
            said.hide("box key", author.identity.box_pk)
        for keys in world.keys.values():
            said.hide("epoch secret", keys.secret)
        for upload in world.uploads:
            said.hide("link", upload.link.raw[:64])
    said.hide("name", NAME.encode())
    said.hide("value", VALUE)
    said.hide("address", b"127.0.0.1")
    said.hide("address", b"ipv4:")


def _hide_round(said: Said, made: Task, manifest: Manifest) -> None:
    said.hide("round id", manifest.round_id)
    said.hide("round digest", manifest.digest)
    said.hide("task", made.spec_hash)
    said.hide("task name", TASK_NAME.encode())
    said.hide("task title", made.title.encode())
    for party in manifest.parties:
        said.hide("party's key", party.ik_pk)
        said.hide("party's box key", party.box_pk)
    said.hide("publisher", PUBLISHER.ik_pk)
