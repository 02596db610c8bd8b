"""What a device wants done next. The shell makes the call and tells the device the outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from crypto.cert import Role
from crypto.grant import SealedGrant
from crypto.ids import DeviceId
from crypto.link import SignedLink

Rand = Callable[[int], bytes]
"""Gives that many random bytes: `secrets.token_bytes`, or a seeded one in a simulator."""


@dataclass(frozen=True, slots=True)
class ChainItem:
    """A link with the grants that came with it: ours, or all of them."""

    link: SignedLink
    grants: tuple[SealedGrant, ...] = ()


@dataclass(frozen=True, slots=True)
class CreateAccount:
    """Call CreateAccount, then `on_account_created` or `on_create_refused`."""

    genesis: SignedLink
    later: tuple[ChainItem, ...] = ()
    """Links that followed it, of an account that the service lost."""


@dataclass(frozen=True, slots=True)
class AppendLink:
    """Call AppendLink, then `on_appended` or `on_append_refused`."""

    item: ChainItem


@dataclass(frozen=True, slots=True)
class GetChain:
    """Call GetChain until `more` is false, each answer to `on_chain`."""

    after_seq: int
    """-1: from genesis, leave the field unset."""
    all_grants: bool = True


@dataclass(frozen=True, slots=True)
class GetReceipt:
    """Call GetReceipt, then `on_receipt`."""


@dataclass(frozen=True, slots=True)
class CheckpointMark:
    """Which op of the push is a checkpoint, and the cursor up to which it covers."""

    op_index: int
    covers: bytes


@dataclass(frozen=True, slots=True)
class Push:
    """Call Push with exactly these bytes, then `on_pushed` or `on_push_refused`."""

    ops: tuple[bytes, ...]
    mark: CheckpointMark | None = None
    again: bool = False
    """These are ops that the service held once and lost, ours or other devices'."""


@dataclass(frozen=True, slots=True)
class Pull:
    """Call Pull, then `on_page`. Or subscribe from this cursor."""

    cursor: bytes


Step = CreateAccount | AppendLink | GetChain | GetReceipt | Push | Pull


class NoticeKind(Enum):
    """How loud a notice is."""

    INFO = "info"
    ALARM = "alarm"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the person should know, in a plain sentence, with its evidence."""

    number: int
    kind: NoticeKind
    rule: str
    sentence: str
    at_ms: int
    device_id: DeviceId | None = None
    evidence: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """One device of the account as this one sees it."""

    device_id: DeviceId
    index: int
    role: Role
    active: bool
    this_device: bool
    added_seq: int
    added_by: DeviceId
    last_seen_ms: int | None
    """Its own clock in its newest op that we hold; None if it wrote none. A device that
    writes nothing for more than a week is silent or silenced."""
    set_aside: bool
    """Two versions of one of its ops exist: what it wrote from there on does not count."""


@dataclass(frozen=True, slots=True)
class Status:
    """Where this device stands."""

    epoch: int
    chain_seq: int
    edits_waiting: int
    ops_in_flight: int
    ops_on_hold: int
    revoked: bool
    cloned: bool
    rotation_due: bool
    key_since_ms: int | None
    """When this device first saw the current epoch, on its own clock."""
    account_made: bool
