"""Ops that must be refused, each named for what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from crypto import heads, labels, names, op
from crypto.epoch import EpochKeys
from crypto.heads import Head
from crypto.ids import OpHash
from crypto.keys import Identity
from crypto.op import Kind, Payload, SealedOp, Vector, Verb
from crypto.padding import pad
from crypto.primitives import aead_seal, prf
from tests.vectors.story import Row, Story, seeded

ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
FIELDS = {
    "magic": (0, 4),
    "suite": (4, 5),
    "kind": (5, 6),
    "flags": (6, 8),
    "account": (8, 40),
    "epoch": (40, 44),
    "device": (44, 60),
    "dev_seq": (60, 68),
    "prev": (68, 100),
    "lamport": (100, 108),
    "tag": (108, 124),
    "nonce": (124, 148),
    "kc": (148, 180),
    "length": (180, 184),
}


def row(name: str, kind: str, why: str, parts: tuple[bytes, bytes, bytes], author: str) -> Row:
    """A negative about one op."""
    header, ct, sig = parts
    return {
        "name": f"op: {name}",
        "kind": kind,
        "expect": "reject",
        "why": why,
        "header": header.hex(),
        "ct": ct.hex(),
        "sig": sig.hex(),
        "author": author,
        "epoch": 1,
    }


def split(sealed: SealedOp) -> tuple[bytes, bytes, bytes]:
    """header, ct, sig."""
    assert sealed.ct is not None
    return sealed.raw[: op.HEADER_BYTES], sealed.ct, sealed.sig


def put(header: bytes, **fields: bytes) -> bytes:
    """The header with some fields replaced."""
    out = bytearray(header)
    for name, value in fields.items():
        start, end = FIELDS[name]
        assert len(value) == end - start, name
        out[start:end] = value
    return bytes(out)


def signed(
    author: Identity, header: bytes, ct: bytes, label: bytes = labels.OP
) -> tuple[bytes, bytes, bytes]:
    """header and ct with the author's signature."""
    return header, ct, author.sign(label, header + op.ct_hash(ct))


def forge(
    author: Identity,
    keys: EpochKeys,
    header: bytes,
    padded: bytes,
) -> tuple[bytes, bytes, bytes]:
    """Seals any padded bytes under any header, correctly keyed, committed and signed."""
    header = put(header, length=(len(padded) + 16).to_bytes(4, "big"))
    okm = prf(keys.record, labels.OP_KEY, header[:148], 64)
    header = put(header, kc=okm[32:])
    return signed(author, header, aead_seal(okm[:32], header[124:148], header, padded))


def negatives(story: Story) -> Iterator[Row]:
    """All of them."""
    yield from _form(story)
    yield from _signature(story)
    yield from _altered_and_signed_again(story)
    yield from _swapped(story)
    yield from _content(story)
    yield from _history(story)
    for name in ("B2", "A1"):
        sealed = story.ops[name]
        yield row(f"any bit of {name} flipped", "op-bitflip", "each bit", split(sealed), name[0])


