"""Why a device does not take part."""

from __future__ import annotations

from client.errors import UserError
from crypto.errors import CryptoError


class Ineligible(UserError):
    """This device does not contribute. `rule` is a stable slug (docs/aggregation.md, 6).

    The sentence says what to do, and never holds a value.
    """

    def __init__(self, rule: str, sentence: str) -> None:
        super().__init__(sentence)
        self.rule = rule

    @classmethod
    def of(cls, error: CryptoError) -> Ineligible:
        """What a format or signature was refused for."""
        return cls(error.rule, error.message)


def contributed() -> Ineligible:
    """A normal end, from whichever device."""
    return Ineligible("contributed", "this account has contributed to this round")
