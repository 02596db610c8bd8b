"""What a party computes of a round with the others: verdicts, noise, sum and opening.

Noise is shared by all m parties before anything is opened, and what is opened is the sum of the
valid reports with all of it, whoever is left by then.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from mpc.budget import OpenedBefore, OverBudget
from mpc.circuit import OpenedSum
from mpc.result import Counted
from services.party import items, states, work
from services.party.agreement import decode_refused, split
from services.party.assignment import Assignment
from services.party.ending import Ending
from services.party.host import Host
from services.party.jobs import Ending as JobEnding
from services.party.messages import Job
from services.party.muster import JOB_ID_BYTES, Finished, Muster, Work, parties_of
from services.party.states import Progress, Reason, State


class Computing:
    """One round's jobs and sums, each from what is stored to what is stored."""

    def __init__(
        self, host: Host, assignment: Assignment, muster: Muster, ending: Ending
    ) -> None:  # fmt: skip
        self._store = host.store
        self._telemetry = host.telemetry
        self._metrics = host.metrics
        self._clock = host.clock
        self._round_id = assignment.round_id
        self._terms = assignment.terms
        self._task = assignment.task
        self._muster = muster
        self._ending = ending
        self._rows: work.Rows | None = None

    def _stored(self, name: str) -> bytes:
        there = self._store.get(self._round_id, name)
        assert there is not None, name
        return there

    def _agreed_rows(self) -> work.Rows:
        if self._rows is None:
            hashes = split(self._stored(items.SET))
            self._rows = work.Rows.of(self._store, self._round_id, self._task, hashes)
        return self._rows

    def _noise(self) -> bytes:
        """This party's own: on disk before any of it leaves, and never drawn again."""
        return self._store.once(
            self._round_id, items.NOISE, lambda: work.draw_noise(self._task, os.urandom)
        )

    # Jobs

    async def verify(self, set_digest: bytes) -> None:
        """All parties judge the reports and share their noise in."""

        def begin() -> Work:
            known = self._store.get(self._round_id, items.VERDICTS)
            return work.verify(self._agreed_rows(), set_digest, self._noise(), known=known)

        await self._muster.call(Job.VERIFY, self._terms.everyone, set_digest, begin)

    async def open(self, parties: frozenset[int], progress: Progress, *, patient: bool) -> None:
        """Opens what all of them hold, or sees to it that they do.

        Only who says so lacks it; who has said nothing yet is waited for, while this party is
        patient.
        """
        tag, work_ = self._opening()
        lacking = {
            party: offer.job
            for party, offer in self._muster.offers.items()
            if (offer.job, offer.tag) != (Job.OPEN, tag)
        }
        group = parties - lacking.keys()
        if not patient:
            group = self._without_shunned(group)
            group = self._as_most_propose(tag, group, mine=group)
        elif lacking:
            group = frozenset()
        assert progress.agreed is not None
        if len(group) >= self._terms.quorum:
            await self._muster.call(Job.OPEN, group, tag, lambda: work_)
        elif parties != self._terms.everyone:
            await self._muster.stop()
        elif Job.VERIFY in lacking.values():
            await self.verify(progress.agreed)
        else:
            await self._muster.call(
                Job.SHARE, parties, progress.agreed, lambda: work.share(self._task, self._noise())
            )

    async def open_again(self, parties: frozenset[int]) -> None:
        """With a party that missed the end of the opening, and asks: this one gives it the same
        share. Alone it could sign nothing, and neither could the other."""
        if self._store.progress(self._round_id).state.ended:
            return
        tag, work_ = self._opening()
        group = self._as_most_propose(tag, parties, mine=frozenset())
        if group:
            await self._muster.call(Job.OPEN, group, tag, lambda: work_)

    def _opening(self) -> tuple[bytes, Work]:
        """The name of the sharing that this party holds, and the work of opening it."""
        sharing, sums = self._stored(items.SHARING), self._stored(items.SUM)
        tag, share = sharing[:JOB_ID_BYTES], sharing[JOB_ID_BYTES:]
        return tag, work.open_sum(self._task, sums, share)

    def _without_shunned(self, group: frozenset[int]) -> frozenset[int]:
        """Those that did not make it fail before, or all if these are too few."""
        blame = self._muster.blame
        if len(group - blame.shunned) < self._terms.quorum:
            blame.forgive()
        return group - blame.shunned

    def _as_most_propose(
        self, tag: bytes, among: frozenset[int], *, mine: frozenset[int]
    ) -> frozenset[int]:
        """The group that most want to open with, this party's own wish counted: large enough,
        this party in it, and all others, too, `among` those that are left."""
        proposed = [mine] + [
            parties_of(offer.parties)
            for party, offer in self._muster.offers.items()
            if party in among and (offer.job, offer.tag) == (Job.OPEN, tag)
        ]
        fit = [
            group
            for group in proposed
            if self._terms.me in group and group <= among and len(group) >= self._terms.quorum
        ]
        return max(fit, key=lambda one: (proposed.count(one), -len(one), sorted(one)), default=mine)

    def took(self, finished: Finished) -> None:
        """Stores what a job gave. One that failed is tried again, unless a party lied."""
        outcome = finished.outcome
        self._metrics.job(finished.job, outcome.ending, finished.seconds)
        self._telemetry.event(
            "job", job=finished.job.name, ending=outcome.ending.value, rule=outcome.rule,
            party=outcome.party or 0,
        )  # fmt: skip
        if outcome.ending is JobEnding.OPENING_REFUSED and outcome.rule != "few":
            self._ending.abandon(
                Reason.OPENING_REFUSED, opening=outcome.opening or "", party=outcome.party or 0
            )
        elif outcome.ending is JobEnding.DONE:
            match outcome.value:
                case work.Verified() as found:
                    self._tell_of("validity", found.liars)
                    self._verified(found, finished.job_id)
                case OpenedSum() as found:
                    self._tell_of("sum", found.liars)
                    self._opened(found)
                case bytes() as share:
                    self._shared(finished.job_id + share)

    def _tell_of(self, opening: str, liars: Iterable[int]) -> None:
        """Wrong shares that were corrected, so that somebody looks after the party."""
        for party in sorted(liars):
            self._metrics.lie(opening)
            self._telemetry.event("lie_corrected", opening=opening, party=party)

    def _verified(self, found: work.Verified, job_id: bytes) -> None:
        sharing = job_id + found.sharing
        if self._store.progress(self._round_id).state is not State.CLOSED:
            # The verdicts are those that stand, or the job would have been refused.
            self._shared(sharing)
            return
        verdict, now_ms = found.verdict, self._clock.wall_ms()
        self._store.advance(
            self._round_id,
            lambda p: states.verified(p, int(verdict.valid.sum()), now_ms),
            {(items.VERDICTS, 0): work.encode_verdict(verdict), (items.SHARING, 0): sharing},
        )
        self._metrics.judged(
            valid=int(verdict.valid.sum()),
            invalid=verdict.invalid,
            inconsistent=verdict.inconsistent,
        )

    def _shared(self, sharing: bytes) -> None:
        """In place of the one before: the noise is the same, so it may be opened as well."""
        self._store.advance(
            self._round_id, lambda p: p, {(items.SHARING, 0): sharing}, instead_of=[items.SHARING]
        )

    def _opened(self, found: OpenedSum) -> None:
        verdict = work.decode_verdict(self._stored(items.VERDICTS))
        refused = decode_refused(self._stored(items.REFUSED))
        counted = Counted(len(verdict.valid), verdict.inconsistent, verdict.invalid, refused)
        self._ending.opened(found.values.tolist(), counted, checked=found.checked)

    # Alone

    async def sum(self) -> None:
        """Adds the valid rows up."""
        verdict = work.decode_verdict(self._stored(items.VERDICTS))
        total = await work.row_sum(self._agreed_rows(), verdict.valid)
        self._store.advance(
            self._round_id, lambda p: states.summed(p, self._terms), {(items.SUM, 0): total}
        )

    def enter(self) -> None:
        """The opening is in the ledger before a share of the noised sum can leave."""
        try:
            self._ending.spend()
        except (OverBudget, OpenedBefore):
            self._ending.abandon(Reason.BUDGET)
        else:
            self._store.advance(self._round_id, states.noised)
