"""Accounts with sealed ops and signed requests, made ahead, so that only the service is timed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from crypto import link, op, request
from crypto.cert import DeviceCert
from crypto.chain import EMPTY
from crypto.epoch import EpochKeys, commitment
from crypto.heads import Head
from crypto.ids import AccountId, OpHash
from crypto.keys import Identity
from crypto.link import Genesis, SignedLink
from crypto.op import Payload, Vector, Verb
from crypto.request import CallKind
from rookery.v1 import accounts_pb2, common_pb2, sync_pb2
from services.store.base import Batch, OpRow

PUSH = "/rookery.v1.Sync/Push"
PULL = "/rookery.v1.Sync/Pull"
SUBSCRIBE = "/rookery.v1.Sync/Subscribe"
RECEIPT = "/rookery.v1.Sync/GetReceipt"
CREATE = "/rookery.v1.Accounts/CreateAccount"


@dataclass(slots=True)
class Account:
    """One account with one writing device."""

    identity: Identity
    genesis: SignedLink
    account_id: AccountId
    keys: EpochKeys
    audience: str
    heads: list[OpHash] = field(default_factory=list)

    @classmethod
    def make(cls, audience: str) -> Account:
        """Fresh keys and a genesis link."""
        identity = Identity(os.urandom(32), os.urandom(32))
        secret = os.urandom(32)
        genesis = link.build(identity, Genesis(DeviceCert.of(identity), commitment(1, secret)))
        account = EMPTY.apply(genesis).account
        return cls(identity, genesis, account, EpochKeys(account, 1, secret), audience)

    @property
    def creation(self) -> bytes:
        """A CreateAccountRequest for a service that asks for no work (bits = 0)."""
        return accounts_pb2.CreateAccountRequest(
            genesis=common_pb2.SignedLink(link=self.genesis.raw, sig=self.genesis.sig),
            proof=accounts_pb2.ProofOfWork(hour=int(time.time()) // 3600, counter=0),
        ).SerializeToString()

    def seal(self, count: int) -> Iterator[bytes]:
        """The next ops of the device: settings with names of their own."""
        chain_head = EMPTY.apply(self.genesis).head
        for _ in range(count):
            seq = len(self.heads) + 1
            held = (Head(0, seq - 1, self.heads[-1]),) if self.heads else ()
            payload = Payload(
                Verb.PUT, 1_790_000_000_000 + seq, 0, chain_head, Vector.of(held),
                b"cuisine", b"dish-%06d" % seq, b"\x18\x2a",
            )  # fmt: skip
            previous = (
                self.heads[-1]
                if self.heads
                else op.init_hash(self.account_id, self.identity.device_id)
            )
            sealed = op.seal(
                self.identity, self.keys, payload,
                dev_seq=seq, prev=previous, lamport=seq, rand=os.urandom(32),
            )  # fmt: skip
            self.heads.append(sealed.op_hash)
            yield sealed.raw

    def pushes(self, calls: int, batch: int) -> list[bytes]:
        """PushRequests of `batch` ops each."""
        return [
            sync_pb2.PushRequest(ops=list(self.seal(batch))).SerializeToString()
            for _ in range(calls)
        ]

    def sign(
        self,
        method: str,
        payload: bytes,
        kind: CallKind = CallKind.UNARY,
        *,
        ts_ms: int | None = None,
    ) -> bytes:
        """The value of `rookery-auth-bin`; good for two minutes about `ts_ms`, or about now."""
        return request.sign(
            self.identity,
            kind=kind,
            method=method,
            audience=self.audience,
            account_id=self.account_id,
            ts_ms=time.time_ns() // 1_000_000 if ts_ms is None else ts_ms,
            nonce=os.urandom(16),
            payload=payload,
        )


def sealed_pushes(job: tuple[str, int, int, int]) -> list[tuple[Account, list[bytes]]]:
    """(audience, accounts, calls each, batch) to accounts with their PushRequests."""
    audience, accounts, calls, batch = job
    made = [Account.make(audience) for _ in range(accounts)]
    return [(account, account.pushes(calls, batch)) for account in made]


def batches(made: list[tuple[Account, list[bytes]]]) -> list[Batch]:
    """The same pushes as the store sees them: for the floor that inserts rows straight."""
    result = []
    for account, requests in made:
        for request_bytes in requests:
            rows = []
            for raw in sync_pb2.PushRequest.FromString(request_bytes).ops:
                sealed = op.parse(raw)
                header = sealed.header
                rows.append(
                    OpRow(
                        raw, header.epoch, header.device_id, header.dev_seq, header.prev,
                        header.lamport, header.tag, sealed.op_hash, header.kind, sealed.ct_hash,
                    )
                )  # fmt: skip
            batch = Batch(account.account_id, account.identity.device_id, rows, 0)
            result.append(batch)
    return result
