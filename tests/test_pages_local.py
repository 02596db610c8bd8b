"""The site for one browser: who gets in, who doesn't, and what it lets a page do."""

from __future__ import annotations

import asyncio
import hmac
import http.client
import secrets
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from client.cli.pages import _pointing_at
from client.errors import UserError
from client.pages.local import Action, Done, Form, LocalSite, Page
from tests.browser import browsing, complaints, enter, said
from tests.cli_process import Home


class Clock:
    """Seconds that a test moves on."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def _fill() -> dict[str, object]:
    return {"code": 404}


async def _act(form: Form) -> Done:
    if form.get("say") == "no":
        raise UserError("that can't be done: <b>try again</b>")
    return Done(f"done: {form.get('say')}", then="second")


async def _file(form: Form) -> Done:
    del form
    return Done("", download=b"{}", filename="all.json")


async def _end(form: Form) -> Done:
    del form
    return Done("all is gone", over=True)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def site(clock: Clock) -> AsyncIterator[LocalSite]:
    pages = [Page("", "First", "sorry.html", _fill), Page("second", "Second", "sorry.html", _fill)]
    actions = [Action("act", _act), Action("file", _file), Action("end", _end)]
    one = LocalSite("Test", pages, actions, rand=secrets.token_bytes, monotonic_s=clock)
    await one.start()
    yield one
    await one.stop()


class Visitor:
    """Sends requests by hand."""

    def __init__(self, site: LocalSite) -> None:
        self.url = urlsplit(site.address)
        self.mount = self.url.path.removesuffix("/enter")
        self.cookie = ""

    async def ask(
        self, method: str, path: str, body: str = "", **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """Status, headers, text."""
        return await asyncio.to_thread(self._ask, method, path, body, headers)

    def _ask(
        self, method: str, path: str, body: str, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection(self.url.netloc, timeout=10)
        given = {"Cookie": self.cookie} if self.cookie else {}
        if body:
            given["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request(method, path, body, {**given, **headers})
        answer = connection.getresponse()
        got = {name.lower(): value for name, value in answer.getheaders()}
        text = answer.read().decode()
        connection.close()
        return answer.status, got, text

    async def enter(self) -> tuple[int, dict[str, str], str]:
        """Opens the address."""
        got = await self.ask("GET", f"{self.url.path}?{self.url.query}")
        self.cookie = got[1].get("set-cookie", "").partition(";")[0]
        return got

    async def csrf(self) -> str:
        """What forms of the page carry. The test's page has none, so it is derived again."""
        secret = self.cookie.partition("=")[2]
        return hmac.digest(secret.encode(), b"form", "sha256").hex()


async def test_the_address_works_once(site: LocalSite) -> None:
    """A second browser, or a look into the history, gets a refusal that says what to do."""
    first, second = Visitor(site), Visitor(site)
    status, headers, _ = await first.enter()
    assert status == 200
    assert "HttpOnly" in headers["set-cookie"]
    assert "SameSite=Strict" in headers["set-cookie"]
    assert f"Path={first.mount}" in headers["set-cookie"]
    assert (await first.ask("GET", first.mount + "/"))[0] == 200
    status, _, text = await second.enter()
    assert status == 403
    assert "<h1>Opened already</h1>" in text
    assert "Run the command again" in text
    assert (await second.ask("GET", first.mount + "/"))[0] == 403


async def test_a_wrong_token_gets_nothing_and_uses_nothing_up(site: LocalSite) -> None:
    """Whoever guesses can't lock the person out."""
    visitor = Visitor(site)
    assert (await visitor.ask("GET", visitor.mount + "/enter?token=" + "0" * 32))[0] == 403
    assert (await visitor.ask("GET", "/"))[0] == 404
    assert (await visitor.enter())[0] == 200


async def test_a_head_uses_nothing_up(site: LocalSite) -> None:
    """As programs send that preview an address: it gets no session, and the person still does."""
    visitor = Visitor(site)
    status, headers, _ = await visitor.ask("HEAD", f"{visitor.url.path}?{visitor.url.query}")
    assert status == 405
    assert "set-cookie" not in headers
    assert (await visitor.enter())[0] == 200
    token = await visitor.csrf()
    await visitor.ask("POST", visitor.mount + "/do/act", f"say=x&back=second&csrf={token}")
    await visitor.ask("HEAD", visitor.mount + "/second")
    assert "done: x" in (await visitor.ask("GET", visitor.mount + "/second"))[2]


async def test_an_address_that_nobody_opened_ends(site: LocalSite, clock: Clock) -> None:
    """Ten minutes after the start: what is left in a terminal's history lets nobody in."""
    visitor = Visitor(site)
    clock.now_s += 601
    status, headers, text = await visitor.enter()
    assert status == 403
    assert "Run the command again" in text
    assert "set-cookie" not in headers


async def test_bytes_that_are_no_text_are_refused_like_any_others(site: LocalSite) -> None:
    """As a token, a cookie and a form's token."""
    visitor = Visitor(site)
    for odd in ("%ED%A0%80", "%ff"):
        assert (await visitor.ask("GET", f"{visitor.url.path}?token={odd}"))[0] == 403
    shown = await visitor.ask("GET", visitor.mount + "/", Cookie="rookery-page=\xff")
    assert shown[0] == 403
    await visitor.enter()
    assert (await visitor.ask("POST", visitor.mount + "/do/act", "say=x&csrf=%ED%A0%80"))[0] == 403


