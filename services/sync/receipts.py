"""GetReceipt (proto/rookery/v1/sync.proto): the service signs what it holds."""

from __future__ import annotations

from crypto import heads
from crypto.receipt import Receipt
from rookery.v1 import common_pb2, sync_pb2
from services.call import SignedCall
from services.keeping.current import Keys
from services.sync.desk import Desk, parse


class Receipts:
    """The handler of Sync.GetReceipt."""

    def __init__(self, desk: Desk, keys: Keys) -> None:
        self._desk = desk
        self._keys = keys

    async def __call__(self, raw: bytes, call: SignedCall) -> bytes:
        """Chain and heads, read in one transaction, bound to the nonce of this request."""
        parse(sync_pb2.GetReceiptRequest.FromString, raw)
        chain, rows = await self._desk.store.heads(call.account)
        receipt = Receipt(
            account_id=call.account,
            chain_seq=chain.seq,
            chain_head=chain.head,
            heads_digest=heads.digest(head for _, head in rows),
            server_ms=call.now_ms,
            nonce=call.nonce,
        )
        answer = sync_pb2.GetReceiptResponse(
            receipt=self._keys.secrets.server_key.sign(receipt),
            heads=[
                common_pb2.Head(device_id=device, dev_seq=head.seq, op_hash=head.op_hash)
                for device, head in rows
            ],
        )
        return self._desk.info_field(chain.seq) + answer.SerializeToString()
