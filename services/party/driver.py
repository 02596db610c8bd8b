"""One round at one party, from its window to its end: does what `states.due` says.

Every step begins from what is stored and ends by storing, so that it may be cut off anywhere.
What peers said lives in memory only and is said again: at every tick, and when a link comes up.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from crypto.errors import SignatureError
from mpc.session import Limits
from services.party import messages, states, work
from services.party.assignment import Assignment
from services.party.computing import Computing
from services.party.ending import Ending, reply
from services.party.governing import NO_POLICY
from services.party.host import Host
from services.party.intake import Intake
from services.party.muster import Muster
from services.party.parley import Parley
from services.party.relay import RelayDown, RelayRefused
from services.party.relaylog import tell_down
from services.party.settling import Settling
from services.party.states import Due, IllegalTransition, Progress, Reason, State, Step
from services.store.errors import RoundClosed

_USES: Final = frozenset({
    Step.INGEST, Step.AGREE, Step.VERIFY, Step.SUM, Step.NOISE, Step.OPEN,
})  # fmt: skip
"""Steps that do something with contributions. What has been opened is signed and told."""


class Driver:
    """`run` until the round has ended. `hear` takes in what peers say."""

    def __init__(self, host: Host, assignment: Assignment) -> None:
        config, clock = host.config, host.clock
        self._host = host
        self._store = host.store
        self._assignment = assignment
        self.round_id = assignment.round_id
        self._terms = assignment.terms
        self._parley = Parley(
            assignment.others,
            say=lambda ik, message: host.say(ik, assignment.round_id, message),
            up=host.up,
            monotonic_s=clock.monotonic_s,
            tick_s=config.tick_s,
        )
        limits = Limits(
            seconds=config.job_s,
            stall_seconds=config.job_stall_s,
            frame_bytes_max=work.FRAME_BYTES,
        )
        self._muster = Muster(
            assignment,
            self._parley,
            host.jobs,
            host.turns,
            limits=limits,
            tick_s=config.tick_s,
            clock=clock,
            poke=self.poke,
            tracer=host.tracer,
        )
        self._ending = Ending(host, assignment, self._parley)
        self._intake = Intake(host, assignment)
        self._settling = Settling(host, assignment, self._parley, self._ending)
        self._computing = Computing(host, assignment, self._muster, self._ending)
        self._poked = asyncio.Event()
        self._asked_s = self._looked_s = float("-inf")

    # What comes in

    def number_of(self, ik: bytes) -> int | None:
        """Which party of this round a peer is."""
        return self._parley.number_of(ik)

    def key_of(self, party: int) -> bytes:
        """A peer's identity key."""
        return self._parley.others[party]

    def poke(self) -> None:
        """Something changed: look again now."""
        self._poked.set()

    def lost(self, ik: bytes) -> None:
        """A peer's link is down: what it said may not hold when it comes back."""
        party = self.number_of(ik)
        if party is not None:
            self._parley.forget(party)
            self._muster.forget(party)
            self._settling.forget(party)
            self.poke()

    def hear(self, ik: bytes, payload: bytes) -> None:
        """Takes in a message. Raises CryptoError for what no honest party says."""
        party = self.number_of(ik)
        if party is None:
            raise SignatureError("party", "the peer is no party of this round")
        message = messages.decode(payload)
        if self._store.progress(self.round_id).state.ended:
            if (answer := reply(self._store, self.round_id, message)) is not None:
                self._parley.tell(party, answer)
            return
        is_news = self._parley.is_news(party, message)
        match message:
            case messages.Have() | messages.Listed() | messages.Agreed() as said:
                self._settling.hear(party, said)
            case messages.Ready() as ready:
                self._muster.hear(party, ready)
                if (result := self._ending.signed()) is not None:
                    self._parley.tell(party, result)
            case messages.Signed() as said:
                # Not while this party opens it itself: it then has it, and signs it too.
                if not self._muster.opening:
                    self._ending.hear_signed(said)
            case messages.Abandoned() as said:
                self._ending.hear_abandoned(party, said)
        if is_news:
            self.poke()

    # The loop

    async def run(self) -> State:
        """Until the round has ended, and the relay knows it or never will."""
        had_ended = self._store.progress(self.round_id).state.ended
        try:
            while not (state := self._store.progress(self.round_id).state).ended:
                self._poked.clear()
                await self._turn()
                await self._wait()
        finally:
            await self._muster.stop()
            self._host.jobs.forget(self.round_id)
        if not had_ended:
            self._host.metrics.round_ended(self._store.progress(self.round_id))
        await self._ending.hand_in(self._pause)
        return state

    async def _wait(self) -> None:
        """Until something changes, or the tick is over."""
        try:
            async with asyncio.timeout(self._host.config.tick_s):
                await self._poked.wait()
        except TimeoutError:
            pass

    async def _pause(self) -> None:
        await asyncio.sleep(self._host.config.tick_s)

    async def _turn(self) -> None:
        before = self._store.progress(self.round_id)
        try:
            if (finished := self._muster.over()) is not None:
                self._computing.took(finished)
            await self._go_on(self._store.progress(self.round_id))
        except RelayDown as error:
            tell_down(
                error,
                self._host.telemetry,
                self._host.metrics,
                open_ms=self._assignment.manifest.open_ms,
                now_ms=self._host.clock.wall_ms(),
            )
        except RelayRefused as error:
            self._host.metrics.relay_failed(error.reason)
            # Not collected there yet, or no longer; retention bounds the wait.
            self._host.telemetry.event("relay_refused", reason=error.reason)
        except (RoundClosed, IllegalTransition):
            # It was heard meanwhile how others ended the round.
            if not self._store.progress(self.round_id).state.ended:
                raise
        after = self._store.progress(self.round_id)
        if after != before:
            self._host.telemetry.event("round_state", state=after.state.name)
            self.poke()

    async def _go_on(self, progress: Progress) -> None:
        due = states.due(
            progress,
            self._terms,
            now_ms=self._host.clock.wall_ms(),
            alive=self._parley.alive,
            gave_up=frozenset(self._ending.gave_up),
        )
        if progress.state is State.CLOSED and progress.agreed is None:
            await self._look_for_erasures()
        if due.step in _USES and self._is_stopped(due.step):
            return
        await self._do(due, progress)
        if progress.state > State.OPEN and not self._muster.opening:
            await self._ask()

    def _is_stopped(self, step: Step) -> bool:
        """Whether the policy lets nothing more be done with what people gave. Before the window
        is over, and while there is no policy, it may yet do so; after that the round ends."""
        rule = self._host.stops(self._assignment.task, self._terms.k_min)
        is_over = self._host.clock.wall_ms() >= self._terms.until_ms
        if rule is not None and rule != NO_POLICY and is_over:
            self._host.telemetry.event("round_stopped", step=step.value, rule=rule)
            self._ending.abandon(Reason.POLICY)
        return rule is not None

    async def _do(self, due: Due, progress: Progress) -> None:
        match due.step:
            case Step.INGEST:
                await self._ingest()
            case Step.AGREE:
                self._settling.step()
            case Step.VERIFY:
                if len(self._muster.offers) < len(self._parley.others):
                    # A party that is ready for the job has the set; another may lack it.
                    self._settling.step()
                assert progress.agreed is not None
                await self._computing.verify(progress.agreed)
            case Step.SUM:
                await self._computing.sum()
            case Step.NOISE:
                self._computing.enter()
            case Step.OPEN:
                patient = not self._is_impatient(progress)
                await self._computing.open(due.parties, progress, patient=patient)
            case Step.SIGN:
                self._ending.sign(everyone=not self._is_impatient(progress))
                await self._computing.open_again(due.parties)
            case Step.ABANDON:
                assert due.reason is not None
                self._ending.abandon(due.reason)
            case _:
                self._muster.rest()

    def _is_impatient(self, progress: Progress) -> bool:
        return states.impatient(progress, self._terms, self._host.clock.wall_ms())

    def _may_ask(self, interval_s: float) -> bool:
        """Whether the relay may be asked again by now."""
        now_s = self._host.clock.monotonic_s()
        if now_s < self._asked_s + interval_s:
            return False
        self._asked_s = now_s
        return True

    async def _look_for_erasures(self) -> None:
        """While a party is waited for, accounts may be deleted whose reports this one holds. A
        relay that can't be asked stops nothing."""
        now_s = self._host.clock.monotonic_s()
        if now_s < self._looked_s + self._host.config.poll_s:
            return
        if not self._store.may_erase(self.round_id):
            return
        self._looked_s = now_s
        with contextlib.suppress(RelayDown, RelayRefused):
            await self._intake.look_for_erasures()

    async def _ask(self) -> None:
        """Others may have ended the round and be gone: the relay knows."""
        if self._may_ask(self._host.config.poll_s):
            await self._ending.ask()

    async def _ingest(self) -> None:
        now_ms, config = self._host.clock.wall_ms(), self._host.config
        is_over = now_ms >= self._terms.until_ms
        if now_ms < self._assignment.manifest.open_ms:
            return
        if not self._may_ask(config.tick_s if is_over else config.poll_s):
            return
        try:
            complete = await self._intake.take()
            self._looked_s = self._host.clock.monotonic_s()
        except RelayRefused as error:
            if error.reason == "ROUND_OVER":
                await self._ending.ask()
            raise
        if complete and is_over:
            self._store.advance(self.round_id, lambda p: states.ingested(p, self._terms, now_ms))
