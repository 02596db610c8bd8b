"""What a store refuses, and why. `services/errors.py` turns each into a wire status."""

from __future__ import annotations


class StoreError(Exception):
    """Root of everything that a store raises on purpose."""


class StoreUnavailable(StoreError):
    """The store can't take the call now (full disk, closed, lost connection). Try again."""


class AccountAbsent(StoreError):
    """No such account (or no longer)."""


class CallerUnknown(StoreError):
    """Who asks is no active device of the account: not yet, or no longer."""


class NonceUsed(StoreError):
    """The request was made before."""


class ChainConflict(StoreError):
    """Another link stands at this seq."""

    def __init__(self, chain_seq: int) -> None:
        super().__init__(f"the chain is at seq {chain_seq}")
        self.chain_seq = chain_seq


class ChainAhead(StoreError):
    """The link's seq is beyond the next one."""

    def __init__(self, chain_seq: int) -> None:
        super().__init__(f"the chain is at seq {chain_seq}")
        self.chain_seq = chain_seq


class DeviceForked(StoreError):
    """Other bytes stand at this dev_seq: the identity was cloned or restored."""


class OpGap(StoreError):
    """dev_seq skips or prev differs from the head that the store holds."""

    def __init__(self, dev_seq: int, op_hash: bytes) -> None:
        super().__init__(f"the head is at dev_seq {dev_seq}")
        self.dev_seq = dev_seq
        self.op_hash = op_hash


class EpochStale(StoreError):
    """The op's epoch is over."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"the current epoch is {epoch}")
        self.epoch = epoch


class EpochUnknown(StoreError):
    """The op's epoch is newer than the chain that the store holds."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"the current epoch is {epoch}")
        self.epoch = epoch


class DeviceCut(StoreError):
    """The op is beyond the cut of a revoked device, or differs from it."""


class LamportAhead(StoreError):
    """The op's lamport is more than 4096 above the account's largest."""


class CallsExceeded(StoreError):
    """An account calls more often than it can be told apart. `limit` names the bound."""

    def __init__(self, limit: str, maximum: int) -> None:
        super().__init__(f"{limit} is {maximum}")
        self.limit = limit


class QuotaExceeded(StoreError):
    """A limit is reached. `limit` names it, `maximum` is its value."""

    def __init__(self, limit: str, maximum: int) -> None:
        super().__init__(f"{limit} is {maximum}")
        self.limit = limit
        self.maximum = maximum


class TaskConflict(StoreError):
    """Other bytes stand under this task id."""


class TaskUnknown(StoreError):
    """No such task."""


class RoundConflict(StoreError):
    """Other bytes stand under this round id, or a round of the task overlaps this window."""


class RoundUnknown(StoreError):
    """No such round, or its retention is over."""


class RoundNotOpen(StoreError):
    """The round takes no contributions yet."""

    def __init__(self, open_ms: int) -> None:
        super().__init__(f"the round opens at {open_ms}")
        self.open_ms = open_ms


class RoundClosed(StoreError):
    """The round takes no contributions any more."""

    def __init__(self, close_ms: int) -> None:
        super().__init__(f"the round closed at {close_ms}")
        self.close_ms = close_ms


class RoundNotClosed(StoreError):
    """The round still takes contributions: there can be no result yet."""

    def __init__(self, close_ms: int) -> None:
        super().__init__(f"the round closes at {close_ms}")
        self.close_ms = close_ms


class RoundOver(StoreError):
    """The boxes of the round were dropped."""


class ContributedAlready(StoreError):
    """The account has given other bytes to this round; the first ones stand."""


class ResultConflict(StoreError):
    """Other bytes stand as the result, or as this party's abandonment."""


class PolicyConflict(StoreError):
    """The bundle is not the one that follows on the newest."""

    def __init__(self, sequence: int, hash_: bytes) -> None:
        super().__init__(f"the newest bundle has number {sequence}")
        self.sequence = sequence
        self.hash = hash_


class ConsentConflict(StoreError):
    """The entry is not the one that follows on the account's newest."""

    def __init__(self, seq: int, hash_: bytes) -> None:
        super().__init__(f"the newest entry has seq {seq}")
        self.seq = seq
        self.hash = hash_


class ConsentStale(StoreError):
    """What was claimed is not the newest entry under its tag, or it is no grant."""


class MailboxAbsent(StoreError):
    """No such pairing mailbox, or its five minutes are over."""


class MailboxTaken(StoreError):
    """That number of the mailbox holds other bytes already."""
