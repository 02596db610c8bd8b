"""Fixtures that several files of tests share."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.store.base import Store
from tests.store_worlds import BACKENDS, Factory


@pytest.fixture(params=sorted(BACKENDS))
async def store_factory(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Factory]:
    """Opens stores of the backend under test, and closes what a test left open."""
    stores = BACKENDS[request.param](tmp_path)
    yield stores
    await stores.close()


@pytest.fixture
async def store(store_factory: Factory) -> Store:
    """A fresh store with the usual limits."""
    opened: Store = await store_factory()
    return opened


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs so, and the programs that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
