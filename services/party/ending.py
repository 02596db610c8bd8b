"""How a round ends at one party: a result that enough of them signed, or a signed reason.

A party signs its own result, in the transaction in which it learns the sums, and never one with
other sums. What others signed it takes over if they are enough, and hands it in; the relay keeps
what came first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from crypto import canonical, labels
from crypto.errors import CryptoError
from mpc import result as results
from mpc.result import Counted
from rookery.v1 import parties_pb2
from services.party import items, states
from services.party.assignment import Assignment
from services.party.host import Host
from services.party.messages import Abandoned, Have, Message, Ready, Signed
from services.party.metrics import UNREACHABLE
from services.party.parley import Parley
from services.party.relay import RelayDown, RelayRefused
from services.party.states import Reason, State
from services.party.store import PartyStore
from services.spans import Part

VERSION: Final = 1
_LATER: Final = "ROUND_NOT_CLOSED"
"""Its clock is behind ours."""


class Ending:
    """Signatures and statements of one round."""

    def __init__(self, host: Host, assignment: Assignment, parley: Parley) -> None:
        self._host = host
        self._store = host.store
        self._assignment = assignment
        self._round_id = assignment.round_id
        self._parley = parley
        self.gave_up: set[int] = set()
        """Parties that signed that they abandoned the round."""

    # A result

    def opened(self, sums: list[int], counted: Counted, *, checked: bool) -> None:
        """Makes and signs the result, and stores both with the transition.

        If it was opened before, with others, it may differ in what was checked: then this one
        stands. Other sums are a lie in one of the openings, and the first ones stand.
        """
        task, terms = self._assignment.task, self._assignment.terms
        made = results.make(task, sums, counted, noise_of=sorted(terms.everyone), checked=checked)
        before = self._store.get(self._round_id, items.RESULT)
        if before is not None and results.parse(before, task).outcome != made.outcome:
            self._host.metrics.lie("otherwise")
            self._host.telemetry.event("opened_otherwise")
            return
        result = made.encode(task)
        sig = self._assignment.sign(labels.RESULT, result)
        self._store.advance(
            self._round_id,
            states.opened,
            {(items.RESULT, 0): result, (items.RESULT_SIG, terms.me): sig},
            instead_of=() if before == result else (items.RESULT, items.RESULT_SIG),
        )

    def signed(self) -> Signed | None:
        """The result that this party holds, with the signatures that it has of it."""
        result = self._store.get(self._round_id, items.RESULT)
        if result is None:
            return None
        return Signed(result, self._store.by_party(self._round_id, items.RESULT_SIG))

    def hear_signed(self, said: Signed) -> None:
        """Keeps signatures of the result that this party holds; takes over another that enough
        signed. SignatureError for a signature that is none."""
        for party, sig in said.sigs.items():
            self._assignment.check(party, labels.RESULT, said.result, sig)
        if self._store.progress(self._round_id).state.ended:
            return
        if said.result == self._store.get(self._round_id, items.RESULT):
            for party, sig in said.sigs.items():
                self._store.put(self._round_id, items.RESULT_SIG, sig, party)
        elif len(said.sigs) >= self._assignment.terms.quorum:
            self._take_over(said)

    def _take_over(self, said: Signed) -> None:
        """FormatError for bytes that are no result of the task, whoever signed them."""
        assignment = self._assignment
        results.open_(said.result, said.sigs, assignment.manifest, assignment.task)
        self.spend(over_cap=True)
        signatures = {(items.RESULT_SIG, party): sig for party, sig in said.sigs.items()}
        self._store.advance(
            self._round_id,
            lambda p: states.learned(p, assignment.terms, frozenset(said.sigs)),
            {(items.RESULT, 0): said.result, **signatures},
            instead_of=(items.RESULT, items.RESULT_SIG),
        )

    def spend(self, *, over_cap: bool = False) -> None:
        """Enters the opening in the ledger. OverBudget, OpenedBefore; `over_cap`: others have
        opened it, so that refusing it here would keep nothing back."""
        task = self._assignment.task
        self._store.spend(
            self._round_id,
            micro_rho=task.cost_micro_rho,
            cap_micro_rho=None if over_cap else self._host.config.cap_of(task),
        )

    def sign(self, *, everyone: bool) -> None:
        """Tells the others, and ends the round once enough have signed; `everyone`: all of them
        are waited for."""
        said = self.signed()
        assert said is not None
        self._parley.tell_all(said)
        terms, signers = self._assignment.terms, frozenset(said.sigs)
        if len(signers) >= (terms.m if everyone else terms.quorum):
            self._store.advance(self._round_id, lambda p: states.signed(p, terms, signers))

    # No result

    def abandon(self, reason: Reason, *, opening: str = "", party: int = 0) -> None:
        """Ends the round in words that this party signs. `opening`, `party`: where a lie
        showed, and whose it was, as far as that is known."""
        said = {"version": VERSION, "reason": str(reason), "opening": opening, "party": party}
        statement = canonical.encode(said)
        sig = self._assignment.sign(labels.ABANDONMENT, statement)
        self._parley.tell_all(Abandoned(statement, sig))
        self._store.advance(
            self._round_id,
            lambda p: states.abandoned(p, reason),
            {(items.STATEMENT, 0): statement, (items.STATEMENT_SIG, 0): sig},
        )

    def hear_abandoned(self, party: int, said: Abandoned) -> None:
        """SignatureError unless the party signed it."""
        self._assignment.check(party, labels.ABANDONMENT, said.statement, said.sig)
        self.gave_up.add(party)

    # The relay

    async def ask(self) -> None:
        """What others handed in, for a party that can't reach them. RelayDown, RelayRefused."""
        answer = await self._host.relay.result(self._round_id)
        if answer is None:
            return
        try:
            if answer.result:
                sigs = {row.party: row.sig for row in answer.sigs}
                self.hear_signed(Signed(answer.result, sigs))
            for row in answer.abandonments:
                if row.party != self._assignment.terms.me:
                    self.hear_abandoned(row.party, Abandoned(row.statement, row.sig))
        except CryptoError as error:
            raise RelayRefused(error.rule) from None

    async def hand_in(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Until the relay has it, refuses it for good, or can't want it any more. `wait`:
        between two attempts."""
        message = self._message()
        while message is not None and self._wanted():
            try:
                with self._host.tracer.root(Part.HAND_IN):
                    await self._host.relay.publish(message)
                self._store.put(self._round_id, items.HANDED_IN, b"accepted")
            except RelayRefused as error:
                self._host.metrics.relay_failed(error.reason)
                self._host.telemetry.event("relay_refused", reason=error.reason)
                if error.reason != _LATER:
                    self._store.put(self._round_id, items.HANDED_IN, b"refused")
                    return
                await wait()
            except RelayDown:
                self._host.metrics.relay_failed(UNREACHABLE)
                await wait()

    def _wanted(self) -> bool:
        if self._store.get(self._round_id, items.HANDED_IN) is not None:
            return False
        terms = self._assignment.terms
        last_ms = 2 * terms.retain_until_ms - terms.until_ms
        if self._host.clock.wall_ms() < last_ms:
            return True
        self._store.put(self._round_id, items.HANDED_IN, b"too late")
        return False

    def _message(self) -> parties_pb2.PublishResultRequest | None:
        message = parties_pb2.PublishResultRequest(round_id=self._round_id)
        match farewell(self._store, self._round_id):
            case Signed(result, sigs):
                message.result = result
                for party, sig in sorted(sigs.items()):
                    message.sigs.add(party=party, sig=sig)
            case Abandoned(statement, sig):
                message.abandonment.party = self._assignment.terms.me
                message.abandonment.statement, message.abandonment.sig = statement, sig
            case None:
                return None
        return message


def reply(store: PartyStore, round_id: bytes, said: Message) -> Signed | Abandoned | None:
    """To a peer that is still at a round that has ended here: how it ended, if it does not
    know. None once it does, or two that have both ended would answer each other for ever."""
    mine = farewell(store, round_id)
    match said, mine:
        case (Ready() | Have(), _):
            return mine
        case Signed(_, theirs), Signed(_, ours) if ours.keys() - theirs.keys():
            return mine
    return None


def farewell(store: PartyStore, round_id: bytes) -> Signed | Abandoned | None:
    """What is said of a round that has ended, for as long as it is kept."""
    match store.progress(round_id).state:
        case State.SIGNED:
            result = store.get(round_id, items.RESULT)
            assert result is not None
            return Signed(result, store.by_party(round_id, items.RESULT_SIG))
        case State.ABANDONED:
            statement = store.get(round_id, items.STATEMENT)
            sig = store.get(round_id, items.STATEMENT_SIG)
            if statement is not None and sig is not None:
                return Abandoned(statement, sig)
    return None
