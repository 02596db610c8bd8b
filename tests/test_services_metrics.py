"""The service's metrics: what is counted, and that nothing else can get into a label."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.errors import DEFECT, TABLE
from services.listen import ListenError
from services.metrics import OTHER, REASONS, STATUS_OF, CallMetrics, Metrics
from services.scrape import CONNECTIONS_MAX, HEADER_BYTES_MAX, Scrape
from services.store.errors import StoreUnavailable
from services.store.observer import Fault, Renewal, Retry
from services.store.rounds import Phase
from services.store.sqlite import SqliteStore
from tests.metered import calls, http, scraped, value
from tests.relay_worlds import FINISH, PARTIES, Relay, abandonment, people, report, result
from tests.served import PULL, PUSH, SUBSCRIBE, Refusal, Service, refusal, serving
from tests.store_worlds import Client


@pytest.fixture
async def measured(tmp_path: Path) -> AsyncIterator[Service]:
    """A server whose metrics can be scraped."""
    folder = tmp_path / "measured"
    folder.mkdir()
    async with serving(folder, metrics_listen="127.0.0.1:0") as service:
        yield service


# --- what is counted ---


async def test_pushes_and_ops_are_counted_and_repeats_are_told_apart(service: Service) -> None:
    """Two ops pushed twice: two pushes, two new ops, two repeated ones, two calls."""
    world, metrics = await service.account("pushes"), service.server.metrics
    ops = world.ops(2)
    for _ in range(2):
        await service.push(world, *ops)
    assert value(metrics, "rookery_pushes_total") == 2
    assert value(metrics, "rookery_ops_total") == 2
    assert value(metrics, "rookery_ops_repeated_total") == 2
    assert calls(metrics, PUSH) == 2


async def test_refusals_are_counted_by_reason_and_calls_by_status(service: Service) -> None:
    """An unsigned push is a refusal by its reason, and a call by its status."""
    metrics = service.server.metrics
    refused = await refusal(service.raw(PUSH, b""))
    assert refused.reason == "UNAUTHENTICATED"
    assert value(metrics, "rookery_refusals_total", reason="UNAUTHENTICATED") == 1
    assert calls(metrics, PUSH, "UNAUTHENTICATED") == 1
    assert calls(metrics, PUSH) == 0


async def test_a_method_that_callers_make_up_is_other(service: Service) -> None:
    """No name that comes from outside gets into a label."""
    for name in ("/rookery.v1.Sync/Nothing", "/a.b/c", "/grpc.other/Check"):
        with pytest.raises(Refusal):
            await service.raw(name, b"")
    metrics = service.server.metrics
    assert value(metrics, "rookery_call_seconds_count", method=OTHER, status="UNIMPLEMENTED") == 3
    assert not [key for key in labels(metrics, "method") if "Nothing" in key or "a.b" in key]


async def test_commits_are_observed_by_the_store(service: Service) -> None:
    """Every durable commit has its size and its time; nothing waits afterwards."""
    world, metrics = await service.account("commits"), service.server.metrics
    before = value(metrics, "rookery_store_commit_seconds_count")
    await service.push(world, world.op())
    await service.push(world, *world.ops(7))
    # The sweep that begins with the service commits as well, when its turn comes.
    assert value(metrics, "rookery_store_commit_seconds_count") >= before + 2
    assert value(metrics, "rookery_store_commit_requests_sum") >= 2
    assert value(metrics, "rookery_store_commit_ops_sum") == 8
    assert value(metrics, "rookery_store_writes_waiting") == 0


async def test_the_way_from_a_commit_to_an_open_stream_is_timed(service: Service) -> None:
    """One delivery to each of two streams; a stream that ends is counted with its status."""
    world, metrics = await service.account("lag"), service.server.metrics
    streams = [service.subscribe(world, by=by) for by in (0, 1)]
    for stream in streams:
        await stream.caught_up()
    assert value(metrics, "rookery_streams_open") == 2
    await service.push(world, world.op())
    for stream in streams:
        assert (await stream.next()) is not None
    await ended(lambda: value(metrics, "rookery_delivery_lag_seconds_count") == 2)
    assert 0 < value(metrics, "rookery_delivery_lag_seconds_sum") < 20
    for stream in streams:
        stream.call.cancel()
    await ended(lambda: value(metrics, "rookery_streams_open") == 0)
    await ended(
        lambda: (
            value(
                metrics, "rookery_stream_seconds_count",
                method=SUBSCRIBE.removeprefix("/"), status="CANCELLED",
            )
            == 2
        )
    )  # fmt: skip


async def test_rounds_are_tallied_by_the_phase_that_callers_see(relay: Relay) -> None:
    """One in each phase; the store's tally says the same as each round's summary."""
    [world, other] = await people(relay, 2)
    opened = [await relay.opened(seed) for seed in range(4)]
    for one in opened[:3]:
        await relay.contribute(world, report(one, 1))
        await relay.contribute(other, report(one, 2))
    with relay.later(120_000):
        await relay.call(PARTIES[0], FINISH, result(opened[0], b"said"))
        for party in (1, 2):
            said = abandonment(opened[1], party, b"gave up")
            await relay.call(PARTIES[party - 1], FINISH, said)
        store = relay.service.server.store
        now_ms = relay.now_ms
        tally = dict(await store.rounds.tally(now_ms=now_ms))
        seen: dict[Phase, int] = {}
        for one in opened:
            held = await store.rounds.find_round(one.round_id)
            assert held is not None
            phase = Phase.of(held.row.open_ms, held.row.until_ms, held.standing, now_ms)
            seen[phase] = seen.get(phase, 0) + 1
        assert tally == seen == {Phase.DONE: 1, Phase.ABANDONED: 1, Phase.CLOSED: 2}
    tally = dict(await store.rounds.tally(now_ms=relay.now_ms))
    assert tally == {Phase.DONE: 1, Phase.ABANDONED: 1, Phase.OPEN: 2}
    tally = dict(await store.rounds.tally(now_ms=0))
    assert tally[Phase.ANNOUNCED] == 2


async def test_a_restored_and_a_renewed_store_say_so(tmp_path: Path) -> None:
    """`new_generation` is counted by its cause."""
    metrics = Metrics()
    store = await SqliteStore.open(tmp_path / "db", observer=metrics.store)
    await store.new_generation()
    await store.close()
    assert value(metrics, "rookery_store_generation_renewals_total", cause="told") == 1
    assert value(metrics, "rookery_store_generation_renewals_total", cause="restored") == 0


async def test_faults_of_the_store_are_counted_by_their_kind(tmp_path: Path) -> None:
    """A full disk is `full`; who shared its transaction is tried again alone."""
    metrics = Metrics()
    store = await SqliteStore.open(tmp_path / "db", observer=metrics.store)
    try:
        client = await Client.create(store)
        await store._writer.submit(lambda tx: tx.db.execute("PRAGMA max_page_count = 1").fetchall())
        with pytest.raises(StoreUnavailable, match="SQLITE_FULL"):
            await client.push(*client.world.ops(200))
    finally:
        await store.close()
    assert value(metrics, "rookery_store_errors_total", fault="full") == 1


async def test_a_sweep_leaves_its_time(service: Service) -> None:
    """The first one runs at the start."""
    metrics = service.server.metrics
    await ended(lambda: value(metrics, "rookery_sweeps_total", outcome="done") >= 1)
    assert value(metrics, "rookery_sweep_done_timestamp_seconds") > 1e9


# --- labels ---


def labels(metrics: CallMetrics, name: str) -> set[str]:
    """Every value that a label has anywhere."""
    return {
        sample.labels[name]
        for family in metrics.registry.collect()
        for sample in family.samples
        if name in sample.labels
    }


def test_a_reason_has_one_status() -> None:
    """So that a call's status follows from its reason."""
    rows = [*TABLE.values(), DEFECT]
    assert {(row.reason, row.code.name) for row in rows} == {
        (reason, STATUS_OF[reason]) for reason in REASONS
    }
    assert len({row.reason for row in rows}) == len(REASONS)


