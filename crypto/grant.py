"""Grants: epoch keys, signed, bound to one link and one recipient, sealed.

A sealed box authenticates nobody, so what is in it is signed and says for whom, from whom
and with which link it travels (docs/protocol.md, 1.3). A grant is taken only with its link
and only if the key matches the commitment in the chain.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from crypto import labels
from crypto.chain import Chain, Device
from crypto.epoch import EpochKeys, commitment, u32
from crypto.errors import ChainError, FormatError, OpenError, SignatureError
from crypto.ids import AccountId, DeviceId, LinkHash
from crypto.keys import Identity
from crypto.link import Add, Link, Rotate
from crypto.primitives import equal, hash_, need, pack, verify

PLAIN_BYTES = 244
SEALED_BYTES = 292
_SIGNED_BYTES = 180
_PLAIN = struct.Struct(">4sBBH32sI16s16s32sQ32s32s64s")
_SIGNED = struct.Struct(">4sBBH32sI16s16s32sQ32s32s")
_MAGIC, _SUITE, _KIND = b"PSG1", 1, 1


@dataclass(frozen=True, slots=True)
class SealedGrant:
    """A grant as it travels: for whom, of which epoch, and the sealed box."""

    recipient_id: DeviceId
    epoch: int
    sealed: bytes


def digest(grants: Iterable[SealedGrant]) -> bytes:
    """`grants_digest` of docs/protocol.md, 1.2; FormatError on a double or a wrong length."""
    rows = sorted(grants, key=lambda grant: (grant.recipient_id, grant.epoch))
    if len(rows) > 0xFFFF:
        raise FormatError("grants", "too many grants")
    keys = [(row.recipient_id, row.epoch) for row in rows]
    if len(set(keys)) != len(keys):
        raise FormatError("grants", "two grants for one device and epoch")
    parts = [
        DeviceId.of(row.recipient_id)
        + u32(row.epoch)
        + hash_(labels.GRANT_CT, need("sealed grant", row.sealed, SEALED_BYTES))
        for row in rows
    ]
    return hash_(labels.GRANTS, struct.pack(">H", len(rows)) + b"".join(parts))


def make(
    sender: Identity,
    recipient: Device,
    keys: EpochKeys,
    *,
    link_seq: int,
    link_prev: LinkHash,
) -> SealedGrant:
    """Signs and seals an epoch key for one device, to travel with the link at `link_seq`."""
    signed = pack(
        _SIGNED,
        _MAGIC,
        _SUITE,
        _KIND,
        0,
        keys.account_id,
        keys.epoch,
        sender.device_id,
        recipient.device_id,
        recipient.box_pk,
        link_seq,
        link_prev,
        keys.secret,
    )
    sealed = recipient.recipient.seal(signed + sender.sign(labels.GRANT, signed))
    return SealedGrant(recipient.device_id, keys.epoch, sealed)


def open_(recipient: Identity, sealed: bytes, travelled_with: Link, after: Chain) -> EpochKeys:
    """Opens the grant that came with `travelled_with`; `after` is the chain with that link.

    Checks sender, recipient, box key, account, link and commitment (C5). Raises OpenError
    if it isn't ours to open, FormatError or SignatureError if its content is not right,
    ChainError if it is bound to something else.
    """
    if len(sealed) != SEALED_BYTES:
        raise OpenError
    plain = recipient.open(sealed)
    need("grant", plain, PLAIN_BYTES)
    (
        magic, suite, kind, flags, account, epoch, sender_id, recipient_id, box_pk,
        link_seq, link_prev, ek, sig,
    ) = _PLAIN.unpack(plain)  # fmt: skip
    if (magic, suite, kind, flags) != (_MAGIC, _SUITE, _KIND, 0):
        raise FormatError("grant", "not a grant of this suite")
    sender = after.find(DeviceId(sender_id))
    if sender is None or sender_id != travelled_with.signer:
        raise ChainError("grant-sender", "the sender is not the signer of the link")
    verify(sender.ik_pk, labels.GRANT, plain[:_SIGNED_BYTES], sig)
    if recipient_id != recipient.device_id or box_pk != recipient.box_pk:
        raise ChainError("grant-recipient", "the grant was made for another device or key")
    if account != after.account:
        raise ChainError("grant-account", "the grant belongs to another account")
    if link_seq != travelled_with.seq or link_prev != travelled_with.prev:
        raise ChainError("grant-link", "the grant travelled with another link")
    if epoch not in _epochs(travelled_with):
        raise ChainError("grant-epoch", "the link brings no key of this epoch")
    return _committed(AccountId(account), epoch, ek, after)


def _epochs(parsed: Link) -> tuple[int, ...]:
    """The epochs whose keys may travel with a link: the live ones at that link."""
    match parsed.body:
        case Rotate(epoch=epoch):
            return (epoch,)
        case Add(epoch=epoch):
            return (epoch, epoch - 1)
        case _:
            return ()


def _committed(account: AccountId, epoch: int, ek: bytes, chain: Chain) -> EpochKeys:
    commit = chain.commits.get(epoch)
    if commit is None or not equal(commit, commitment(epoch, ek)):
        raise SignatureError("commitment", "the key is not the one that the chain commits to")
    return EpochKeys(account, epoch, ek)


def check_complete(parsed: Link, after: Chain, grants: Iterable[SealedGrant]) -> None:
    """ChainError unless exactly the grants that the link needs came, as it commits to them.

    ROTATE: its epoch for every device active after it. ADD: the current epoch, and at most
    the one before it, for the new device. Others: none (docs/protocol.md, 1.2).
    """
    rows = list(grants)
    got = {(row.recipient_id, row.epoch) for row in rows}
    match parsed.body:
        case Rotate(epoch=epoch, grants_digest=expected):
            wanted = {(device.device_id, epoch) for device in after.active}
            complete = got == wanted
        case Add(cert=cert, epoch=epoch, grants_digest=expected):
            current, previous = (cert.device_id, epoch), (cert.device_id, epoch - 1)
            complete = got in ({current}, {current, previous} if epoch > 1 else {current})
        case _:
            expected, complete = b"", not rows
    if not complete:
        raise ChainError("grants-missing", "missing or surplus grants for this link")
    if expected and not equal(digest(rows), expected):
        raise ChainError("grants-digest", "the grants are not those that the link commits to")
