"""`rookery device privacy`: the privacy centre in a browser on this machine."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from client.cli import session
from client.cli.output import OK, Output
from client.errors import UserError

if TYPE_CHECKING:
    from client.pages.local import LocalSite

_EXTRA = (
    "pages need two packages more: install rookery with its extra, as in `pip install"
    " 'rookery[pages]'`"
)
_SAID = """\
{address}
It opens once, within ten minutes, in one browser on this machine, and shows what nobody else \
should see. Ctrl-C ends it."""


async def privacy(arguments: argparse.Namespace, out: Output) -> int:
    """Serves the pages until Ctrl-C, or until the account is gone."""
    try:
        from client.pages.privacy.centre import PrivacyCentre
    except ModuleNotFoundError as error:
        raise lacking(error) from None
    async with session.opened(arguments, patient=False) as synced:
        await session.try_sync(synced, arguments, out)
        offset = time.localtime().tm_gmtoff // 60
        centre = PrivacyCentre(synced, purpose=arguments.purpose, utc_offset_minutes=offset)
        await serve(centre.site(), arguments, out)
    return OK


def lacking(error: ModuleNotFoundError) -> Exception:
    """What to do about packages of the extra that are missing; any other one is a defect."""
    return UserError(_EXTRA) if error.name in ("aiohttp", "jinja2") else error


async def serve(site: LocalSite, arguments: argparse.Namespace, out: Output) -> None:
    """Shows where the pages are, and serves them until they or the person end it."""
    over = asyncio.Event()
    site.ended = over.set
    await site.start(arguments.port)
    try:
        address = site.address
        out.result({"address": address}, _SAID.format(address=address))
        with contextlib.ExitStack() as opened:
            if arguments.open:
                page = opened.enter_context(_pointing_at(address))
                await asyncio.to_thread(webbrowser.open, page.as_uri())
            await over.wait()
            # The last page is still on its way.
            await asyncio.sleep(1.0)
    finally:
        await site.stop()


@contextlib.contextmanager
def _pointing_at(address: str) -> Iterator[Path]:
    """A file of this person's that leads there: a browser's command line, in which the address
    itself would stand, can be read by everybody on the machine."""
    with tempfile.TemporaryDirectory(prefix="rookery-") as folder:
        page = Path(folder, "open.html")
        page.write_text(
            '<!doctype html><meta charset="utf-8"><title>Rookery</title>'
            f'<meta http-equiv="refresh" content="0; url={address}">'
        )
        yield page
