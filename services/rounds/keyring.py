"""Keys without an account that the service knows: publishers, analysts, parties."""

from __future__ import annotations

from crypto.ids import DeviceId
from crypto.keys import device_id
from services.call import Clock, KeyRole, KnownKey
from services.keeping.current import Keys, Trusted
from services.listed import Listed
from services.store.rounds import RoundStore


class Keyring:
    """Publishers and analysts are configured; a party is whoever stands in a manifest that is
    held."""

    def __init__(self, rounds: RoundStore, keys: Keys, clock: Clock) -> None:
        self._rounds = rounds
        self._keys = keys
        self._clock = clock
        self._of = keys.trusted
        self._configured = _by_id(keys.trusted)

    async def find(self, key_id: DeviceId) -> KnownKey | None:
        """The key with this id and all its roles."""
        known = self._listed(key_id)
        party = await self._rounds.find_party(key_id)
        if party is None:
            return known
        roles = frozenset() if known is None else known.roles
        return KnownKey(party, roles | {KeyRole.PARTY})

    def _listed(self, key_id: DeviceId) -> KnownKey | None:
        if self._keys.trusted is not self._of:
            self._of = self._keys.trusted
            self._configured = _by_id(self._of)
        found = self._configured.get(key_id)
        if found is None:
            return None
        now_ms = self._clock.wall_ms()
        roles = frozenset(role for role, row in found if row.is_valid(now_ms))
        return KnownKey(found[0][1].key, roles) if roles else None


def _by_id(trusted: Trusted) -> dict[DeviceId, list[tuple[KeyRole, Listed]]]:
    found: dict[DeviceId, list[tuple[KeyRole, Listed]]] = {}
    for role, rows in (
        (KeyRole.PUBLISHER, trusted.publishers),
        (KeyRole.ANALYST, trusted.analysts),
    ):
        for row in rows:
            found.setdefault(device_id(row.key), []).append((role, row))
    return found
