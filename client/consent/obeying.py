"""What follows on this device from what was said on another one: nothing is asked, nothing told.

Called after each catch-up and, while ops stream in, as soon as a withdrawal or a reset is among
them. What it removes becomes tombstones, which the next push sends. No I/O.
"""

from __future__ import annotations

from client import resetting
from client.consent.ledger import ConsentLedger
from client.consent.purging import purge, strip_undo
from client.rows import Changes, Rows


def heard(ledger: ConsentLedger) -> frozenset[bytes]:
    """What there is to obey: another set as soon as something new was said."""
    ids = {one.id for one in ledger.records.withdrawals()}
    reset = ledger.device.get(*resetting.RESET)
    ids |= {one for one in reset if isinstance(one, bytes)} if isinstance(reset, list) else set()
    return frozenset(ids)


def obey(ledger: ConsentLedger, rows: Rows, *, now_ms: int) -> Changes:
    """Removes what no purpose needs any more, and what a reset on another device left to this
    one; an undo whose week is over goes, too. Rows to store with it."""
    purge(ledger, now_ms=now_ms)
    _, changes = ledger.device.follow_reset(rows, now_ms=now_ms)
    changes = {**strip_undo(ledger, rows), **changes}
    return {**changes, **resetting.expire(rows, now_ms=now_ms)}
