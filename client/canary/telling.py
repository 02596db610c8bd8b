"""What the searcher is told: each secret and each pseudonym of the scenario, as it comes up.

One JSON object a line on standard output. Nobody else reads it.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import string
import sys
from typing import Any, Final

from google.protobuf.message import Message

from client.device import Device
from client.transport import Answer, M, Method, Signer, Transport
from crypto import op
from crypto.contribution import parse_header
from crypto.keys import Identity
from rookery.v1 import (
    accounts_pb2,
    common_pb2,
    pairing_pb2,
    policy_pb2,
    rounds_pb2,
    sync_pb2,
    wake_pb2,
)

_WORD_CHARS: Final = 16
_TAIL_BYTES: Final = 32
_MAC_BYTES: Final = 16


class Teller:
    """Tells of marks, each once. `own`: they belong to the account that is deleted in the end."""

    def __init__(self) -> None:
        self._told: set[tuple[str, bytes]] = set()

    def mark(self, sort: str, *raws: bytes, own: bool = False) -> None:
        """Must only stand where this sort may."""
        for raw in raws:
            if raw and (sort, raw) not in self._told:
                self._told.add((sort, raw))
                self._say({"sort": sort, "hex": raw.hex(), "own": own})

    def word(self, sort: str) -> str:
        """A new word that nothing else looks like, told as a mark."""
        letters = string.ascii_lowercase + string.digits
        word = "".join(secrets.choice(letters) for _ in range(_WORD_CHARS))
        self.mark(sort, word.encode())
        return word

    async def moment(self, name: str) -> None:
        """Returns once the searcher has looked at everything as it is now."""
        self._say({"moment": name})
        await asyncio.to_thread(sys.stdin.readline)

    def _say(self, said: dict[str, Any]) -> None:
        print(json.dumps(said), flush=True)

    def identity(self, identity: Identity, *, own: bool) -> None:
        """A device's keys and id."""
        self.mark("secret key", identity.ik_seed, identity.box_sk)
        self.mark("public key", identity.ik_pk, identity.box_pk, own=own)
        self.mark("device id", identity.device_id, own=own)

    def device(self, core: Device, *, own: bool) -> None:
        """All that a device knows by now."""
        self.mark("account id", core.account_id, own=own)
        self.identity(core.identity, own=own)
        for row in core.devices:
            self.mark("device id", row.device_id, own=own)
        if core.aggregation_key is not None:
            self.mark("secret key", core.aggregation_key)
        # Nobody but the canary looks at keys from outside of the core.
        for keys in core._core.view.keys.values():
            self.mark("secret key", keys.secret, keys.record, keys.tag, keys.nonce)


class Overheard(Transport):
    """A device's way to the service, whose calls are told as marks before they are made."""

    def __init__(self, teller: Teller, *given: Any, own: bool, **more: Any) -> None:
        super().__init__(*given, **more)
        self._teller = teller
        self._own = own

    async def call(
        self, method: Method[M], message: Message, signer: Signer | None = None
    ) -> Answer[M]:
        """See `Transport`."""
        self._tell(message)
        answer = await super().call(method, message, signer)
        self._teller.mark("nonce", answer.nonce)
        if isinstance(answer.message, sync_pb2.PullResponse):
            self._mark("cursor", answer.message.cursor[-_MAC_BYTES:])
        return answer

    def _mark(self, sort: str, *raws: bytes) -> None:
        self._teller.mark(sort, *raws, own=self._own)

    def _tell(self, message: Message) -> None:
        match message:
            case sync_pb2.PushRequest():
                for raw in message.ops:
                    self._op(raw)
            case accounts_pb2.CreateAccountRequest():
                self._links(message.genesis, *(one.link for one in message.later))
                self._grants(*(grant for one in message.later for grant in one.grants))
            case accounts_pb2.AppendLinkRequest():
                self._links(message.link)
                self._grants(*message.grants)
            case policy_pb2.RecordConsentRequest():
                self._mark("consent entry", message.entry.sig)
            case wake_pb2.RegisterHandleRequest():
                self._mark("wake handle", message.handle[-_TAIL_BYTES:])
            case pairing_pb2.PostMessageRequest():
                # The service can't tell whose they are; they go after minutes by themselves.
                self._teller.mark("rendezvous", message.rendezvous)
                self._teller.mark("pairing message", message.body[-_TAIL_BYTES:])
            case rounds_pb2.ContributeRequest():
                self._mark("sealed report", *(box[-_TAIL_BYTES:] for box in message.boxes))
                self._mark("consent salt", message.consent.salt)
                header = parse_header(message.header)
                self._mark("report id", header.report_id, header.nullifier)

    def _op(self, raw: bytes) -> None:
        sealed = op.parse_any(raw)
        self._mark("tag", sealed.header.tag)
        self._mark("op hash", sealed.op_hash)
        self._mark("op signature", sealed.sig)
        if sealed.ct is not None:
            self._mark("ciphertext", sealed.ct[:_TAIL_BYTES])

    def _links(self, *links: common_pb2.SignedLink) -> None:
        for one in links:
            self._mark("chain link", one.sig, one.link[-_TAIL_BYTES:])

    def _grants(self, *grants: common_pb2.Grant) -> None:
        self._mark("sealed key", *(one.sealed[-_TAIL_BYTES:] for one in grants))
