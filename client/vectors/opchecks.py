"""What an op alone, and the file's other ops, show of the checks C3 to C13.

Only negatives are judged by this: an op that is refused here need not be wrong as bytes.
What the file doesn't say (a link or op that it leaves out) is not held against an op.
"""

from __future__ import annotations

from client.vectors.fields import Malformed, entry, rows
from client.vectors.sealed import sealed_op
from client.vectors.world import World
from crypto import heads, names, op
from crypto.cert import Role
from crypto.errors import ChainError, CryptoError, FormatError
from crypto.heads import Head
from crypto.ids import DeviceId, OpHash
from crypto.op import Kind, Payload, SealedOp


class OpChecks:
    """The file's chain and ops as the context of one more op."""

    def __init__(self, world: World) -> None:
        self._chain = world.chains[-1]
        self._known: dict[tuple[DeviceId, int], OpHash] = {}
        for _, row in rows(world.file.get("ops")):
            try:
                sealed = sealed_op(entry(row))
            except (CryptoError, Malformed):
                continue
            self._known[sealed.header.device_id, sealed.header.dev_seq] = sealed.op_hash

    def sealed(self, sealed: SealedOp) -> None:
        """Author's role (C3), cut (C4) and place in its own row of ops (C6)."""
        header = sealed.header
        if header.dev_seq == 1 and header.prev != op.init_hash(header.account_id, header.device_id):
            raise ChainError("prev", "a device's first op follows the start of its own row")
        before = self._known.get((header.device_id, header.dev_seq - 1))
        if before is not None and header.prev != before:
            raise ChainError("prev", "the op follows another op than the one before it")
        author = self._chain.find(header.device_id)
        if author is None:
            return
        if author.role is not Role.FULL:
            raise ChainError("role", "a recovery key writes no ops")
        if author.cut is not None and header.dev_seq > author.cut.seq:
            raise ChainError("cut", "the author was revoked before this op")

    def opened(self, sealed: SealedOp, payload: Payload) -> None:
        """Names, chain head (C11), vector and its digest (C12), own row (C13)."""
        if sealed.header.kind == Kind.RECORD:
            names.check_name(payload.collection)
            names.split_part(payload.key)
        seqs = payload.vector.seqs
        if any(seq < 1 for _, seq in seqs):
            raise FormatError("heads", "a head's seq is at least 1")
        known = self._chain.hashes[payload.chain_seq : payload.chain_seq + 1]
        if known and known != (payload.chain_head,):
            raise ChainError("chain-head", "the author saw another chain")
        author = self._chain.find(sealed.header.device_id)
        if author is not None and dict(seqs).get(author.index, 0) != sealed.header.dev_seq - 1:
            raise ChainError("own-row", "an author lists itself at dev_seq - 1")
        self._digest(payload)

    def _digest(self, payload: Payload) -> None:
        held = []
        for index, seq in payload.vector.seqs:
            if index >= len(self._chain.devices):
                return
            known = self._known.get((self._chain.devices[index].device_id, seq))
            if known is None:
                return
            held.append(Head(index, seq, known))
        if heads.digest(held) != payload.vector.digest:
            raise FormatError("heads-digest", "the digest is not that of the vector")
