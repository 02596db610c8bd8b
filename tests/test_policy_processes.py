"""A policy from its publisher to devices, through processes of the service and of `rookery`."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.cli_process import Home
from tests.governed_service import Governed
from tests.governed_worlds import KEY, OTHER_KEY, bundle, killing
from tests.redis_process import RedisServer
from tests.relay_worlds import attached
from tests.served import AUDIENCE
from tests.service_process import ServiceProcess
from tests.shell_worlds import Watching, fleet, rules

FIRST = bundle()
SECOND = bundle(FIRST, flags=(killing("task", "cuisine"),))
THIRD = bundle(SECOND)
PUBLISHERS = f"{KEY.public.hex()},{OTHER_KEY.public.hex()}"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    """A governed service process without a bundle."""
    with governed_process(tmp_path) as process:
        yield process


def governed_process(folder: Path, **settings: str) -> ServiceProcess:
    """A service process that takes bundles of the publisher."""
    return ServiceProcess(
        folder, ROOKERY_POLICY_KEYS=PUBLISHERS, ROOKERY_AUDIENCE=AUDIENCE, **settings
    )


@asynccontextmanager
async def publisher(process: ServiceProcess) -> AsyncIterator[Governed]:
    """The policy's publisher, as it calls this process."""
    async with attached(process) as relay:
        yield Governed(relay.service)


async def publish(process: ServiceProcess, *bundles: object) -> None:
    """Each of them, in turn."""
    async with publisher(process) as governed:
        for made in bundles:
            await governed.publish(made)  # type: ignore[arg-type]


async def test_a_person_puts_a_device_under_a_policy(
    tmp_path: Path, service: ServiceProcess
) -> None:
    """By the publisher's key, which comes from a person; the rest is shown as it is held."""
    await publish(service, FIRST)
    home = Home(tmp_path, "phone", service)
    home.run("init", "--no-recovery", service=True)
    assert "under no policy" in home.run("policy").out
    home.run("set", "ui/theme", "dark")
    wrong = home.run("trust", "--policy", "abcd", code=None)
    assert (wrong.code, "64 hex digits" in wrong.err) == (1, True)
    trusted = home.run("trust", "--policy", KEY.public.hex(), "--json").json
    assert trusted["policy_publishers"] == [KEY.public.hex()]
    assert "has none yet" in home.run("policy", "--offline").out
    refused = home.run("set", "ui/theme", "light", "--offline", code=None)
    assert (refused.code, "rule no-policy" in refused.err) == (1, True)
    held = home.run("policy", "--json").json
    assert (held["sequence"], held["hash"]) == (1, FIRST.hash.hex())
    assert held["stopped"] == []
    refused = home.run("set", "ui/theme", "light", code=None)
    assert (refused.code, "rule undeclared" in refused.err) == (1, True)
    await publish(service, SECOND)
    shown = home.run("policy").out
    assert "policy 2: A policy for tests" in shown
    assert "stopped   task cuisine" in shown
    home.run("trust", "--policy", OTHER_KEY.public.hex())
    home.run("trust", "--remove", KEY.public.hex()[:8])
    assert home.run("policy", "--offline", "--json").json["sequence"] == 0
    home.run("trust", "--remove", OTHER_KEY.public.hex()[:8])
    assert "under no policy" in home.run("policy").out


async def test_a_service_that_replays_an_old_policy_is_refused(
    tmp_path: Path, service: ServiceProcess
) -> None:
    """Its store was put back behind a bundle: the device keeps what it holds, counts an alarm at
    every command, and takes what is newer once it is published."""
    await publish(service, FIRST)
    home = Home(tmp_path, "phone", service)
    home.run("init", "--no-recovery", service=True)
    home.run("trust", "--policy", KEY.public.hex())
    home.run("sync")
    service.stop()
    old = tmp_path / "old"
    old.mkdir()
    shutil.copy(tmp_path / "service.db", old)
    service.start()
    await publish(service, SECOND)
    # It was answered: so it is there, however the process ends.
    service.kill()
    service.start()
    home.run("sync")
    service.stop()
    shutil.copy(old / "service.db", tmp_path)
    service.start()
    synced = home.run("sync")
    assert "alarm" in synced.err
    held = home.run("policy", "--json")
    assert held.json["sequence"] == 2
    status = home.run("status", "--json").json
    alarms = [one["rule"] for one in status["notices"] if one["kind"] == "alarm"]
    assert alarms.count("policy-rollback") == 1
    await publish(service, SECOND, THIRD)
    assert home.run("policy", "--json").json["sequence"] == 3


async def test_a_bundle_reaches_connected_devices_of_every_replica_process(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Two processes on one Redis; also after the one that took it was killed."""
    redis_server.flush()
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    with governed_process(folders[0], ROOKERY_REDIS_URL=redis_server.url) as one:
        await publish(one, FIRST)
        with governed_process(folders[1], ROOKERY_REDIS_URL=redis_server.url) as two:
            async with fleet(one.endpoint) as here, fleet(two.endpoint) as there:
                phones = [await here.first(), await there.first()]
                watching = []
                for synced in phones:
                    synced.pin_policy(KEY.public)
                    watching.append(Watching(synced))
                for watch in watching:
                    await watch.until(lambda watch=watch: watch.synced.policy == FIRST)  # type: ignore[misc]
                async with publisher(one) as governed:
                    await governed.publish(SECOND)
                    one.kill()
                await watching[1].until(lambda: phones[1].policy == SECOND)
                await publish(two, THIRD)
                await watching[1].until(lambda: phones[1].policy == THIRD)
                one.start()
                await watching[0].until(lambda: phones[0].policy == THIRD)
                await asyncio.gather(*(watch.stop() for watch in watching))
                assert [rules(synced) for synced in phones] == [[], []]
