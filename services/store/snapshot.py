"""A verified chain as bytes, so that a backend need not verify it again to know it.

Only what `Chain.apply` gave goes in; the bytes never leave the backend's own storage and are
as trustworthy as that. Clients verify the links themselves.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from types import MappingProxyType

from crypto.cert import Role
from crypto.chain import Chain, Device
from crypto.ids import AccountId, DeviceId, LinkHash, OpHash
from crypto.link import Cut

_VERSION = 1
_HEAD = struct.Struct(">B32sIHHHI")
"""version, account, epoch, devices, commits, box keys, link hashes"""
_DEVICE = struct.Struct(">16s32s32sIBQ16sBQ32s")
"""id, ik_pk, box_pk, box_gen, role, added_seq, added_by, cut or not, cut's seq and hash"""
_COMMIT = struct.Struct(">I32s")
_NO_CUT = (0, 0, bytes(32))


def encode(chain: Chain) -> bytes:
    """The chain without its links' signatures."""
    head = _HEAD.pack(
        _VERSION,
        chain.account,
        chain.epoch,
        len(chain.devices),
        len(chain.commits),
        len(chain.box_keys),
        len(chain.hashes),
    )
    return b"".join(
        (
            head,
            *map(_pack_device, chain.devices),
            *(_COMMIT.pack(epoch, commit) for epoch, commit in sorted(chain.commits.items())),
            *sorted(chain.box_keys),
            *chain.hashes,
        )
    )


def decode(data: bytes) -> Chain:
    """What `encode` was given. ValueError for a version that it doesn't know."""
    version, account, epoch, devices, commits, box_keys, links = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise ValueError(f"a chain snapshot of version {version} is unknown")
    ends = [_HEAD.size]
    for size in (devices * _DEVICE.size, commits * _COMMIT.size, box_keys * 32, links * 32):
        ends.append(ends[-1] + size)
    rows, pairs, keys, hashes = (data[start:end] for start, end in pairwise(ends))
    return Chain(
        account_id=AccountId(account),
        hashes=tuple(LinkHash(hashes[at : at + 32]) for at in range(0, len(hashes), 32)),
        devices=tuple(
            _unpack_device(index, row) for index, row in enumerate(_DEVICE.iter_unpack(rows))
        ),
        epoch=epoch,
        commits=MappingProxyType(dict(_COMMIT.iter_unpack(pairs))),
        box_keys=frozenset(keys[at : at + 32] for at in range(0, len(keys), 32)),
    )


def _pack_device(device: Device) -> bytes:
    cut = device.cut
    return _DEVICE.pack(
        device.device_id,
        device.ik_pk,
        device.box_pk,
        device.box_gen,
        device.role,
        device.added_seq,
        device.added_by,
        *(_NO_CUT if cut is None else (1, cut.seq, cut.op_hash)),
    )


def _unpack_device(
    index: int, row: tuple[bytes, bytes, bytes, int, int, int, bytes, int, int, bytes]
) -> Device:
    raw_id, ik_pk, box_pk, box_gen, role, added_seq, added_by, is_cut, cut_seq, cut_hash = row
    device_id = DeviceId(raw_id)
    return Device(
        index=index,
        device_id=device_id,
        ik_pk=ik_pk,
        box_pk=box_pk,
        box_gen=box_gen,
        role=Role(role),
        added_seq=added_seq,
        added_by=DeviceId(added_by),
        cut=Cut(device_id, cut_seq, OpHash(cut_hash)) if is_cut else None,
    )
