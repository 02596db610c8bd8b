"""What came out of rounds, as this device verified and keeps it. No I/O or clock.

A result is taken only if it is signed by enough of the parties of a manifest that this device
trusts, for a task that its pinned publisher signed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from client.analyst.abandoned import is_final
from client.analyst.errors import NotVerified
from client.analyst.evidence import check_given_up
from client.errors import RowsError
from client.measure import judge
from client.measure.core import ROWS, Measuring
from client.measure.errors import Ineligible
from client.measure.policy import Policy
from client.measure.records import Shown
from client.rounds import GivenUp, RelayedResult, SignedTask
from client.rows import Changes, Journal, Rows, pack, unpack
from crypto.errors import CryptoError
from mpc import result as results, task as tasks
from mpc.manifest import Manifest
from mpc.result import RoundResult
from mpc.task import Task

WAIT_MS: Final = 40 * 86_400_000
"""So long after a round was over a result is asked for: longer than any service keeps boxes."""
UNKNOWN: Final = "for a reason that this version does not know"


class State(Enum):
    """How far a round is, as this device knows it."""

    WAITING = "waiting"
    """The parties have not ended it."""
    ABANDONED = "abandoned"
    """Parties gave it up: too few are left for a result."""
    DONE = "done"


@dataclass(frozen=True)
class Ended:
    """What a device keeps of a round: a result, or who gave it up. Verified."""

    signed: SignedTask
    task: Task
    shown: Shown
    result: RoundResult | None
    signers: tuple[int, ...]
    given_up: Mapping[int, str]
    """The reason of each party that did."""

    @property
    def state(self) -> State:
        """Parties may give up and others still end it."""
        if self.result is not None:
            return State.DONE
        final = is_final(self.given_up, self.shown.manifest)
        return State.ABANDONED if final else State.WAITING


class Results:
    """Results by round_digest."""

    def __init__(self, measuring: Measuring, rows: Rows) -> None:
        """From the vault's rows; RowsError."""
        self._measuring = measuring
        self._journal = Journal()
        self.ended: dict[bytes, Ended] = {}
        prefix = ROWS + "result:"
        for name, row in rows.items():
            if name.startswith(prefix):
                ended = _read(row)
                self.ended[ended.shown.manifest.digest] = ended

    def take_changes(self) -> Changes:
        """Rows to store."""
        return {ROWS + name: row for name, row in self._journal.take().items()}

    def known(self) -> dict[bytes, Shown]:
        """All rounds that a device of the account took part in or was shown."""
        records = self._measuring.records
        shown = {digest: one.shown for digest, one in self.ended.items()}
        for spec_hash in records.tasks():
            shown |= records.shown(spec_hash)
        return shown | {digest: one.shown for digest, one in self._measuring.answered.items()}

    def due(self, *, now_ms: int) -> list[Shown]:
        """Rounds that have closed, and whose result is not here yet."""
        return [
            shown
            for digest, shown in self.known().items()
            if shown.manifest.close_ms <= now_ms < shown.manifest.close_ms + WAIT_MS
            and (digest not in self.ended or self.ended[digest].state is not State.DONE)
        ]

    def take(self, signed: SignedTask, shown: Shown, relayed: RelayedResult) -> Ended:
        """Verifies and keeps what the relay has; Ineligible, and nothing is kept."""
        policy: Policy = self._measuring.policy
        task = judge.open_task(policy, signed)
        manifest = judge.open_round(policy, task, shown.published)
        result = None
        try:
            if relayed.result:
                result = results.open_(relayed.result, relayed.sigs, manifest, task)
        except CryptoError as error:
            raise Ineligible.of(error) from None
        given_up = dict(_given_up(relayed.given_up, manifest))
        ended = Ended(signed, task, shown, result, tuple(sorted(relayed.sigs)), given_up)
        self.ended[manifest.digest] = ended
        self._journal.set(
            f"result:{manifest.digest.hex()}",
            pack(
                [signed.body, signed.sig, signed.publisher],
                shown.published,
                relayed.result,
                list(ended.signers),
                given_up,
            ),
        )
        return ended

    def prune(self, *, now_ms: int) -> None:
        """Forgets results of rounds that were over long ago, or as long as the policy bundle lets
        results of their task be kept."""
        for digest, ended in list(self.ended.items()):
            if now_ms >= ended.shown.manifest.close_ms + self._measuring.result_ms(ended.task):
                del self.ended[digest]
                self._journal.drop(f"result:{digest.hex()}")


def _given_up(words: Iterable[GivenUp], manifest: Manifest) -> Iterator[tuple[int, str]]:
    """Who gave up, by its own signature, and why. One party's word that can't be read says only
    that it gave up: it must not keep a result from anybody."""
    for one in words:
        try:
            yield one.party, check_given_up(one, manifest)
        except NotVerified as error:
            if error.rule not in ("party", "signature"):
                yield one.party, UNKNOWN


def _read(row: bytes) -> Ended:
    signed_fields, published, data, signers, given_up = unpack(row, 5)
    shown = Shown.read(published)
    if shown is None:
        raise RowsError
    signed = SignedTask(*signed_fields)
    try:
        task = tasks.decode(signed.body)
        result = results.parse(data, task) if data else None
    except CryptoError:
        raise RowsError from None
    return Ended(signed, task, shown, result, tuple(signers), given_up)
