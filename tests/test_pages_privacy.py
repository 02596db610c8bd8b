"""The privacy centre in a real browser, with a real service and a second device behind it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from client.consent.ledger import Standing
from client.errors import AccountGone
from client.pages.local import LocalSite
from client.pages.privacy.centre import PrivacyCentre
from tests.browser import browsing, complaints, downloads, enter, picture, said
from tests.consent_worlds import ADVICE, COUNTING, PURPOSES, House, house, policy, rate, record
from tests.governed_worlds import KEY

PLACES = ("", "known", "ranking", "counted", "devices", "leave")


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as made:
        yield made


@pytest.fixture
async def site(home: House) -> AsyncIterator[LocalSite]:
    made = PrivacyCentre(home.a, purpose=COUNTING).site()
    await made.start()
    yield made
    await made.stop()


class Reader:
    """A person at the browser."""

    def __init__(self, driver: Chrome, address: str) -> None:
        self.driver = driver
        self.downloads = downloads(driver)
        self.base = enter(driver, address).rstrip("/")

    def open(self, place: str) -> str:
        """A page by its link; what it says."""
        self.driver.get(f"{self.base}/{place}")
        return self.text

    @property
    def text(self) -> str:
        """What the page says."""
        return self.driver.find_element(By.TAG_NAME, "main").text

    @property
    def told(self) -> str:
        """What the last form answered."""
        return self.driver.find_element(By.CSS_SELECTOR, ".told").text

    def press(self, label: str, *, tick: bool = False, word: str = "") -> str:
        """The button of this name, with the box before it ticked; the answer."""
        button = next(
            one
            for one in self.driver.find_elements(By.TAG_NAME, "button")
            if label in (one.text, one.get_attribute("aria-label"))
        )
        form = button.find_element(By.XPATH, "./ancestor::form")
        if tick:
            form.find_element(By.CSS_SELECTOR, "input[type=checkbox]").click()
        if word:
            form.find_element(By.CSS_SELECTOR, "input[type=text]").send_keys(word)
        button.click()
        WebDriverWait(self.driver, 20).until(lambda _: _is_gone(button))
        return self.told

    def press_only(self, label: str) -> None:
        """A button whose answer is a file."""
        self.driver.find_element(By.XPATH, f"//button[text()='{label}']").click()

    def saved(self) -> dict[str, Any]:
        """The file that was saved last, as soon as it is whole."""
        for _ in range(100):
            for path in self.downloads.glob("*.json"):
                found: dict[str, Any] = json.loads(path.read_text())
                return found
            time.sleep(0.05)
        raise AssertionError("nothing was saved")


def _is_gone(element: WebElement) -> bool:
    """Whether the page that it stood on was left."""
    try:
        element.is_enabled()
    except WebDriverException:
        return True
    return False


async def reading(site: LocalSite, what: Callable[[Reader], Any], **options: Any) -> Any:
    """Runs a person's visit beside the loop that serves it."""
    address = site.address

    def visit() -> Any:
        with browsing(**options) as driver:
            return what(Reader(driver, address))

    return await asyncio.to_thread(visit)


async def lived(home: House) -> None:
    """Something is agreed to, recorded, ranked and counted."""
    for purpose in (COUNTING, ADVICE):
        await home.a.consenting.grant(purpose)
    await home.both()
    record(home.a, "food/cuisine", "thai")
    record(home.b, "food/spice", "hot")
    rate(home.b, "greek", 3.0)
    rate(home.a, "thai", 1.5)
    rate(home.a, "lao", -2.0)
    record(home.a, "notes/note", "yes")
    await home.both()
    await home.round()
    await home.contribute(home.a)


async def test_a_purpose_is_switched_on_and_off_without_a_script(
    home: House, site: LocalSite
) -> None:
    """Forms alone do it: the service has both receipts, the other device obeys, and the answer
    names what went."""
    await home.a.sync_once()

    def on(reader: Reader) -> tuple[str, str]:
        before = reader.text
        assert before.count("Off. You were never asked") == 2
        answer = reader.press(f"Switch on {COUNTING}")
        return answer, reader.text

    def visit(reader: Reader) -> list[str]:
        answer, after = on(reader)
        assert f"{COUNTING} is on" in answer
        assert after.count("Off. You were never asked") == 1
        return [answer]

    await reading(site, visit, scripts=False)
    await home.b.sync_once()
    assert home.b.ledger.state(COUNTING).standing is Standing.GRANTED
    record(home.b, "food/cuisine", "lao")
    await home.both()

    again = PrivacyCentre(home.a, purpose=COUNTING).site()
    await again.start()
    answer = await reading(
        again, lambda reader: reader.press(f"Switch off {COUNTING}"), scripts=False
    )
    await again.stop()
    assert "1 value went with it. The service has taken the receipt." in answer
    assert "food/cuisine was removed" in answer
    assert "sealed history" in answer
    await home.b.sync_once()
    assert home.b.core.get("food", "cuisine") is None
    assert not home.b.ledger.allows(COUNTING)


