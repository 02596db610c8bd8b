"""The account that `pss1.json` tells of: four devices, a paper key, ten links, four epochs.

Everything follows from seeds, so that each run writes the same bytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from client.vectors.sealed import seal_with
from crypto import grant, labels, link, op, recovery
from crypto.cert import DeviceCert, Role
from crypto.chain import Chain
from crypto.checkpoint import Checkpoint, state_hash
from crypto.epoch import EpochKeys, commitment
from crypto.grant import SealedGrant
from crypto.heads import Head
from crypto.ids import DeviceId, OpHash
from crypto.keys import Identity
from crypto.link import Add, Body, Cut, Genesis, Rebox, Rotate, SignedLink
from crypto.op import Payload, SealedOp, Vector, Verb
from crypto.padding import OP_BUCKET

Row = dict[str, Any]
START_MS = 1_790_000_000_000


def seeded(name: str, size: int = 32) -> bytes:
    """The same bytes for the same name, in every run."""
    return hashlib.shake_256(b"rookery vectors/" + name.encode()).digest(size)


def grant_plain(
    sender: Identity,
    recipient_id: DeviceId,
    recipient_pk: bytes,
    keys: EpochKeys,
    *,
    link_seq: int,
    link_prev: bytes,
    head: bytes = b"PSG1\x01\x01\x00\x00",
    label: bytes = labels.GRANT,
) -> bytes:
    """A grant before it is sealed, 244 bytes; `head` and `label` may be wrong on purpose."""
    signed = (
        head
        + keys.account_id
        + keys.epoch.to_bytes(4, "big")
        + sender.device_id
        + recipient_id
        + recipient_pk
        + link_seq.to_bytes(8, "big")
        + link_prev
        + keys.secret
    )
    return signed + sender.sign(label, signed)


@dataclass
class Story:
    """Builds the account link by link and op by op, and writes down each as a row."""

    chain: Chain = field(default_factory=Chain)
    people: dict[str, Identity] = field(default_factory=dict)
    devices: dict[str, Row] = field(default_factory=dict)
    keys: dict[int, EpochKeys] = field(default_factory=dict)
    chains: list[Chain] = field(default_factory=lambda: [Chain()])
    signed: list[SignedLink] = field(default_factory=list)
    links: list[Row] = field(default_factory=list)
    grants: list[Row] = field(default_factory=list)
    ops: dict[str, SealedOp] = field(default_factory=dict)
    payloads: dict[str, Payload] = field(default_factory=dict)
    op_rows: list[Row] = field(default_factory=list)
    heads: dict[str, tuple[int, OpHash]] = field(default_factory=dict)
    lamport: int = 0

    def person(self, name: str, own: Identity | None = None) -> Identity:
        """A new device's keys, made from its name."""
        own = own or Identity(seeded(f"{name}/ik"), seeded(f"{name}/bk"))
        self.people[name] = own
        self.devices[name] = {
            "ik_seed": own.ik_seed.hex(),
            "bk_sk": own.box_sk.hex(),
            "ik_pk": own.ik_pk.hex(),
            "bk_pk": own.box_pk.hex(),
            "device_id": own.device_id.hex(),
        }
        return own

    def name_of(self, device_id: DeviceId) -> str:
        """The name of a device."""
        return next(name for name, own in self.people.items() if own.device_id == device_id)

    def index(self, name: str) -> int:
        """A device's index in the chain."""
        device = self.chain.find(self.people[name].device_id)
        assert device is not None
        return device.index

    def epoch_keys(self, epoch: int) -> EpochKeys:
        """The keys of an epoch, which the story may not have come to yet."""
        if epoch not in self.keys:
            self.keys[epoch] = EpochKeys(self.chain.account, epoch, seeded(f"ek/{epoch}"))
        return self.keys[epoch]

    def draft(self, signer: str, body: Body) -> SignedLink:
        """The next link, signed and without a proof of possession."""
        return link.build(
            self.people[signer],
            body,
            account=self.chain.account,
            seq=self.chain.seq + 1,
            prev=self.chain.head,
        )

    def grant(self, sender: str, to: str, box_pk: bytes, epoch: int) -> SealedGrant:
        """A grant for the next link, sealed with a chosen ephemeral key."""
        seq, prev = self.chain.seq + 1, self.chain.head
        recipient, keys = self.people[to], self.epoch_keys(epoch)
        plain = grant_plain(
            self.people[sender],
            recipient.device_id,
            box_pk,
            keys,
            link_seq=seq,
            link_prev=prev,
        )
        esk = seeded(f"esk/{seq}/{to}/{epoch}")
        sealed = seal_with(esk, box_pk, plain)
        self.grants.append(
            {
                "link_seq": seq,
                "sender": sender,
                "recipient": to,
                "epoch": epoch,
                "esk": esk.hex(),
                "plain": plain.hex(),
                "sealed": sealed.hex(),
                "ek": keys.secret.hex(),
            }
        )
        return SealedGrant(recipient.device_id, epoch, sealed)

    def take(self, signed: SignedLink) -> None:
        """Applies a link and writes it down."""
        self.chain = self.chain.apply(signed)
        self.chains.append(self.chain)
        self.signed.append(signed)
        body = link.parse(signed.raw).body
        row: Row = {
            "link": signed.raw.hex(),
            "sig": signed.sig.hex(),
            "pop": signed.pop.hex(),
            "link_hash": self.chain.head.hex(),
            "active": [device.device_id.hex() for device in self.chain.active],
            "epoch": self.chain.epoch,
            "type": type(body).__name__.upper(),
        }
        if isinstance(body, Add | Rotate):
            row["grants_digest"] = body.grants_digest.hex()
        self.links.append(row)

    def genesis(self, name: str) -> None:
        """The first device makes the account."""
        own = self.person(name)
        ek = seeded("ek/1")
        self.take(link.build(own, Genesis(DeviceCert.of(own), commitment(1, ek))))
        self.epoch_keys(1)

    def add(self, name: str, *, by: str, role: Role = Role.FULL, epochs: tuple[int, ...]) -> None:
        """A new device, with grants of one or two epochs."""
        own = self.people.get(name) or self.person(name)
        rows = [self.grant(by, name, own.box_pk, epoch) for epoch in epochs]
        body = Add(DeviceCert.of(own, role), self.chain.epoch, grant.digest(rows))
        draft = self.draft(by, body)
        signed = SignedLink(draft.raw, draft.sig, link.prove_possession(own, draft.raw))
        self.take(signed)
        grant.check_complete(link.parse(signed.raw), self.chain, rows)

    def rebox(self, name: str) -> None:
        """A device's new box key."""
        device = self.chain.find(self.people[name].device_id)
        assert device is not None
        gen = device.box_gen + 1
        own = self.people[name].with_box_key(seeded(f"{name}/bk/{gen}"))
        self.people[name] = own
        self.devices[name][f"bk_sk_gen{gen}"] = own.box_sk.hex()
        self.devices[name][f"bk_pk_gen{gen}"] = own.box_pk.hex()
        self.take(self.draft(name, Rebox(own.box_pk, gen)))

    def rotate(self, by: str, *, cuts: dict[str, str] | None = None) -> None:
        """A new epoch; `cuts` says which op is each revoked device's last."""
        epoch = self.chain.epoch + 1
        gone = {self.people[name].device_id for name in cuts or ()}
        rows = [
            self.grant(by, self.name_of(device.device_id), device.box_pk, epoch)
            for device in self.chain.active
            if device.device_id not in gone
        ]
        body = Rotate(
            epoch,
            self.keys[epoch].commitment,
            grant.digest(rows),
            tuple(
                Cut(
                    self.people[name].device_id,
                    self.ops[last].header.dev_seq,
                    self.ops[last].op_hash,
                )
                for name, last in (cuts or {}).items()
            ),
        )
        self.take(self.draft(by, body))

    def vector(self) -> list[Head]:
        """The heads of everything written so far."""
        return [Head(self.index(name), *self.heads[name]) for name in self.heads]

    def payload(self, verb: Verb, name: tuple[bytes, bytes], value: bytes) -> Payload:
        """A payload of somebody who holds everything written so far."""
        return Payload(
            verb=verb,
            wall_ms=START_MS + self.lamport,
            chain_seq=self.chain.seq,
            chain_head=self.chain.head,
            vector=Vector.of(tuple(self.vector())),
            collection=name[0],
            key=name[1],
            value=value,
        )

    def place(self, author: str) -> tuple[int, OpHash]:
        """(dev_seq, prev) of an author's next op."""
        own = self.people[author]
        seq, prev = self.heads.get(author, (0, op.init_hash(self.chain.account, own.device_id)))
        return seq + 1, prev

    def write(
        self,
        name: str,
        author: str,
        verb: Verb = Verb.PUT,
        record: tuple[bytes, bytes] = (b"", b""),
        value: bytes = b"",
        *,
        bucket: int = OP_BUCKET,
    ) -> None:
        """The author's next op, written down with all that goes into it."""
        self.lamport += 1
        payload, held = self.payload(verb, record, value), self.vector()
        dev_seq, prev = self.place(author)
        rand, epoch = seeded(f"rnd/{name}"), self.chain.epoch
        sealed = op.seal(
            self.people[author],
            self.keys[epoch],
            payload,
            dev_seq=dev_seq,
            prev=prev,
            lamport=self.lamport,
            rand=rand,
            bucket=bucket,
        )
        assert sealed.ct is not None
        self.ops[name], self.payloads[name] = sealed, payload
        self.heads[author] = dev_seq, sealed.op_hash
        self.op_rows.append(
            {
                "name": name,
                "author": author,
                "epoch": epoch,
                "kind": sealed.header.kind,
                "dev_seq": dev_seq,
                "lamport": self.lamport,
                "verb": int(verb),
                "wall": payload.wall_ms,
                "chain_seq": payload.chain_seq,
                "chain_head": payload.chain_head.hex(),
                "vec": [[row.device_index, row.seq, row.op_hash.hex()] for row in sorted(held)],
                "collection": record[0].hex(),
                "key": record[1].hex(),
                "value": value.hex(),
                "rnd": rand.hex(),
                "plain": op.encode_payload(payload).hex(),
                "tag": sealed.header.tag.hex(),
                **inline(sealed),
                "op_hash": sealed.op_hash.hex(),
                "stub": sealed.stub.hex(),
            }
        )

    def checkpoint(self) -> Checkpoint:
        """A checkpoint of everything written so far."""
        winners = {
            sealed.header.tag: sealed.op_hash
            for sealed in sorted(self.ops.values(), key=lambda sealed: sealed.order)
            if sealed.header.kind == op.Kind.RECORD and sealed.header.epoch == self.chain.epoch
        }
        count, digest = state_hash(winners.items())
        return Checkpoint(self.chain.epoch, tuple(sorted(self.vector())), count, digest)


