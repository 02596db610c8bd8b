"""Writing to Redis what a moved store holds: rows of an account, boxes of a round."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from crypto import op
from crypto.link import SignedLink
from services.moving.redis_governance import consent_fields
from services.moving.rows import Row
from services.store import packed
from services.store.account_state import HASH_START_BYTES, Mark
from services.store.judge_chain import unpack_grants
from services.store.redis_keys import shard, to_wake
from services.store.redis_link import Link
from services.store.redis_ops import BLOCK_BITS, RUN
from services.store.redis_read import pack_link
from services.store.redis_round_keys import RoundKeys
from services.store.redis_state import (
    HEAD,
    Account,
    head_field,
    pack_ends,
    pack_marks,
    passed_field,
)
from services.store.redis_wake import HANDLE

FIELDS_AT_ONCE = 128
HASHES_PER_CHUNK = 64
POSITION_BYTES = 4


def position_name(position: int) -> bytes:
    """A position as Redis has it."""
    return position.to_bytes(POSITION_BYTES, "big")


def fields_of(account: Account) -> list[bytes | int]:
    """The account's state, written last."""
    flat: list[bytes | int] = [
        b"v", account.version, b"h", account.chain.head, b"t", account.tail,
        b"e", pack_ends(account.ends), b"i", account.incarnation,
        b"m", pack_marks(account.marks), b"u", account.subject_row,
    ]  # fmt: skip
    for device_id, head in account.heads.items():
        flat += [head_field(account.index[device_id]), HEAD.pack(*head)]
    for device, position in account.passed.items():
        flat += [passed_field(account.index[bytes(device)]), position]
    return flat


