"""Who may call what: role, method, purpose. What is not listed is denied."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from crypto.errors import FormatError
from crypto.policy import fields
from crypto.policy.fields import Fields
from crypto.primitives import KEY_BYTES

BUILT_IN: Final = (
    "anyone", "device", "publisher", "analyst", "party", "service", "operator", "policy",
)  # fmt: skip
"""Roles that a service gives by itself: by an account's chain, its settings, or no signature at
all (`anyone`). A bundle can name identities and keys for them too."""
ANY: Final = "*"
ROLES_MAX: Final = 64
GRANTS_MAX: Final = 1_024
_IDENTITIES_MAX: Final = 64
_PURPOSES_MAX: Final = 64
_ROLE: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")
_METHOD: Final = re.compile(r"/rookery\.v1\.[A-Z][A-Za-z]{0,63}/(?:[A-Z][A-Za-z]{0,63}|\*)")
_IDENTITY: Final = re.compile(
    r"spiffe://[a-z0-9._-]{1,255}(?:/[A-Za-z0-9._-]{1,128}){0,16}(?:/[A-Za-z0-9._-]{1,128}|/\*)"
)


@dataclass(frozen=True, slots=True)
class Role:
    """Who has a role: workloads by SPIFFE id (a last segment `*` stands for all below), or whoever
    signs with one of the Ed25519 keys (64 small hexadecimal digits each)."""

    name: str
    identities: tuple[str, ...]
    keys: tuple[str, ...]

    def __post_init__(self) -> None:
        _role(self.name)
        fields.distinct("identities", self.identities, 0, _IDENTITIES_MAX)
        for identity in self.identities:
            if type(identity) is not str or not _IDENTITY.fullmatch(identity):
                raise FormatError(
                    "access-identity",
                    "an identity is spiffe://TRUST-DOMAIN/PATH, and only its last segment may be *",
                )
        fields.distinct("keys", self.keys, 0, _IDENTITIES_MAX)
        for key in self.keys:
            fields.from_hex("a key", key, KEY_BYTES)

    def as_map(self) -> dict[str, Any]:
        """As it is signed."""
        return {
            "name": self.name,
            "identities": list(self.identities),
            "keys": list(self.keys),
        }

    @classmethod
    def of(cls, value: object) -> Role:
        """From its map; FormatError."""
        read = Fields(value)
        made = cls(
            name=read.take("name"),
            identities=fields.texts("identities", read.take("identities")),
            keys=fields.texts("keys", read.take("keys")),
        )
        read.done()
        return made


@dataclass(frozen=True, slots=True)
class Grant:
    """A role may call a method, or all of a service (`/rookery.v1.Rounds/*`), for some purposes;
    `("*",)`: for any, and where a call has none."""

    role: str
    method: str
    purposes: tuple[str, ...]

    def __post_init__(self) -> None:
        _role(self.role)
        if type(self.method) is not str or not _METHOD.fullmatch(self.method):
            raise FormatError("access-method", "a method is /rookery.v1.SERVICE/METHOD, or /*")
        fields.distinct("purposes", self.purposes, 1, _PURPOSES_MAX)
        if self.purposes != (ANY,):
            for purpose in self.purposes:
                fields.name("a purpose", purpose)

    def permits(self, role: str, method: str, purpose: str | None) -> bool:
        """Whether it lets a role call a method; `purpose` None: the call has none."""
        return (
            role == self.role
            and (method == self.method or _of_service(method) == self.method)
            and (purpose is None or self.purposes == (ANY,) or purpose in self.purposes)
        )

    def as_map(self) -> dict[str, Any]:
        """As it is signed."""
        return {"role": self.role, "method": self.method, "purposes": list(self.purposes)}

    @classmethod
    def of(cls, value: object) -> Grant:
        """From its map; FormatError."""
        read = Fields(value)
        made = cls(
            read.take("role"), read.take("method"), fields.texts("purposes", read.take("purposes"))
        )
        read.done()
        return made


@dataclass(frozen=True, slots=True)
class Access:
    """The matrix."""

    roles: tuple[Role, ...]
    grants: tuple[Grant, ...]

    def __post_init__(self) -> None:
        fields.distinct("roles", [role.name for role in self.roles], 0, ROLES_MAX)
        fields.distinct(
            "grants", [(grant.role, grant.method) for grant in self.grants], 1, GRANTS_MAX
        )
        known = {*BUILT_IN, *(role.name for role in self.roles)}
        for number, grant in enumerate(self.grants, start=1):
            if grant.role not in known:
                raise FormatError(
                    "access-role", f"grants, number {number}: there is no such role; declare it"
                )

    def allows(self, role: str, method: str, purpose: str | None = None) -> bool:
        """Whether a role may call a method, by any grant. Nothing else than listed."""
        return any(grant.permits(role, method, purpose) for grant in self.grants)

    def as_map(self) -> dict[str, Any]:
        """As it is signed."""
        return {
            "roles": [role.as_map() for role in self.roles],
            "grants": [grant.as_map() for grant in self.grants],
        }

    @classmethod
    def of(cls, value: object) -> Access:
        """From its map; FormatError."""
        read = Fields(value)
        made = cls(
            fields.each("roles", read.take("roles"), Role.of),
            fields.each("grants", read.take("grants"), Grant.of),
        )
        read.done()
        return made


def _role(name: object) -> None:
    if type(name) is not str or not _ROLE.fullmatch(name):
        raise FormatError("access-role", "a role is 1 to 32 of a-z 0-9 -, a letter first")


def _of_service(method: str) -> str:
    return method.rpartition("/")[0] + "/*"
