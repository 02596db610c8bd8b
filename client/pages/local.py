"""A site for one browser on this machine: who opens it first with the address's token has it.

What it defends against: other users and programs of the machine, pages of other sites in the
same browser (forged requests, frames, rebound names), and addresses that end up in a history.
It listens on 127.0.0.1 only, loads nothing from anywhere and runs no script.
"""

from __future__ import annotations

import hmac
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from client.errors import UserError

IDLE_S: Final = 1_800.0
"""A session that nobody used for so long is over."""
ENTER_S: Final = 600.0
"""The address works for so long from the start on, unless it was used before."""
FORM_BYTES_MAX: Final = 1 << 16
_HOST: Final = "127.0.0.1"
_COOKIE: Final = "rookery-page"
_CSRF: Final = "csrf"
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self';"
        " base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Without any, the browser would not say which site a form comes from either.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}

_SORRY: Final = {
    HTTPStatus.FORBIDDEN: "Opened already",
    HTTPStatus.NOT_FOUND: "Not here",
    HTTPStatus.INTERNAL_SERVER_ERROR: "A fault",
}
"""Titles of pages that say why there is no answer."""

Form = Mapping[str, str]
Fill = Callable[[], Awaitable[dict[str, Any]]]
"""What a page's template is filled with, read anew each time it is shown."""
Act = Callable[[Form], Awaitable["Done"]]


@dataclass(frozen=True, slots=True)
class Done:
    """What an action did, said on top of the page that is shown next."""

    sentence: str
    details: tuple[str, ...] = ()
    then: str = ""
    """The page to show; empty: the first one."""
    download: bytes | None = None
    """Given as a file instead of a page."""
    filename: str = "rookery.json"
    over: bool = False
    """Nothing is left to look at: the site ends after this answer."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page: its place ("" is the first), template, and what fills it."""

    place: str
    title: str
    template: str
    fill: Fill


@dataclass(frozen=True, slots=True)
class Action:
    """What a form of a page does when it is sent."""

    place: str
    act: Act


@dataclass(slots=True)
class _Session:
    secret: str
    used_s: float
    told: list[tuple[str, Done | str]] = field(default_factory=list)
    """What the next page says: ("done" | "refused", what)."""


