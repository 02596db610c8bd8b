"""`rookery device trust`: whose tasks this device answers, and who may compute them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from client.analyst.panel import joined
from client.cli import session
from client.cli.output import OK, Output
from client.errors import UserError
from client.measure.core import Measuring
from client.measure.policy import KEY_BYTES, PREFIX_BYTES_MIN, Limits, Panel, Policy
from mpc.privacy import MICRO, RHO_MICRO_MAX, epsilon_of

DELTA = 1e-6
_LIMITS = ("round_micro_rho", "period_micro_rho", "period_days", "all_time_micro_rho")


async def trust(arguments: argparse.Namespace, out: Output) -> int:
    """Changes what is asked for, then shows all of it. Asks nobody: keys come from people."""
    async with session.opened(arguments) as synced:
        measuring = Measuring(synced.core, synced.vault.load())
        # Looked at before anything is changed: a command does all of it or nothing.
        keys = [policy_key(text) for text in arguments.policy]
        removed = [_prefix(text) for text in arguments.remove]
        left = [one for one in removed if not _names_any(one, synced.holding.keys)]
        changed = _changed(measuring.policy, arguments, left)
        for prefix in removed:
            if prefix not in left:
                synced.unpin_policy(prefix)
        for key in keys:
            synced.pin_policy(key)
        if changed != measuring.policy:
            measuring.set_policy(changed)
            synced.save(measuring.take_changes())
        spent = measuring.spent_micro_rho()
        governing = synced.holding.keys
    data = _data(changed) | {
        "spent_micro_rho": spent,
        "policy_publishers": [key.hex() for key in governing],
    }
    lines = [*_lines(changed), f"  spent so far    {_cost(spent)}", *_governing(governing)]
    out.result(data, "\n".join(lines))
    return OK


def _changed(policy: Policy, arguments: argparse.Namespace, remove: Iterable[bytes]) -> Policy:
    for prefix in remove:
        policy = policy.without(prefix)
    panel = joined(arguments.panel, arguments.party, arguments.publisher)
    for key in sorted(panel.publishers):
        policy = policy.with_publisher(key)
    if panel.keys:
        t = (len(panel.keys) - 1) // 2 if arguments.t is None else arguments.t
        policy = policy.with_panel(Panel(panel.keys, t))
    elif arguments.t is not None:
        raise UserError("--t is of one panel: give its parties, too, by --party or --panel")
    limits = {name: getattr(arguments, name) for name in _LIMITS}
    return policy.with_limits(**{name: one for name, one in limits.items() if one is not None})


def _governing(keys: Iterable[bytes]) -> Iterable[str]:
    keys = list(keys)
    if keys:
        yield "policy: this device records and answers what a policy allows that one of these"
        yield "keys has signed (`rookery device policy`)"
        yield from (f"  {key.hex()}" for key in keys)
    else:
        yield "policy: none; this device records whatever it is given (--policy KEY)"


def _names_any(prefix: bytes, keys: Iterable[bytes]) -> bool:
    return len(prefix) >= PREFIX_BYTES_MIN and any(key.startswith(prefix) for key in keys)


def policy_key(text: str) -> bytes:
    """The key of a policy's publisher, as it is given; UserError."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise UserError("--policy takes a policy publisher's key: 64 hex digits")
    return key


def _prefix(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UserError("--remove takes a key in hexadecimal, or its first 8 digits") from None


def _lines(policy: Policy) -> Iterable[str]:
    yield "publishers: this device answers tasks that one of these keys has signed, if their"
    yield "purpose is allowed"
    yield from (f"  {key.hex()}" for key in sorted(policy.publishers))
    if not policy.publishers:
        yield "  none: no task is answered (--publisher KEY)"
    yield "panels: parties that compute together; no value shows unless more than t of them"
    yield "join forces, so they should be run by people who would not"
    for panel in policy.panels:
        yield f"  t = {panel.t} of {len(panel.parties)}"
        yield from (f"    {at}  {key.hex()}" for at, key in enumerate(panel.parties, 1))
    if not policy.panels:
        yield "  none: no task is answered (--party KEY for each party, in their order)"
    limits = policy.limits
    yield "limits: how much results may tell of one person's values; noisier tasks tell less"
    yield f"  in a round      {_cost(limits.round_micro_rho)}"
    days = f"in {limits.period_days} days"
    yield f"  {days:14}  {_cost(limits.period_micro_rho)}"
    yield f"  for all time    {_cost(limits.all_time_micro_rho)}"


def _cost(micro_rho: int) -> str:
    epsilon = _epsilon(micro_rho)
    shown = "no limit to speak of" if epsilon is None else f"epsilon {epsilon:.3g} at delta 1e-6"
    return f"{micro_rho:,} micro-rho ({shown})"


def _epsilon(micro_rho: int) -> float | None:
    return epsilon_of(micro_rho, DELTA) / MICRO if micro_rho <= RHO_MICRO_MAX else None


def _data(policy: Policy) -> dict[str, Any]:
    limits: Limits = policy.limits
    return {
        "publishers": sorted(key.hex() for key in policy.publishers),
        "panels": [
            {"t": panel.t, "parties": [key.hex() for key in panel.parties]}
            for panel in policy.panels
        ],
        **{name: getattr(limits, name) for name in _LIMITS},
    }
