"""A vault and a line to the service that end at a chosen point, as a process does. A helper."""

from __future__ import annotations

from typing import Any

from client.rows import Changes
from client.transport import Answer, Transport
from client.vault import MemoryVault
from tests.shell_worlds import QUICK, Clock, Fleet


class Dead(BaseException):
    """The process ends here."""


class Points:
    """Counts down to the end. 0: there is none."""

    def __init__(self, left: int = 0) -> None:
        self.left = left

    def pass_(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Dead


class DyingVault(MemoryVault):
    """Has a point before and after each write."""

    points = Points()

    def apply(self, changes: Changes) -> None:
        if changes:
            self.points.pass_()
        super().apply(changes)
        if changes:
            self.points.pass_()


class DyingTransport(Transport):
    """Has a point before and after each call."""

    points = Points()

    async def call(self, *arguments: Any) -> Answer[Any]:
        self.points.pass_()
        answer: Answer[Any] = await super().call(*arguments)
        self.points.pass_()
        return answer


def dying(devices: Fleet, point: int) -> tuple[DyingVault, DyingTransport]:
    """A vault and a line to the service that end at the same point."""
    vault, transport = DyingVault(), DyingTransport(devices.endpoint, clock=Clock(), backoff=QUICK)
    vault.points = transport.points = Points(point)
    return vault, transport
