"""What a store must do, said as simply as possible: lists and dictionaries, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from crypto import op
from crypto.cert import Role
from crypto.chain import Chain
from crypto.ids import DeviceId
from crypto.op import Kind, SealedOp
from services.store import errors
from services.store.base import Limits


@dataclass(slots=True)
class Held:
    """An op at its position. `superseded_at`: the end of the push that made it a stub."""

    sealed: SealedOp
    position: int
    superseded_at: int | None = None
    marked: bool = False

    @property
    def raw(self) -> bytes:
        """What a page holds of it."""
        whole = self.superseded_at is None or self.marked
        return self.sealed.raw if whole else self.sealed.stub


@dataclass(slots=True)
class Model:
    """One account."""

    chain: Chain
    limits: Limits
    ended_ms: int = 0
    lamport_max: int = 0
    log: list[Held] = field(default_factory=list)
    ends: list[int] = field(default_factory=lambda: [0])
    marks: list[tuple[Held, int]] = field(default_factory=list)
    passed: dict[DeviceId, int] = field(default_factory=dict)

    @property
    def position(self) -> int:
        """The newest one."""
        return self.ends[-1]

    def rotate(self, chain: Chain, now_ms: int) -> None:
        """The chain has a ROTATE more."""
        self.chain, self.ended_ms = chain, now_ms

    def commit(self, ops: Sequence[SealedOp], *, now_ms: int, mark: int | None, covers: int) -> int:
        """How many were new. Raises what the store must raise, and changes nothing then."""
        fresh, lamport_max = self._judge(ops, now_ms)
        if not fresh:
            return 0
        end = self.position + len(fresh)
        added = [Held(sealed, self.position + n + 1) for n, sealed in enumerate(fresh)]
        log = [*self.log, *added]
        for epoch in {sealed.header.epoch for sealed in fresh}:
            before = _records(self.log, epoch)
            if _records(log, epoch) > max(before, self.limits.records_max):
                raise errors.QuotaExceeded("records_per_account", self.limits.records_max)
        for held in log:
            if held.superseded_at is None and (
                held.sealed.ct is None or any(_beats(other, held) for other in log)
            ):
                held.superseded_at = end
        marked = None if mark is None else ops[mark]
        for held in added:
            if held.sealed is marked:
                held.marked = True
                self.marks.append((held, min(covers, self.position)))
        self.log, self.lamport_max = log, lamport_max
        self.ends.append(end)
        return len(fresh)

    def _judge(self, ops: Sequence[SealedOp], now_ms: int) -> tuple[list[SealedOp], int]:
        fresh: list[SealedOp] = []
        lamport_max = self.lamport_max
        for sealed in ops:
            header = sealed.header
            own = [
                other.op_hash
                for other in (*(held.sealed for held in self.log), *fresh)
                if other.header.device_id == header.device_id
            ]
            if header.dev_seq <= len(own):
                if own[header.dev_seq - 1] != sealed.op_hash:
                    raise errors.DeviceForked
                continue
            start = op.init_hash(self.chain.account, header.device_id)
            if header.dev_seq != len(own) + 1 or header.prev != [start, *own][-1]:
                raise errors.OpGap(len(own), [start, *own][-1])
            self._check_cut(sealed)
            self._check_epoch(sealed, now_ms)
            if header.lamport > lamport_max + op.LAMPORT_STEP_MAX:
                raise errors.LamportAhead
            lamport_max = max(lamport_max, header.lamport)
            fresh.append(sealed)
        return fresh, lamport_max

    def _check_cut(self, sealed: SealedOp) -> None:
        device = self.chain.find(sealed.header.device_id)
        assert device is not None
        cut = device.cut
        if cut is None or sealed.header.dev_seq < cut.seq:
            return
        if sealed.header.dev_seq > cut.seq or sealed.op_hash != cut.op_hash:
            raise errors.DeviceCut

    def _check_epoch(self, sealed: SealedOp, now_ms: int) -> None:
        epoch = sealed.header.epoch
        if epoch > self.chain.epoch:
            raise errors.EpochUnknown(self.chain.epoch)
        in_grace = epoch == self.chain.epoch - 1 and now_ms < self.ended_ms + self.limits.grace_ms
        if sealed.ct is not None and epoch != self.chain.epoch and not in_grace:
            raise errors.EpochStale(self.chain.epoch)

    def page(self, after: int, ops_max: int) -> tuple[int, bool]:
        """Where a page of an untrimmed log ends, and whether more comes."""
        for end in self.ends:
            if end > after and end - after >= ops_max:
                return end, end < self.position
        return max(after, self.position), False

    def settled_covers(self) -> int:
        """Up to where all active devices that write have passed a checkpoint."""
        writers = [d.device_id for d in self.chain.active if d.role is Role.FULL]
        floor = min(self.passed.get(device_id, 0) for device_id in writers)
        return max((covers for _, covers in self.marks if covers <= floor), default=0)

    def may_go(self, held: Held) -> bool:
        """Whether the store may have trimmed it by now."""
        return held.superseded_at is not None and held.superseded_at <= self.settled_covers()


def _records(log: Sequence[Held], epoch: int) -> int:
    headers = [held.sealed.header for held in log if held.sealed.ct is not None]
    return len({h.tag for h in headers if h.epoch == epoch and h.kind == Kind.RECORD})


def _beats(other: Held, held: Held) -> bool:
    """Whether `other` is the reason that `held` is a stub. Of equals the first one stays."""
    a, b = other.sealed, held.sealed
    if a.ct is None or (a.header.tag, a.header.epoch) != (b.header.tag, b.header.epoch):
        return False
    if a.order == b.order and b.ct is not None:
        return other.position < held.position
    return a.order >= b.order