class LocalSite:
    """The site, from `start` to `stop`."""

    def __init__(
        self,
        name: str,
        pages: Iterable[Page],
        actions: Iterable[Action],
        *,
        rand: Callable[[int], bytes],
        monotonic_s: Callable[[], float],
    ) -> None:
        """`rand` makes its token and keys; `monotonic_s` tells when a session is over."""
        self._name = name
        self._pages = {page.place: page for page in pages}
        self._actions = {action.place: action for action in actions}
        self._rand = rand
        self._now_s = monotonic_s
        self._token: str | None = rand(16).hex()
        self._until_s = monotonic_s() + ENTER_S
        # Cookies know no ports: below a path that nobody guesses, others don't get ours.
        self._mount = f"/{rand(8).hex()}"
        self._session: _Session | None = None
        self._runner: web.AppRunner | None = None
        self._host = ""
        self.ended: Callable[[], None] = lambda: None
        """Called when an action has ended the site."""
        self._templates = Environment(
            loader=PackageLoader("client.pages"),
            autoescape=select_autoescape(),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    @property
    def address(self) -> str:
        """Where a browser opens it, once and soon: the token is of no use afterwards."""
        return f"http://{self._host}{self._mount}/enter?token={self._token or ''}"

    async def start(self, port: int = 0) -> None:
        """Listens on loopback. UserError if the port is taken."""
        app = web.Application(client_max_size=FORM_BYTES_MAX, middlewares=[self._guard])
        # A HEAD shows nothing: it must not use the token up, nor what a page says once.
        app.router.add_get(self._mount + "/enter", self._enter, allow_head=False)
        app.router.add_get(self._mount + "/style.css", self._style, allow_head=False)
        app.router.add_get(self._mount + "/{place:.*}", self._show, allow_head=False)
        app.router.add_post(self._mount + "/do/{place:.*}", self._do)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, _HOST, port)
        try:
            await site.start()
        except OSError:
            raise UserError(f"port {port} is taken: choose another, or none") from None
        self._host = f"{_HOST}:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Ends every connection. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    # -- who may ---------------------------------------------------------------------------

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            if request.headers.get("Host") != self._host:
                # A name that was made to point here: its page must not read ours.
                raise web.HTTPMisdirectedRequest
            answer = await handler(request)
        except web.HTTPException as error:
            answer = self._sorry(HTTPStatus(error.status))
        except Exception as error:  # noqa: BLE001 - a defect is said, and is not the end
            _tell_defect(error)
            answer = self._sorry(HTTPStatus.INTERNAL_SERVER_ERROR)
        answer.headers.update(_HEADERS)
        return answer

    async def _enter(self, request: web.Request) -> web.StreamResponse:
        given = request.query.get("token", "")
        if self._token is None or self._now_s() > self._until_s:
            raise web.HTTPForbidden
        if not hmac.compare_digest(_comparable(given), self._token.encode()):
            raise web.HTTPForbidden
        self._token = None
        self._session = _Session(self._rand(32).hex(), self._now_s())
        # No redirect: the cookie is not sent with one that another place began.
        answer = self._response("enter.html", title="Opening", place=None, pages=[], told=[])
        answer.set_cookie(
            _COOKIE, self._session.secret, path=self._mount, httponly=True, samesite="Strict"
        )
        return answer

    def _session_of(self, request: web.Request) -> _Session:
        session, now_s = self._session, self._now_s()
        given = request.cookies.get(_COOKIE, "")
        if (
            session is None
            or now_s - session.used_s > IDLE_S
            or not hmac.compare_digest(_comparable(given), session.secret.encode())
        ):
            raise web.HTTPForbidden
        session.used_s = now_s
        return session

    def _csrf(self, session: _Session) -> str:
        return hmac.digest(session.secret.encode(), b"form", "sha256").hex()

    # -- pages -----------------------------------------------------------------------------

    async def _show(self, request: web.Request) -> web.StreamResponse:
        session = self._session_of(request)
        page = self._pages.get(request.match_info["place"])
        if page is None:
            raise web.HTTPNotFound
        told, session.told = session.told, []
        try:
            return await self._filled(page, session, told)
        except UserError as error:
            return self._response(
                "base.html",
                title=page.title,
                place=page.place,
                pages=list(self._pages.values()),
                told=[*told, ("refused", str(error))],
            )

    async def _filled(
        self, page: Page, session: _Session, told: list[tuple[str, Done | str]]
    ) -> web.Response:
        return self._response(
            page.template,
            **await page.fill(),
            title=page.title,
            place=page.place,
            pages=list(self._pages.values()),
            told=told,
            csrf=self._csrf(session),
        )

    def _response(
        self, template: str, *, http_status: HTTPStatus = HTTPStatus.OK, **values: Any
    ) -> web.Response:
        text = self._templates.get_template(template).render(
            name=self._name, mount=self._mount, **values
        )
        return web.Response(text=text, content_type="text/html", status=http_status)

    def _sorry(self, status: HTTPStatus) -> web.Response:
        return self._response(
            "sorry.html",
            http_status=status,
            title=_SORRY.get(status, "Not answered"),
            place=None,
            pages=[],
            told=[],
            code=status.value,
        )

    def _see(self, place: str) -> web.Response:
        """Sends the browser to one of our pages."""
        known = place if place in self._pages else ""
        return web.Response(
            status=HTTPStatus.SEE_OTHER, headers={"Location": f"{self._mount}/{known}"}
        )

    async def _style(self, request: web.Request) -> web.StreamResponse:
        del request
        text = (Path(__file__).parent / "templates" / "style.css").read_text()
        return web.Response(text=text, content_type="text/css")

    async def _do(self, request: web.Request) -> web.StreamResponse:
        session = self._session_of(request)
        if request.headers.get("Origin") not in (None, f"http://{self._host}"):
            raise web.HTTPForbidden
        form = {
            name: value for name, value in (await request.post()).items() if isinstance(value, str)
        }
        if not hmac.compare_digest(_comparable(form.pop(_CSRF, "")), self._csrf(session).encode()):
            raise web.HTTPForbidden
        action = self._actions.get(request.match_info["place"])
        if action is None:
            raise web.HTTPNotFound
        try:
            done = await action.act(form)
        except UserError as error:
            session.told.append(("refused", str(error)))
            return self._see(form.get("back", ""))
        if done.download is not None:
            disposition = f'attachment; filename="{done.filename}"'
            return web.Response(
                body=done.download,
                content_type="application/json",
                headers={"Content-Disposition": disposition},
            )
        if done.over:
            answer = self._response(
                "over.html", title="Done", place=None, pages=[], told=[("done", done)]
            )
            self._session = None
            self.ended()
            return answer
        session.told.append(("done", done))
        return self._see(done.then)


def _comparable(given: str) -> bytes:
    """What somebody sent, whatever was in its bytes."""
    return given.encode(errors="surrogatepass")


def _tell_defect(error: Exception) -> None:
    """Its kind and places; what it says may hold values."""
    places = "".join(traceback.format_tb(error.__traceback__))
    print(f"a page failed: {type(error).__name__}\n{places}", file=sys.stderr)
