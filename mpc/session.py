"""One party's session of a job: agreeing on keys, then exchanging, opening and sharing in.

Whatever another party does, a wait ends: with its message, with PeerLost, or at the deadline.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from crypto.errors import FormatError
from crypto.field import Array
from mpc.errors import JobError, OpeningError, PeerLost
from mpc.opening import Opened, Shares, interpolate
from mpc.peer import Absent, Link, Peer
from mpc.prss import Agreement
from mpc.runtime import Runtime
from mpc.terms import Terms

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one job may take. `stall_seconds` is the longest wait for one message, and so must
    allow for a peer that computes on its reports in the meantime."""

    seconds: float = 60.0
    stall_seconds: float = 30.0
    frame_bytes_max: int = 4 << 20
    unread_bytes_max: int = 64 << 20
    unread_max: int = 4096


class Session:
    """The party `me` among those of `terms`. A process has one."""

    def __init__(
        self,
        terms: Terms,
        me: int,
        links: Mapping[int, Link],
        *,
        limits: Limits,
        rand: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if me not in terms.present or set(links) != set(terms.present) - {me}:
            raise FormatError("parties", "a party needs a link to each other present one")
        self.terms = terms
        self.me = me
        self.limits = limits
        self._deadline = asyncio.get_running_loop().time() + limits.seconds
        self._rand = rand
        self._steps: set[str] = set()
        self.peers = {
            party: Peer(
                party,
                link,
                unread_bytes_max=limits.unread_bytes_max,
                unread_max=limits.unread_max,
            )
            for party, link in links.items()
        }
        absent = set(range(1, terms.m + 1)) - set(terms.present)
        everyone: dict[int, Peer | Absent] = {party: Absent(party) for party in absent}
        everyone.update(self.peers)
        self.runtime = Runtime(terms, me, everyone, self._open_inside)

    async def start(self) -> None:
        """Agrees with all present parties on the keys of this job. PeerLost if it can't."""
        agreement = Agreement(self.terms, self.me, self._rand)

        async def agree() -> None:
            hellos = await self.swap({party: agreement.hello(party) for party in self.peers})
            for party, hello in hellos.items():
                self._take(party, agreement.take_hello, hello)

        async def prove() -> None:
            proofs = await self.swap({party: agreement.proof(party) for party in self.peers})
            for party, proof in proofs.items():
                self._take(party, agreement.check_proof, proof)

        # The hello has the same place in every job, so that parties of two jobs tell it.
        await self._run_at(0, agree())
        await self._run_at(1, prove())
        self.runtime.use_keys(agreement.keys())

    async def run(self, step: str, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a step at the program counter of its name, whatever ran before it.

        JobError if the job had a step of that name: it would draw the same randomness again.
        """
        if step in self._steps:
            coroutine.close()
            raise JobError("step", f"the job did its step {step!r} already")
        self._steps.add(step)
        return await self._run_at(self.terms.pc(step), coroutine)

    async def _run_at(self, pc: int, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self.runtime.at(pc, coroutine)
        except TimeoutError:
            for peer in self.peers.values():
                if peer.is_awaited:
                    raise peer.lose("stalled", "did not answer until the job's end") from None
            raise JobError("deadline", "the job took longer than it may") from None

    async def swap(self, payloads: Mapping[int, bytes]) -> dict[int, bytes]:
        """Sends each peer its payload and returns what each sent here, or raises PeerLost."""
        if max(map(len, payloads.values()), default=0) > self.limits.frame_bytes_max:
            raise JobError("size", "a message is too long: open in smaller batches")
        for party, payload in payloads.items():
            self.runtime.send(party, payload)
        waits = {party: self.runtime.receive(party) for party in payloads}
        return await self._all(waits)

    async def _all(self, waits: Mapping[int, asyncio.Future[bytes]]) -> dict[int, bytes]:
        if waits:
            await asyncio.wait(
                waits.values(),
                timeout=self.limits.stall_seconds,
                return_when=asyncio.FIRST_EXCEPTION,
            )
        for future in waits.values():
            if future.done():
                future.result()  # raises PeerLost
        for party, future in waits.items():
            if not future.done():
                raise self.peers[party].lose("stalled", "did not answer in time")
        return {party: future.result() for party, future in waits.items()}

    async def exchange(self, payload: bytes) -> dict[int, bytes]:
        """Sends every peer the same and returns what they sent, or raises PeerLost."""
        return await self.runtime.forked(self.swap(dict.fromkeys(self.peers, payload)))

    async def open(self, name: str, shares: Array, *, degree: int) -> Opened:
        """Opens shares of any shape to all present parties. OpeningError if one lied and can't
        be told from the honest.

        Above degree t a sharing of zero is added, or the shares would show how they came to be.
        """
        points = await self.open_shares(name, shares, degree=degree)
        return interpolate(name, self.terms.field, points, degree=degree, t=self.terms.t)

    async def open_shares(self, name: str, shares: Array, *, degree: int) -> Shares:
        """What every present party holds of a sharing, unjudged. PeerLost for garbage,
        OpeningError `few` if so many can't open that degree."""
        if len(self.terms.present) <= degree:
            raise OpeningError("few", name, f"it takes {degree + 1} parties")
        points = await self.runtime.forked(self._exchange(shares, degree, self.terms.present))
        assert points is not None
        return points

    async def share_in(self, values: Array) -> Shares:
        """Shares a vector of this party's own; returns this party's shares of everybody's."""
        return await self.runtime.forked(self._share_in(values))

    async def _share_in(self, values: Array) -> Shares:
        field = self.terms.field
        parts = self.runtime.split(values)
        came = await self.swap({party: field.to_bytes(parts[party]) for party in self.peers})
        return {self.me: parts[self.me], **self._vectors(came, len(values))}

    async def _open_inside(
        self, shares: Array, degree: int, receivers: tuple[int, ...]
    ) -> Array | None:
        """The opening that MPyC's own protocols use. Has a program counter of its own."""
        points = await self._exchange(shares, degree, receivers)
        if points is None:
            return None
        field, t = self.terms.field, self.terms.t
        return interpolate("mpyc", field, points, degree=degree, t=t).values

    async def _exchange(
        self, shares: Array, degree: int, receivers: tuple[int, ...]
    ) -> Shares | None:
        field = self.terms.field
        if degree > self.terms.t:
            zeros = self.runtime.zero_shares(shares.size).reshape(shares.shape)
            shares = field.add(shares, zeros)
        payload = field.to_bytes(shares)
        if len(payload) > self.limits.frame_bytes_max:
            raise JobError("size", "too much is opened at once: open in smaller batches")
        for party in self.peers:
            if party in receivers:
                self.runtime.send(party, payload)
        if self.me not in receivers:
            return None
        came = await self._all({party: self.runtime.receive(party) for party in self.peers})
        vectors = self._vectors(came, shares.size)
        rows = {party: vector.reshape(shares.shape) for party, vector in vectors.items()}
        return {self.me: shares, **rows}

    def _vectors(self, came: Mapping[int, bytes], count: int) -> dict[int, Array]:
        field = self.terms.field
        return {
            party: self._take(party, lambda _, raw: field.from_bytes(raw, count), data)
            for party, data in came.items()
        }

    def _take(self, party: int, parse: Callable[[int, bytes], T], data: bytes) -> T:
        """What `parse` makes of a peer's message; PeerLost where it refuses it."""
        try:
            return parse(party, data)
        except FormatError as error:
            rule = error.rule if error.rule in ("job", "keys") else "garbage"
            message = f"sent what can't be right here: {error.message}"
            self.peers[party].lose(rule, message)
            # It may have been lost before, for being gone, but this is what its message was.
            raise PeerLost(rule, party, message) from error
