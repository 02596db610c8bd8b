"""Accounts: create, append to the chain, read it, delete (proto/rookery/v1/accounts.proto)."""

from __future__ import annotations

from collections.abc import Iterable

from crypto import heads, link
from crypto.chain import EMPTY
from crypto.errors import CryptoError
from crypto.grant import SEALED_BYTES, SealedGrant
from crypto.ids import DeviceId
from crypto.link import LINK_BYTES_MAX, Genesis, SignedLink
from crypto.receipt import Receipt
from rookery.v1 import accounts_pb2, common_pb2
from services.call import Call, OpenUnary, Route, SignedCall, SignedUnary
from services.enrolment import Enrolment, SubjectRows
from services.errors import (
    ClockSkew,
    GrantsInvalid,
    LinkInvalid,
    Malformed,
    RequestError,
    Unauthenticated,
)
from services.keeping.current import Keys
from services.store.base import StoredLink
from services.store.errors import QuotaExceeded
from services.sync.desk import Desk, parse

_SERVICE = "/rookery.v1.Accounts/"
LINKS_PER_ANSWER_MAX = 64
ANSWER_BYTES_MAX = 1 << 20
GRANTS_MAX = 255
LATER_BYTES_MAX = 1 << 20


class Accounts:
    """Handlers of the Accounts service."""

    def __init__(self, desk: Desk, enrolment: Enrolment, keys: Keys) -> None:
        self._desk = desk
        self._enrolment = enrolment
        self._keys = keys
        self._started_ms = desk.clock.wall_ms()

    def routes(self) -> list[Route]:
        """What to serve."""
        return [
            OpenUnary(_SERVICE + "CreateAccount", self.create),
            SignedUnary(_SERVICE + "AppendLink", self.append),
            SignedUnary(_SERVICE + "GetChain", self.chain),
            SignedUnary(_SERVICE + "DeleteAccount", self.delete),
            OpenUnary(_SERVICE + "GetServerKeys", self.server_keys),
        ]

    async def create(self, raw: bytes, call: Call) -> bytes:
        """CreateAccount: enrolment first, it is cheaper to judge than a signature."""
        request = parse(accounts_pb2.CreateAccountRequest.FromString, raw)
        signed = _signed_link(request.genesis, present=request.HasField("genesis"))
        try:
            parsed = link.parse(signed.raw)
            if not isinstance(parsed.body, Genesis):
                raise LinkInvalid("no-genesis")
            subject = self._admit(request, parsed, call.now_ms)
            EMPTY.apply(signed)
        except CryptoError as error:
            raise LinkInvalid(error.rule) from None
        later = _later(request)
        call.check_live()
        try:
            await self._desk.store.create_account(
                signed,
                later=later,
                subject_row=None if subject is None else subject.row,
                subject_rows_before=() if subject is None else subject.before,
                now_ms=call.now_ms,
            )
        except CryptoError as error:
            raise _broken_rule(error) from None
        return self._desk.info_field()

    def _admit(
        self, request: accounts_pb2.CreateAccountRequest, genesis: link.Link, now_ms: int
    ) -> SubjectRows | None:
        match request.WhichOneof("enrolment"):
            case "proof":
                proof = request.proof
                self._enrolment.admit_proof(
                    genesis.link_hash, proof.hour, proof.counter, now_ms=now_ms
                )
                return None
            case "token":
                return self._enrolment.admit_token(genesis.link_hash, request.token, now_ms=now_ms)
            case _:
                self._enrolment.admit_nothing(now_ms=now_ms)
                return None

    async def append(self, raw: bytes, call: SignedCall) -> bytes:
        """AppendLink: any active device may upload it, whoever signed the link itself."""
        request = parse(accounts_pb2.AppendLinkRequest.FromString, raw)
        signed = _signed_link(request.link, present=request.HasField("link"))
        grants = _grants(request.grants)
        call.check_live()
        try:
            await self._desk.store.append_link(call.account, signed, grants, now_ms=call.now_ms)
        except CryptoError as error:
            raise _broken_rule(error) from None
        tip = await self._desk.store.tip(call.account)
        return self._desk.info_field(0 if tip is None else tip.chain.seq)

    async def chain(self, raw: bytes, call: SignedCall) -> bytes:
        """GetChain."""
        request = parse(accounts_pb2.GetChainRequest.FromString, raw)
        newest = call.tip.chain.seq
        after = min(request.after_seq, newest) if request.HasField("after_seq") else -1
        rows = await self._desk.store.read_links(
            call.account, after, links_max=LINKS_PER_ANSWER_MAX, bytes_max=ANSWER_BYTES_MAX
        )
        tip = await self._desk.member(call.account, call.device)
        recipient = None if request.all_grants else call.device
        answer = accounts_pb2.GetChainResponse(
            links=[_with_grants(row, recipient) for row in rows],
            more=bool(rows) and after + len(rows) < tip.chain.seq,
            lamport_max=tip.lamport_max,
        )
        return self._desk.info_field(tip.chain.seq) + answer.SerializeToString()

    async def delete(self, raw: bytes, call: SignedCall) -> bytes:
        """DeleteAccount: every row at once, then a receipt under a label of its own."""
        request = parse(accounts_pb2.DeleteAccountRequest.FromString, raw)
        if request.account_id != call.account:
            raise Malformed("account_id")
        if call.ts_ms < self._started_ms:
            # The process before may have seen this very call: what it knew of nonces is gone,
            # and the account may have been made again since.
            raise ClockSkew(call.now_ms)
        call.check_live()
        gone = await self._desk.store.delete_account(call.account, call.device)
        if gone is None:
            raise Unauthenticated
        chain, rows = gone
        receipt = Receipt(
            account_id=call.account,
            chain_seq=chain.seq,
            chain_head=chain.head,
            heads_digest=heads.digest(rows),
            server_ms=call.now_ms,
            nonce=call.nonce,
        )
        answer = accounts_pb2.DeleteAccountResponse(
            receipt=self._keys.secrets.server_key.sign(receipt, deleted=True)
        )
        return self._desk.info_field(chain.seq) + answer.SerializeToString()

    async def server_keys(self, raw: bytes, call: Call) -> bytes:
        """GetServerKeys: how the key in force came to follow those that clients pinned."""
        parse(accounts_pb2.GetServerKeysRequest.FromString, raw)
        call.check_live()
        secrets = self._keys.secrets
        answer = accounts_pb2.GetServerKeysResponse(
            server_key=secrets.server_key.public, successions=secrets.successions
        )
        return self._desk.info_field() + answer.SerializeToString()