class Filling:
    """An account that is written, row by row."""

    def __init__(self, link: Link, account: Account) -> None:
        self._link = link
        self._account = account
        self._waiting: dict[tuple[bytes, bytes], list[bytes | int]] = defaultdict(list)
        self._blocks: Counter[int] = Counter()
        self._chunk = b""
        self._slots = bytearray()
        self._first_due_ms = 0

    async def take(self, row: Row) -> None:
        """One more. Ops come in order, and so do the hashes of those that were trimmed."""
        kind, _, *values = row
        await getattr(self, f"_take_{kind}")(*values)

    async def end(self) -> None:
        """Writes what waits."""
        await self._end_chunk()
        for block, count in self._blocks.items():
            name = block.to_bytes(4, "big")
            await self._put(b"HSET", self._account.keys.blocks, name, count)
        for command, key in list(self._waiting):
            await self._flush(command, key)
        if self._first_due_ms:
            account_id = self._account.chain.account
            await self._link.call(
                "ZADD", to_wake(shard(account_id)), self._first_due_ms, account_id
            )

    async def _put(self, command: bytes, key: bytes, *pair: bytes | int) -> None:
        waiting = self._waiting[command, key]
        waiting += pair
        if len(waiting) >= 2 * FIELDS_AT_ONCE:
            await self._flush(command, key)

    async def _flush(self, command: bytes, key: bytes) -> None:
        waiting = self._waiting.pop((command, key), None)
        if waiting:
            await self._link.call(command, key, *waiting)

    async def _take_link(self, seq: int, raw: bytes, sig: bytes, pop: bytes, grants: bytes) -> None:
        stored = pack_link(SignedLink(raw, sig, pop), unpack_grants(grants))
        await self._put(b"HSET", self._account.keys.links, seq.to_bytes(4, "big"), stored)

    async def _take_end(self, epoch: int, ended_ms: int) -> None:
        self._account.ends[epoch] = ended_ms

    async def _take_device(self, index: int, dev_seq: int, op_hash: bytes, passed: int) -> None:
        device_id = self._account.chain.devices[index].device_id
        if dev_seq:
            self._account.heads[bytes(device_id)] = (dev_seq, op_hash)
        if passed:
            self._account.passed[device_id] = passed

    async def _take_mark(self, *values: int) -> None:
        self._account.marks.append(Mark(*values))

    async def _take_op(self, position: int, end: int, raw: bytes) -> None:
        sealed = op.parse_any(raw)
        value = b"".join((
            bytes((end - position,)), sealed.op_hash[:HASH_START_BYTES], sealed.ct_hash,
            packed.pack((raw,)),
        ))  # fmt: skip
        self._blocks[position >> BLOCK_BITS] += 1
        await self._put(b"HSET", self._account.keys.ops, position_name(position), value)

    async def _take_winner(self, epoch: int, tag: bytes, position: int) -> None:
        name = self._account.keys.winners(epoch)
        await self._put(b"HSET", name, tag, position_name(position))

    async def _take_superseded(self, at: int, position: int) -> None:
        await self._put(b"ZADD", self._account.keys.superseded, at, position_name(position))

    async def _take_run(self, *values: int) -> None:
        await self._put(b"ZADD", self._account.keys.runs, 0, RUN.pack(*values))

    async def _take_trimmed(self, index: int, dev_seq: int, start: bytes) -> None:
        device_id = self._account.chain.devices[index].device_id
        name = bytes(device_id) + (dev_seq // HASHES_PER_CHUNK).to_bytes(8, "big")
        if name != self._chunk:
            await self._end_chunk()
            self._chunk, self._slots = name, bytearray(HASHES_PER_CHUNK * HASH_START_BYTES)
        at = dev_seq % HASHES_PER_CHUNK * HASH_START_BYTES
        self._slots[at : at + HASH_START_BYTES] = start

    async def _end_chunk(self) -> None:
        if self._chunk:
            await self._put(b"HSET", self._account.keys.trimmed, self._chunk, bytes(self._slots))
        self._chunk = b""

    async def _take_wake(
        self, index: int, handle: bytes, expires_ms: int, due_ms: int, *rest: int
    ) -> None:
        sent_ms, turn, claimed, again, tries = rest
        device_id = bytes(self._account.chain.devices[index].device_id)
        row = HANDLE.pack(expires_ms, due_ms, sent_ms, turn, tries, claimed, again)
        await self._put(b"HSET", self._account.keys.handles, device_id, handle)
        await self._put(b"HSET", self._account.keys.waking, device_id, row)
        if due_ms and (not self._first_due_ms or due_ms < self._first_due_ms):
            self._first_due_ms = due_ms

    async def _take_consent(self, *row: bytes | int) -> None:
        for key, name, value in consent_fields(self._account.keys, row):
            await self._put(b"HSET", key, name, value)


class Boxes:
    """Boxes of a round that are written by position; of those that were deleted, nothing."""

    def __init__(self, link: Link, keys: RoundKeys) -> None:
        self._link = link
        self._keys = keys
        self._ends: Counter[int] = Counter()
        self._waiting: dict[int, list[bytes]] = defaultdict(list)

    async def take(self, party: int, position: int, data: bytes) -> None:
        """One more of a party."""
        await self._fill(party, position - 1)
        await self._push(party, (data,))

    async def end(self, parties: int, position: int) -> None:
        """The lists are as long as the round has positions."""
        for party in range(1, parties + 1):
            await self._fill(party, position)
            await self._flush(party)

    async def _fill(self, party: int, until: int) -> None:
        while (missing := until - self._ends[party]) > 0:
            await self._push(party, (b"",) * min(missing, FIELDS_AT_ONCE))

    async def _push(self, party: int, some: Iterable[bytes]) -> None:
        waiting = self._waiting[party]
        before = len(waiting)
        waiting += some
        self._ends[party] += len(waiting) - before
        if len(waiting) >= FIELDS_AT_ONCE:
            await self._flush(party)

    async def _flush(self, party: int) -> None:
        waiting: Sequence[bytes] = self._waiting.pop(party, ())
        if waiting:
            await self._link.call("RPUSH", self._keys.boxes(party), *waiting)
