"""Keys without an account that the service knows: publishers, analysts, parties."""

from __future__ import annotations

from collections.abc import Iterable

from crypto.ids import DeviceId
from crypto.keys import device_id
from services.call import KeyRole, KnownKey
from services.store.rounds import RoundStore


class Keyring:
    """Publishers and analysts are configured; a party is whoever stands in a manifest that is
    held."""

    def __init__(
        self, rounds: RoundStore, *, publishers: Iterable[bytes], analysts: Iterable[bytes]
    ) -> None:
        self._rounds = rounds
        self._configured: dict[DeviceId, KnownKey] = {}
        for role, keys in ((KeyRole.PUBLISHER, publishers), (KeyRole.ANALYST, analysts)):
            for ik_pk in keys:
                key_id = device_id(ik_pk)
                known = self._configured.get(key_id, KnownKey(ik_pk, frozenset()))
                self._configured[key_id] = KnownKey(ik_pk, known.roles | {role})

    async def find(self, key_id: DeviceId) -> KnownKey | None:
        """The key with this id and all its roles."""
        known = self._configured.get(key_id)
        party = await self._rounds.find_party(key_id)
        if party is None:
            return known
        roles = frozenset() if known is None else known.roles
        return KnownKey(party, roles | {KeyRole.PARTY})
