"""Accounts as their own devices see them: keys, chains and sealed ops from a seed.

Shared by tests. Everything is real cryptography; only the randomness is fixed.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from crypto import grant, link, op
from crypto.cert import DeviceCert, Role
from crypto.chain import EMPTY, Chain, Device
from crypto.epoch import EpochKeys, commitment
from crypto.grant import SealedGrant
from crypto.heads import Head
from crypto.ids import AccountId, DeviceId, OpHash
from crypto.keys import Identity
from crypto.link import Add, Cut, Genesis, Rebox, Rotate, SignedLink
from crypto.op import Payload, SealedOp, Vector, Verb

OP_BYTES_SMALL = op.OP_BYTES_MIN


def identity(rng: random.Random) -> Identity:
    """A device's keys."""
    return Identity(rng.randbytes(32), rng.randbytes(32))


@dataclass(slots=True)
class Author:
    """A device that writes: where its own op chain stands."""

    identity: Identity
    role: Role = Role.FULL
    dev_seq: int = 0
    head: OpHash | None = None

    @property
    def device_id(self) -> DeviceId:
        """Its id."""
        return self.identity.device_id


@dataclass(slots=True)
class Upload:
    """A link on its way to the service, with its grants."""

    link: SignedLink
    grants: tuple[SealedGrant, ...] = ()


@dataclass(slots=True)
class World:
    """One account: every device's keys, the chain, the epoch keys and a lamport clock."""

    rng: random.Random
    chain: Chain
    keys: dict[int, EpochKeys]
    authors: list[Author]
    uploads: list[Upload]
    lamport: int = 0
    heads: dict[int, Head] = field(default_factory=dict)

    @classmethod
    def create(cls, seed: int | str = 0) -> World:
        """A new account with one device."""
        rng = random.Random(f"world {seed}")
        first = identity(rng)
        secret = rng.randbytes(32)
        genesis = link.build(first, Genesis(DeviceCert.of(first), commitment(1, secret)))
        chain = EMPTY.apply(genesis)
        keys = {1: EpochKeys(chain.account, 1, secret)}
        return cls(rng, chain, keys, [Author(first)], [Upload(genesis)])

    @property
    def account_id(self) -> AccountId:
        """The account's id."""
        return self.chain.account

    @property
    def genesis(self) -> SignedLink:
        """The first link."""
        return self.uploads[0].link

    def add(self, role: Role = Role.FULL, *, by: int = 0) -> Upload:
        """One more device, invited by the device with index `by`."""
        new = identity(self.rng)
        cert = DeviceCert.of(new, role)
        grants = (self._grant(by, _newcomer(cert, self.chain), self.chain.epoch),)
        body = Add(cert, self.chain.epoch, grant.digest(grants))
        unproven = self._link(by, body)
        proof = link.prove_possession(new, unproven.raw)
        self.authors.append(Author(new, role))
        return self._append(SignedLink(unproven.raw, unproven.sig, proof), grants)

    def rotate(self, revoke: Iterable[int] = (), *, by: int = 0) -> Upload:
        """A new epoch without the devices with these indices, cut where they stand."""
        gone = set(revoke)
        epoch = self.chain.epoch + 1
        secret = self.rng.randbytes(32)
        self.keys[epoch] = EpochKeys(self.account_id, epoch, secret)
        grants = tuple(
            self._grant(by, device, epoch)
            for device in self.chain.active
            if device.index not in gone
        )
        cuts = tuple(sorted((self._cut(index) for index in gone), key=lambda cut: cut.device_id))
        body = Rotate(epoch, commitment(epoch, secret), grant.digest(grants), cuts)
        return self._append(self._link(by, body), grants)

    def rebox(self, *, by: int = 0) -> Upload:
        """A new box key for one device."""
        author = self.authors[by]
        author.identity = author.identity.with_box_key(self.rng.randbytes(32))
        generation = self.chain.devices[by].box_gen + 1
        return self._append(self._link(by, Rebox(author.identity.box_pk, generation)), ())

    def op(
        self,
        by: int = 0,
        key: str = "theme",
        value: bytes = b"v",
        *,
        verb: Verb = Verb.PUT,
        epoch: int | None = None,
        lamport: int | None = None,
    ) -> SealedOp:
        """The next op of a device; its chain and the lamport clock move on."""
        author = self.authors[by]
        if lamport is None:
            self.lamport += 1
            lamport = self.lamport
        sealed = op.seal(
            author.identity,
            self.keys[epoch or self.chain.epoch],
            self._payload(verb, key, value, by),
            dev_seq=author.dev_seq + 1,
            prev=author.head or op.init_hash(self.account_id, author.device_id),
            lamport=lamport,
            rand=self.rng.randbytes(32),
            bucket=256,
        )
        author.dev_seq += 1
        author.head = sealed.op_hash
        self.heads[by] = Head(by, author.dev_seq, sealed.op_hash)
        return sealed

    def ops(self, count: int, by: int = 0, *, keys: str = "key") -> list[SealedOp]:
        """Puts under as many different keys."""
        return [self.op(by, f"{keys}/{number}") for number in range(count)]

    def cover(self, by: int = 0) -> SealedOp:
        """A heartbeat."""
        return self.op(by, verb=Verb.COVER)

    def fork(self, by: int = 0) -> World:
        """The same account as a clone of this device would go on with it."""
        authors = [Author(a.identity, a.role, a.dev_seq, a.head) for a in self.authors]
        return World(
            random.Random(f"fork {by}"),
            self.chain,
            dict(self.keys),
            authors,
            list(self.uploads),
            self.lamport,
            dict(self.heads),
        )

    def _payload(self, verb: Verb, key: str, value: bytes, by: int) -> Payload:
        control = verb in (Verb.COVER, Verb.CHECKPOINT)
        own = tuple(head for index, head in self.heads.items() if index == by)
        return Payload(
            verb=verb,
            wall_ms=0,
            chain_seq=self.chain.seq,
            chain_head=self.chain.head,
            vector=Vector.of(own),
            collection=b"" if control else b"test",
            key=b"" if control else key.encode(),
            value=b"" if verb in (Verb.TOMBSTONE, Verb.COVER) else value,
        )

    def _grant(self, by: int, device: Device, epoch: int) -> SealedGrant:
        return grant.make(
            self.authors[by].identity,
            device,
            self.keys[epoch],
            link_seq=self.chain.seq + 1,
            link_prev=self.chain.head,
        )

    def _cut(self, index: int) -> Cut:
        author = self.authors[index]
        head = author.head or op.init_hash(self.account_id, author.device_id)
        return Cut(author.device_id, author.dev_seq, head)

    def _link(self, by: int, body: Add | Rotate | Rebox) -> SignedLink:
        return link.build(
            self.authors[by].identity,
            body,
            account=self.account_id,
            seq=self.chain.seq + 1,
            prev=self.chain.head,
        )

    def _append(self, signed: SignedLink, grants: Sequence[SealedGrant]) -> Upload:
        self.chain = self.chain.apply(signed)
        upload = Upload(signed, tuple(grants))
        self.uploads.append(upload)
        return upload


def _newcomer(cert: DeviceCert, chain: Chain) -> Device:
    return Device(
        index=len(chain.devices),
        device_id=cert.device_id,
        ik_pk=cert.ik_pk,
        box_pk=cert.box_pk,
        box_gen=cert.box_gen,
        role=cert.role,
        added_seq=chain.seq + 1,
        added_by=chain.devices[0].device_id,
    )
