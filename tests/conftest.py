"""Fixtures that several files of tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.store.base import Store
from tests import programs
from tests.cli_process import Home, join
from tests.mesh_processes import Mesh
from tests.redis_process import RedisCluster, RedisServer
from tests.relay_worlds import Relay, relaying
from tests.served import Service, serving
from tests.service_process import ROOT, ServiceProcess
from tests.store_worlds import BACKENDS, EVERY_BACKEND, Factory, RedisHouse


def pytest_configure() -> None:
    """What was fetched is found by what is tested, too, behind all that the machine has."""
    os.environ["PATH"] += f"{os.pathsep}{programs.FETCHED / 'bin'}"
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        # Or each of a thousand processes compiles anew what the one before it has compiled.
        os.environ["PYTHONPYCACHEPREFIX"] = str(ROOT / ".cache" / "pycache")


def pytest_report_header() -> str:
    """Which Redis the tests run on."""
    return programs.version("redis-server")


# Begun first: one that is left for the end has a worker go on alone.
LONGEST = (
    "test_cli_profile", "test_party_rounds", "test_party_restarts", "test_two_processes",
    "test_cli_measure", "test_walkthrough", "test_demo", "test_cli_task_rounds",
    "test_replica_faults", "test_client_killed", "test_telemetry_leaks", "test_client_remake",
    "test_deploy_edge", "test_cli_device", "test_mpc_circuit", "test_cli_join", "test_soak",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order of `LONGEST`, then the others."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis, `appendfsync always`, for all tests of a process; none of them may end it.
    Whoever uses it flushes it first."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three masters, for all tests of a process, as `redis_server`."""
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(scope="session")
def redis_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisHouse]:
    """Redis servers for all tests of this process."""
    house = RedisHouse(tmp_path_factory.mktemp("redis"))
    yield house
    house.close()


@pytest.fixture(params=EVERY_BACKEND)
async def store_factory(
    request: pytest.FixtureRequest, tmp_path: Path, redis_house: RedisHouse
) -> AsyncIterator[Factory]:
    """Opens stores of the backend under test, and closes what a test left open."""
    stores = BACKENDS[request.param](tmp_path, redis_house)
    yield stores
    await stores.close()


@pytest.fixture
async def store(store_factory: Factory) -> Store:
    """A fresh store with the usual limits."""
    opened: Store = await store_factory()
    return opened


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A server that refuses nobody for calling often."""
    async with serving(tmp_path) as started:
        yield started


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[Relay]:
    """A relay; whatever a test does to it, nothing of it is a defect."""
    async with relaying(tmp_path) as started:
        yield started
        assert "defect" not in started.service.log.getvalue()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """One service process for a file of tests; each test has an account of its own."""
    with ServiceProcess(tmp_path_factory.mktemp("service")) as process:
        yield process


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """An authority; its proxies are ended with the file of tests."""
    with Mesh(tmp_path_factory.mktemp("mesh")) as made:
        yield made


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ServiceProcess]:
    """A service process that the test may stop."""
    folder = tmp_path / "service"
    folder.mkdir()
    with ServiceProcess(folder) as process:
        yield process


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, server: ServiceProcess) -> Home:
    """A device whose account nobody changes."""
    home = Home(tmp_path_factory.mktemp("calm"), "calm", server)
    home.run("init", "--no-recovery", "--json", service=True)
    return home


@pytest.fixture
def first(tmp_path: Path, server: ServiceProcess) -> Home:
    """The first device of an account."""
    home = Home(tmp_path, "a", server)
    home.run("init", "--no-recovery", "--json", service=True)
    return home


@pytest.fixture
def second(tmp_path: Path, server: ServiceProcess, first: Home) -> Home:
    """A second one."""
    home = Home(tmp_path, "b", server)
    assert join(first, home) == (0, 0)
    return home


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs so, and the programs that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
