"""`rookery operator health`, `exposure`, `audit` and `rounds`."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final

from client import remoteerrors as reasons
from client.analyst import present
from client.analyst.errors import KeyRefused, NotVerified
from client.analyst.evidence import Pins
from client.analyst.times import show_instant
from client.cli import options, pages, tasksession
from client.cli.output import FAILED, OK, Output, clean, table
from client.cli.trust import policy_key
from client.errors import UserError
from client.operator.auditlog import AuditEntry, ChainHead, LogBroken, Start, parse_head
from client.operator.calls import Operations
from client.operator.reports import Health, OverviewRound
from client.remoteerrors import RemoteError
from client.transport import Signer, Transport

_DAY_MS: Final = 86_400_000
_UNREADABLE: Final = ("sealed", "blinded", "digest", "public_key")


@contextlib.asynccontextmanager
async def _opened(arguments: argparse.Namespace) -> AsyncIterator[Operations]:
    key = tasksession.load_key(arguments.key)
    transport = Transport(
        options.endpoint(arguments, None),
        backoff=tasksession.PATIENCE,
        tracing=arguments.tracing,
    )
    try:
        with _explained(key.public):
            yield Operations(transport, Signer(key))
    finally:
        await transport.close()


@contextlib.contextmanager
def _explained(public: bytes) -> Iterator[None]:
    """What an operator's key can get wrong, in its words; KeyRefused."""
    try:
        yield
    except RemoteError as error:
        match error.reason:
            case reasons.UNAUTHENTICATED:
                raise KeyRefused(
                    "the service does not know this key: its policy must list it for the role"
                    f" operator (access.yaml): {public.hex()}"
                ) from None
            case reasons.ROLE_MISSING | reasons.ACCESS_DENIED:
                raise KeyRefused(
                    "the service knows this key, but its policy does not allow it this call"
                    f" (access.yaml, role operator): {public.hex()}"
                ) from None
        raise


async def page(arguments: argparse.Namespace, out: Output) -> int:
    """All of it in a browser, until Ctrl-C."""
    try:
        from client.pages.operations import OperatorPages
    except ModuleNotFoundError as error:
        raise pages.lacking(error) from None
    panel = tasksession.panel(arguments)
    pins = Pins(panel.publishers or None, panel.keys or None)
    async with _opened(arguments) as operations:
        # A key that may not look is told so here, not in the browser.
        await operations.health()
        start = await _start(arguments, operations)
        site = OperatorPages(operations, pins=pins, noted=_noted(arguments), start=start).site()
        await pages.serve(site, arguments, out)
    return OK


# --- health ---


async def health(arguments: argparse.Namespace, out: Output) -> int:
    """How well the service keeps to its policy."""
    async with _opened(arguments) as operations:
        found = await operations.health()
    out.result(found.as_data(), "\n".join(_health(found)))
    return OK


def _health(found: Health) -> Iterator[str]:
    if not found.governed:
        yield "policy         none: the service is not governed"
    elif not found.policy_sequence:
        yield "policy         none yet: everything is denied"
    else:
        age = _days(found.server_ms - found.policy_issued_ms)
        yield f"policy         number {found.policy_sequence}, issued {age} ago"
    since = show_instant(found.counted_since_ms)
    said = f"{found.grants:,} given, {found.withdrawals:,} taken back"
    yield f"consent        {said}, since {since} at this replica"
    refused = ", ".join(f"{reason} {count:,}" for reason, count in found.refusals.items())
    yield f"refusals       {refused or 'none'}"
    overdue = {kind: count for kind, count in found.overdue.items() if count}
    late = ", ".join(f"{kind} {count:,}" for kind, count in overdue.items())
    yield f"overdue        {late or 'nothing is past its retention'}"
    past = found.rows_past_deletion
    yield f"past deletion  {'this store can not tell' if past is None else f'{past:,} rows'}"
    ended = found.oldest_ended_epoch_ms
    if ended is not None:
        told = f"ended {_days(found.server_ms - ended)} ago" if ended else "none is held"
        yield f"oldest epoch   {told}"
    for kind, since_ms in found.key_since_ms.items():
        yield f"key            {kind}, {_days(found.server_ms - since_ms)} old"
    for one in found.budgets:
        yield (
            f"budget         {clean(one.task_id)}: {one.left:,} of {one.cap:,} micro-rho left,"
            f" {one.left // one.round_cost if one.round_cost else 0:,} rounds"
        )
    yield f"audit log      {found.audit_head}"


def _days(ms: int) -> str:
    days = max(0, ms) // _DAY_MS
    return f"{days:,} days" if days != 1 else "1 day"


# --- exposure ---


