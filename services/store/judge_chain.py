"""What is judged of links against the chain that stands; the same for every backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from crypto import grant, link
from crypto.chain import Chain
from crypto.grant import SEALED_BYTES, SealedGrant
from crypto.ids import DeviceId
from crypto.link import Add, Link, Rotate, SignedLink
from services.store.base import Limits, StoredLink
from services.store.errors import ChainAhead, ChainConflict, QuotaExceeded

_GRANT_BYTES = DeviceId.size + 4 + SEALED_BYTES


class Appended(NamedTuple):
    """The chain with one more link."""

    chain: Chain
    link: Link

    @property
    def ended_epoch(self) -> int | None:
        """The epoch that the link ended."""
        return ended_epoch(self.link)


def judge_link(
    chain: Chain, signed: SignedLink, grants: Sequence[SealedGrant], limits: Limits
) -> Appended | None:
    """None if the equal link stands already. Raises what `Store.append_link` raises."""
    parsed = link.parse(signed.raw)
    if parsed.seq <= chain.seq:
        if parsed.link_hash == chain.hashes[parsed.seq]:
            return None
        raise ChainConflict(chain.seq)
    if parsed.seq > chain.seq + 1:
        raise ChainAhead(chain.seq)
    after = chain.apply(signed)
    grant.check_complete(parsed, after, grants)
    _check_limits(chain, parsed, limits)
    return Appended(after, parsed)


def _check_limits(chain: Chain, parsed: Link, limits: Limits) -> None:
    if isinstance(parsed.body, Rotate) and parsed.body.cuts:
        return  # A device at any cap can still revoke; there are at most 255 to revoke.
    if chain.seq + 1 >= limits.chain_links_max:
        raise QuotaExceeded("chain_links", limits.chain_links_max)
    maximum = limits.active_devices_max
    if isinstance(parsed.body, Add) and len(chain.active) >= maximum:
        raise QuotaExceeded("active_devices", maximum)


def ended_epoch(parsed: Link) -> int | None:
    """The epoch that this link ended."""
    return parsed.body.epoch - 1 if isinstance(parsed.body, Rotate) else None


def ended_epochs(links: Sequence[StoredLink]) -> list[int]:
    """The epochs that these links ended, in their order."""
    ended = (ended_epoch(link.parse(row.link.raw)) for row in links)
    return [epoch for epoch in ended if epoch is not None]


def judge_again(standing: Chain, chain: Chain, limits: Limits) -> bool:
    """Whether a verified chain goes on from the one that stands; False if it adds nothing.
    ChainConflict, QuotaExceeded."""
    common = min(standing.seq, chain.seq)
    if standing.hashes[common] != chain.hashes[common]:
        raise ChainConflict(standing.seq)
    if chain.seq == common:
        return False
    check_whole(chain, limits)
    return True


def check_whole(chain: Chain, limits: Limits) -> None:
    """QuotaExceeded. A device at any cap could still revoke: at most 255 links more than the
    limit."""
    if chain.seq >= limits.chain_links_max + 255:
        raise QuotaExceeded("chain_links", limits.chain_links_max)
    if len(chain.active) > limits.active_devices_max:
        raise QuotaExceeded("active_devices", limits.active_devices_max)


def pack_grants(grants: Sequence[SealedGrant]) -> bytes:
    """As they are stored with their link."""
    return b"".join(row.recipient_id + row.epoch.to_bytes(4, "big") + row.sealed for row in grants)


def unpack_grants(packed: bytes) -> tuple[SealedGrant, ...]:
    """What `pack_grants` was given."""
    rows = (packed[at : at + _GRANT_BYTES] for at in range(0, len(packed), _GRANT_BYTES))
    return tuple(
        SealedGrant(DeviceId(row[:16]), int.from_bytes(row[16:20], "big"), row[20:]) for row in rows
    )
