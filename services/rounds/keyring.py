"""Keys without an account that the service knows: publishers, analysts, parties."""

from __future__ import annotations

from crypto.ids import DeviceId
from crypto.keys import device_id
from services.access.guard import Guard
from services.call import Clock, KeyRole, KnownKey
from services.keeping.current import Keys, Trusted
from services.listed import Listed
from services.store.rounds import RoundStore


class Keyring:
    """Publishers, analysts and policy publishers are configured; a party is whoever stands in a
    manifest that is held; operators, and roles of the policy's own, are what its newest bundle
    lists."""

    def __init__(
        self, rounds: RoundStore, keys: Keys, clock: Clock, guard: Guard | None = None
    ) -> None:
        self._guard = guard or Guard()
        self._rounds = rounds
        self._keys = keys
        self._clock = clock
        self._of = keys.trusted
        self._configured = _by_id(keys.trusted)

    async def find(self, key_id: DeviceId) -> KnownKey | None:
        """The key with this id and all its roles."""
        known = _both(self._listed(key_id), self._by_policy(key_id))
        party = await self._rounds.find_party(key_id)
        if party is None:
            return known
        roles = frozenset() if known is None else known.roles
        return KnownKey(party, roles | {KeyRole.PARTY})

    def _by_policy(self, key_id: DeviceId) -> KnownKey | None:
        key = self._guard.key_of(key_id)
        if key is None:
            return None
        is_operator = KeyRole.OPERATOR.value in self._guard.knows(key)
        return KnownKey(key, frozenset({KeyRole.OPERATOR} if is_operator else ()))

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


def _both(one: KnownKey | None, other: KnownKey | None) -> KnownKey | None:
    if one is None or other is None:
        return one or other
    return KnownKey(one.ik_pk, one.roles | other.roles)


def _by_id(trusted: Trusted) -> dict[DeviceId, list[tuple[KeyRole, Listed]]]:
    found: dict[DeviceId, list[tuple[KeyRole, Listed]]] = {}
    for role, rows in (
        (KeyRole.PUBLISHER, trusted.publishers),
        (KeyRole.ANALYST, trusted.analysts),
        (KeyRole.POLICY, trusted.policy),
    ):
        for row in rows:
            found.setdefault(device_id(row.key), []).append((role, row))
    return found
