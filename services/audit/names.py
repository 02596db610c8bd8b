"""Whose key an entry of the audit log names: roles by the key's id, for who reads the log.

An entry holds the id alone. What it stood for is known to the settings and to the bundles: those
before the newest count too, for the log tells of what was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from crypto.errors import CryptoError
from crypto.policy import open_
from services.audit.record import of_key
from services.config import Config
from services.keeping.current import Trusted
from services.store.governance import GovernanceStore

Roles = Mapping[str, frozenset[str]]
"""`who`, as an entry has it, to the roles of that key."""
NOBODY: Final[Roles] = {}


async def roles_of(config: Config, store: GovernanceStore) -> Roles:
    """Of all keys that the settings list, ended ones too, and that a bundle in the store lists
    for a role, if a key of `policy_keys` signed it."""
    found: dict[str, frozenset[str]] = {}

    def add(key: bytes, role: str) -> None:
        who = of_key(key)
        found[who] = found.get(who, frozenset()) | {role}

    trusted = Trusted.of(config)
    for rows, role in (
        (trusted.publishers, "publisher"),
        (trusted.analysts, "analyst"),
        (trusted.policy, "policy"),
    ):
        for one in rows:
            add(one.key, role)
    signers = {one.key for one in trusted.policy}
    row = await store.policy() if signers else None
    while row is not None:
        if row.key in signers:
            try:
                bundle = open_(row.data, row.sig, row.key)
            except CryptoError:
                bundle = None
            for listed in () if bundle is None else bundle.access.roles:
                for text in listed.keys:
                    add(bytes.fromhex(text), listed.name)
        row = await store.policy(row.sequence - 1)
    return found
