"""Settling which reports a round is over: the agreement of all parties, said and stored."""

from __future__ import annotations

from crypto import labels
from services.party import items, states
from services.party.agreement import Agreement, ReportSet, encode_refused
from services.party.assignment import Assignment
from services.party.ending import Ending
from services.party.host import Host
from services.party.items import Rewritten
from services.party.messages import Agreed, Have, Listed
from services.party.parley import Parley
from services.party.states import Reason


class Settling:
    """One round's set of reports. `step`, as long as it is due or a party lacks it."""

    def __init__(
        self, host: Host, assignment: Assignment, parley: Parley, ending: Ending
    ) -> None:  # fmt: skip
        self._store = host.store
        self._assignment = assignment
        self._round_id = assignment.round_id
        self._parley = parley
        self._ending = ending
        self._agreement: Agreement | None = None
        self._mine: Agreed | None = None
        self._is_settled = False

    def hear(self, party: int, said: Have | Listed | Agreed) -> None:
        """FormatError or SignatureError for what no honest party says. What comes before this
        party has its reports together will be said again."""
        if isinstance(said, Agreed):
            self._assignment.check(party, labels.PARTY_SET, said.digest, said.sig)
        if self._agreement is not None:
            self._agreement.hear(party, said)

    def forget(self, party: int) -> None:
        """Its link is down."""
        if self._agreement is not None:
            self._agreement.forget(party)

    def step(self) -> None:
        """Says what this party has, and signs what follows from what all said. A set that
        another party signed otherwise ends the round: this party signs one."""
        agreement = self._made()
        self._say(agreement)
        common = agreement.common()
        if common is None:
            return
        if self._mine is None:
            try:
                self._mine = self._sign(common)
            except Rewritten:
                # Before a restart it stored another set: a party said something else then.
                self._ending.abandon(Reason.SET_DISAGREED)
                return
        self._parley.tell_all(self._mine)
        signed = agreement.signed
        if any(one.digest != common.digest for one in signed.values()):
            self._ending.abandon(Reason.SET_DISAGREED)
        elif len(signed) == len(self._parley.others) and not self._is_settled:
            self._is_settled = True
            self._store.advance(
                self._round_id,
                lambda p: states.agreed(p, common.digest),
                {(items.SET_SIG, party): one.sig for party, one in signed.items()},
            )

    def _sign(self, common: ReportSet) -> Agreed:
        """Stores the set before its signature leaves: Rewritten for another one."""
        sig = self._assignment.sign(labels.PARTY_SET, common.digest)
        self._store.put(self._round_id, items.SET, b"".join(common.hashes))
        self._store.put(self._round_id, items.REFUSED, encode_refused(common.refused))
        self._store.put(self._round_id, items.SET_SIG, sig, self._assignment.terms.me)
        return Agreed(common.digest, sig)

    def _made(self) -> Agreement:
        if self._agreement is None:
            # From here on others build on what this party says it has: nothing of it is erased.
            self._store.put(self._round_id, items.TOLD, b"1")
            self._agreement = Agreement(
                self._assignment.digest,
                me=self._assignment.terms.me,
                m=self._assignment.terms.m,
                reports_max=self._assignment.reports_max,
                hashes=[one.report_hash for one in self._store.reports(self._round_id)],
                refused=self._store.refused(self._round_id),
            )
        return self._agreement

    def _say(self, agreement: Agreement) -> None:
        for party in self._parley.others:
            self._parley.tell(party, agreement.have_for(party))
            if (run := agreement.run_for(party)) is not None:
                self._parley.tell(party, run)
