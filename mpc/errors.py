"""What can go wrong in a job between parties: one root per guilty party.

`rule` is a short, stable slug; none of these ever holds a share, a key or a value.
"""

from __future__ import annotations


class JobError(Exception):
    """The party's own service asked for something that can't be done."""

    party: int | None = None
    opening: str | None = None

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"{message} [{rule}]")
        self.rule = rule
        self.message = message


class PeerError(JobError):
    """Another party did what an honest and living one would not. `party` if it is known which."""


class PeerLost(PeerError):
    """Another party died, stayed away, or sent what can't be read: the job ends here.

    Rules: `gone`, `stalled`, `flood`, `garbage`, `job` (it is in another job).
    """

    def __init__(self, rule: str, party: int, message: str) -> None:
        super().__init__(rule, f"party {party} {message}")
        self.party = party


class OpeningError(PeerError):
    """An opening was refused: what the parties sent does not belong together.

    Rules: `lie` (the shares lie on no polynomial of the right degree), `few` (too few parties
    to open, or to check it where it must be checked), `disagree` (parties hold other results
    of one opening, so somebody sent them different shares).
    """

    def __init__(self, rule: str, opening: str, message: str, party: int | None = None) -> None:
        super().__init__(rule, f"opening {opening!r} refused: {message}")
        self.opening = opening
        self.party = party
