"""Chains and ops with chosen faults, made by somebody who holds every key of an account."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from crypto import chain as chains, grant, labels, link, op
from crypto.cert import DeviceCert, Role
from crypto.chain import Chain
from crypto.epoch import EpochKeys, commitment
from crypto.grant import SealedGrant
from crypto.heads import Head
from crypto.ids import AccountId, DeviceId, LinkHash, OpHash
from crypto.keys import Identity
from crypto.link import Add, Cut, Genesis, Rebox, Rotate, SignedLink
from crypto.op import Payload, SealedOp, Vector, Verb

NOW_MS = 1_790_000_000_000


def seeded(label: str, size: int = 32) -> bytes:
    """The same bytes for the same label in every run."""
    return hashlib.shake_256(label.encode()).digest(size)


class SeededRand:
    """A source of "random" bytes that repeats itself in every run."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._count = 0

    def __call__(self, size: int) -> bytes:
        self._count += 1
        return seeded(f"{self._seed}/{self._count}", size)


def identity(name: str) -> Identity:
    """The keys of a device with this name."""
    return Identity(seeded(name + "/ik"), seeded(name + "/bk"))


@dataclass
class World:
    """An account as somebody sees it who holds every key: builds links and ops at will."""

    chain: Chain = field(default_factory=chains.Chain)
    links: list[tuple[SignedLink, tuple[SealedGrant, ...]]] = field(default_factory=list)
    people: dict[str, Identity] = field(default_factory=dict)
    keys: dict[int, EpochKeys] = field(default_factory=dict)
    heads: dict[str, tuple[int, OpHash]] = field(default_factory=dict)
    lamport: int = 0

    @classmethod
    def of(cls, *names: str) -> World:
        """An account whose first device is `names[0]`; it adds the others."""
        world = cls()
        first = identity(names[0])
        ek = seeded("ek/1")
        genesis = link.build(first, Genesis(DeviceCert.of(first), commitment(1, ek)))
        world.people[names[0]] = first
        world._take(genesis)
        world.keys[1] = EpochKeys(world.account, 1, ek)
        for name in names[1:]:
            world.add(name)
        return world

    @property
    def account(self) -> AccountId:
        return self.chain.account

    def id(self, name: str) -> DeviceId:
        return self.people[name].device_id

    def index(self, name: str) -> int:
        device = self.chain.find(self.id(name))
        assert device is not None
        return device.index

    def _take(self, signed: SignedLink, grants: tuple[SealedGrant, ...] = ()) -> None:
        self.chain = self.chain.apply(signed)
        self.links.append((signed, grants))

    def _next(self) -> tuple[int, LinkHash]:
        return self.chain.seq + 1, self.chain.head

    def add(self, name: str, *, by: str | None = None, role: Role = Role.FULL) -> SignedLink:
        """ADD of a new device, with the current epoch's grant."""
        new = identity(name)
        self.people[name] = new
        signer = self.people[by or next(iter(self.people))]
        cert = DeviceCert.of(new, role)
        seq, prev = self._next()
        stand_in = chains.Device(
            0, cert.device_id, cert.ik_pk, cert.box_pk, 1, role, seq, signer.device_id
        )
        grants = (
            grant.make(signer, stand_in, self.keys[self.chain.epoch], link_seq=seq, link_prev=prev),
        )
        draft = link.build(
            signer,
            Add(cert, self.chain.epoch, grant.digest(grants)),
            account=self.account,
            seq=seq,
            prev=prev,
        )
        signed = SignedLink(draft.raw, draft.sig, link.prove_possession(new, draft.raw))
        self._take(signed, grants)
        return signed

    def rotate(self, *revoke: str, by: str | None = None) -> SignedLink:
        """ROTATE; the cut of a revoked device is the last op that this world has of it."""
        signer = self.people[by or next(iter(self.people))]
        epoch = self.chain.epoch + 1
        keys = EpochKeys(self.account, epoch, seeded(f"ek/{epoch}"))
        seq, prev = self._next()
        gone = {self.id(name) for name in revoke}
        grants = tuple(
            grant.make(signer, device, keys, link_seq=seq, link_prev=prev)
            for device in self.chain.active
            if device.device_id not in gone
        )
        cuts = tuple(
            Cut(self.id(name), *self.heads.get(name, (0, OpHash(bytes(32))))) for name in revoke
        )
        body = Rotate(epoch, keys.commitment, grant.digest(grants), cuts)
        signed = link.build(signer, body, account=self.account, seq=seq, prev=prev)
        self._take(signed, grants)
        self.keys[epoch] = keys
        return signed

    def rebox(self, name: str) -> SignedLink:
        """REBOX of a device."""
        old = self.chain.find(self.id(name))
        assert old is not None
        new = self.people[name].with_box_key(seeded(f"{name}/bk/{old.box_gen + 1}"))
        seq, prev = self._next()
        signed = link.build(
            new, Rebox(new.box_pk, old.box_gen + 1), account=self.account, seq=seq, prev=prev
        )
        self.people[name] = new
        self._take(signed)
        return signed

    def held(self, *names: str) -> tuple[Head, ...]:
        """The heads of these devices as the world has them."""
        return tuple(
            Head(self.index(name), *self.heads[name])
            for name in sorted(names, key=self.index)
            if name in self.heads
        )

    def op(
        self,
        name: str,
        key: str = "theme",
        value: bytes = b"\x64dark",
        *,
        sees: tuple[str, ...] | None = None,
        collection: str = "ui",
        verb: Verb = Verb.PUT,
        epoch: int | None = None,
        lamport: int | None = None,
        dev_seq: int | None = None,
        prev: OpHash | None = None,
        chain_seq: int | None = None,
        chain_head: LinkHash | None = None,
        vector: Vector | None = None,
        keep: bool = True,
        salt: str = "",
        author: Identity | None = None,
    ) -> SealedOp:
        """The next op of a device (that has seen the heads of `sees`, all by default)."""
        who = author or self.people[name]
        seq, head = self.heads.get(name, (0, op.init_hash(self.account, who.device_id)))
        everybody = tuple(self.heads) if sees is None else (*sees, name)
        at = self.chain.seq if chain_seq is None else chain_seq
        control = verb in (Verb.COVER, Verb.CHECKPOINT)
        lamport = self.lamport + 1 if lamport is None else lamport
        sealed = op.seal(
            who,
            self.keys[self.chain.epoch if epoch is None else epoch],
            Payload(
                verb=verb,
                wall_ms=NOW_MS,
                chain_seq=at,
                chain_head=chain_head
                or (self.chain.hashes[at] if at <= self.chain.seq else LinkHash(bytes(32))),
                vector=vector or Vector.of(self.held(*set(everybody))),
                collection=b"" if control else collection.encode(),
                key=b"" if control else key.encode(),
                value=b"" if verb in (Verb.TOMBSTONE, Verb.COVER) else value,
            ),
            dev_seq=seq + 1 if dev_seq is None else dev_seq,
            prev=head if prev is None else prev,
            lamport=lamport,
            rand=seeded(f"op/{name}/{seq}/{key}/{lamport}/{salt}"),
        )
        if keep:
            self.heads[name] = (sealed.header.dev_seq, sealed.op_hash)
            self.lamport = max(self.lamport, lamport)
        return sealed

    def resign(self, name: str, sealed: SealedOp, header: bytes) -> bytes:
        """The op's ciphertext under another header, signed by a device."""
        assert sealed.ct is not None
        signed = header + op.ct_hash(sealed.ct)
        return header + sealed.ct + self.people[name].sign(labels.OP, signed)

    def each_link(self) -> Iterator[SignedLink]:
        for signed, _ in self.links:
            yield signed