def _signed_link(message: common_pb2.SignedLink, *, present: bool) -> SignedLink:
    if not present:
        raise Malformed("link")
    if len(message.link) > LINK_BYTES_MAX:
        raise LinkInvalid("length")
    return SignedLink(message.link, message.sig, message.pop)


def _later(request: accounts_pb2.CreateAccountRequest) -> list[StoredLink]:
    """The links of an account that is made again."""
    if sum(row.ByteSize() for row in request.later) > LATER_BYTES_MAX:
        raise QuotaExceeded("later_bytes", LATER_BYTES_MAX)
    return [
        StoredLink(_signed_link(row.link, present=row.HasField("link")), tuple(_grants(row.grants)))
        for row in request.later
    ]


def _grants(messages: Iterable[common_pb2.Grant]) -> list[SealedGrant]:
    grants = []
    for message in messages:
        if len(message.recipient_id) != DeviceId.size or len(message.sealed) != SEALED_BYTES:
            raise GrantsInvalid("length")
        grants.append(SealedGrant(DeviceId(message.recipient_id), message.epoch, message.sealed))
    if len(grants) > GRANTS_MAX:
        raise GrantsInvalid("grants-count")
    return grants


def _broken_rule(error: CryptoError) -> RequestError:
    if error.rule.startswith("grants"):
        return GrantsInvalid(error.rule)
    return LinkInvalid(error.rule)


def _with_grants(row: StoredLink, recipient: DeviceId | None) -> accounts_pb2.LinkWithGrants:
    signed = row.link
    return accounts_pb2.LinkWithGrants(
        link=common_pb2.SignedLink(link=signed.raw, sig=signed.sig, pop=signed.pop),
        grants=[
            common_pb2.Grant(recipient_id=held.recipient_id, epoch=held.epoch, sealed=held.sealed)
            for held in row.grants
            if recipient is None or held.recipient_id == recipient
        ],
    )