def inline(sealed: SealedOp) -> Row:
    """header, ct and sig of an op."""
    assert sealed.ct is not None
    return {
        "header": sealed.raw[: op.HEADER_BYTES].hex(),
        "ct": sealed.ct.hex(),
        "sig": sealed.sig.hex(),
    }


def tell() -> Story:
    """The whole story."""
    story = Story()
    story.genesis("A")
    story.add("B", by="A", epochs=(1,))
    story.person("R", recovery.identity(seeded("r20", 20)))
    story.add("R", by="A", role=Role.RECOVERY, epochs=(1,))
    story.rebox("A")
    _epoch_one(story)
    story.rotate("A")
    story.add("C", by="B", epochs=(1, 2))
    _epoch_two(story)
    story.rebox("B")
    story.rotate("A", cuts={"C": "C2"})
    story.heads["C"] = 2, story.ops["C2"].op_hash
    story.write("B4", "B", record=(b"music", b"pieces"), value=seeded("v/B4", 9000), bucket=16384)
    story.write("A6", "A", record=(b"text", b"long"), value=seeded("v/A6", 17000), bucket=32768)
    story.add("D", by="R", epochs=(3,))
    story.rotate("R", cuts={"B": "B4"})
    story.write("D1", "D", record=(b"ui", b"theme"), value=b"sepia")
    story.write("D2", "D", Verb.COVER)
    story.write("A7", "A", Verb.TOMBSTONE, (b"music", b"pieces"))
    return story


