"""The service's half of consent as Python calls (policy.proto). Nothing of it is verified here."""

from __future__ import annotations

from typing import Final

from client import remoteerrors as reasons
from client.consent.comparing import Listed
from client.remoteerrors import ProtocolBreach, RemoteError
from client.transport import Method, Signer, Transport
from crypto.ids import DeviceId
from rookery.v1 import policy_pb2

_POLICY: Final = "/rookery.v1.Policy/"
RECORD: Final = Method(_POLICY + "RecordConsent", policy_pb2.RecordConsentResponse.FromString)
LIST: Final = Method(_POLICY + "ListReceipts", policy_pb2.ListReceiptsResponse.FromString)
ENTRIES_MAX: Final = 100_000
"""More are not read: no account has said so much, and the service would keep its caller busy."""


class ConsentCalls:
    """Calls by one device."""

    def __init__(self, transport: Transport, signer: Signer) -> None:
        self._transport = transport
        self._signer = signer

    async def record(
        self, raw: bytes, sig: bytes, signed_by: DeviceId, *, salt: bytes = b""
    ) -> bool:
        """Appends an entry. False: another one stands there (CONSENT_CONFLICT). `salt`: of a
        withdrawal, has what was contributed for its purpose erased. RemoteError."""
        message = policy_pb2.RecordConsentRequest(
            entry=policy_pb2.ConsentEntry(entry=raw, sig=sig, device_id=signed_by), salt=salt
        )
        try:
            await self._transport.call(RECORD, message, self._signer)
        except RemoteError as error:
            if error.reason != reasons.CONSENT_CONFLICT:
                raise
            return False
        return True

    async def list(self) -> list[Listed]:
        """Everything that the service has of this account."""
        found: list[Listed] = []
        more = True
        while more:
            message = policy_pb2.ListReceiptsRequest(after=len(found))
            answer = (await self._transport.call(LIST, message, self._signer)).message
            found += [Listed(one.entry, one.sig, one.device_id) for one in answer.entries]
            more = answer.more
            if more and (not answer.entries or len(found) > ENTRIES_MAX):
                raise ProtocolBreach("the service's list of consent does not end")
        return found
