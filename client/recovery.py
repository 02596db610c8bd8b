"""Recovery: with nothing left but the paper, its key adds a new device (docs/protocol.md, 1.9).

The paper is a role 2 device of the account: it reads the chain, opens the epoch key that was
sealed to it, and signs an ADD for a device that it makes here. It writes no ops.
"""

from __future__ import annotations

from collections.abc import Sequence

from client import remoteerrors as reasons
from client.chainview import ChainView, Pin
from client.device import Device
from client.errors import NotAllowed, PeerError
from client.membership import unproven_add
from client.rows import Journal
from client.steps import AppendLink, ChainItem, GetChain, Rand
from crypto import link, recovery
from crypto.cert import DeviceCert, Role
from crypto.ids import AccountId
from crypto.keys import Identity
from crypto.link import SignedLink


class Recovery:
    """Ask `next_step`; store `device` before an AppendLink is sent; make the call signed as
    `paper`; tell the outcome."""

    def __init__(self, secret: bytes, account_id: AccountId, *, rand: Rand) -> None:
        self.paper = recovery.identity(secret)
        self._new = Identity(rand(32), rand(32))
        self._view = ChainView(Pin(account_id))
        self._journal = Journal()
        self._item: ChainItem | None = None
        self._more = True
        self._done = False

    def next_step(self) -> GetChain | AppendLink | None:
        """None once the new device is in the chain. NotAllowed if the paper is no key of it."""
        if self._done:
            return None
        if self._more:
            return GetChain(self._view.chain.seq)
        if self._item is None:
            self._item = self._build()
        return AppendLink(self._item)

    def _build(self) -> ChainItem:
        chain = self._view.chain
        me = chain.find(self.paper.device_id) if chain.hashes else None
        if me is None or not me.active or me.role is not Role.RECOVERY:
            raise NotAllowed("This recovery key does not belong to this account.")
        if chain.epoch not in self._view.keys:
            raise NotAllowed("The service does not deliver the key that this paper may open.")
        live = [number for number in (chain.epoch, chain.epoch - 1) if number in self._view.keys]
        keys = [self._view.keys[number] for number in live]
        draft, grants = unproven_add(self.paper, chain, DeviceCert.of(self._new), keys)
        pop = link.prove_possession(self._new, draft.raw)
        return ChainItem(SignedLink(draft.raw, draft.sig, pop), grants)

    def on_chain(self, items: Sequence[ChainItem], *, more: bool) -> None:
        """An answer of GetChain. PeerError if it is not this account's chain."""
        for item in items:
            done = self._view.extend([item], self.paper, self._journal)
            if done.evidence and not done.links:
                error: PeerError = done.evidence[0]
                raise error
        self._more = more
        self._item = None

    def on_appended(self) -> None:
        """The new device is in the chain."""
        self._done = True

    def on_append_refused(self, reason: str) -> None:
        """Somebody else appended first: reads the chain again."""
        if reason not in (reasons.CHAIN_CONFLICT, reasons.CHAIN_GAP):
            raise NotAllowed(f"The service refused to add this device ({reason}).")
        self._more, self._item = True, None

    def device(self, *, now_ms: int) -> Device:
        """The new device as the link adds it that is to be appended: stored before that link is
        sent, because from then on the account may have it."""
        assert self._item is not None
        parsed = link.parse(self._item.link.raw)
        return Device.join(
            self._new,
            account_id=self._view.chain.account,
            pin_seq=parsed.seq,
            pin_head=parsed.link_hash,
            now_ms=now_ms,
        )

    def __repr__(self) -> str:
        return "Recovery(secrets hidden)"
