"""The API of the service as Python calls: types of the core in, types of the core out.

It puts messages together and takes them apart. What an answer means is the core's to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass

from client import methods, remoteerrors as reasons, serverkeys
from client.endpoint import Endpoint
from client.remoteerrors import ProtocolBreach, RemoteError
from client.steps import ChainItem, CreateAccount, Push
from client.transport import Signer, Transport
from crypto import enrol, link, receipt
from crypto.errors import CryptoError
from crypto.grant import SealedGrant
from crypto.ids import DeviceId, LinkHash
from crypto.link import SignedLink
from rookery.v1 import accounts_pb2, common_pb2, pairing_pb2, sync_pb2, wake_pb2

IDLE_SECONDS = 90.0
"""The service sends a heartbeat once a minute; a stream that is silent for longer is dead."""
PROOF_BITS_MAX = 30
Event = sync_pb2.SubscribeResponse.Event


@dataclass(frozen=True, slots=True)
class ChainPage:
    """An answer of GetChain."""

    items: tuple[ChainItem, ...]
    lamport_max: int
    more: bool


@dataclass(frozen=True, slots=True)
class OpsPage:
    """An answer of Pull."""

    ops: tuple[bytes, ...]
    cursor: bytes
    more: bool


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """An answer of GetReceipt, not yet verified, and the nonce that it must bear."""

    data: bytes
    heads: tuple[tuple[DeviceId, int, bytes], ...]
    nonce: bytes


@dataclass(frozen=True, slots=True)
class DeletionReceipt:
    """The service's signed word that an account is deleted: as it came, and as it reads."""

    data: bytes
    opened: receipt.Receipt


