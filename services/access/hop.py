"""The one peer whose word counts on who called it: the proxy beside this process.

Everybody else's `x-forwarded-client-cert` is worth nothing: who reaches the service's port
directly writes into it what it likes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote

from services.access.xfcc import XfccError, workload_of
from services.limits import peer_ip
from services.settings import ConfigError

LOOPBACK, UNIX = "loopback", "unix"


class Claim(Enum):
    """What became of a header that named a workload."""

    TAKEN = "taken"
    STRANGER = "stranger"
    """It came from another peer than the trusted hop, and was ignored."""
    BROKEN = "broken"
    """The trusted hop sent what does not parse, and it was ignored."""


Count = Callable[[Claim], None]


@dataclass(frozen=True, slots=True)
class TrustedHop:
    """The setting `trusted_hop`. Empty: nobody is trusted."""

    setting: str = ""

    @classmethod
    def parse(cls, setting: str) -> TrustedHop:
        """`loopback`, `unix`, an address, or nothing; ConfigError."""
        if setting not in ("", LOOPBACK, UNIX):
            try:
                return cls(str(ipaddress.ip_address(setting)))
            except ValueError:
                raise ConfigError(
                    "trusted_hop: is loopback, unix or the sidecar's address; or empty"
                ) from None
        return cls(setting)

    def trusts(self, peer: str) -> bool:
        """Whether a peer, as gRPC names it, is the hop."""
        if not self.setting:
            return False
        if self.setting == UNIX:
            # Not `unix-abstract:`, an address without a file, which has no owner and no mode.
            return unquote(peer).partition(":")[0] == UNIX
        try:
            address = ipaddress.ip_address(peer_ip(peer).partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        address = address if mapped is None else mapped
        return address.is_loopback if self.setting == LOOPBACK else str(address) == self.setting

    def workload(self, peer: str, values: Iterable[str | bytes], count: Count) -> str:
        """The SPIFFE id of the workload that called the hop; empty if nobody says."""
        values = list(values)
        if not values:
            return ""
        if not self.trusts(peer):
            count(Claim.STRANGER)
            return ""
        try:
            found = workload_of(values)
        except XfccError:
            count(Claim.BROKEN)
            return ""
        count(Claim.TAKEN)
        return found
