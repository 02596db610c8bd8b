"""Links that must be refused, each named for the rule that it breaks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from crypto import labels, link
from crypto.cert import DeviceCert, Role
from crypto.epoch import commitment
from crypto.ids import AccountId, LinkHash, OpHash
from crypto.keys import Identity, device_id
from crypto.link import Add, Body, Cut, Genesis, Rebox, Rotate, SignedLink
from tests.vectors.story import Row, Story, seeded

DIGEST = bytes(32)
LOW_ORDER = {
    "zero": bytes(32),
    "one": b"\1" + bytes(31),
    "order 8": bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    "p": bytes.fromhex("ed" + "ff" * 30 + "7f"),
    "p plus 1": bytes.fromhex("ee" + "ff" * 30 + "7f"),
}


def row(name: str, prefix: int, why: str, signed: SignedLink) -> Row:
    """A negative about one link."""
    return {
        "name": f"chain: {name}",
        "kind": "chain",
        "expect": "reject",
        "why": why,
        "prefix": prefix,
        "link": signed.raw.hex(),
        "sig": signed.sig.hex(),
        "pop": signed.pop.hex(),
    }


class Builder:
    """Builds the link that would come next after `prefix` links, with chosen faults."""

    def __init__(self, story: Story, prefix: int) -> None:
        self.story = story
        self.prefix = prefix
        self.chain = story.chains[prefix]

    def next(
        self,
        signer: Identity,
        body: Body,
        *,
        account: AccountId | None = None,
        seq: int | None = None,
        prev: LinkHash | None = None,
    ) -> SignedLink:
        """A link that is right but for the arguments."""
        return link.build(
            signer,
            body,
            account=account or self.chain.account,
            seq=self.chain.seq + 1 if seq is None else seq,
            prev=prev or self.chain.head,
        )

    def add(self, signer: Identity, new: Identity, cert: DeviceCert | None = None) -> SignedLink:
        """An ADD with its proof of possession."""
        body = Add(cert or DeviceCert.of(new), self.chain.epoch, DIGEST)
        return proved(self.next(signer, body), new)

    def rotate(self, signer: Identity, *cuts: Cut, epoch: int | None = None) -> SignedLink:
        """A ROTATE with these cuts."""
        to = epoch or self.chain.epoch + 1
        return self.next(signer, Rotate(to, commitment(to, bytes(32)), DIGEST, cuts))


def proved(signed: SignedLink, new: Identity) -> SignedLink:
    """The link with the new device's proof of possession."""
    return replace(signed, pop=link.prove_possession(new, signed.raw))


def resigned(signer: Identity, signed: SignedLink, raw: bytes, new: Identity) -> SignedLink:
    """Other bytes, signed and proved again."""
    pop = link.prove_possession(new, raw) if signed.pop else b""
    return SignedLink(raw, signer.sign(labels.LINK, raw), pop)


def ghost() -> Identity:
    """A device that nobody added."""
    return Identity(seeded("ghost/ik"), seeded("ghost/bk"))


def negatives(story: Story) -> Iterator[Row]:
    """All of them."""
    yield from _genesis(story)
    yield from _form(story)
    yield from _place(story)
    yield from _signer(story)
    yield from _add(story)
    yield from _rotate(story)
    yield from _rebox(story)


def _genesis(story: Story) -> Iterator[Row]:
    own, other = story.people["A"], story.people["B"]
    commit = commitment(1, seeded("ek/1"))
    true = story.signed[0]
    yield row("second genesis", 1, "second genesis", true)
    yield row("starts with an ADD", 0, "no genesis", story.signed[1])
    cert = DeviceCert.of(own)
    cases = {
        "genesis with seq 1": link.build(own, Genesis(cert, commit), seq=1),
        "genesis with prev": link.build(own, Genesis(cert, commit), prev=LinkHash(b"\1" * 32)),
        "genesis with account": link.build(
            own, Genesis(cert, commit), account=AccountId(b"\1" * 32)
        ),
        "genesis of a recovery key": link.build(
            own, Genesis(DeviceCert.of(own, Role.RECOVERY), commit)
        ),
        "genesis with generation 2": link.build(own, Genesis(replace(cert, box_gen=2), commit)),
        "genesis of another device than the signer": link.build(
            own, Genesis(DeviceCert.of(other), commit)
        ),
        "genesis with epoch 2": _at(own, true, 172, b"\0\0\0\2"),
        "genesis signature zero": replace(true, sig=bytes(64)),
        "genesis signed by another": replace(true, sig=other.sign(labels.LINK, true.raw)),
        "genesis with a pop": replace(true, pop=own.sign(labels.LINK_POP, true.raw)),
    }
    for name, signed in cases.items():
        yield row(name, 0, "genesis", signed)
    # Every signature (R = identity, S = 0) holds under a key of small order where a
    # verifier follows another rule than libsodium's.
    small = b"\1" + bytes(31)
    raw = bytearray(true.raw)
    raw[96:128] = small
    raw[80:96] = device_id(small)
    yield row(
        "genesis with an identity key of small order",
        0,
        "small order",
        SignedLink(bytes(raw), small + bytes(32)),
    )