def test_labels_come_from_closed_sets() -> None:
    """All values that there can be, before anybody called."""
    metrics = Metrics()
    metrics.serve(["/rookery.v1.Sync/Push"])
    metrics.called("/rookery.v1.Sync/Push", "made up", 0.1)
    metrics.called("/made/up", "OK", 0.1)
    metrics.refused("made up")
    assert labels(metrics, "method") == {"rookery.v1.Sync/Push", OTHER}
    assert labels(metrics, "status") == {"OK", OTHER}
    assert labels(metrics, "reason") == REASONS
    assert labels(metrics, "fault") == {fault.value for fault in Fault}
    assert labels(metrics, "cause") == {one.value for kind in (Retry, Renewal) for one in kind}
    assert labels(metrics, "state") == {phase.value for phase in Phase}


def test_what_is_kept_of_calls_is_bounded() -> None:
    """Methods that callers make up are not remembered."""
    metrics = CallMetrics()
    for number in range(1_000):
        metrics.called(f"/made/{number}", "OK", 0.0)
    assert not metrics._calls


# --- the endpoint ---


async def test_metrics_are_served_and_nothing_else_is(measured: Service) -> None:
    """GET /metrics, whatever the query; other paths, methods and protocols are refused."""
    world = await measured.account("scrape")
    await measured.push(world, world.op())
    address = measured.server.scrape.address
    samples = await scraped(address)
    assert samples["rookery_pushes_total", ()] == 1
    assert samples["rookery_draining", ()] == 0
    assert samples["process_resident_memory_bytes", ()] > 1 << 20
    asked = {
        b"GET /metrics?name[]=up HTTP/1.0\r\n\r\n": 200,
        b"GET / HTTP/1.1\r\n\r\n": 404,
        b"GET /metrics/../x HTTP/1.1\r\n\r\n": 404,
        b"POST /metrics HTTP/1.1\r\nContent-Length: 1\r\n\r\nx": 405,
        b"DELETE /metrics HTTP/1.1\r\n\r\n": 405,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": 400,
        b"rubbish\r\n\r\n": 400,
    }
    for request, status in asked.items():
        assert (await http(address, request))[0] == status, request


