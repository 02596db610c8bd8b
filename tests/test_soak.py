"""Households that edit and sync while their service is killed and started again.

A short slice runs with all tests, the long run by `make soak`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests import test_client_convergence as convergence
from tests.service_process import ServiceProcess
from tests.storms import EVERY_CALL, live_through, losses


async def soak(folder: Path, *, households: int, kills: int) -> None:
    """A service on SQLite that is killed and started."""
    with ServiceProcess(folder, **EVERY_CALL) as service:

        def strike() -> None:
            service.kill()
            service.start()

        await live_through(service.endpoint, strike, households=households, strikes=kills)
    assert losses(folder) == set()


async def test_a_storm_of_kills_loses_nothing(tmp_path: Path) -> None:
    """One household, three kills: every edit arrives, every increment counts once."""
    await soak(tmp_path, households=1, kills=3)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_long_storm_of_kills_loses_nothing(tmp_path: Path) -> None:
    """Eight households, a hundred kills."""
    await soak(tmp_path, households=8, kills=100)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(count=convergence.COUNTS, actions=convergence.ACTIONS)
def test_thousands_of_interleavings_converge(
    count: int, actions: list[tuple[int, str, int]]
) -> None:
    """As in `test_client_convergence`, with fresh random examples each time."""
    convergence.live(count, actions)
