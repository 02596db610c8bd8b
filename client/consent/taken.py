"""What an account took part in, as far as its devices know: for its export, and for the words that
are told before something can't be taken back. No I/O."""

from __future__ import annotations

from typing import Any

from client.measure.core import Measuring, Standing
from client.measure.errors import Ineligible

_SENT = (Standing.GIVEN, Standing.STORED)


def contributions(measuring: Measuring) -> list[dict[str, Any]]:
    """Of this device, by the windows of their rounds. What was said is not kept: it left in shares,
    each sealed to a party."""
    rows = sorted(measuring.answered.values(), key=lambda one: one.shown.manifest.open_ms)
    return [
        {
            "task": one.task.task_id,
            "title": one.task.title,
            "purpose": one.task.purpose,
            "round": one.shown.manifest.round_id.hex(),
            "open_ms": one.shown.manifest.open_ms,
            "close_ms": one.shown.manifest.close_ms,
            "standing": one.standing.value,
            "micro_rho": one.task.cost_micro_rho,
        }
        for one in rows
    ]


def spent(measuring: Measuring) -> dict[str, Any]:
    """What all devices of the account have spent of their privacy, in millionths of rho."""
    try:
        others = measuring.records.others_ledgers()
    except Ineligible:
        return {"this_device_micro_rho": measuring.ledger.micro_rho}
    return {
        "this_device_micro_rho": measuring.ledger.micro_rho,
        "account_micro_rho": measuring.spent_micro_rho(),
        "rounds": len(measuring.ledger.rounds) + sum(len(one.rounds) for one in others),
    }


def before_withdrawing(measuring: Measuring, purpose: str) -> str:
    """One sentence or two: what can't be taken back."""
    count = _count(measuring, purpose)
    return (
        f"For {purpose} this device took part in {count} round{'s' * (count != 1)}. What you gave"
        " to rounds that are not settled is taken back. Results that came out stay as they are:"
        " nobody can tell your part from the rest. What was recorded for nothing else is deleted,"
        " on all devices, for good."
    )


def before_forgetting(measuring: Measuring) -> str:
    """The same of the whole account."""
    count = _count(measuring, None)
    return (
        "This deletes the account for all devices: the service keeps nothing of it, and parties"
        " drop what they hold of it, in rounds whose reports are not settled yet. This device took"
        f" part in {count} round{'s' * (count != 1)}: results that came out stay as they are, for"
        " nobody can tell your part from the rest. Nobody can bring the account back but a device"
        " that still has its state."
    )


def _count(measuring: Measuring, purpose: str | None) -> int:
    return sum(
        one.standing in _SENT and purpose in (None, one.task.purpose)
        for one in measuring.answered.values()
    )