async def test_a_name_that_was_pointed_here_reads_nothing(site: LocalSite) -> None:
    """The Host header must be the address itself: a rebound name of another site is refused."""
    visitor = Visitor(site)
    await visitor.enter()
    status, _, _ = await visitor.ask("GET", visitor.mount + "/", Host="evil.example")
    assert status == 421


async def test_a_form_of_another_site_changes_nothing(site: LocalSite) -> None:
    """Without the form's own token, or with another origin, nothing is done."""
    visitor = Visitor(site)
    await visitor.enter()
    token = await visitor.csrf()
    act = visitor.mount + "/do/act"
    assert (await visitor.ask("POST", act, "say=x"))[0] == 403
    assert (await visitor.ask("POST", act, "say=x&csrf=" + "0" * 64))[0] == 403
    forged = await visitor.ask("POST", act, f"say=x&csrf={token}", Origin="http://127.0.0.1:1")
    assert forged[0] == 403
    own = await visitor.ask(
        "POST", act, f"say=x&csrf={token}", Origin=f"http://{visitor.url.netloc}"
    )
    assert (own[0], own[1]["location"]) == (303, visitor.mount + "/second")


async def test_every_answer_lets_in_no_script_frame_or_copy(site: LocalSite) -> None:
    """Also refusals and redirects carry the rules."""
    visitor = Visitor(site)
    for _, headers, _ in (
        await visitor.ask("GET", visitor.mount + "/"),
        await visitor.enter(),
        await visitor.ask("GET", visitor.mount + "/"),
        await visitor.ask("GET", visitor.mount + "/style.css"),
        await visitor.ask("GET", visitor.mount + "/nowhere"),
    ):
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "script-src" not in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "same-origin"


async def test_a_session_that_nobody_uses_is_over(site: LocalSite, clock: Clock) -> None:
    """Half an hour after the last look."""
    visitor = Visitor(site)
    await visitor.enter()
    clock.now_s += 1_790
    assert (await visitor.ask("GET", visitor.mount + "/"))[0] == 200
    clock.now_s += 1_810
    assert (await visitor.ask("GET", visitor.mount + "/"))[0] == 403


async def test_what_an_action_said_is_shown_once_and_escaped(site: LocalSite) -> None:
    """On the page that comes next; names can't become markup."""
    visitor = Visitor(site)
    await visitor.enter()
    token = await visitor.csrf()
    await visitor.ask("POST", visitor.mount + "/do/act", f"say=no&back=second&csrf={token}")
    _, _, text = await visitor.ask("GET", visitor.mount + "/second")
    assert "that can&#39;t be done: &lt;b&gt;try again&lt;/b&gt;" in text
    assert "try again" not in (await visitor.ask("GET", visitor.mount + "/second"))[2]


async def test_a_file_is_given_and_an_end_ends_it(site: LocalSite) -> None:
    """A download is one; after the end the cookie is of no use, and the program is told."""
    ended = asyncio.Event()
    site.ended = ended.set
    visitor = Visitor(site)
    await visitor.enter()
    token = await visitor.csrf()
    got = await visitor.ask("POST", visitor.mount + "/do/file", f"csrf={token}")
    assert (got[0], got[2]) == (200, "{}")
    assert got[1]["content-disposition"] == 'attachment; filename="all.json"'
    got = await visitor.ask("POST", visitor.mount + "/do/end", f"csrf={token}")
    assert "all is gone" in got[2]
    assert ended.is_set()
    assert (await visitor.ask("GET", visitor.mount + "/"))[0] == 403


async def test_a_real_browser_opens_it_and_axe_has_no_complaint(site: LocalSite) -> None:
    """Address, redirect and cookie as Chromium takes them, with no error in its console."""
    address = site.address

    def visit() -> tuple[str, list[str], list[str]]:
        with browsing() as driver:
            enter(driver, address)
            text = driver.find_element("css selector", "main").text
            return text, complaints(driver), said(driver)

    text, complained, console = await asyncio.to_thread(visit)
    assert text.startswith("First")
    assert complained == []
    assert console == []


async def test_a_file_leads_there_too(site: LocalSite, tmp_path: Path) -> None:
    """What `--open` gives the browser: the cookie holds although another place began it."""
    with _pointing_at(site.address) as page:
        assert page.parent.stat().st_mode & 0o077 == 0
        address = page.as_uri()

        def visit() -> str:
            with browsing(scripts=False) as driver:
                enter(driver, address)
                return driver.find_element("css selector", "main").text

        assert (await asyncio.to_thread(visit)).startswith("First")
    assert not page.exists()


def test_the_privacy_centre_is_served_until_it_is_ended(first: Home) -> None:
    """`rookery device privacy`: one address on loopback; Ctrl-C ends it, and the state is free."""
    running = first.start("privacy")
    url = urlsplit(running.next()["address"])
    assert url.hostname == "127.0.0.1"
    connection = http.client.HTTPConnection(url.netloc, timeout=30)
    connection.request("GET", f"{url.path}?{url.query}")
    assert connection.getresponse().status == 200
    connection.close()
    running.process.send_signal(signal.SIGINT)
    assert running.wait() == 130
    first.run("status", "--offline")
