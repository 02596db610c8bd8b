"""GetPolicy, PublishPolicy (proto/rookery/v1/policy.proto)."""

from __future__ import annotations

from typing import Final

from crypto.canonical import BYTES_MAX
from crypto.errors import CryptoError
from crypto.policy import open_
from rookery.v1 import policy_pb2
from services import wire
from services.call import Call, KeyCall
from services.errors import Malformed, PolicyInvalid
from services.policy.current import CurrentPolicy
from services.store.errors import QuotaExceeded
from services.store.governance import PolicyRow
from services.sync.desk import Desk, parse

POLICY_BYTES_MAX: Final = BYTES_MAX


class Bundles:
    """Handlers for bundles."""

    def __init__(self, desk: Desk, current: CurrentPolicy) -> None:
        self._desk = desk
        self._current = current

    async def get(self, raw: bytes, call: Call) -> bytes:
        """GetPolicy. Who holds a newer one than is in force here has it from another replica, or
        from before the store was put back: the store is asked which."""
        request = parse(policy_pb2.GetPolicyRequest.FromString, raw)
        call.check_live()
        if self._current.governed and request.after > self._current.sequence:
            await self._current.look()
        return self._desk.info_field() + self._current.newer(request.after)

    async def publish(self, raw: bytes, call: KeyCall) -> bytes:
        """PublishPolicy. In force in this process before it is answered."""
        signed = parse(policy_pb2.PublishPolicyRequest.FromString, raw).policy
        if len(signed.bundle) > POLICY_BYTES_MAX:
            raise QuotaExceeded("policy_bytes", POLICY_BYTES_MAX)
        if not signed.bundle:
            raise Malformed("policy")
        if signed.publisher != call.key.ik_pk:
            raise PolicyInvalid("publisher")
        try:
            bundle = open_(signed.bundle, signed.sig, signed.publisher)
        except CryptoError as error:
            raise PolicyInvalid(error.rule) from None
        call.check_live()
        await self._desk.store.governance.put_policy(
            PolicyRow(
                sequence=bundle.sequence,
                previous=bundle.previous,
                hash=bundle.hash,
                data=signed.bundle,
                sig=signed.sig,
                key=signed.publisher,
                at_ms=call.now_ms,
            )
        )
        await self._current.refresh()
        made = wire.number(2, bundle.sequence) + wire.data(3, bundle.hash)
        return self._desk.info_field() + made
