"""The device chain: who belongs to an account, decided by signatures alone.

`Chain` is an immutable value. `apply` either gives the chain with one more link or raises;
the rules are those of docs/protocol.md, 1.2. It knows nothing of the service.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from crypto import labels, link
from crypto.cert import DeviceCert, Role
from crypto.errors import ChainError, FormatError
from crypto.ids import AccountId, DeviceId, LinkHash
from crypto.keys import Recipient
from crypto.link import Add, Cut, Genesis, Link, Rebox, Rotate, SignedLink
from crypto.primitives import verify

DEVICES_EVER_MAX = 255


@dataclass(frozen=True, slots=True)
class Device:
    """A device of the chain, active or revoked. `index` is its order of appearance."""

    index: int
    device_id: DeviceId
    ik_pk: bytes
    box_pk: bytes
    box_gen: int
    role: Role
    added_seq: int
    added_by: DeviceId
    cut: Cut | None = None

    @property
    def active(self) -> bool:
        """Not revoked."""
        return self.cut is None

    @property
    def recipient(self) -> Recipient:
        """Where grants for it are sealed to."""
        return Recipient(self.box_pk)


@dataclass(frozen=True, slots=True)
class Chain:
    """A verified chain. The empty one takes a GENESIS link and nothing else."""

    account_id: AccountId | None = None
    hashes: tuple[LinkHash, ...] = ()
    devices: tuple[Device, ...] = ()
    epoch: int = 0
    commits: Mapping[int, bytes] = field(default_factory=lambda: MappingProxyType({}))
    box_keys: frozenset[bytes] = frozenset()

    @property
    def seq(self) -> int:
        """seq of the newest link; -1 while empty."""
        return len(self.hashes) - 1

    @property
    def head(self) -> LinkHash:
        """Hash of the newest link; ChainError while empty."""
        if not self.hashes:
            raise ChainError("empty", "the chain has no link yet")
        return self.hashes[-1]

    @property
    def account(self) -> AccountId:
        """The account id; ChainError while empty."""
        if self.account_id is None:
            raise ChainError("empty", "the chain has no link yet")
        return self.account_id

    @property
    def active(self) -> tuple[Device, ...]:
        """Active devices, in index order."""
        return tuple(device for device in self.devices if device.active)

    def find(self, device_id: DeviceId) -> Device | None:
        """The device with this id, revoked ones included."""
        for device in self.devices:
            if device.device_id == device_id:
                return device
        return None

    def apply(self, signed: SignedLink) -> Chain:
        """The chain with one more link.

        Raises FormatError (bytes), SignatureError (sig or pop) or ChainError (a rule).
        """
        parsed = link.parse(signed.raw)
        link.check_sizes(signed)
        if signed.pop and not isinstance(parsed.body, Add):
            raise FormatError("pop", "only an ADD link carries a proof of possession")
        if not self.hashes:
            return self._genesis(parsed, signed)
        self._check_place(parsed)
        signer = self._check_signer(parsed, signed)
        match parsed.body:
            case Genesis():
                raise ChainError("second-genesis", "an account has one genesis link")
            case Add():
                after = self._add(parsed, parsed.body, signed.pop)
            case Rotate():
                after = self._rotate(parsed.body, signer)
            case Rebox():
                after = self._rebox(parsed.body, signer)
        return replace(after, hashes=(*self.hashes, parsed.link_hash))

    def _genesis(self, parsed: Link, signed: SignedLink) -> Chain:
        body = parsed.body
        if not isinstance(body, Genesis):
            raise ChainError("no-genesis", "a chain starts with a genesis link")
        if parsed.seq or parsed.prev != bytes(32) or parsed.account_id != bytes(32):
            raise ChainError("genesis-fields", "seq, prev and account of a genesis are zero")
        cert = body.cert
        if cert.role is not Role.FULL or cert.box_gen != 1:
            raise ChainError("genesis-cert", "the first device has role 1 and generation 1")
        if parsed.signer != cert.device_id:
            raise ChainError("signer", "a genesis link is signed by its own device")
        verify(cert.ik_pk, labels.LINK, parsed.raw, signed.sig)
        return Chain(
            account_id=link.account_id(parsed.raw),
            hashes=(parsed.link_hash,),
            devices=(_device(0, cert, 0, parsed.signer),),
            epoch=1,
            commits=MappingProxyType({1: body.ek_commit}),
            box_keys=frozenset((cert.box_pk,)),
        )

    def _check_place(self, parsed: Link) -> None:
        if parsed.seq != self.seq + 1:
            raise ChainError("seq", f"seq is {parsed.seq}, the next one is {self.seq + 1}")
        if parsed.account_id != self.account_id:
            raise ChainError("account", "the link belongs to another account")
        if parsed.prev != self.head:
            raise ChainError("prev", "the link follows another head")

    def _check_signer(self, parsed: Link, signed: SignedLink) -> Device:
        signer = self.find(parsed.signer)
        if signer is None or not signer.active:
            raise ChainError("signer", "the signer is not an active device of the account")
        verify(signer.ik_pk, labels.LINK, parsed.raw, signed.sig)
        return signer

    def _add(self, parsed: Link, body: Add, pop: bytes) -> Chain:
        cert = body.cert
        verify(cert.ik_pk, labels.LINK_POP, parsed.raw, pop)
        if len(self.devices) >= DEVICES_EVER_MAX:
            raise ChainError("devices-ever", f"at most {DEVICES_EVER_MAX} devices ever")
        if body.epoch != self.epoch:
            raise ChainError("epoch", "an ADD names the current epoch")
        if cert.box_gen != 1:
            raise ChainError("box-gen", "a new device has generation 1")
        if self.find(cert.device_id) is not None:
            raise ChainError("device-again", "a device id never repeats")
        self._check_box_key(cert.box_pk)
        device = _device(len(self.devices), cert, parsed.seq, parsed.signer)
        return replace(
            self,
            devices=(*self.devices, device),
            box_keys=self.box_keys | {cert.box_pk},
        )

    def _rotate(self, body: Rotate, signer: Device) -> Chain:
        if body.epoch != self.epoch + 1:
            raise ChainError("epoch", "a ROTATE makes the next epoch")
        cuts = {cut.device_id: cut for cut in body.cuts}
        for device_id in cuts:
            self._check_revocable(device_id, signer)
        devices = tuple(
            replace(device, cut=cuts[device.device_id]) if device.device_id in cuts else device
            for device in self.devices
        )
        if not any(device.active and device.role is Role.FULL for device in devices):
            raise ChainError("last-device", "at least one device with role 1 remains")
        return replace(
            self,
            devices=devices,
            epoch=body.epoch,
            commits=MappingProxyType({**self.commits, body.epoch: body.ek_commit}),
        )

    def _check_revocable(self, device_id: DeviceId, signer: Device) -> None:
        target = self.find(device_id)
        if target is None or not target.active:
            raise ChainError("revoke-unknown", "only an active device can be revoked")
        if target is signer:
            raise ChainError("revoke-self", "a device does not revoke itself")
        if target.role is Role.RECOVERY and signer.role is not Role.RECOVERY:
            # A thief with an unlocked phone must not be able to lock out the paper key.
            raise ChainError("revoke-recovery", "only role 2 revokes a role 2 device")

    def _rebox(self, body: Rebox, signer: Device) -> Chain:
        if signer.role is not Role.FULL:
            raise ChainError("rebox-role", "a recovery key has no new box key")
        if body.box_gen != signer.box_gen + 1:
            raise ChainError("box-gen", "a REBOX makes the next generation")
        self._check_box_key(body.box_pk)
        devices = tuple(
            replace(device, box_pk=body.box_pk, box_gen=body.box_gen)
            if device is signer
            else device
            for device in self.devices
        )
        return replace(self, devices=devices, box_keys=self.box_keys | {body.box_pk})

    def _check_box_key(self, box_pk: bytes) -> None:
        if box_pk in self.box_keys:
            raise ChainError("box-key-again", "a box key never repeats")


EMPTY = Chain()


def _device(index: int, cert: DeviceCert, seq: int, added_by: DeviceId) -> Device:
    return Device(
        index=index,
        device_id=cert.device_id,
        ik_pk=cert.ik_pk,
        box_pk=cert.box_pk,
        box_gen=cert.box_gen,
        role=cert.role,
        added_seq=seq,
        added_by=added_by,
    )