def _at(signer: Identity, signed: SignedLink, at: int, data: bytes) -> SignedLink:
    raw = signed.raw[:at] + data + signed.raw[at + len(data) :]
    return SignedLink(raw, signer.sign(labels.LINK, raw), signed.pop)


def _form(story: Story) -> Iterator[Row]:
    own, true = story.people["A"], story.signed[1]
    new = story.people["B"].with_box_key(seeded("B/bk"))
    cases = {
        "other magic": (0, b"PSL2"),
        "suite 0": (4, b"\0"),
        "unknown suite 2": (4, b"\2"),
        "type 0": (5, b"\0"),
        "type 5": (5, b"\5"),
        "type of another link": (5, b"\4"),
        "flags set": (6, b"\0\1"),
        "role 0": (164, b"\0"),
        "role 3": (164, b"\3"),
        "unknown KEM": (165, b"\1"),
        "reserved byte set": (171, b"\1"),
    }
    for name, (at, value) in cases.items():
        raw = true.raw[:at] + value + true.raw[at + len(value) :]
        yield row(name, 1, "form", resigned(own, true, raw, new))
    for cut in (0, 95, 96, 207):
        yield row(f"cut off after {cut}", 1, "form", resigned(own, true, true.raw[:cut], new))
    yield row("prolonged", 1, "form", resigned(own, true, true.raw + b"\0", new))


def _place(story: Story) -> Iterator[Row]:
    b, own = Builder(story, 5), story.people["A"]
    new = ghost()
    add = Add(DeviceCert.of(new), b.chain.epoch, DIGEST)
    cases = {
        "seq repeated": b.next(own, add, seq=b.chain.seq),
        "seq skipped": b.next(own, add, seq=b.chain.seq + 2),
        "prev of an older link": b.next(own, add, prev=b.chain.hashes[-2]),
        "prev of nothing": b.next(own, add, prev=LinkHash(bytes(32))),
        "another account": b.next(own, add, account=AccountId(b"\1" * 32)),
    }
    for name, signed in cases.items():
        yield row(name, 5, "place", proved(signed, new))
    yield row("link replayed", 5, "seq", story.signed[4])
    yield row("link left out", 5, "seq", story.signed[6])


def _signer(story: Story) -> Iterator[Row]:
    b, own, new = Builder(story, 5), story.people["A"], ghost()
    true = b.add(own, new)
    yield row("ghost device signs itself in", 5, "signer", b.add(new, new))
    cases = {
        "signature missing": b"",
        "signature cut off": true.sig[:-1],
        "signature zero": bytes(64),
        "signed by another device": story.people["B"].sign(labels.LINK, true.raw),
        "signed by the new device": new.sign(labels.LINK, true.raw),
        "signed under the label of proofs": own.sign(labels.LINK_POP, true.raw),
        "signed under the label of ops": own.sign(labels.OP, true.raw),
    }
    for name, sig in cases.items():
        yield row(name, 5, "signature", replace(true, sig=sig))
    after = Builder(story, 8)
    yield row("revoked device adds", 8, "signer", after.add(story.people["C"], new))
    yield row("revoked device rotates", 8, "signer", after.rotate(story.people["C"]))


