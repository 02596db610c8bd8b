"""What is held of every device's ops: the judge's memory, hashes and numbers only."""

from __future__ import annotations

from collections.abc import Mapping

from crypto import op
from crypto.chain import Chain, Device
from crypto.epoch import EpochKeys
from crypto.heads import Head
from crypto.ids import DeviceId, OpHash
from crypto.op import LAMPORT_STEP_MAX


class Log:
    """The ops held of one device: an unbroken run from `base` + 1 to `seq`."""

    __slots__ = ("aside", "base", "fork_seq", "hashes", "head", "init", "seq", "stopped")

    def __init__(self, init: OpHash) -> None:
        self.init = init
        self.base = 0
        """0, or the seq at which the checkpoint that we started from has this device."""
        self.seq = 0
        self.head = init
        self.hashes: dict[int, OpHash] = {}
        self.aside: dict[int, str] = {}
        """seq of ops that count as held but whose content does not, and their verdict."""
        self.fork_seq: int | None = None
        """From here on nothing of this device counts: two versions of an op exist."""
        self.stopped: set[OpHash] = set()
        """Ops from the fork on that were held before it showed."""

    def append(self, seq: int, op_hash: OpHash) -> None:
        """The next op."""
        assert seq == self.seq + 1
        self.seq, self.head = seq, op_hash
        self.hashes[seq] = op_hash

    def start_at(self, seq: int, op_hash: OpHash) -> None:
        """Takes a checkpoint's word for where this device stands."""
        self.base = self.seq = seq
        self.head = self.hashes[seq] = op_hash

    def drop_after(self, seq: int) -> list[OpHash]:
        """Takes back all ops beyond `seq`; their hashes."""
        gone = [self.hashes.pop(at) for at in range(seq + 1, self.seq + 1) if at in self.hashes]
        for at in [at for at in self.aside if at > seq]:
            del self.aside[at]
        if gone:
            self.seq = seq
            self.head = self.hashes[seq] if seq else self.init
        return gone

    def stop(self, seq: int) -> None:
        """Sets everything aside from `seq` on."""
        if self.fork_seq is None or seq < self.fork_seq:
            self.fork_seq = seq
            self.stopped.update(self.drop_after(seq - 1))


class State:
    """Chain, keys and logs: all that a judgement depends on."""

    __slots__ = ("_by_id", "chain", "keys", "lamport_hint", "lamport_max", "logs")

    def __init__(self, chain: Chain, keys: Mapping[int, EpochKeys] | None = None) -> None:
        self.keys: dict[int, EpochKeys] = dict(keys or {})
        self.logs: list[Log] = []
        self.lamport_max = 0
        self.lamport_hint = 0
        """The service's word for the largest lamport; only ever widens check C7."""
        self.set_chain(chain)

    def set_chain(self, chain: Chain) -> dict[int, list[OpHash]]:
        """Takes a longer chain. Ops beyond a new cut are dropped (device index to hashes)."""
        self.chain = chain
        self._by_id: dict[DeviceId, Device] = {row.device_id: row for row in chain.devices}
        for device in chain.devices[len(self.logs) :]:
            self.logs.append(Log(op.init_hash(chain.account, device.device_id)))
        dropped = {}
        for device in chain.devices:
            gone = self._cut(device)
            if gone:
                dropped[device.index] = gone
        return dropped

    def _cut(self, device: Device) -> list[OpHash]:
        log, cut = self.logs[device.index], device.cut
        if cut is None or log.seq < max(cut.seq, 1):
            return []
        if cut.seq <= log.base and log.base:
            return []
        differs = cut.seq and log.hashes[cut.seq] != cut.op_hash
        return log.drop_after(cut.seq - 1 if differs else cut.seq)

    def find(self, device_id: DeviceId) -> Device | None:
        """The device of the chain with this id."""
        return self._by_id.get(device_id)

    @property
    def lamport_bound(self) -> int:
        """The largest lamport seen or heard of."""
        return max(self.lamport_max, self.lamport_hint)

    def saw(self, lamport: int) -> None:
        """An op that does not count was seen: what is written from now on stands above it,
        since the service does not know that it does not count."""
        if lamport <= self.lamport_bound + LAMPORT_STEP_MAX:
            self.lamport_max = max(self.lamport_max, lamport)

    def heads(self) -> tuple[Head, ...]:
        """The newest op that counts of every device that has written, in index order."""
        return tuple(
            Head(index, log.seq, log.head) for index, log in enumerate(self.logs) if log.seq
        )