class Remote:
    """Calls by one device of one account; pairing calls and CreateAccount go unsigned."""

    def __init__(
        self,
        transport: Transport,
        signer: Signer | None = None,
        *,
        on_new_key: Callable[[Endpoint], None] = lambda _: None,
    ) -> None:
        self.transport = transport
        self.signer = signer
        self._on_new_key = on_new_key

    @property
    def chain_seq(self) -> int:
        """seq of the newest link that the last signed answer spoke of."""
        return self.transport.wire.chain_seq

    async def create_account(self, step: CreateAccount, *, token: bytes | None = None) -> None:
        """With the app's token, or with as much proof of work as the service asks for."""
        message = accounts_pb2.CreateAccountRequest(
            genesis=_link_out(step.genesis),
            later=[
                accounts_pb2.LinkWithGrants(
                    link=_link_out(row.link), grants=_grants_out(row.grants)
                )
                for row in step.later
            ],
        )
        if token is not None:
            message.token = token
        for tries_left in (2, 1, 0):
            try:
                await self.transport.call(methods.CREATE_ACCOUNT, message)
                return
            except RemoteError as error:
                # Twice: the hour may turn while we work.
                if error.reason != reasons.PROOF_REQUIRED or not tries_left:
                    raise
                genesis = link.parse(step.genesis.raw).link_hash
                proof = await _prove_work(genesis, error)
                message.proof.CopyFrom(proof)

    async def append_link(self, item: ChainItem) -> None:
        """By compare-and-set."""
        message = accounts_pb2.AppendLinkRequest(
            link=_link_out(item.link), grants=_grants_out(item.grants)
        )
        await self.transport.call(methods.APPEND_LINK, message, self.signer)

    async def get_chain(self, after_seq: int, *, all_grants: bool) -> ChainPage:
        """Links after a seq; -1 starts at genesis."""
        message = accounts_pb2.GetChainRequest(
            after_seq=after_seq if after_seq >= 0 else None, all_grants=all_grants
        )
        answer = (await self.transport.call(methods.GET_CHAIN, message, self.signer)).message
        try:
            items = tuple(_item_in(row) for row in answer.links)
        except CryptoError:
            raise ProtocolBreach("a grant of the service's answer has no device id") from None
        return ChainPage(items, answer.lamport_max, answer.more)

    async def delete_account(self, signer: Signer) -> DeletionReceipt:
        """Deletes everything. The receipt is verified: who signed it can't deny it.

        ProtocolBreach if it isn't right; the account may be gone all the same.
        """
        message = accounts_pb2.DeleteAccountRequest(account_id=signer.account_id)
        answer = await self.transport.call(methods.DELETE_ACCOUNT, message, signer)
        data, nonce = answer.message.receipt, answer.nonce
        try:
            key = await self.signer_of(data, nonce, deleted=True)
            opened = receipt.open_(data, key, nonce=nonce, deleted=True)
        except CryptoError:
            raise ProtocolBreach(
                "the service says that the account is deleted, but its receipt does not verify"
                " under the pinned key"
            ) from None
        if opened.account_id != signer.account_id:
            raise ProtocolBreach("the receipt of deletion is for another account")
        return DeletionReceipt(data, opened)

    async def signer_of(self, data: bytes, nonce: bytes, *, deleted: bool = False) -> bytes:
        """The key that a receipt is to be opened under: the pinned one, or the one that leads on
        from it, which is pinned then (`client.serverkeys`). CryptoError if the service's keys
        contradict each other."""
        transport = self.transport
        pinned, now_ms = transport.endpoint, transport.clock.wall_ms()
        signer = serverkeys.signer_of(pinned, data, nonce=nonce, deleted=deleted, now_ms=now_ms)
        if signer is not None:
            return signer
        following = serverkeys.followed(pinned, await self._successions())
        signer = serverkeys.signer_of(following, data, nonce=nonce, deleted=deleted, now_ms=now_ms)
        if signer is None or following == pinned:
            return pinned.server_key
        transport.endpoint = following
        self._on_new_key(following)
        return signer

    async def _successions(self) -> Sequence[bytes]:
        message = accounts_pb2.GetServerKeysRequest()
        try:
            answer = await self.transport.call(methods.GET_SERVER_KEYS, message)
        except RemoteError as error:
            if error.transient:
                raise
            return ()  # An older service has none.
        return answer.message.successions

    async def push(self, push: Push) -> None:
        """Commits a batch."""
        message = sync_pb2.PushRequest(ops=push.ops)
        if push.mark is not None:
            message.checkpoint.op_index = push.mark.op_index
            message.checkpoint.covers = push.mark.covers
        await self.transport.call(methods.PUSH, message, self.signer)

    async def pull(self, cursor: bytes, limit: int = 0) -> OpsPage:
        """Ops after a cursor."""
        message = sync_pb2.PullRequest(cursor=cursor, limit=limit)
        answer = (await self.transport.call(methods.PULL, message, self.signer)).message
        return OpsPage(tuple(answer.ops), answer.cursor, answer.more)

    def subscribe(self, cursor: bytes) -> AsyncGenerator[sync_pb2.SubscribeResponse, None]:
        """Frames from a cursor on, until the stream breaks (RemoteError) or ends."""
        assert self.signer is not None
        message = sync_pb2.SubscribeRequest(cursor=cursor)
        return self.transport.stream(
            methods.SUBSCRIBE, message, self.signer, idle_seconds=IDLE_SECONDS
        )

    async def get_receipt(self) -> SignedReceipt:
        """What the service says that it holds."""
        message = sync_pb2.GetReceiptRequest()
        answer = await self.transport.call(methods.GET_RECEIPT, message, self.signer)
        try:
            heads = tuple(
                (DeviceId.of(head.device_id), head.dev_seq, head.op_hash)
                for head in answer.message.heads
            )
        except CryptoError:
            raise ProtocolBreach("a head of the service's answer has no device id") from None
        return SignedReceipt(answer.message.receipt, heads, answer.nonce)

    async def register_handle(self, handle: bytes) -> int:
        """Has this device woken by a handle; until when, by the service's clock."""
        message = wake_pb2.RegisterHandleRequest(handle=handle)
        answer = await self.transport.call(methods.REGISTER_HANDLE, message, self.signer)
        return answer.message.expires_ms

    async def remove_handle(self) -> None:
        """Has this device woken no more."""
        message = wake_pb2.RemoveHandleRequest()
        await self.transport.call(methods.REMOVE_HANDLE, message, self.signer)

    async def handle_expires_ms(self) -> int:
        """Until when the service holds a handle of this device; 0 if it holds none."""
        message = wake_pb2.GetHandleRequest()
        answer = await self.transport.call(methods.GET_HANDLE, message, self.signer)
        return answer.message.expires_ms

    async def post_message(self, rendezvous: bytes, number: int, body: bytes) -> None:
        """Into a pairing mailbox."""
        message = pairing_pb2.PostMessageRequest(rendezvous=rendezvous, number=number, body=body)
        await self.transport.call(methods.POST_MESSAGE, message)

    async def fetch_message(self, rendezvous: bytes, number: int, *, until_ms: int) -> bytes:
        """From a pairing mailbox, waiting till `until_ms` on the service's clock; RemoteError
        MESSAGE_ABSENT when that is over."""
        while True:
            left_ms = until_ms - self.transport.server_ms()
            message = pairing_pb2.FetchMessageRequest(
                rendezvous=rendezvous,
                number=number,
                wait_ms=max(0, min(methods.FETCH_WAIT_MS, left_ms)),
            )
            try:
                return (await self.transport.call(methods.FETCH_MESSAGE, message)).message.body
            except RemoteError as error:
                if error.reason != reasons.MESSAGE_ABSENT or left_ms <= 0:
                    raise
                await self.transport.pause(1, error)


def _link_out(signed: SignedLink) -> common_pb2.SignedLink:
    return common_pb2.SignedLink(link=signed.raw, sig=signed.sig, pop=signed.pop)


def _grants_out(grants: Iterable[SealedGrant]) -> list[common_pb2.Grant]:
    return [
        common_pb2.Grant(recipient_id=row.recipient_id, epoch=row.epoch, sealed=row.sealed)
        for row in grants
    ]


def _item_in(row: accounts_pb2.LinkWithGrants) -> ChainItem:
    return ChainItem(
        SignedLink(row.link.link, row.link.sig, row.link.pop),
        tuple(
            SealedGrant(DeviceId.of(grant.recipient_id), grant.epoch, grant.sealed)
            for grant in row.grants
        ),
    )


async def _prove_work(genesis: LinkHash, asked: RemoteError) -> accounts_pb2.ProofOfWork:
    bits, hour = asked.number("bits"), asked.number("hour")
    if bits is None or hour is None or hour >= 1 << 64:
        raise asked
    if bits > PROOF_BITS_MAX:
        raise ProtocolBreach(f"the service asks for {bits} bits of work: that takes for ever")
    for counter in enrol.prove_work(genesis, hour, bits):
        if counter is not None:
            return accounts_pb2.ProofOfWork(hour=hour, counter=counter)
        await asyncio.sleep(0)
    raise AssertionError
