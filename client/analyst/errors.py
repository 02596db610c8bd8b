"""What can go wrong for a publisher or an analyst. The message is the sentence for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from client.errors import ClientError, PeerError, UserError


class DraftError(UserError):
    """A task that a person wrote is refused. Names the field and the rule."""

    def __init__(self, field: str, rule: str, sentence: str) -> None:
        where = f"{field}: " if field else ""
        super().__init__(f"{where}{sentence} (rule {rule})")
        self.field = field
        self.rule = rule


class KeyRefused(UserError):
    """The service does not know this key, or not in the role that the call needs."""


class NotVerified(PeerError):
    """A round or a result is not what it claims to be, under the keys that are pinned."""


class NoResult(ClientError):
    """The round has no result, and none is to be expected."""


@dataclass(frozen=True, slots=True)
class PartyFailure:
    """What one party did not do, and why."""

    party: int
    address: str
    why: str
    transient: bool

    def __str__(self) -> str:
        return f"party {self.party} at {self.address}: {self.why}"


class PartiesFailed(ClientError):
    """Parties that a round needs did not do their part. All of them are named."""

    def __init__(
        self, did: str, failures: Sequence[PartyFailure], *, nothing_done: bool = False
    ) -> None:
        super().__init__(f"{did}: " + "; ".join(map(str, failures)))
        self.failures = tuple(failures)
        self.nothing_done = nothing_done
        """Every party has said no to the first step: none holds anything of the round."""

    @property
    def transient(self) -> bool:
        """Whether the same command may succeed a little later."""
        return all(one.transient for one in self.failures)
