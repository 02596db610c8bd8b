"""Where the device's half of joint aggregates stands in its vault, and its policy there."""

from __future__ import annotations

from typing import Final

from client.measure.policy import Policy
from client.vault import Vault

ROWS: Final = "shell/measure/"
POLICY: Final = "policy"


def load_policy(vault: Vault) -> Policy:
    """What this device answers to; nothing, unless it was told. RowsError."""
    row = vault.load().get(ROWS + POLICY)
    return Policy() if row is None else Policy.decode(row)


def save_policy(vault: Vault, policy: Policy) -> None:
    """From now on."""
    vault.apply({ROWS + POLICY: policy.encode()})
