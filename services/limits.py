"""How much of the service one address or account may use, and how much runs at once.

Token buckets bound rates; gates bound what is in flight and shed the rest instead of
queueing it. Time is an argument. Memory is bounded: the bucket that was not used for the
longest time is forgotten first.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from types import TracebackType
from urllib.parse import unquote

from services.errors import Overloaded, RateLimited

RETRY_MS_MAX = 60_000


class Buckets:
    """Token buckets by key: `per_s` tokens a second, at most `burst`. per_s 0: no bound."""

    __slots__ = ("_burst", "_keys_max", "_levels", "_name", "_per_s")

    def __init__(self, name: str, *, per_s: float, burst: float, keys_max: int) -> None:
        self._name = name
        self._per_s = per_s
        self._burst = burst
        self._keys_max = keys_max
        self._levels: dict[bytes | str, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._levels)

    def _level(self, key: bytes | str, now_s: float) -> float:
        """Takes the key out and says what it holds: putting it back makes it the newest."""
        tokens, then_s = self._levels.pop(key, (self._burst, now_s))
        return min(self._burst, tokens + max(0.0, now_s - then_s) * self._per_s)

    def _put(self, key: bytes | str, tokens: float, now_s: float) -> None:
        self._levels[key] = (tokens, now_s)
        if len(self._levels) > self._keys_max:
            del self._levels[next(iter(self._levels))]

    def take(self, key: bytes | str, now_s: float, count: float = 1) -> None:
        """Takes `count` tokens, or none and RateLimited."""
        if not self._per_s:
            return
        tokens = self._level(key, now_s)
        # More than the bucket ever holds: let through when it is full, into debt.
        if tokens < min(count, self._burst):
            self._put(key, tokens, now_s)
            wait_s = (min(count, self._burst) - tokens) / self._per_s
            raise RateLimited(self._name, min(RETRY_MS_MAX, int(wait_s * 1000) + 1))
        self._put(key, tokens - count, now_s)

    def check(self, key: bytes | str, now_s: float) -> None:
        """RateLimited if not one token is left; takes none."""
        if not self._per_s or key not in self._levels:
            return
        tokens = self._level(key, now_s)
        self._put(key, tokens, now_s)
        if tokens < 1:
            wait_s = (1 - tokens) / self._per_s
            raise RateLimited(self._name, min(RETRY_MS_MAX, int(wait_s * 1000) + 1))


class Gate:
    """At most `maximum` at once: `with gate:` or Overloaded. 0: no bound."""

    __slots__ = ("_jitter", "inside", "maximum")

    def __init__(self, maximum: int, jitter: Callable[[], float]) -> None:
        self.maximum = maximum
        self.inside = 0
        self._jitter = jitter

    def __enter__(self) -> None:
        if self.is_full:
            raise Overloaded(int(500 + 1500 * self._jitter()))
        self.inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.inside -= 1

    @property
    def is_full(self) -> bool:
        """Whether the next one would be turned away."""
        return bool(self.maximum) and self.inside >= self.maximum

    @property
    def is_crowded(self) -> bool:
        """Whether a quarter of it is taken: who takes long now does so behind others."""
        return bool(self.maximum) and 4 * self.inside >= self.maximum

    @property
    def backoff_ms(self) -> int:
        """0 up to half full, then rising to a second: the hint in every answer."""
        if not self.maximum or 2 * self.inside <= self.maximum:
            return 0
        return 1000 * (2 * self.inside - self.maximum) // self.maximum


def peer_ip(peer: str) -> str:
    """The address in gRPC's `ipv4:1.2.3.4:5`, `ipv6:[::1]:5` or `unix:...`."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return kind
    return rest.rpartition(":")[0].strip("[]")


def forwarded_ip(values: Iterable[str | bytes], hops: int) -> str | None:
    """The address that the `hops`-th trusted proxy from here saw (comma-separated headers).

    None if the header is missing or holds no address there: use the peer's then.
    """
    joined = ",".join(
        value if isinstance(value, str) else value.decode("ascii", "replace") for value in values
    )
    entries = [entry.strip() for entry in joined.split(",")]
    if len(entries) < hops:
        return None
    try:
        return str(ipaddress.ip_address(entries[-hops].strip("[]")))
    except ValueError:
        return None


def rate_key(ip: str) -> str:
    """What shares a bucket: an IPv4 address, or an IPv6 /64, which one host has for itself."""
    if ":" not in ip:
        return ip
    try:
        address = ipaddress.IPv6Address(ip.partition("%")[0])
    except ValueError:
        return ip
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return address.packed[:8].hex()
