"""DeviceCert, 76 bytes: what a link says of a device (docs/protocol.md, 1.1)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from crypto.errors import FormatError
from crypto.ids import DeviceId
from crypto.keys import Identity, device_id
from crypto.primitives import need, pack, refuse_low_order

CERT_BYTES = 76
_CERT = struct.Struct(">32s32sIBB6s")
_KEM_X25519_SEALED_BOX = 0


class Role(IntEnum):
    """What a device may do: FULL everything, RECOVERY only ADD and ROTATE."""

    FULL = 1
    RECOVERY = 2


@dataclass(frozen=True, slots=True)
class DeviceCert:
    """Public keys and role of one device."""

    ik_pk: bytes
    box_pk: bytes
    box_gen: int
    role: Role

    @property
    def device_id(self) -> DeviceId:
        """Hash of the identity key."""
        return device_id(self.ik_pk)

    def encode(self) -> bytes:
        """The 76 bytes of the format."""
        return pack(
            _CERT,
            self.ik_pk,
            self.box_pk,
            self.box_gen,
            self.role,
            _KEM_X25519_SEALED_BOX,
            bytes(6),
        )

    @classmethod
    def of(cls, identity: Identity, role: Role = Role.FULL) -> DeviceCert:
        """The certificate of a new device: generation 1."""
        return cls(ik_pk=identity.ik_pk, box_pk=identity.box_pk, box_gen=1, role=role)

    @classmethod
    def decode(cls, data: bytes) -> DeviceCert:
        """Strict: known role and KEM, reserved bytes zero, no low-order box key."""
        need("DeviceCert", data, CERT_BYTES)
        ik_pk, box_pk, box_gen, role, kem, reserved = _CERT.unpack(data)
        if role not in (Role.FULL, Role.RECOVERY):
            raise FormatError("role", "unknown device role")
        if kem != _KEM_X25519_SEALED_BOX:
            raise FormatError("kem", "unknown KEM; there is no fallback")
        if reserved != bytes(6):
            raise FormatError("reserved", "reserved bytes of a DeviceCert must be zero")
        refuse_low_order(box_pk)
        return cls(ik_pk=ik_pk, box_pk=box_pk, box_gen=box_gen, role=Role(role))