async def test_a_caller_that_is_slow_or_too_large_is_left(measured: Service) -> None:
    """Headers beyond the bound end the connection; more connections than the bound do, too."""
    address = measured.server.scrape.address
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 2 * HEADER_BYTES_MAX)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(1)
    writer.close()
    idle = [await asyncio.open_connection(host, int(port)) for _ in range(CONNECTIONS_MAX)]
    await ended(lambda: len(measured.server.scrape._open) == CONNECTIONS_MAX)
    reader, writer = await asyncio.open_connection(host, int(port))
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(1)
    for _, waiting in (*idle, (reader, writer)):
        waiting.close()
    await ended(lambda: not measured.server.scrape._open)
    assert await scraped(address)


async def test_scraping_ends_with_the_process_and_is_off_by_default(
    measured: Service, service: Service
) -> None:
    """Nothing listens without the setting, nor after the end, which no open connection delays."""
    assert service.server.scrape.address == ""
    host, _, port = measured.server.scrape.address.rpartition(":")
    await asyncio.open_connection(host, int(port))
    await measured.server.stop()
    with pytest.raises(ConnectionError):
        await asyncio.open_connection(host, int(port))


async def test_an_address_that_is_taken_is_named_with_its_setting(measured: Service) -> None:
    """The error says which setting to change."""
    second = Scrape(measured.server.scrape.address, CallMetrics(), asyncio.Event().wait)  # type: ignore[arg-type]
    with pytest.raises(ListenError, match="is in use: choose another metrics_listen"):
        await second.start()
    with pytest.raises(ListenError, match="not known as HOST:PORT"):
        await Scrape("nowhere", CallMetrics(), asyncio.Event().wait).start()  # type: ignore[arg-type]


async def test_a_store_that_is_gone_does_not_keep_metrics_from_being_read(
    measured: Service,
) -> None:
    """What can't be looked up keeps its last value; the page comes all the same."""
    await measured.server.store.close()
    assert ("rookery_pushes_total", ()) in await scraped(measured.server.scrape.address)
    assert (await refusal(measured.raw(PULL, b""))).reason


async def ended(condition: Any) -> None:
    """For what the server notices a moment later; the test's own time limit is the bound."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
