"""The operator's page in a real browser, against a real governed relay."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By

from client.analyst.evidence import Pins
from client.operator.auditlog import ANYWHERE, ChainHead, Start
from client.operator.calls import Operations
from client.pages.operations import OperatorPages
from client.transport import Signer, Transport
from mpc.keys import PublisherKey
from tests.browser import browsing, complaints, enter, picture, said
from tests.operator_worlds import Office, open_office
from tests.relay_worlds import (
    ANALYST,
    PARTIES,
    PUBLISHER,
    STRANGER as OPERATOR,
)
from tests.shell_worlds import endpoint_of

PINS = Pins(frozenset({PUBLISHER.public}), tuple(party.public for party in PARTIES))
PLACES = ("", "rounds", "exposure", "audit")


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    async with open_office(tmp_path) as made:
        yield made


@asynccontextmanager
async def pages(
    office: Office,
    *,
    seed: bytes = OPERATOR.seed,
    noted: ChainHead | None = None,
    start: Start = ANYWHERE,
) -> AsyncIterator[str]:
    """The site's address, for the time of the block."""
    transport = Transport(endpoint_of(office.relay.service))
    operations = Operations(transport, Signer(PublisherKey(seed)))
    site = OperatorPages(operations, pins=PINS, noted=noted, start=start).site()
    await site.start()
    try:
        yield site.address
    finally:
        await site.stop()
        await transport.close()


async def texts(address: str, **options: Any) -> dict[str, str]:
    """What each page says."""

    def visit() -> dict[str, str]:
        with browsing(**options) as driver:
            base, found = enter(driver, address), {}
            for place in PLACES:
                driver.get(base + place)
                found[place] = driver.find_element(By.TAG_NAME, "main").text
                assert driver.find_elements(By.TAG_NAME, "form") == []
            return found

    return await asyncio.to_thread(visit)


async def test_health_results_exposure_and_log_are_on_the_pages(office: Office) -> None:
    """Without a script and without a form: what holds, each result with its interval, each field
    with its readers, the log verified."""
    await office.opened_round()
    async with pages(office) as address:
        shown = await texts(address, scripts=False)
    assert "A policy is in force holds number 1" in shown[""]
    assert "Nothing is kept past its retention holds" in shown[""]
    assert "1 done" in shown["rounds"]
    assert " to " in shown["rounds"]
    assert "No parties are pinned" not in shown["rounds"]
    assert "segment.ops" in shown["exposure"]
    assert "verified to follow on the one before" in shown["audit"]
    assert "/rookery.v1.Operations/GetPrivacyHealth" in shown["audit"]


async def test_a_log_that_was_cut_shows_by_the_head_that_was_noted(office: Office) -> None:
    """The page says that it does not hold, in an alert."""
    await office.json("health")
    head = (await office.json("audit"))["head"]
    seq, _, digest = head.partition(":")
    with closing(sqlite3.connect(office.relay.service.path / "rookery.db")) as db, db:
        db.execute("DELETE FROM audit WHERE seq > 1")
    async with pages(office, noted=ChainHead(int(seq), bytes.fromhex(digest))) as address:
        shown = await texts(address)
    assert "The log does not hold: the head that was noted is not in the log" in shown["audit"]


async def test_a_log_that_begins_late_is_judged_by_the_policy(office: Office) -> None:
    """Without its publisher's key the page says that nothing was."""
    await office.json("health")
    await office.json("health")
    with closing(sqlite3.connect(office.relay.service.path / "rookery.db")) as db, db:
        db.execute("INSERT INTO audit_anchor SELECT 1, seq, hash, at_ms FROM audit WHERE seq = 1")
        db.execute("DELETE FROM audit WHERE seq = 1")
    async with pages(office) as address:
        assert "nothing here says that they may be" in (await texts(address))["audit"]
    async with pages(office, start=Start(None, 1)) as address:
        shown = await texts(address)
    assert "The log does not hold: the entries up to 1 are gone" in shown["audit"]


async def test_who_is_no_operator_sees_a_refusal_and_nothing_else(office: Office) -> None:
    """The access matrix stands behind every page."""
    async with pages(office, seed=ANALYST.seed) as address:
        shown = await texts(address)
    for text in shown.values():
        assert "the service does not answer this" in text
        assert "segment" not in text


async def test_every_page_is_accessible(office: Office, tmp_path: Path) -> None:
    """axe-core and the console have no complaint, in light and in dark."""
    await office.opened_round()
    pictures = Path(os.environ.get("ROOKERY_PICTURES", tmp_path))
    for name, dark in (("light", False), ("dark", True)):
        async with pages(office) as address:

            def visit(address: str = address, name: str = name, dark: bool = dark) -> list[str]:
                with browsing(dark=dark) as driver:
                    base, found = enter(driver, address), []
                    for place in PLACES:
                        driver.get(base + place)
                        found += [f"{place}: {one}" for one in complaints(driver)]
                        picture(driver, pictures / f"operator-{place or 'health'}-{name}.png")
                    return found + said(driver)

            assert await asyncio.to_thread(visit) == []


async def test_the_command_serves_until_it_is_ended(office: Office) -> None:
    """It prints one address, answers there, and refuses a key that may not look before that."""
    process = await office.desk.start("page", "--json")
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
    assert '"address": "http://127.0.0.1:' in line
    process.send_signal(2)
    assert await asyncio.wait_for(process.wait(), 60) == 130
