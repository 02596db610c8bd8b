"""Making an account at the service: a new one, or one that the service has lost altogether.

CreateAccount carries the chain up to the link that added this device, so that the service
knows who calls. All that followed it, links and ops, is lost data like any other: a receipt
shows what is missing, and `client.healing` gives it back in the order in which it was written,
so that ops find the epoch that they were written in.
"""

from __future__ import annotations

from collections.abc import Sequence

from client import healing
from client.core import Core
from client.errors import NotAllowed
from client.steps import ChainItem, CreateAccount
from crypto import link
from crypto.link import Add, Rotate

LATER_BYTES_MAX = 1_000_000
_ROW_BYTES = 32
"""More than protobuf adds to a link or a grant."""


def begin(core: Core) -> None:
    """The person wants the account back. NotAllowed if this device can't do it."""
    me = core.me
    if me is None or not me.active or not core.ready:
        raise NotAllowed("This device was removed from the account; use another one.")
    if not all(map(_is_whole, core.view.items)):
        raise NotAllowed(
            "This device did not get all keys of its device list as they were sent; use another "
            "device of the account."
        )
    core.made, core.gone, core.created_to = False, False, 0
    core.remade_epoch = core.state.chain.epoch
    core.journal.set("remade", core.remade_epoch.to_bytes(4, "big"))
    core.notices.withdraw("restore-refused", core.journal)
    healing.generation_changed(core)


def _is_whole(item: ChainItem) -> bool:
    """The service takes a link only with all of its grants."""
    return bool(item.grants) or not isinstance(link.parse(item.link.raw).body, Add | Rotate)


def next_call(core: Core) -> CreateAccount:
    """The genesis link, and as many of those that follow it as are needed and fit."""
    items = core.view.items
    later = _that_fit(items[core.created_to + 1 : _needed_to(core) + 1])
    return CreateAccount(items[0].link, tuple(later))


def _needed_to(core: Core) -> int:
    me = core.me
    return me.added_seq if me is not None else 0


def _that_fit(items: Sequence[ChainItem]) -> list[ChainItem]:
    fit: list[ChainItem] = []
    size = 0
    for item in items:
        parts = [item.link.raw, item.link.sig, item.link.pop, *(row.sealed for row in item.grants)]
        size += sum(len(part) + _ROW_BYTES for part in parts)
        if size > LATER_BYTES_MAX:
            break
        fit.append(item)
    return fit


def created(core: Core) -> None:
    """The service took the call that was due."""
    core.created_to += len(next_call(core).later)
    core.made = core.created_to >= _needed_to(core)


def refused(core: Core) -> None:
    """It did not. An account that stood once is not made again and again."""
    core.made = bool(core.remade_epoch)