def _add(story: Story) -> Iterator[Row]:
    b, own, new = Builder(story, 5), story.people["A"], ghost()
    true = b.add(own, new)
    pops = {
        "proof of possession missing": b"",
        "proof of possession cut off": true.pop[:-1],
        "proof of possession by the adder": own.sign(labels.LINK_POP, true.raw),
        "proof of possession under the label of links": new.sign(labels.LINK, true.raw),
        "proof of possession over another link": new.sign(labels.LINK_POP, story.signed[1].raw),
    }
    for name, pop in pops.items():
        yield row(name, 5, "pop", replace(true, pop=pop))
    for epoch in (0, 1, 3):
        draft = b.next(own, Add(DeviceCert.of(new), epoch, DIGEST))
        yield row(f"ADD names epoch {epoch}", 5, "epoch", proved(draft, new))
    for gen in (0, 2):
        cert = replace(DeviceCert.of(new), box_gen=gen)
        yield row(f"new device with generation {gen}", 5, "box-gen", b.add(own, new, cert))
    again = story.people["B"].with_box_key(seeded("another bk"))
    yield row("active device added again", 5, "device-again", b.add(own, again))
    revoked = story.people["C"].with_box_key(seeded("another bk"))
    yield row("revoked device added again", 8, "device-again", Builder(story, 8).add(own, revoked))
    for whose, name in (("B/bk", "another device's"), ("A/bk", "a replaced")):
        cert = DeviceCert.of(new.with_box_key(seeded(whose)))
        yield row(f"new device with {name} box key", 5, "box-key-again", b.add(own, new, cert))
    cert = DeviceCert.of(new.with_box_key(seeded("C/bk")))
    yield row(
        "new device with a revoked box key",
        8,
        "box-key-again",
        Builder(story, 8).add(own, new, cert),
    )
    for name, point in LOW_ORDER.items():
        cert = replace(DeviceCert.of(new), box_pk=point)
        yield row(f"box key of low order: {name}", 5, "low order", b.add(own, new, cert))


def _rotate(story: Story) -> Iterator[Row]:
    b, own, paper = Builder(story, 6), story.people["A"], story.people["R"]
    cuts = {name: Cut(story.people[name].device_id, 0, OpHash(bytes(32))) for name in "ABCR"}
    ghost_cut = Cut(ghost().device_id, 0, OpHash(bytes(32)))
    for epoch in (1, 2, 4):
        yield row(f"ROTATE to epoch {epoch}", 6, "epoch", b.rotate(own, epoch=epoch))
    yield row("revokes itself", 6, "revoke-self", b.rotate(own, cuts["A"]))
    yield row("revokes the recovery key", 6, "revoke-recovery", b.rotate(own, cuts["R"]))
    yield row("revokes a ghost", 6, "revoke-unknown", b.rotate(own, ghost_cut))
    yield row("recovery key revokes itself", 6, "revoke-self", b.rotate(paper, cuts["R"]))
    after = Builder(story, 8)
    yield row("revokes a revoked device", 8, "revoke-unknown", after.rotate(own, cuts["C"]))
    last = b.rotate(paper, cuts["A"], cuts["B"], cuts["C"])
    yield row("no full device remains", 6, "last-device", last)
    two = b.rotate(own, cuts["B"], cuts["C"])
    rows = two.raw[165:221], two.raw[221:277]
    for name, raw in {
        "cuts descending": two.raw[:165] + rows[1] + rows[0],
        "a device cut twice": two.raw[:165] + rows[0] + rows[0],
        "more cuts announced than there are": two.raw[:164] + b"\3" + two.raw[165:],
        "fewer cuts announced than there are": two.raw[:164] + b"\1" + two.raw[165:],
        "ROTATE cut off": two.raw[:164],
    }.items():
        yield row(name, 6, "form", resigned(own, two, raw, own))
    rotate = story.signed[4]
    with_pop = replace(rotate, pop=own.sign(labels.LINK_POP, rotate.raw))
    yield row("ROTATE with a pop", 4, "pop", with_pop)


def _rebox(story: Story) -> Iterator[Row]:
    b, own, paper = Builder(story, 6), story.people["A"], story.people["R"]
    fresh = ghost().box_pk
    for gen in (0, 1, 2, 4):
        yield row(f"REBOX to generation {gen}", 6, "box-gen", b.next(own, Rebox(fresh, gen)))
    yield row("REBOX of the recovery key", 6, "rebox-role", b.next(paper, Rebox(fresh, 2)))
    for name, box_pk in {
        "its own": story.people["A"].box_pk,
        "its old": own.with_box_key(seeded("A/bk")).box_pk,
        "another's": story.people["C"].box_pk,
    }.items():
        yield row(f"REBOX to {name} box key", 6, "box-key-again", b.next(own, Rebox(box_pk, 3)))
    for name, point in LOW_ORDER.items():
        yield row(f"REBOX of low order: {name}", 6, "low order", b.next(own, Rebox(point, 3)))
    revoked = Builder(story, 8).next(story.people["C"], Rebox(fresh, 2))
    yield row("REBOX of a revoked device", 8, "signer", revoked)
