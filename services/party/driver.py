"""One round at one party, from its window to its end: does what `states.due` says.

Every step begins from what is stored and ends by storing, so that it may be cut off anywhere.
What peers said lives in memory only and is said again: at every tick, and when a link comes up.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from crypto import labels
from crypto.contribution import PartyBox
from crypto.errors import CryptoError, SignatureError
from crypto.keys import Identity
from crypto.primitives import hash_, verify
from mpc import canonical, manifest as manifests, result as results, task as tasks
from mpc.budget import OpenedBefore, OverBudget
from mpc.child import JobProcess
from mpc.circuit import OpenedSum
from mpc.description import Description
from mpc.session import Limits
from mpc.terms import Terms as JobTerms
from rookery.v1 import parties_pb2, rounds_pb2
from services.call import Clock
from services.party import agree, messages, states, work
from services.party.config import PartyConfig
from services.party.cost import task_cap
from services.party.ingest import open_boxes
from services.party.jobs import Ending, Jobs, Outcome
from services.party.messages import Job, Message
from services.party.relay import Relay, RelayDown, RelayRefused
from services.party.states import Progress, Reason, State, Step, Terms
from services.party.store import PartyStore
from services.telemetry import Telemetry

BACKOFF_S_MAX = 30.0
FRAME_BYTES = 4 << 20
"""What one message of a job may take; reports per opening follow from it."""


@dataclass(frozen=True, slots=True)
class Host:
    """What all rounds of a party share."""

    config: PartyConfig
    store: PartyStore
    identity: Identity
    relay: Relay
    jobs: Jobs
    telemetry: Telemetry
    clock: Clock
    say: Callable[[bytes, bytes, bytes], bool]
    """(identity key, round id, message) -> whether the peer can be reached"""
    up: Callable[[], frozenset[bytes]]
    """Identity keys of the peers that can be reached."""
    drop: Callable[[bytes, str], None]


@dataclass(slots=True)
class _Heard:
    """What one peer said last."""

    have: messages.Have | None = None
    listed: bytes | None = None
    agreed: messages.Agreed | None = None
    ready: messages.Ready | None = None
    verdicts: bytes | None = None


@dataclass(slots=True)
class _Running:
    """The job that runs now, and the nonces that it was begun with."""

    job: Job
    nonces: dict[int, bytes]
    task: asyncio.Task[Outcome[Any]]


@dataclass(slots=True)
class _Retry:
    """When a job that failed may be tried again."""

    failures: int = 0
    not_before_s: float = 0.0
    nonce: bytes = field(default_factory=lambda: os.urandom(16))


class Driver:
    """`run` until the round has ended. `hear` takes in what peers say."""

    def __init__(self, host: Host, round_id: bytes) -> None:
        there = host.store.round(round_id)
        assert there.manifest is not None
        assert there.round_digest is not None
        self._host = host
        self.round_id = round_id
        self._window = there.window
        self.manifest = manifests.parse(there.manifest)
        self._digest = there.round_digest
        self._task = tasks.decode(there.window.task)
        keys = [party.ik_pk for party in self.manifest.parties]
        self.me = keys.index(host.identity.ik_pk) + 1
        self._keys = dict(enumerate(keys, 1))
        self.terms = Terms(
            m=self.manifest.m,
            t=self.manifest.t,
            me=self.me,
            close_ms=self.manifest.close_ms,
            retain_until_ms=there.window.retain_until_ms,
            k_min=self.manifest.k_min,
            patience_ms=int(host.config.patience_s * 1000),
        )
        self._shape = self.manifest.shape(self._task)
        self._box_sk = there.box_sk
        self._heard = {party: _Heard() for party in self._keys if party != self.me}
        self._poked = asyncio.Event()
        self._running: _Running | None = None
        self._retries = {job: _Retry() for job in Job}
        self._polled_s = float("-inf")
        self._is_signed_by_all = False
        self._rows: work.Rows | None = None
        self._job_id = b""
        self._said: dict[tuple[int, type], tuple[bytes, float]] = {}

    # What comes in

    def party_of(self, ik: bytes) -> int | None:
        """The number of a peer in this round."""
        return next((party for party, key in self._keys.items() if key == ik), None)

    def poke(self) -> None:
        """Something changed: look again now."""
        self._poked.set()

    def lost(self, ik: bytes) -> None:
        """A peer's link is down: what it said may not hold when it comes back."""
        party = self.party_of(ik)
        if party in self._heard:
            self._heard[party] = _Heard()
            self._said = {key: said for key, said in self._said.items() if key[0] != party}
            self._host.jobs.lose(self.round_id, party)
            self.poke()

    def hear(self, ik: bytes, payload: bytes) -> None:
        """Takes in a message. Raises CryptoError for what no honest party says."""
        party = self.party_of(ik)
        if party not in self._heard:
            raise SignatureError("party", "the peer is no party of this round")
        heard, message = self._heard[party], messages.decode(payload)
        match message:
            case messages.Have():
                heard.have = message
            case messages.Listed(hashes):
                agree.split(hashes, self._task.reports_max)
                heard.listed = hashes
            case messages.Agreed(digest, sig):
                self._check(party, labels.PARTY_SET, digest, sig)
                heard.agreed = message
            case messages.Ready():
                self._hear_ready(party, message)
            case messages.Verdicts(bits):
                heard.verdicts = bits
            case messages.Signed(result, sigs):
                self._hear_result(result, sigs)
            case messages.Abandoned(statement, sig):
                self._check(party, labels.ABANDONMENT, statement, sig)
                self._host.telemetry.event("party_abandoned", party=party)
        self.poke()

    def _check(self, party: int, label: bytes, said: bytes, sig: bytes) -> None:
        verify(self._keys[party], label, self._digest + said, sig)

    def _hear_ready(self, party: int, ready: messages.Ready) -> None:
        self._heard[party].ready = ready
        running = self._running
        if (
            running is not None
            and ready.job == running.job
            and ready.nonce != running.nonces.get(party, ready.nonce)
        ):
            # It began anew; in the old job it will say nothing more.
            running.task.cancel()
        self._help(party, ready)

    def _help(self, party: int, ready: messages.Ready) -> None:
        """Gives a party that is behind what it missed."""
        progress = self.progress
        if ready.state < State.VERIFIED <= progress.state:
            bits = self._host.store.get(self.round_id, "verdicts")
            if bits is not None:
                self._tell(party, messages.Verdicts(bits))
        if progress.state in (State.OPENED, State.SIGNED):
            self._tell(party, self._signed())

    def _hear_result(self, result: bytes, sigs: dict[int, bytes]) -> None:
        """Keeps signatures of what this party holds, or of what a quorum has signed."""
        store, mine = self._host.store, self._host.store.get(self.round_id, "result")
        good = {}
        for party, sig in sigs.items():
            if party in self._keys:
                self._check(party, labels.RESULT, result, sig)
                good[party] = sig
        if self.progress.state.ended:
            return
        if mine is None and self._running is not None and self._running.job is Job.OPEN:
            return  # this party is about to have it from its own job, and then signs it too
        if mine is None and len(good) >= self.terms.quorum:
            items = {("result-sig", party): sig for party, sig in good.items()}
            store.advance(
                self.round_id,
                lambda p: states.learned(p, self.terms, frozenset(good)),
                {("result", 0): result, **items},
            )
        elif mine == result:
            for party, sig in good.items():
                store.put(self.round_id, "result-sig", sig, party=party)

    # What goes out

    @property
    def progress(self) -> Progress:
        """As it is stored."""
        return self._host.store.round(self.round_id).progress

    @property
    def alive(self) -> frozenset[int]:
        """This party and those that it can reach."""
        up = self._host.up()
        return frozenset(party for party, key in self._keys.items() if key in up) | {self.me}

    def _tell(self, party: int, message: Message) -> None:
        """Says it, but the same thing at most once a tick: what is heard wakes the hearer, and
        two that answer each other at once would do nothing else."""
        encoded, now_s = messages.encode(message), self._host.clock.monotonic_s()
        said, then_s = self._said.get((party, type(message)), (b"", float("-inf")))
        if said == encoded and now_s < then_s + self._host.config.tick_s:
            return
        if self._host.say(self._keys[party], self.round_id, encoded):
            self._said[party, type(message)] = (encoded, now_s)

    def _tell_all(self, message: Message) -> None:
        for party in self._heard:
            self._tell(party, message)

    def _sign(self, label: bytes, said: bytes) -> bytes:
        return self._host.identity.sign(label, self._digest + said)

    def _advance(self, step: Callable[[Progress], Progress], **items: bytes) -> None:
        named = {(name.replace("_", "-"), 0): value for name, value in items.items()}
        after = self._host.store.advance(self.round_id, step, named)
        self._host.telemetry.event("round_state", state=after.state.name)
        self.poke()

    # The loop

    async def run(self) -> State:
        """Until the round has ended, and the relay knows it or never will."""
        host = self._host
        try:
            while True:
                self._poked.clear()
                progress = self.progress
                if progress.state.ended:
                    break
                now_ms = host.clock.wall_ms()
                due = states.due(progress, self.terms, now_ms=now_ms, alive=self.alive)
                try:
                    await self._do(due, progress)
                except RelayDown:
                    host.telemetry.event("relay_down")
                await self._wait()
        finally:
            await self._stop_job()
            host.jobs.forget(self.round_id)
        await self._hand_in()
        return self.progress.state

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._host.config.tick_s):
                await self._poked.wait()
        except TimeoutError:
            pass

    async def _do(self, due: states.Due, progress: Progress) -> None:
        match due.step:
            case Step.INGEST:
                await self._ingest()
            case Step.AGREE:
                self._agree()
            case Step.VERIFY:
                if not self._learn_verdicts():
                    await self._verify(progress)
            case Step.NOISE | Step.WAIT if self._must_verify_again(progress):
                await self._verify(progress)
            case Step.SUM:
                await self._sum()
            case Step.NOISE:
                await self._noise(due.parties)
            case Step.OPEN:
                await self._open(due.parties, progress)
            case Step.SIGN:
                self._sign_result()
            case Step.ABANDON:
                assert due.reason is not None
                self.abandon(due.reason)
            case _:
                # A job can't go on without who is waited for.
                await self._stop_job()

    def abandon(self, reason: Reason) -> None:
        """Ends the round without a result, in words that this party signs."""
        statement = canonical.encode({"version": 1, "reason": str(reason)})
        sig = self._sign(labels.ABANDONMENT, statement)
        self._tell_all(messages.Abandoned(statement, sig))
        self._advance(lambda p: states.abandoned(p, reason), statement=statement, statement_sig=sig)

    # OPEN

    async def _ingest(self) -> None:
        host, now_s = self._host, self._host.clock.monotonic_s()
        over = host.clock.wall_ms() >= self.terms.close_ms
        if now_s < self._polled_s + (host.config.tick_s if over else host.config.poll_s):
            return
        self._polled_s = now_s
        if host.clock.wall_ms() < self.manifest.open_ms:
            return
        try:
            if not self._is_signed_by_all:
                self._check_round(await host.relay.round(self.round_id))
            complete = await self._take_boxes()
        except RelayRefused as error:
            # Not collected there yet, or no longer; retention bounds the wait.
            host.telemetry.event("relay_refused", code=error.code)
            return
        if complete and over:
            now_ms = host.clock.wall_ms()
            self._advance(lambda p: states.ingested(p, self.terms, now_ms))

    def _check_round(self, answer: rounds_pb2.GetRoundResponse) -> None:
        """Every party signed the manifest that this one holds; RelayRefused otherwise."""
        try:
            if answer.manifest != self.manifest.encoded:
                raise SignatureError("manifest", "the relay holds another manifest")
            self.manifest.signed(list(answer.sigs))
        except CryptoError as error:
            raise RelayRefused(error.rule) from None
        self._is_signed_by_all = True

    async def _take_boxes(self) -> bool:
        """All that the relay has now; whether that was all there ever will be."""
        assert self._box_sk is not None
        box = PartyBox(self.me, self._box_sk)
        cursor = self._host.store.round(self.round_id).cursor
        pending: list[tuple[bytes, bytes]] = []
        complete = False
        async for frame in self._host.relay.boxes(self.round_id, cursor):
            pending += [(one.header, one.sealed) for one in frame.boxes]
            complete = frame.complete
            if len(pending) >= self._host.config.batch_reports:
                await self._keep(box, pending, frame.cursor)
                pending = []
            cursor = frame.cursor
        if pending:
            await self._keep(box, pending, cursor)
        return complete

    async def _keep(self, box: PartyBox, pending: list[tuple[bytes, bytes]], cursor: bytes) -> None:
        opened = await asyncio.to_thread(open_boxes, box, self._shape, pending)
        self._host.store.add_batch(
            self.round_id, cursor=cursor, reports=opened.reports, refused=opened.refused
        )

    # CLOSED

    def _hashes(self) -> list[bytes]:
        return sorted(hashed for _, hashed, _, _ in self._host.store.reports(self.round_id))

    def _agree(self) -> None:
        mine = self._hashes()
        have = messages.Have(len(mine), agree.digest(self._digest, mine))
        self._tell_all(have)
        heard = self._heard
        if any(one.have is None for one in heard.values()):
            return
        common = mine
        if any(one.have != have for one in heard.values()):
            self._tell_all(messages.Listed(agree.join(mine)))
            if any(one.listed is None for one in heard.values()):
                return
            lists = {
                party: agree.split(one.listed or b"", self._task.reports_max)
                for party, one in heard.items()
            }
            common, bitmaps = agree.intersection({self.me: mine, **lists})
            self._host.store.put(self.round_id, "bitmap", bitmaps[self.me], party=self.me)
        digest = agree.digest(self._digest, common)
        sig = self._sign(labels.PARTY_SET, digest)
        self._host.store.put(self.round_id, "set", agree.join(common))
        self._host.store.put(self.round_id, "set-sig", sig, party=self.me)
        self._tell_all(messages.Agreed(digest, sig))
        said = {party: one.agreed for party, one in heard.items() if one.agreed is not None}
        if any(one.digest != digest for one in said.values()):
            self.abandon(Reason.SET_DISAGREED)
        elif len(said) == len(heard):
            self._host.store.refuse(self.round_id, "agree", {"elsewhere": len(mine) - len(common)})
            for party, one in said.items():
                self._host.store.put(self.round_id, "set-sig", one.sig, party=party)
            self._advance(lambda p: states.agreed(p, digest))

    def _common(self) -> list[bytes]:
        return agree.split(
            self._host.store.get(self.round_id, "set") or b"", self._task.reports_max
        )

    def _agreed_rows(self) -> work.Rows:
        if self._rows is None:
            common = set(self._common())
            self._rows = work.Rows.of(self._host.store, self.round_id, self._task, common)
        return self._rows

    def _verified(self, bits: bytes) -> None:
        reports = len(self._agreed_rows())
        valid = int(work.unpacked(bits, reports).sum())
        now_ms = self._host.clock.wall_ms()
        self._host.store.refuse(self.round_id, "verify", {"invalid": reports - valid})
        self._advance(lambda p: states.verified(p, valid, now_ms), verdicts=bits)

    async def _verify(self, progress: Progress) -> None:
        await self._job(Job.VERIFY, self.terms.everyone, progress.agreed or b"")

    def _must_verify_again(self, progress: Progress) -> bool:
        """Others missed the end of the verification, and so few have its verdicts that nobody
        need believe them. It gives the same again, or is refused."""
        if progress.state is not State.SUMMED or self.alive != self.terms.everyone:
            return False
        said = [one.ready for one in self._heard.values()]
        past = sum(ready is not None and ready.state >= State.VERIFIED for ready in said)
        behind = sum(ready is not None and ready.state < State.VERIFIED for ready in said)
        return behind > 0 and past + 1 <= self.terms.t and past + behind == len(said)

    def _learn_verdicts(self) -> bool:
        """t + 1 parties that say the same include an honest one."""
        said = [one.verdicts for one in self._heard.values() if one.verdicts is not None]
        for bits in said:
            if said.count(bits) > self.terms.t:
                self._verified(bits)
                return True
        return False

    # Jobs

    async def _stop_job(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.task.cancel()
            await asyncio.gather(running.task, return_exceptions=True)

    async def _job(self, job: Job, parties: frozenset[int], tag: bytes) -> None:
        """Says that this party is ready; begins once all others are, with the same in mind."""
        running = self._running
        if running is not None and running.task.done():
            self._running = None
            await self._finish(running)
            return
        if running is not None and (running.job is not job or set(running.nonces) != parties):
            await self._stop_job()
        retry = self._retries[job]
        if self._host.clock.monotonic_s() < retry.not_before_s:
            return
        mask = sum(1 << (party - 1) for party in parties)
        ready = messages.Ready(self.progress.state, job, mask, tag, retry.nonce)
        self._tell_all(ready)
        if self._running is not None:
            return
        nonces = {self.me: ready.nonce}
        for party in parties - {self.me}:
            said = self._heard[party].ready
            if said is None or (said.job, said.parties, said.tag) != (job, ready.parties, tag):
                return
            nonces[party] = said.nonce
        self._begin(job, nonces, tag)

    def _begin(self, job: Job, nonces: dict[int, bytes], tag: bytes) -> None:
        parties = frozenset(nonces)
        try:
            does = self._work(job, parties)
        except (OverBudget, OpenedBefore):
            self.abandon(Reason.BUDGET)
            return
        said = b"".join(bytes((party,)) + nonces[party] for party in sorted(nonces))
        job_id = hash_(labels.PARTY_JOB, self._digest + bytes((job,)) + tag + said, 16)
        config = self._host.config
        description = Description(
            JobTerms(
                job_id, self._digest, self.terms.m, self.terms.t, tuple(sorted(parties)),
                self._task.field.bits,
            ),
            self.me,
            Limits(seconds=config.job_s, stall_seconds=config.job_stall_s,
                   frame_bytes_max=FRAME_BYTES),
        )  # fmt: skip
        task = asyncio.create_task(self._host.jobs.run(self.round_id, description, does))
        task.add_done_callback(lambda _: self.poke())
        self._running = _Running(job, nonces, task)
        self._job_id = job_id

    def _work(self, job: Job, parties: frozenset[int]) -> Callable[[JobProcess], Any]:
        """What to do in it, from what is stored; what must be stored before is."""
        store, round_id = self._host.store, self.round_id
        if job is Job.VERIFY:
            digest = self.progress.agreed
            assert digest is not None
            known = store.get(round_id, "verdicts")
            return work.verify(self._agreed_rows(), digest, self._run, known=known)
        outputs = self._task.kind.d
        if job is Job.NOISE:
            store.advance(round_id, lambda p: states.fixed(p, self.terms, parties))
            law = self._task.noise
            assert law is not None
            draw = partial(
                law.share, outputs, present=len(parties), t=self.terms.t, rand=os.urandom
            )
            name = "noise:" + ",".join(map(str, sorted(parties)))
            noise = store.once(round_id, name, lambda: np.asarray(draw()).astype("<i8").tobytes())
            sums = store.get(round_id, "sum")
            assert sums is not None
            return work.noise_in(self._task, sums, noise)
        cap = task_cap(self._task, self._host.config.task_micro_rho_max)
        store.spend(round_id, micro_rho=self._task.cost_micro_rho, cap_micro_rho=cap)
        noised = store.get(round_id, "noised")
        assert noised is not None
        store.advance(round_id, states.revealed)
        return work.open_sum(self._task, noised[16:])

    @property
    def _run(self) -> int:
        return work.run_of(self._task, FRAME_BYTES)

    async def _finish(self, running: _Running) -> None:
        """Stores what a job gave, or sees to it that it is tried again."""
        if running.task.cancelled():
            return
        outcome = running.task.result()
        for heard in self._heard.values():
            heard.ready = None  # what was said before this job is not of the next one
        self._host.telemetry.event(
            "job", job=running.job.name, ending=outcome.ending.value, rule=outcome.rule,
            party=outcome.party or 0,
        )  # fmt: skip
        if outcome.ending is Ending.OPENING_REFUSED and outcome.rule != "few":
            self.abandon(Reason.OPENING_REFUSED)
            return
        if outcome.ending is not Ending.DONE:
            retry = self._retries[running.job]
            wait_s = min(BACKOFF_S_MAX, self._host.config.tick_s * 2**retry.failures)
            now_s = self._host.clock.monotonic_s()
            self._retries[running.job] = _Retry(retry.failures + 1, now_s + wait_s)
            return
        self._retries[running.job] = _Retry()
        value: Any = outcome.value
        if running.job is Job.VERIFY:
            if self.progress.state is State.CLOSED:
                self._verified(work.packed(value.valid))
        elif running.job is Job.NOISE:
            self._host.store.put_over(self.round_id, "noised", self._job_id + value)
            if self.progress.state is State.SUMMED:
                self._advance(states.noised)
        else:
            self._opened(value)

    # VERIFIED and on

    async def _sum(self) -> None:
        await self._stop_job()
        store, rows = self._host.store, self._agreed_rows()
        bits = store.get(self.round_id, "verdicts")
        assert bits is not None
        share = work.row_sum(rows, work.unpacked(bits, len(rows)), self._run)
        self._advance(lambda p: states.summed(p, self.terms), sum=share)

    async def _noise(self, parties: frozenset[int]) -> None:
        await self._job(Job.NOISE, parties, self.progress.agreed or b"")

    async def _open(self, parties: frozenset[int], progress: Progress) -> None:
        noised = self._host.store.get(self.round_id, "noised")
        assert noised is not None
        tag = noised[:16]
        # Only who says so lacks this sharing; who has said nothing yet is waited for.
        lacking = {
            party
            for party in parties - {self.me}
            if (ready := self._heard[party].ready) is not None
            and (ready.state < State.NOISED or (ready.job == Job.OPEN and ready.tag != tag))
        }
        holding = parties - lacking
        if len(holding) < self.terms.quorum and not progress.revealed:
            # The others never got their shares of it. Nothing was opened: it is shared again,
            # with the same noise.
            await self._job(Job.NOISE, parties, progress.agreed or b"")
        elif len(holding) >= self.terms.quorum and self._is_impatient(progress):
            await self._job(Job.OPEN, holding, tag)
        else:
            await self._job(Job.OPEN, parties, tag)

    def _is_impatient(self, progress: Progress) -> bool:
        now_ms = self._host.clock.wall_ms()
        return now_ms >= (progress.verified_ms or 0) + self.terms.patience_ms

    def _opened(self, found: OpenedSum) -> None:
        progress, store = self.progress, self._host.store
        assert progress.present is not None
        reports = len(self._agreed_rows())
        counted = results.Counted(reports, 0, reports - (progress.valid or 0), ({},) * self.terms.m)
        result = results.make(
            self._task,
            found.values.tolist(),
            counted,
            noise_of=sorted(progress.present),
            checked=found.checked,
        ).encode(self._task)
        self._host.telemetry.event("opened", checked=found.checked)
        store.put(self.round_id, "result-sig", self._sign(labels.RESULT, result), party=self.me)
        self._advance(states.opened, result=result)

    def _signed(self) -> messages.Signed:
        store = self._host.store
        result = store.get(self.round_id, "result")
        assert result is not None
        return messages.Signed(result, store.by_party(self.round_id, "result-sig"))

    def _sign_result(self) -> None:
        said = self._signed()
        self._tell_all(said)
        signers = frozenset(said.sigs)
        progress = self.progress
        if len(signers) < self.terms.quorum:
            return
        missing = (progress.present or frozenset()) - signers
        if missing and not self._is_impatient(progress):
            return  # whoever lives is given the time to sign as well
        self._advance(lambda p: states.signed(p, self.terms, signers))

    # The end

    async def _hand_in(self) -> None:
        """Until the relay has it or refuses it. Peers that are behind are told meanwhile."""
        host, store = self._host, self._host.store
        if self.progress.state is State.SIGNED:
            said = self._signed()
            self._tell_all(said)
            message = parties_pb2.PublishResultRequest(
                round_id=self.round_id,
                result=said.result,
                sigs=[
                    rounds_pb2.PartySignature(party=party, sig=sig)
                    for party, sig in sorted(said.sigs.items())
                ],
            )
        else:
            statement = store.get(self.round_id, "statement") or b""
            message = parties_pb2.PublishResultRequest(
                round_id=self.round_id,
                abandonment=rounds_pb2.Abandonment(
                    party=self.me,
                    statement=statement,
                    sig=store.get(self.round_id, "statement-sig") or b"",
                ),
            )
        while store.get(self.round_id, "handed-in") is None:
            try:
                await host.relay.publish(message)
                store.keep(self.round_id, "handed-in", b"accepted")
            except RelayRefused as error:
                host.telemetry.event("result_refused", code=error.code)
                store.keep(self.round_id, "handed-in", b"refused")
            except RelayDown:
                await self._wait()
                self._poked.clear()