async def test_words_that_change_while_they_are_read_are_not_agreed_to(
    home: House, site: LocalSite
) -> None:
    """The form names the words that it stood under: the answer says so, shows the new ones, and
    they can be agreed to."""
    await home.a.sync_once()
    changed = (replace(PURPOSES[0], text="Counts, and sells."), PURPOSES[1])
    loop = asyncio.get_running_loop()

    def visit(reader: Reader) -> list[str]:
        assert PURPOSES[0].text in reader.text
        publishing = home.publish(policy(home.held, purposes=changed))
        asyncio.run_coroutine_threadsafe(publishing, loop).result()
        first = reader.press(f"Switch on {COUNTING}")
        between = reader.text
        return [first, between, reader.press(f"Switch on {COUNTING}")]

    first, between, second = await reading(site, visit, scripts=False)
    assert "read them" in first
    assert "Counts, and sells." in between
    assert between.count("Off. You were never asked") == 2
    assert f"{COUNTING} is on" in second
    newest = home.a.ledger.state(COUNTING).newest
    assert newest is not None
    assert newest.words[0] == "Counts, and sells."


async def test_what_is_intrusive_wants_a_typed_word(home: House, site: LocalSite) -> None:
    """Another word switches nothing on; what is not intrusive asks for none."""
    intrusive = (PURPOSES[0], replace(PURPOSES[1], intrusive=True))
    await home.publish(policy(home.held, purposes=intrusive))
    await home.a.sync_once()

    def visit(reader: Reader) -> list[Any]:
        button = f"//button[@aria-label='Switch on {ADVICE}']"
        # Nothing typed: the browser itself holds it back.
        reader.driver.find_element(By.XPATH, button).click()
        told = reader.driver.find_elements(By.CSS_SELECTOR, ".told")
        found = [len(told), complaints(reader.driver)]
        found.append(reader.press(f"Switch on {ADVICE}", word="yes"))
        found.append(reader.press(f"Switch on {ADVICE}", word="grant"))
        found.append(reader.press(f"Switch on {COUNTING}"))
        return found

    held_back, complained, wrong, right, other = await reading(site, visit)
    assert (held_back, complained) == (0, [])
    assert "nothing was granted" in wrong
    assert f"{ADVICE} is on" in right
    assert f"{COUNTING} is on" in other
    granted = [one.receipt.purpose for one in home.a.ledger.records.chain()]
    assert granted == [ADVICE, COUNTING]


async def test_each_value_says_where_it_came_from_and_what_it_did(
    home: House, site: LocalSite
) -> None:
    """Name, value, device, reach and its share in the ranking; one goes by its button."""
    await lived(home)

    def visit(reader: Reader) -> tuple[str, str, str]:
        known = reader.open("known")
        ranking = reader.open("ranking")
        reader.open("known")
        answer = reader.press("Remove food/spice")
        return known, ranking, answer

    known, ranking, answer = await reading(site, visit)
    row = next(line for line in known.splitlines() if line.startswith("rating/greek"))
    assert "device #" in row
    assert "moved greek up by" in row
    assert "Stays on this device." in known
    assert "Shared by your devices, sealed; may be counted with many others" in known
    assert ranking.index("greek:") < ranking.index("thai:") < ranking.index("lao:")
    assert "what you did with it (rating). From device #" in ranking
    assert "food/spice was removed" in answer
    await home.b.sync_once()
    assert home.b.core.get("food", "spice") is None


async def test_everything_is_paused_begun_anew_and_brought_back(
    home: House, site: LocalSite
) -> None:
    """Pause and reset hold on the other device; the undo brings all of it back."""
    await lived(home)

    def pause(reader: Reader) -> list[str]:
        return [reader.press("Pause"), reader.text]

    def reset(reader: Reader) -> list[str]:
        reader.press("Go on")
        reader.open("leave")
        return [
            reader.press("Reset the profile", tick=True),
            reader.open("known"),
            reader.open("leave") and reader.press("Undo the reset"),
        ]

    answers: list[str] = []

    def visit(reader: Reader) -> None:
        answers.extend(pause(reader))
        answers.extend(reset(reader))

    await reading(site, visit, scripts=False)
    paused, choices, gone, empty, back = answers
    assert "Everything is paused." in paused
    assert "Nothing is recorded and nothing is sent" in choices
    assert "values removed, on all your devices" in gone
    assert "food/cuisine" not in empty
    assert "notes/note" not in empty
    assert "came back" in back
    await home.both()
    assert home.a.core.get("food", "cuisine") == "thai"