def _form(story: Story) -> Iterator[Row]:
    """Bytes out of form, though the author signed them."""
    header, ct, _ = split(story.ops["A1"])
    own = story.people["A"]
    changes: dict[str, dict[str, bytes]] = {
        "other magic": {"magic": b"PSO2"},
        "suite 0": {"suite": b"\0"},
        "unknown suite 2": {"suite": b"\2"},
        "kind 0": {"kind": b"\0"},
        "kind 3": {"kind": b"\3"},
        "first flag set": {"flags": b"\x80\0"},
        "last flag set": {"flags": b"\0\1"},
        "epoch 0": {"epoch": bytes(4)},
        "dev_seq 0": {"dev_seq": bytes(8)},
        "lamport 0": {"lamport": bytes(8)},
        "length field too small": {"length": (272).to_bytes(4, "big")},
        "length field too large": {"length": (1040).to_bytes(4, "big")},
        "length field zero": {"length": bytes(4)},
    }
    for name, fields in changes.items():
        yield row(name, "op-server", "form", signed(own, put(header, **fields), ct), "A")
    for size in (0, 15, 16, 255, 257, 300, 511, 32769):
        odd = seeded(f"odd/{size}", size)
        sized = put(header, length=size.to_bytes(4, "big"))
        yield row(
            f"ciphertext of {size} bytes", "op-server", "bucket", signed(own, sized, odd), "A"
        )
    yield row("ciphertext cut off", "op-server", "length", signed(own, header, ct[:-1]), "A")
    yield row("ciphertext prolonged", "op-server", "length", signed(own, header, ct + b"\0"), "A")
    _, _, sig = split(story.ops["A1"])
    yield row("header cut off", "op-server", "length", (header[:-1], ct, sig), "A")
    yield row("signature cut off", "op-server", "length", (header, ct, sig[:-1]), "A")
    yield row("signature missing", "op-server", "length", (header, ct, b""), "A")
    yield row("nothing at all", "op-server", "length", (b"", b"", b""), "A")
    bounds_moved = (header + ct[:1], ct[1:], sig)
    yield row("bounds of header and ciphertext moved", "op-server", "length", bounds_moved, "A")


def _signature(story: Story) -> Iterator[Row]:
    """Signatures that are not the author's over this op."""
    header, ct, sig = split(story.ops["A1"])
    own, other = story.people["A"], story.people["B"]
    s_plus_order = (int.from_bytes(sig[32:], "little") + ED25519_ORDER).to_bytes(32, "little")
    cases = {
        "signed by another device": other.sign(labels.OP, header + op.ct_hash(ct)),
        "signed under the label of links": own.sign(labels.LINK, header + op.ct_hash(ct)),
        "signed under the label of requests": own.sign(labels.REQUEST, header + op.ct_hash(ct)),
        "signed over the header alone": own.sign(labels.OP, header),
        "signed over ciphertext instead of its hash": own.sign(labels.OP, header + ct),
        "signature of another op": split(story.ops["A2"])[2],
        "signature all zero": bytes(64),
        "signature with S plus the group order": sig[:32] + s_plus_order,
        "signature halves swapped": sig[32:] + sig[:32],
    }
    for name, bad in cases.items():
        yield row(name, "op-server", "signature", (header, ct, bad), "A")
    yield row("attributed to another device", "op-server", "author", (header, ct, sig), "B")
    paper = story.people["R"]
    init = op.init_hash(story.chain.account, paper.device_id)
    fields = {"device": bytes(paper.device_id), "prev": bytes(init), "dev_seq": _u64(1)}
    parts = signed(paper, put(header, **fields), ct)
    yield row("written by the recovery key", "op-server", "role", parts, "R")


def _u64(value: int) -> bytes:
    return value.to_bytes(8, "big")


def _altered_and_signed_again(story: Story) -> Iterator[Row]:
    """The author itself signs an altered header: the key commitment or the AEAD must refuse."""
    header, ct, _ = split(story.ops["A2"])
    own = story.people["A"]
    changes = {
        "account": b"\x55" + header[9:40],
        "epoch": (2).to_bytes(4, "big"),
        "kind": b"\2",
        "dev_seq": _u64(3),
        "prev": bytes(story.ops["B1"].op_hash),
        "lamport": _u64(4),
        "tag": bytes(names.tag(story.keys[1], b"ui", b"palette")),
        "nonce": header[124:147] + bytes((header[147] ^ 1,)),
        "kc": bytes(32),
    }
    for name, value in changes.items():
        parts = signed(own, put(header, **{name: value}), ct)
        yield row(f"{name} altered and signed again", "op-client", "commitment", parts, "A")
    flipped = bytes((ct[0] ^ 1,)) + ct[1:]
    parts = signed(own, header, flipped)
    yield row("ciphertext altered and signed again", "op-client", "AEAD", parts, "A")
    zeros = signed(own, header, bytes(len(ct)))
    yield row("ciphertext all zero and signed again", "op-client", "AEAD", zeros, "A")
    shorter = put(header, length=(272).to_bytes(4, "big"))
    parts = signed(own, shorter, ct[:272])
    yield row("ciphertext shortened to a bucket and signed again", "op-client", "AEAD", parts, "A")


