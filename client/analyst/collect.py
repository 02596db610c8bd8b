"""Opening a round: keys of all parties, one manifest, all their signatures, then the service.

Every step may be repeated with the same plan and gives the same, so a run that was cut off is
finished by the next one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from client import remoteerrors as reasons
from client.analyst.errors import NotVerified, PartiesFailed, PartyFailure
from client.analyst.journal import Plan
from client.analyst.panel import PinnedParty
from client.analyst.publisher import PartyLine, Publisher
from client.errors import ClientError, UserError
from client.remoteerrors import ProtocolBreach, RemoteError
from client.rounds import SignedTask
from crypto import labels
from crypto.errors import CryptoError
from crypto.primitives import verify
from mpc.manifest import Manifest, Party
from mpc.task import Task

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AskedParty:
    """A party that is pinned, and the way to it."""

    pinned: PinnedParty
    line: PartyLine


def plan(
    task: Task,
    round_id: bytes,
    parties: Sequence[PinnedParty],
    *,
    open_ms: int,
    now_ms: int,
) -> Plan:
    """A round of the task; UserError for one that the task does not have."""
    close_ms = open_ms + task.window_ms
    if len(parties) != task.m:
        raise UserError(f"the task is for {task.m} parties, and {len(parties)} are given")
    if close_ms > task.expires_ms:
        raise UserError("the round would close after the task expires: publish a new task")
    if close_ms <= now_ms:
        raise UserError("the round would be over already: --open is too long ago")
    keys = tuple(party.key for party in parties)
    return Plan(round_id, task.task_id, task.spec_hash, open_ms, close_ms, keys)


async def collect(
    publisher: Publisher,
    asked: Sequence[AskedParty],
    signed: SignedTask,
    task: Task,
    planned: Plan,
) -> Manifest:
    """The round, once the service has it. PartiesFailed, and what the service's calls raise."""

    async def prepare(one: AskedParty) -> Party:
        keys = await one.line.prepare(
            signed, planned.round_id, open_ms=planned.open_ms, close_ms=planned.close_ms
        )
        if keys.ik_pk != one.pinned.key:
            raise NotVerified(
                "party-key",
                f"it has the key {keys.ik_pk.hex()}, not the one that is pinned",
                keys.ik_pk,
            )
        return keys

    parties = await _of_all(asked, prepare, "the round is not prepared", first=True)
    try:
        manifest = Manifest(
            planned.round_id,
            task.spec_hash,
            task.t,
            planned.open_ms,
            planned.close_ms,
            task.k_min,
            tuple(parties),
        )
    except CryptoError as error:
        raise UserError(f"the parties' keys make no round: {error.message}") from None

    async def sign(one: AskedParty) -> bytes:
        sig = await one.line.sign(manifest)
        try:
            verify(one.pinned.key, labels.ROUND_SIG, manifest.encoded, sig)
        except CryptoError as error:
            raise NotVerified(
                error.rule, "its signature of the round does not verify", sig
            ) from None
        return sig

    sigs = await _of_all(asked, sign, "the round is not signed")
    await publisher.collect(manifest, sigs)
    return manifest


async def _of_all(
    asked: Sequence[AskedParty],
    step: Callable[[AskedParty], Awaitable[T]],
    did: str,
    *,
    first: bool = False,
) -> list[T]:
    """One step at every party at once; PartiesFailed names each that did not do it."""
    outcomes = await asyncio.gather(*(_outcome(step(one)) for one in asked))
    failures = [
        _failure(number, one.pinned.address, outcome)
        for number, (one, outcome) in enumerate(zip(asked, outcomes, strict=True), 1)
        if isinstance(outcome, Exception)
    ]
    if failures:
        refused = all(isinstance(one, RemoteError) and not one.transient for one in outcomes)
        raise PartiesFailed(did, failures, nothing_done=first and refused)
    return [outcome for outcome in outcomes if not isinstance(outcome, Exception)]


async def _outcome(step: Awaitable[T]) -> T | Exception:
    try:
        return await step
    except (ClientError, RemoteError, ProtocolBreach) as error:
        return error


def _failure(number: int, address: str, error: Exception) -> PartyFailure:
    if isinstance(error, RemoteError):
        return PartyFailure(number, address, _why(error), error.transient)
    return PartyFailure(number, address, str(error), transient=False)


_WHY: Final[Mapping[str, str]] = {
    reasons.UNREACHABLE: "can't be reached: check its address and the network, then try again",
    reasons.UNSUPPORTED: "no party of rookery answers at this address",
    reasons.UNAUTHENTICATED: (
        "does not take this key: its setting `publishers` must have it, and its `audience` must"
        " be the service's"
    ),
    reasons.CLOCK_SKEW: "this machine's clock or the party's is too far off: set it",
    reasons.TASK_INVALID: "refuses the task",
    reasons.MANIFEST_INVALID: "refuses the manifest",
    reasons.ROUND_UNKNOWN: "does not know the round: its database may have been lost; try again",
    reasons.ROUND_CONFLICT: (
        "knows another round of this task in the window: finish that one, or open one after it"
    ),
    reasons.ROUND_CLOSED: "says that the window is over",
    reasons.BUDGET_EXHAUSTED: "has no budget left for the task",
    reasons.STORE_UNAVAILABLE: "can't store anything just now: try again later",
}


_SLUG: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")


def _why(error: RemoteError) -> str:
    why = _WHY.get(error.reason)
    if why is None:
        why = f"refuses ({_slug(error.reason) or error.status})"
    if error.metadata.get("rule") == "party-set":
        return (
            "refuses the manifest: its setting `peers` must have exactly the other parties of the"
            " round"
        )
    if rule := _slug(error.metadata.get("rule", "")):
        why += f" (rule {rule})"
    left, cap = error.number("left"), _slug(error.metadata.get("cap", ""))
    if error.reason == reasons.BUDGET_EXHAUSTED and left is not None:
        why += f": {left:,} micro-rho{f' of its cap {cap}' if cap else ''} are left"
    return why


def _slug(text: str) -> str:
    """The text if it is a word; what a stranger sends is not shown otherwise."""
    return text if _SLUG.fullmatch(text) else ""