async def exposure(arguments: argparse.Namespace, out: Output) -> int:
    """What the service stores, in which form, and who may read it."""
    async with _opened(arguments) as operations:
        rows = await operations.exposure()
    if arguments.clear:
        rows = tuple(row for row in rows if row.form not in _UNREADABLE)
    text = table(
        ("field", "form", "readers", "about"),
        [
            (row.field, row.form, ", ".join(row.readers) or "nobody by a call", clean(row.about))
            for row in rows
        ],
    )
    out.result({"fields": [row.as_data() for row in rows]}, text)
    return OK


# --- audit ---


def _noted(arguments: argparse.Namespace, option: str = "head") -> ChainHead | None:
    text = getattr(arguments, option)
    try:
        return None if text is None else parse_head(text)
    except ValueError:
        raise UserError(f"--{option} is SEQ:HASH, as `rookery operator audit` shows it") from None


async def _start(arguments: argparse.Namespace, operations: Operations) -> Start:
    """Where the log may begin, by what was given."""
    gone_before_ms = None
    if arguments.policy is not None:
        key = policy_key(arguments.policy)
        gone_before_ms = await operations.gone_before_ms(key, time.time_ns() // 1_000_000)
    return Start(_noted(arguments, "anchor"), gone_before_ms)


async def audit(arguments: argparse.Namespace, out: Output) -> int:
    """The log, each entry of it verified."""
    noted, _ = _noted(arguments), _noted(arguments, "anchor")
    entries: list[AuditEntry] = []
    broken = ""
    async with _opened(arguments) as operations:
        start = await _start(arguments, operations)
        roles: Mapping[str, Sequence[str]] = {}
        if arguments.policy is not None:
            roles = await operations.roles(policy_key(arguments.policy))
        try:
            async for page in operations.whole_audit(noted, start):
                entries += page
        except LogBroken as error:
            broken = str(error)
    head = anchor = None
    if entries:
        head = str(ChainHead(entries[-1].seq, entries[-1].hash))
        anchor = ChainHead(entries[0].seq - 1, entries[0].prev)
    data = {
        "entries": [_entry(one, roles) for one in entries],
        "head": head,
        "anchor": None if anchor is None else str(anchor),
        "holds": not broken,
    }
    lines = [_line(one, roles) for one in entries]
    if broken:
        out.result(data | {"why": broken}, "\n".join(lines))
        out.note(f"rookery: the audit log does not hold: {broken}")
        return FAILED
    if anchor is not None and anchor.seq:
        lines.append(f"begins behind entry {anchor.seq}; note the anchor elsewhere: {anchor}")
        if not start.is_known:
            lines.append("NOT CHECKED that they may be gone: --policy, or --anchor")
    out.result(data, "\n".join([*lines, f"verified; note the head elsewhere: {head}"]))
    return OK


def _entry(one: AuditEntry, roles: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """With the roles of a key that the policy lists, which are not in the entry itself."""
    said = one.as_data()
    named = roles.get(said.get("who", ""))
    return said | {"roles": list(named)} if named else said


def _line(one: AuditEntry, roles: Mapping[str, Sequence[str]]) -> str:
    said = _entry(one, roles)
    of = f" (of {said['begun']})" if "begun" in said else ""
    named = f" ({clean(', '.join(said['roles']))})" if "roles" in said else ""
    told = [clean(str(said.get(key, "?"))) for key in ("outcome", "what", "who")]
    return f"{one.seq:>8}  {show_instant(one.at_ms)}  {told[0]}{of}  {told[1]}  by {told[2]}{named}"


# --- rounds ---


async def rounds(arguments: argparse.Namespace, out: Output) -> int:
    """Rounds, newest first."""
    panel = tasksession.panel(arguments)
    pins = Pins(panel.publishers or None, panel.keys or None)
    async with _opened(arguments) as operations:
        found = await operations.overview(rounds_max=arguments.max)
    states = ", ".join(f"{count:,} {state.value}" for state, count in found.states.items())
    text = [f"{states or 'no rounds'}", *(_round(one, pins) for one in found.rounds)]
    if pins == Pins(None, None) and any(one.result for one in found.rounds):
        text.append("NOT PINNED: --publisher and --party say whose results are taken")
    out.result(found.as_data(pins) | {"pinned": pins.parties is not None}, "\n".join(text))
    return OK


def _round(one: OverviewRound, pins: Pins) -> str:
    summary = one.summary
    line = (
        f"\n{summary.round_id.hex()}  {summary.state.value:9}  {show_instant(summary.open_ms)} to"
        f" {show_instant(summary.close_ms)}"
    )
    if one.withheld:
        return f"{line}\n  a result that the policy does not let this operator read"
    try:
        opened = one.open(pins)
    except NotVerified as error:
        return f"{line}\n  a result that is not taken: {error}"
    if opened is None:
        return line
    where, told = opened
    shown = present.table(where.task, told)
    rows = table(shown.head, shown.rows, right=shown.right)
    more = f"\n… and {shown.more:,} more" if shown.more else ""
    return f"{line}\n{clean(where.task.title)}\n{rows}{more}"
