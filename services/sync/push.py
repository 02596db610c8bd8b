"""Push (proto/rookery/v1/sync.proto): what can be judged of a batch without stored state.

`check` is the hot path: one flat loop, the header read with `struct`, two hashes an op,
no object an op but the row. What depends on the store is judged in its transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from hashlib import blake2b

from crypto import labels, op
from crypto.cert import Role
from crypto.chain import Chain
from crypto.errors import FormatError, SignatureError
from crypto.ids import AccountId, DeviceId
from crypto.primitives import SIG_BYTES, ds, verify
from rookery.v1 import sync_pb2
from services import wire
from services.call import SignedCall
from services.errors import GenerationChanged, Malformed, OpInvalid
from services.limits import Buckets
from services.metrics import Metrics
from services.store.base import Batch, OpRow
from services.store.errors import QuotaExceeded
from services.sync.desk import Desk, parse

OPS_MAX = 256
PUSH_BYTES_MAX = 1 << 20
# What every backend can count to.
_COUNT_MAX = (1 << 63) - 1
# Copied for each op: cheaper than a new hash with the label in front, and copies no payload.
_CT_HASH = blake2b(ds(labels.OP_CT), digest_size=32)
_OP_HASH = blake2b(ds(labels.OP_HASH), digest_size=32)
_SIZES = {size: op.HEADER_BYTES + size + SIG_BYTES for size in op.CT_SIZES}


@dataclass(frozen=True, slots=True)
class Foreign:
    """An op of another device: where in the batch, and what its signature must cover."""

    index: int
    ik_pk: bytes
    signed: bytes
    sig: bytes


class Push:
    """The handler of Sync.Push."""

    def __init__(
        self,
        desk: Desk,
        op_rate: Buckets,
        verifiers: Executor,
        metrics: Metrics,
        *,
        on_ops: Callable[[AccountId, DeviceId], None] = lambda account, device: None,
    ) -> None:
        """`on_ops` is told whose account has new ops, and which device brought them."""
        self._desk = desk
        self._metrics = metrics
        self._op_rate = op_rate
        self._verifiers = verifiers
        self._on_ops = on_ops

    async def __call__(self, raw: bytes, call: SignedCall) -> bytes:
        """One push: form, rate, foreign signatures, then the store."""
        request = parse(sync_pb2.PushRequest.FromString, raw)
        ops = list(request.ops)
        check_counts(ops)
        rows, foreign = check(ops, call)
        mark, covers, generation = None, 0, self._desk.cursors.generation
        if request.HasField("checkpoint"):
            mark = request.checkpoint.op_index
            check_mark(rows, mark, call.device)
            covers = self._desk.position(call, request.checkpoint.covers)
        self._op_rate.take(call.account, call.clock.monotonic_s(), len(rows))
        if foreign:
            loop = asyncio.get_running_loop()
            bad = await loop.run_in_executor(self._verifiers, first_forged, foreign)
            if bad is not None:
                raise OpInvalid(bad, "signature")
        # What is not needed while the store writes makes room for the next request.
        del request, ops
        call.check_live()
        if generation != self._desk.cursors.generation:
            raise GenerationChanged
        committed = await self._desk.store.commit_ops(
            Batch(
                account_id=call.account,
                caller=call.device,
                rows=rows,
                now_ms=call.now_ms,
                checkpoint_index=mark,
                checkpoint_covers=covers,
                nonce=call.nonce,
            )
        )
        self._metrics.pushed(ops=len(rows), new=committed.new_ops)
        if committed.new_ops:
            self._on_ops(call.account, call.device)
        return wire.push_response(self._desk.info(call.tip.chain.seq), committed.new_ops)


def check_counts(ops: Sequence[bytes]) -> None:
    """Malformed for none, QuotaExceeded for more than a push may hold."""
    if not ops:
        raise Malformed("ops")
    if len(ops) > OPS_MAX:
        raise QuotaExceeded("ops_per_push", OPS_MAX)
    if sum(map(len, ops)) > PUSH_BYTES_MAX:
        raise QuotaExceeded("push_bytes", PUSH_BYTES_MAX)


def check(ops: Sequence[bytes], call: SignedCall) -> tuple[list[OpRow], list[Foreign]]:
    """The rows of a batch, and which of them other devices signed. OpInvalid.

    The caller's own ops need no look at their signature: the request's covers them, and
    every client verifies each op itself.
    """
    account, caller = bytes(call.account), bytes(call.device)
    unpack, header_bytes, stub_bytes = op.HEADER.unpack_from, op.HEADER_BYTES, op.STUB_BYTES
    authors = Authors(call.tip.chain, call.device)
    rows: list[OpRow] = []
    foreign: list[Foreign] = []
    heads: dict[bytes, tuple[int, bytes]] = {}
    for index, raw in enumerate(ops):
        if len(raw) < header_bytes:
            raise OpInvalid(index, "length")
        (
            magic, suite, kind, flags, owner, epoch, device, dev_seq, prev, lamport, tag,
            _, _, ct_bytes,
        ) = unpack(raw)  # fmt: skip
        size = _SIZES.get(ct_bytes)
        if (
            magic != b"PSO1"
            or suite != 1
            or not 1 <= kind <= 2
            or flags
            or owner != account
            or size is None
            or not epoch
            or not 1 <= dev_seq <= _COUNT_MAX
            or not 1 <= lamport <= _COUNT_MAX
        ):
            raise OpInvalid(index, broken_rule(raw))
        header = raw[:header_bytes]
        if len(raw) == size:
            hashing = _CT_HASH.copy()
            hashing.update(raw[header_bytes:-64])
            digest = hashing.digest()
        elif len(raw) == stub_bytes:
            digest = raw[header_bytes:-64]
        else:
            raise OpInvalid(index, "length")
        hashing = _OP_HASH.copy()
        hashing.update(header + digest)
        op_hash = hashing.digest()
        before = heads.get(device)
        if before is not None and before != (dev_seq - 1, prev):
            raise OpInvalid(index, "continuity")
        if before is None:
            authors.check(index, device)
        heads[device] = (dev_seq, op_hash)
        if device != caller:
            foreign.append(Foreign(index, authors.key(device), header + digest, raw[-64:]))
        rows.append(OpRow(raw, epoch, device, dev_seq, prev, lamport, tag, op_hash, kind, digest))
    return rows, foreign


class Authors:
    """Devices of the account that may have written an op: role 1, revoked ones included.

    Where a revoked one is cut, the store knows."""

    __slots__ = ("_caller", "_chain")

    def __init__(self, chain: Chain, caller: DeviceId) -> None:
        self._chain = chain
        self._caller = caller

    def check(self, index: int, device: bytes) -> None:
        """OpInvalid for a stranger, and for a recovery key, which writes no ops."""
        found = self._chain.find(DeviceId(device))
        if found is None:
            raise OpInvalid(index, "author")
        if found.role is not Role.FULL:
            raise OpInvalid(index, "role")

    def key(self, device: bytes) -> bytes:
        """The identity key of a device that was checked."""
        found = self._chain.find(DeviceId(device))
        return b"" if found is None else found.ik_pk


def broken_rule(raw: bytes) -> str:
    """Which rule a header breaks; the slow path, taken once."""
    try:
        header = op.parse_header(raw)
    except FormatError as error:
        return error.rule
    if header.dev_seq > _COUNT_MAX or header.lamport > _COUNT_MAX:
        return "range"
    return "account"


def check_mark(rows: Sequence[OpRow], index: int, caller: DeviceId) -> None:
    """The marked op must be a control op of the caller's own. Malformed, OpInvalid."""
    if index >= len(rows):
        raise Malformed("checkpoint.op_index")
    row = rows[index]
    if row.kind != op.Kind.CONTROL or row.device_id != caller or len(row.raw) == op.STUB_BYTES:
        raise OpInvalid(index, "checkpoint")


def first_forged(rows: Sequence[Foreign]) -> int | None:
    """Index of the first op whose author did not sign it. Runs off the event loop."""
    for row in rows:
        try:
            verify(row.ik_pk, labels.OP, row.signed, row.sig)
        except SignatureError:
            return row.index
    return None