def _epoch_one(story: Story) -> None:
    story.write("A1", "A", record=(b"ui", b"theme"), value=b"dark")
    story.write("B1", "B", record=(b"ui", b"theme"), value=b"light")
    story.write("A2", "A", Verb.TOMBSTONE, (b"ui", b"theme"))
    story.write("B2", "B", record=(b"genre", b"jazz#1"), value=b"\x19\x01\x00", bucket=256)
    story.write("A3", "A", Verb.COVER)


def _epoch_two(story: Story) -> None:
    story.write("A4", "A", record=(b"ui", b"palette"), value=seeded("v/A4", 600), bucket=1024)
    story.write("C1", "C", record=(b"ui", b"icon"), value=seeded("v/C1", 1200), bucket=2048)
    story.write("B3", "B", record=(b"a" * 128, b"0" * 128), value=seeded("v/B3", 2000), bucket=4096)
    story.write("A5", "A", Verb.CHECKPOINT, value=story.checkpoint().encode())
    story.write("C2", "C", record=(b"ui", b"image"), value=seeded("v/C2", 5000), bucket=8192)
    story.write("C3", "C", record=(b"ui", b"theme"), value=b"beyond the cut")


@cache
def story() -> Story:
    """The same account for all who only read it: ten links and four epochs."""
    return tell()