def _swapped(story: Story) -> Iterator[Row]:
    """True ciphertext in another's place."""
    header, ct, _ = split(story.ops["A1"])
    thief = story.people["B"]
    init = bytes(op.init_hash(story.chain.account, thief.device_id))
    stolen = put(header, device=bytes(thief.device_id), prev=init)
    parts = signed(thief, stolen, ct)
    yield row("stolen ciphertext re-attributed", "op-client", "author in key", parts, "B")
    _, other_ct, _ = split(story.ops["A3"])
    parts = signed(story.people["A"], header, other_ct)
    yield row("ciphertext of another op", "op-client", "commitment", parts, "A")
    forged = forge(story.people["A"], story.keys[2], header, _padded(story, "A1"))
    yield row("sealed with another epoch's key", "op-client", "commitment", forged, "A")
    late = split(story.ops["A7"])
    yield row("of an epoch whose key is not at hand", "op-client", "epoch", late, "A")
    forged = forge(
        story.people["A"], story.keys[1], put(header, epoch=b"\0\0\0\2"), _padded(story, "A1")
    )
    yield row("old key under a new epoch's number", "op-client", "epoch", forged, "A")
    control = put(header, tag=bytes(names.control_tag(story.keys[1], story.people["A"].device_id)))
    forged = forge(story.people["A"], story.keys[1], control, _padded(story, "A1"))
    yield row("record under a control tag", "op-client", "tag", forged, "A")
    forged = forge(
        story.people["A"],
        story.keys[1],
        put(header, tag=bytes(names.tag(story.keys[1], b"ui", b"palette"))),
        _padded(story, "A1"),
    )
    yield row("name inside is not the tag's", "op-client", "tag", forged, "A")
    forged = forge(
        story.people["A"],
        story.keys[1],
        put(header, tag=bytes(names.tag(story.keys[2], b"ui", b"theme"))),
        _padded(story, "A1"),
    )
    yield row("tag of another epoch", "op-client", "tag", forged, "A")


def _padded(story: Story, name: str) -> bytes:
    return pad(op.encode_payload(story.payloads[name]), 512)


def _content(story: Story) -> Iterator[Row]:
    """Well sealed plaintext that is out of form."""
    header, own, keys = split(story.ops["A1"])[0], story.people["A"], story.keys[1]
    plain = op.encode_payload(story.payloads["A1"])
    count = len(plain).to_bytes(4, "big")
    cases = {
        "padding not zero at its end": (count + plain).ljust(511, b"\0") + b"\1",
        "padding not zero at its start": (count + plain + b"\1").ljust(512, b"\0"),
        "payload length beyond the bucket": b"\0\0\1\xfd".ljust(512, b"\0"),
        "payload length 2^32-1": (b"\xff" * 4 + plain).ljust(512, b"\0"),
        "payload empty": bytes(512),
        "payload cut off": pad(plain[:-1], 512),
        "payload with trailing bytes": pad(plain + b"\0", 512),
        "payload version 0": pad(b"\0" + plain[1:], 512),
        "payload version 2": pad(b"\2" + plain[1:], 512),
        "verb 0": pad(plain[:1] + b"\0" + plain[2:], 512),
        "verb 5": pad(plain[:1] + b"\5" + plain[2:], 512),
        "control verb in a record": pad(plain[:1] + b"\3" + plain[2:], 512),
        "vector count without rows": pad(plain[:50] + b"\xff" + plain[51:], 512),
    }
    for name, padded in cases.items():
        yield row(name, "op-client", "content", forge(own, keys, header, padded), "A")
    control = put(header, kind=b"\2", tag=bytes(names.control_tag(keys, own.device_id)))
    forged = forge(own, keys, control, pad(plain, 512))
    yield row("record verb in a control op", "op-client", "kind", forged, "A")
    for collection, label in (
        (b"UI", "capitals"),
        (b"", "nothing"),
        (b"a" * 129, "129 letters"),
    ):
        payload = replace(story.payloads["A1"], collection=collection)
        named = put(header, tag=bytes(names.tag(keys, collection, b"theme")))
        forged = forge(own, keys, named, pad(op.encode_payload(payload), 512))
        yield row(f"collection name of {label}", "op-client", "name", forged, "A")