async def test_a_device_is_removed_and_the_box_must_be_ticked(home: House, site: LocalSite) -> None:
    """The other device is out; this one offers no button for itself."""

    def visit(reader: Reader) -> tuple[str, str]:
        reader.open("devices")
        buttons = [one.text for one in reader.driver.find_elements(By.TAG_NAME, "button")]
        assert len(buttons) == 1
        label = buttons[0]
        # Not ticked: the browser itself holds it back.
        reader.driver.find_element(By.XPATH, f"//button[text()='{label}']").click()
        assert reader.driver.find_elements(By.CSS_SELECTOR, ".told") == []
        return reader.press(label, tick=True), reader.text

    answer, after = await reading(site, visit)
    assert "is removed; the others have a new key" in answer
    assert "removed" in after
    assert [one.active for one in home.a.core.devices if not one.this_device] == [False]


async def test_all_of_it_is_saved_as_a_file_and_then_forgotten(
    home: House, site: LocalSite, tmp_path: Path
) -> None:
    """The export is whole and readable; forgetting wants the word, deletes the account, and ends
    the site."""
    await lived(home)
    ended = asyncio.Event()
    site.ended = ended.set

    def visit(reader: Reader) -> tuple[str, str, dict[str, Any]]:
        told = reader.open("leave")
        reader.press_only("Save the file")
        saved = reader.saved()
        wrong = reader.press("Forget me", word="forge")
        assert "nothing was done" in wrong
        reader.press("Forget me", word="forget")
        return told, reader.text, saved

    told, after, saved = await reading(site, visit)
    assert "results that came out stay as they are" in told
    assert saved["settings"]["food/cuisine"] == "thai"
    assert {one["purpose"] for one in saved["receipts"]} == {ADVICE, COUNTING}
    assert "You are forgotten" in after
    assert ended.is_set()
    with pytest.raises(AccountGone):
        await home.b.sync_once()


async def test_every_page_is_accessible_in_light_and_dark_and_on_a_phone(
    home: House, tmp_path: Path
) -> None:
    """axe-core has no complaint, the console none, no page is wider than a phone's screen, and
    the keyboard reaches the first button. Pictures are kept where ROOKERY_PICTURES says."""
    await lived(home)
    pictures = Path(os.environ.get("ROOKERY_PICTURES", tmp_path))

    for name, options in (
        ("light", {}),
        ("dark", {"dark": True}),
        ("phone", {"width": 500}),
    ):
        site = PrivacyCentre(home.a, purpose=COUNTING).site()
        await site.start()

        def visit(reader: Reader, name: str = name) -> list[str]:
            found: list[str] = []
            for place in PLACES:
                reader.open(place)
                found += [f"{place}: {one}" for one in complaints(reader.driver)]
                wide = "return document.documentElement.scrollWidth > innerWidth"
                if reader.driver.execute_script(wide):
                    found.append(f"{place}: wider than the window")
                picture(reader.driver, pictures / f"privacy-{place or 'choices'}-{name}.png")
            reader.open("")
            body = reader.driver.find_element(By.TAG_NAME, "body")
            for _ in range(20):
                body.send_keys(Keys.TAB)
                active = reader.driver.switch_to.active_element
                if active.tag_name == "button":
                    break
            else:
                found.append("no button is reached by the keyboard")
            return found + said(reader.driver)

        assert await reading(site, visit, **options) == []
        await site.stop()


async def test_a_device_under_no_policy_is_shown_what_it_holds(home: House) -> None:
    """It says so, and offers nothing that would not work."""
    home.a.unpin_policy(KEY.public[:8])
    home.a.edit(lambda core, now_ms: core.put("free", "thing", "x", now_ms=now_ms))
    home.a.edit(lambda core, now_ms: core.put("taste", "thai", 5, now_ms=now_ms))
    home.a.edit(lambda core, now_ms: core.add_member("taste.hidden", "thai", now_ms=now_ms))
    site = PrivacyCentre(home.a).site()
    await site.start()
    first, known = await reading(site, lambda reader: (reader.text, reader.open("known")))
    await site.stop()
    assert "under no policy" in first
    assert "free/thing" in known
    assert "hides thai" in next(x for x in known.splitlines() if x.startswith("taste.hidden/thai"))
