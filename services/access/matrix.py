"""Role x RPC x purpose, compiled once out of a policy bundle's part `access`. Pure.

Everything that no grant names is denied. Two entries no bundle can take away: whoever holds a key
of the setting `policy_keys` may put the next bundle, or a mistake in one could never be undone;
and anybody may read the one in force, or what it stops would go on wherever it is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from crypto.ids import DeviceId
from crypto.keys import device_id
from crypto.policy.access import ANY, Access
from services.access import spiffe

ANYONE: Final = "anyone"
DEVICE: Final = "device"
OPERATOR: Final = "operator"
POLICY: Final = "policy"
CONFIGURED: Final = frozenset((POLICY, "publisher", "analyst"))
"""Roles of the service's own configuration: a bundle narrows them, and never gives them."""
DERIVED: Final = frozenset((ANYONE, DEVICE, "party", "service"))
"""Roles that a call proves by itself: no list of keys says who has them."""
PUBLISH_POLICY: Final = "/rookery.v1.Policy/PublishPolicy"
GET_POLICY: Final = "/rookery.v1.Policy/GetPolicy"
ALWAYS: Final = ((POLICY, PUBLISH_POLICY), (ANYONE, GET_POLICY))
"""What no bundle can take away."""
FIRST: Final = (
    *ALWAYS,
    (ANYONE, "/rookery.v1.Accounts/GetServerKeys"),
)
"""What a governed service answers before its first bundle, beside the health."""

Purposes = frozenset[str]
EVERY: Final[Purposes] = frozenset((ANY,))
NONE: Final[Purposes] = frozenset()


class Standing(NamedTuple):
    """What is proven of a caller, whatever the bundle says of it."""

    proven: frozenset[str]
    """Roles by the signature and the service's configuration; `anyone` without a signature."""
    key: bytes = b""
    """Ed25519 key without an account that signed; empty for others."""
    workload: str = ""
    """SPIFFE id by the word of the trusted hop; empty: none."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """One bundle's rules, made for looking up."""

    granted: Mapping[tuple[str, str], Purposes]
    """(role, method) to the purposes it is for; `EVERY`: no matter which."""
    keys: Mapping[bytes, frozenset[str]] = field(default_factory=dict)
    """Ed25519 key to the roles that list it."""
    by_id: Mapping[DeviceId, bytes] = field(default_factory=dict)
    """Keys by the id that their calls bear, of roles that a bundle gives."""
    listing: frozenset[str] = frozenset()
    """Roles that list keys."""
    identities: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Role to the workloads that it is for; a role that is not in here is for any."""

    @classmethod
    def compile(cls, access: Access, methods: Iterable[str]) -> Matrix:
        """Out of a bundle, for these methods (`/package.Service/Method`). A grant of a method
        that is not among them grants nothing."""
        served = frozenset(methods)
        granted: dict[tuple[str, str], Purposes] = {}
        for grant in access.grants:
            for method in _methods(grant.method, served):
                cell = (grant.role, method)
                granted[cell] = granted.get(cell, NONE) | frozenset(grant.purposes)
        for always in ALWAYS:
            granted[always] = EVERY
        keys: dict[bytes, frozenset[str]] = {}
        for role in access.roles:
            for text in role.keys:
                key = bytes.fromhex(text)
                keys[key] = keys.get(key, frozenset()) | {role.name}
        return cls(
            granted,
            keys,
            {device_id(key): key for key, roles in keys.items() if roles - CONFIGURED - DERIVED},
            frozenset(role.name for role in access.roles if role.keys),
            {role.name: tuple(role.identities) for role in access.roles if role.identities},
        )

    @classmethod
    def before_the_first(cls) -> Matrix:
        """What holds while a governed service has no bundle."""
        return cls(dict.fromkeys(FIRST, EVERY))

    def roles(self, caller: Standing) -> frozenset[str]:
        """All roles that the caller has by this bundle.

        A role is had by what is proven, by a key that it lists, or, if it lists workloads and
        no keys, by being one of them. A configured role that lists keys is only for those of
        its keys that are listed; any role that lists workloads is only for these. Neither
        narrows `policy`.
        """
        listed = self.keys.get(caller.key, NONE) - CONFIGURED - DERIVED
        proven = {
            role
            for role in caller.proven
            if role not in CONFIGURED - {POLICY}
            or role not in self.listing
            or role in self.keys.get(caller.key, NONE)
        }
        return frozenset(
            role
            for role in proven | listed | self._by_workload | {ANYONE}
            if role == POLICY or self._is_from(role, caller.workload)
        )

    def gives(self, role: str, workload: str) -> bool:
        """Whether being this workload is enough to have the role."""
        return role in self._by_workload and self._is_from(role, workload)

    def purposes(self, caller: Standing, method: str) -> Purposes:
        """What the caller may make this call for; nothing: it may not make it at all."""
        if method == GET_POLICY:
            return EVERY
        found = NONE
        for role in self.roles(caller):
            found |= self.granted.get((role, method), NONE)
        return EVERY if ANY in found else found

    def readers(self, methods: Iterable[str]) -> frozenset[str]:
        """Roles that may call any of these methods."""
        wanted = frozenset(methods)
        return frozenset(role for (role, method), for_ in self.granted.items()
                         if method in wanted and for_)  # fmt: skip

    @property
    def _by_workload(self) -> frozenset[str]:
        return frozenset(self.identities) - self.listing - CONFIGURED - DERIVED

    def _is_from(self, role: str, workload: str) -> bool:
        patterns = self.identities.get(role)
        return patterns is None or any(spiffe.matches(one, workload) for one in patterns)


def _methods(pattern: str, served: frozenset[str]) -> Iterable[str]:
    if pattern.endswith("/*"):
        return [method for method in served if method.startswith(pattern[:-1])]
    return [pattern] if pattern in served else []