def _history(story: Story) -> Iterator[Row]:
    """Authentic ops whose claims about what was seen don't hold."""
    own, keys = story.people["A"], story.keys[1]
    true = story.payloads["A2"]
    a1, b1 = story.ops["A1"].op_hash, story.ops["B1"].op_hash
    digest = true.vector.digest

    def sealed(payload: Payload, **fields: bytes) -> tuple[bytes, bytes, bytes]:
        header = put(split(story.ops["A2"])[0], **fields)
        return forge(own, keys, header, pad(_encode(payload), 512))

    def vector(*rows: tuple[int, int], digest: bytes = digest) -> Payload:
        return replace(true, vector=Vector(rows, digest))

    alone = heads.digest((Head(1, 1, b1),))
    cases = {
        "vector descending": vector((1, 1), (0, 1)),
        "vector with a device twice": vector((0, 1), (0, 1), (1, 1)),
        "vector with seq 0": vector((0, 1), (1, 0)),
        "vector with device index 255": vector((0, 1), (255, 1)),
        "author not in its own vector": vector((1, 1), digest=alone),
        "author lists itself at the wrong seq": vector((0, 2), (1, 1)),
        "vector empty in a second op": vector(digest=heads.digest(())),
        "heads digest false": replace(true, vector=Vector(true.vector.seqs, bytes(32))),
        "chain head false": replace(true, chain_head=story.chains[3].head),
    }
    for name, payload in cases.items():
        yield row(name, "op-client", "history", sealed(payload), "A")
    first = story.payloads["A1"]
    own_first = replace(first, vector=Vector(((0, 1),), heads.digest((Head(0, 1, a1),))))
    forged = forge(own, keys, split(story.ops["A1"])[0], pad(_encode(own_first), 512))
    yield row("a first op lists itself", "op-client", "history", forged, "A")
    yield row(
        "first op follows something",
        "op-server",
        "prev",
        _with_prev(story, "A1", OpHash(seeded("prev"))),
        "A",
    )
    late = {**row("beyond the cut", "op-server", "cut", split(story.ops["C3"]), "C"), "epoch": 2}
    yield late
    cover = op.seal(
        own,
        keys,
        replace(true, verb=Verb.COVER, collection=b"", key=b"", value=b""),
        dev_seq=2,
        prev=a1,
        lamport=3,
        rand=seeded("cover"),
    )
    assert cover.header.kind == Kind.CONTROL
    record_kind = put(split(cover)[0], kind=b"\1")
    parts = signed(own, record_kind, split(cover)[1])
    yield row("control op passed off as a record", "op-client", "commitment", parts, "A")


def _with_prev(story: Story, name: str, prev: OpHash) -> tuple[bytes, bytes, bytes]:
    header = put(split(story.ops[name])[0], prev=bytes(prev))
    return forge(story.people["A"], story.keys[1], header, _padded(story, name))


def _encode(payload: Payload) -> bytes:
    """`op.encode_payload` without its checks of the vector."""
    empty = replace(payload, vector=Vector((), payload.vector.digest))
    plain = op.encode_payload(empty)
    rows = b"".join(bytes((index,)) + _u64(seq) for index, seq in payload.vector.seqs)
    return plain[:50] + bytes((len(payload.vector.seqs),)) + rows + plain[51:]
