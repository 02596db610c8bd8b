"""Purposes and what was said to them."""

from __future__ import annotations

from dataclasses import dataclass

from client.consent.ledger import ConsentLedger, PurposeState, Standing
from client.pages.privacy import words
from crypto.policy.document import Bundle

_SAID = {
    Standing.NEVER: "Off. You were never asked, or did not say yes",
    Standing.GRANTED: "On",
    Standing.WITHDRAWN: "Off. You switched it off",
    Standing.OUTDATED: "Off. Its words have changed since you said yes: read them again",
    Standing.UNDECLARED: "Off. The policy does not have it any more",
}


@dataclass(frozen=True, slots=True)
class Uses:
    """A signal that a purpose uses."""

    text: str
    reach: str
    kept: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One purpose as a card of the page."""

    name: str
    text: str
    benefit: str
    text_hash: str
    """Of these words, in hexadecimal digits: what the form to grant it stands under."""
    intrusive: bool
    on: bool
    grantable: bool
    withdrawable: bool
    stopped: bool
    """A kill switch of the policy has stopped it for everybody."""
    said: str
    since: str
    uses: tuple[Uses, ...]
    counted: tuple[str, ...]
    """What tasks count for it, in words."""


def choices(ledger: ConsentLedger) -> list[Choice]:
    """Every purpose, in the policy's order, then those that it has no more."""
    bundle = ledger.policy
    order = {} if bundle is None else {one.name: at for at, one in enumerate(bundle.purposes)}
    states = sorted(ledger.states(), key=lambda one: (order.get(one.name, len(order)), one.name))
    return [_choice(one, bundle) for one in states]


def _choice(state: PurposeState, bundle: Bundle | None) -> Choice:
    newest, purpose = state.newest, state.purpose
    text, benefit = (
        (purpose.text, purpose.benefit)
        if purpose is not None
        else newest.words
        if newest is not None
        else ("", "")
    )
    on = state.standing is Standing.GRANTED
    stopped = bundle is not None and bundle.killed("purpose", state.name)
    return Choice(
        name=state.name,
        text=text,
        benefit=benefit,
        text_hash="" if purpose is None else purpose.text_hash.hex(),
        intrusive=purpose is not None and purpose.intrusive,
        on=on,
        grantable=purpose is not None and not on,
        withdrawable=state.standing in (Standing.GRANTED, Standing.OUTDATED, Standing.UNDECLARED),
        stopped=stopped,
        said=_SAID[state.standing],
        since="" if newest is None else words.day(newest.receipt.at_ms),
        uses=_uses(state.name, bundle),
        counted=_counted(state.name, bundle),
    )


def _uses(name: str, bundle: Bundle | None) -> tuple[Uses, ...]:
    signals = () if bundle is None else bundle.signals
    return tuple(
        Uses(
            one.text,
            words.REACH[str(one.reach)],
            words.count(one.retention_days, "day"),
        )
        for one in signals
        if name in one.purposes
    )


def _counted(name: str, bundle: Bundle | None) -> tuple[str, ...]:
    tasks = () if bundle is None else bundle.tasks
    return tuple(
        f"{one.text} At least {one.k_min_at_least:,} people, or nothing is said."
        for one in tasks
        if one.purpose == name
    )
