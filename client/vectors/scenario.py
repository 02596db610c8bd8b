"""Scenarios: a fresh client's verdict on each item that is delivered to it, in order.

The judge is the client's own (`client.integrity`). Nothing is buffered here: what is on
HOLD leaves no trace, and has to be delivered again.
"""

from __future__ import annotations

from functools import partial

from client.integrity import State, Verdict, apply, judge, judge_receipt
from client.vectors.fields import Entry, Malformed, Mismatch, data, entry, items, number, rows
from client.vectors.report import Report
from client.vectors.sealed import head_rows
from client.vectors.world import World


def scenarios(world: World, report: Report) -> None:
    """One case a scenario."""
    for place, value in rows(world.file.get("scenarios")):
        name = f"scenarios{place}"
        if isinstance(value, dict) and value.get("name"):
            name = f"{name} {value['name']!s}"
        report.holds(name, partial(_scenario, world, value))


def _scenario(world: World, value: object) -> None:
    row = entry(value)
    chain = world.chain_after(number(row, "chain_links"))
    if chain.account_id is None:
        raise Malformed("malformed: a client without a chain belongs to no account")
    deliver, expected = items(row, "deliver"), items(row, "expect")
    if len(deliver) != len(expected):
        raise Malformed(f"malformed: {len(deliver)} items and {len(expected)} verdicts")
    state = State(chain, world.epochs())
    for at, (item, verdict) in enumerate(zip(deliver, expected, strict=True)):
        stated = str(verdict).partition(":")[0].strip()
        if stated not in Verdict.__members__:
            raise Malformed(f"malformed: there is no verdict {stated!r}")
        got = _verdict(world, state, item)
        if got.partition(":")[0] != stated:
            raise Mismatch(f"item {at} is judged {got}, the file says {verdict}")


def _verdict(world: World, state: State, item: object) -> str:
    if isinstance(item, dict) and "receipt" in item:
        stated = item["receipt"]
        heads = stated.get("heads") if isinstance(stated, dict) else stated
        if not isinstance(heads, list):
            raise Malformed("malformed: a receipt is a list of heads")
        return str(judge_receipt(head_rows(heads), state))
    judgement = judge(_raw(world, item), state)
    apply(judgement, state)
    return str(judgement)


def _raw(world: World, item: object) -> bytes:
    """An op's bytes: inline, or a row of `ops` by number or name."""
    if isinstance(item, int | str) and not isinstance(item, bool):
        item = _named(world, item)
    row = entry(item)
    if (inner := row.get("op")) is not None:
        return _raw(world, inner)
    if row.get("stub") is not None and row.get("header") is None:
        return data(row, "stub")
    return data(row, "header") + data(row, "ct") + data(row, "sig")


def _named(world: World, reference: int | str) -> Entry:
    ops = items(world.file, "ops")
    if isinstance(reference, int) and 0 <= reference < len(ops):
        return entry(ops[reference])
    for row in ops:
        if isinstance(row, dict) and row.get("name") == reference:
            return row
    raise Malformed(f"malformed: the file has no op {reference!r}")
