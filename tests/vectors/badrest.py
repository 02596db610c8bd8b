"""Grants, requests and the rest that must be refused, each named for what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from client.vectors.sealed import seal_with
from crypto import labels, request
from crypto.epoch import EpochKeys
from crypto.ids import AccountId
from crypto.keys import Identity
from crypto.pairing import Invite, PairingKeys
from crypto.primitives import sign, sign_keypair
from crypto.request import CallKind
from tests.vectors.story import Row, Story, grant_plain, seeded

METHOD, AUDIENCE = "/rookery.v1.Sync/Push", "sync.example.org"


def negatives(story: Story, rest: Row) -> Iterator[Row]:
    """All of them; `rest` are the positives of the section `more`."""
    yield from _grants(story)
    yield from _grant_sets(rest["grant_sets"])
    yield from _requests(story)
    yield from _receipts(rest["receipts"][0])
    yield from _checkpoints(rest["checkpoints"][0])
    yield from _pairing(rest["pairing"][0])
    yield from _recovery(rest["recovery"][0])
    yield from _tokens(rest["tokens"][0], rest["work"][0])


def _grants(story: Story) -> Iterator[Row]:
    """A's grant of epoch 2 for C, which travelled with link 5 from B, and its corruptions."""
    chain, sender, to = story.chains[5], story.people["B"], story.people["C"]
    keys = story.keys[2]
    right: dict[str, Any] = {"link_seq": 5, "link_prev": chain.head}

    def row(name: str, why: str, plain: bytes, *, box_pk: bytes = to.box_pk, seq: int = 5) -> Row:
        sealed = seal_with(seeded(f"esk/{name}"), box_pk, plain)
        return sealed_row(name, why, sealed, seq=seq)

    def sealed_row(name: str, why: str, sealed: bytes, *, who: str = "C", seq: int = 5) -> Row:
        return {
            "name": f"grant: {name}",
            "kind": "grant",
            "expect": "reject",
            "why": why,
            "recipient": who,
            "link_seq": seq,
            "sealed": sealed.hex(),
        }

    def plain(
        sender: Identity = sender, keys: EpochKeys = keys, to: Identity = to, **other: Any
    ) -> bytes:
        return grant_plain(sender, to.device_id, to.box_pk, keys, **{**right, **other})

    true = plain()
    ghost = Identity(seeded("ghost/ik"), seeded("ghost/bk"))
    elsewhere = EpochKeys(AccountId(b"\1" * 32), 2, keys.secret)
    wrong = EpochKeys(keys.account_id, 2, seeded("another ek"))
    unknown = EpochKeys(keys.account_id, 9, keys.secret)
    as_other_epoch = EpochKeys(keys.account_id, 1, keys.secret)
    heads = {
        "other magic": b"PSG2\1\1\0\0",
        "unknown suite": b"PSG1\2\1\0\0",
        "unknown kind": b"PSG1\1\2\0\0",
        "flags set": b"PSG1\1\1\0\1",
    }
    for name, head in heads.items():
        yield row(name, "form", plain(head=head))
    cases = {
        "signature stripped": (true[:180] + bytes(64), "signature"),
        "signature replaced by another device's": (
            true[:180] + story.people["A"].sign(labels.GRANT, true[:180]),
            "signature",
        ),
        "signed under the label of links": (plain(label=labels.LINK), "signature"),
        "sent by another device than the link's": (plain(story.people["A"]), "sender"),
        "sent by a ghost": (plain(ghost), "sender"),
        "sent by the recipient itself": (plain(to), "sender"),
        "made for another device": (plain(to=story.people["A"]), "recipient"),
        "of another account": (plain(keys=elsewhere), "account"),
        "key that the chain doesn't commit to": (plain(keys=wrong), "commitment"),
        "epoch that the chain doesn't know": (plain(keys=unknown), "commitment"),
        "key under another epoch's number": (plain(keys=as_other_epoch), "commitment"),
        "made for another link": (plain(link_seq=4), "link"),
        "made after another link": (plain(link_prev=story.chains[4].head), "link"),
        "plain cut off": (true[:-1], "length"),
        "plain prolonged": (true + b"\0", "length"),
        "plain empty": (b"", "length"),
    }
    for name, (bad, why) in cases.items():
        yield row(name, why, bad)
    swapped = true[:76] + story.people["A"].box_pk + true[108:180]
    yield row("box key of another", "recipient", swapped + sender.sign(labels.GRANT, swapped))
    sealed = seal_with(seeded("esk/true"), to.box_pk, true)
    yield sealed_row("sealed box cut off", "length", sealed[:-1])
    yield sealed_row("sealed box prolonged", "length", sealed + b"\0")
    yield sealed_row("sealed box empty", "length", b"")
    yield sealed_row("sealed box of zeros", "low order", bytes(292))
    yield sealed_row("first bit flipped", "seal", bytes((sealed[0] ^ 0x80,)) + sealed[1:])
    yield sealed_row("last bit flipped", "seal", sealed[:-1] + bytes((sealed[-1] ^ 1,)))
    yield sealed_row("opened by another device", "seal", sealed, who="A")
    yield sealed_row("forwarded to another link", "link", sealed, seq=7)
    yield sealed_row("travelled with no link", "link", sealed, seq=99)
    old = story.grants[3]
    assert (old["recipient"], old["link_seq"]) == ("B", 4)
    yield sealed_row(
        "sealed to a replaced box key", "seal", bytes.fromhex(old["sealed"]), who="B", seq=4
    )
    yield from _forwarded(story, row)


def _forwarded(story: Story, row: Any) -> Iterator[Row]:
    """A key of an epoch that the link doesn't bring, though the chain commits to it."""
    to = story.people["D"]
    own = grant_plain(
        story.people["R"],
        to.device_id,
        to.box_pk,
        story.keys[1],
        link_seq=8,
        link_prev=story.chains[8].head,
    )
    made = row("ADD forwards a dead epoch's key", "epoch", own, box_pk=to.box_pk, seq=8)
    yield {**made, "recipient": "D"}
    own = grant_plain(
        story.people["R"],
        to.device_id,
        to.box_pk,
        story.keys[3],
        link_seq=9,
        link_prev=story.chains[9].head,
    )
    made = row("ROTATE forwards an old epoch's key", "epoch", own, box_pk=to.box_pk, seq=9)
    yield {**made, "recipient": "D"}


def _grant_sets(sets: list[Row]) -> Iterator[Row]:
    """Links without exactly the grants that they need."""

    def row(name: str, link_seq: int, came: list[Row]) -> Row:
        return {
            "name": f"grants: {name}",
            "kind": "grant-set",
            "expect": "reject",
            "why": "grants",
            "link_seq": link_seq,
            "grants": came,
        }

    by_seq = {item["link_seq"]: item["grants"] for item in sets}
    rotate, add = by_seq[4], by_seq[5]
    strange = {**rotate[0], "recipient_id": seeded("strange", 16).hex()}
    other = {**rotate[0], "sealed": seeded("other", 292).hex()}
    yield row("all missing", 4, [])
    for at in range(len(rotate)):
        yield row(f"one of ROTATE's missing: {at}", 4, rotate[:at] + rotate[at + 1 :])
    yield row("surplus one for a stranger", 4, [*rotate, strange])
    yield row("one replaced", 4, [other, *rotate[1:]])
    yield row(
        "two swapped",
        4,
        [
            {**rotate[0], "sealed": rotate[1]["sealed"]},
            {**rotate[1], "sealed": rotate[0]["sealed"]},
            *rotate[2:],
        ],
    )
    yield row("one twice", 4, [*rotate, rotate[0]])
    yield row("one of another epoch", 4, [{**rotate[0], "epoch": 1}, *rotate[1:]])
    yield row("ADD without the current epoch's", 5, add[:1])
    yield row("ADD without the one that its digest commits to", 5, add[1:])
    yield row("REBOX with a grant", 6, rotate[:1])
    yield row("GENESIS with a grant", 0, rotate[:1])


def request_row(story: Story, device: str, kind: CallKind, payload: bytes) -> Row:
    """A true request."""
    nonce = seeded(f"nonce/{device}", 16)
    auth = request.sign(
        story.people[device],
        kind=kind,
        method=METHOD,
        audience=AUDIENCE,
        account_id=story.chain.account,
        ts_ms=1_790_000_000_123,
        nonce=nonce,
        payload=payload,
    )
    return {
        "kind": int(kind),
        "method": METHOD,
        "audience": AUDIENCE,
        "ts_ms": 1_790_000_000_123,
        "nonce": nonce.hex(),
        "payload": payload.hex(),
        "header": auth[:144].hex(),
        "sig": auth[144:].hex(),
        "device": device,
    }


def _requests(story: Story) -> Iterator[Row]:
    true = request_row(story, "A", CallKind.UNARY, b"\n\3abc")
    own = story.people["A"]
    header, sig = bytes.fromhex(true["header"]), bytes.fromhex(true["sig"])

    def row(name: str, why: str, header: bytes, sig: bytes, **fields: Any) -> Row:
        return {
            "name": f"request: {name}",
            "kind": "request",
            "expect": "reject",
            "why": why,
            "header": header.hex(),
            "sig": sig.hex(),
            "device": "A",
            **fields,
        }

    parts = {
        "magic": 0, "suite": 4, "kind of call": 5, "flags": 6, "method": 8, "audience": 24,
        "account": 40, "device": 72, "ts_ms": 88, "nonce": 96, "body": 112,
    }  # fmt: skip
    for name, at in parts.items():
        bad = header[:at] + bytes((header[at] ^ 3,)) + header[at + 1 :]
        yield row(f"{name} altered", "signature", bad, sig)
        yield row(f"{name} altered and signed again", "fields", bad, own.sign(labels.REQUEST, bad))
    others: dict[str, Row] = {
        "other method": {"method": "/rookery.v1.Sync/Pull"},
        "other audience": {"audience": "sync.example.net"},
        "other payload": {"payload": "0a03616264"},
        "other time": {"ts_ms": 1_790_000_000_124},
        "other nonce": {"nonce": seeded("other nonce", 16).hex()},
        "other kind of call": {"call_kind": 2},
        "other account": {"account_id": bytes(32).hex()},
        "other device": {"device": "B"},
    }
    for name, fields in others.items():
        yield row(f"replayed for {name}", "fields", header, sig, **fields)
    bad_sigs = {
        "signed by another device": story.people["B"].sign(labels.REQUEST, header),
        "signed under the label of ops": own.sign(labels.OP, header),
        "signature zero": bytes(64),
        "signature cut off": sig[:-1],
        "signature missing": b"",
    }
    for name, bad in bad_sigs.items():
        yield row(name, "signature", header, bad)
    yield row("header cut off", "length", header[:-1], sig)
    yield row("bounds moved", "length", header + sig[:1], sig[1:])


def _vary(base: Row, prefix: str, kind: str, field: str, cases: dict[str, bytes]) -> Iterator[Row]:
    for name, value in cases.items():
        yield {
            **base,
            "name": f"{prefix}: {name}",
            "kind": kind,
            "expect": "reject",
            "why": name,
            field: value.hex(),
        }


def _receipts(true: Row) -> Iterator[Row]:
    base = {name: true[name] for name in ("receipt", "server_pk", "nonce", "deleted")}
    raw = bytes.fromhex(true["receipt"])
    _, secret = sign_keypair(bytes.fromhex(true["server_seed"]))

    def again(body: bytes, label: bytes = labels.RECEIPT) -> bytes:
        return body + sign(secret, label, body)

    body = raw[:136]
    yield from _vary(base, "receipt", "receipt", "receipt", {
        "cut off": raw[:-1],
        "prolonged": raw + b"\0",
        "chain_seq altered": body[:47] + bytes((body[47] ^ 1,)) + raw[48:],
        "signature zero": body + bytes(64),
        "of deletion, passed off as one of state": again(body, labels.RECEIPT_DELETED),
        "unknown suite": again(body[:4] + b"\2" + body[5:]),
        "reserved byte set": again(body[:7] + b"\1" + body[8:]),
        "other magic": again(b"PST2" + body[4:]),
    })  # fmt: skip
    yield from _vary(base, "receipt", "receipt", "nonce", {"of another request": bytes(16)})
    yield from _vary(base, "receipt", "receipt", "server_pk", {"of another server": seeded("pk")})


def _checkpoints(true: Row) -> Iterator[Row]:
    value = bytes.fromhex(true["value"])
    heads = value[9:50], value[50:91]
    yield from _vary({}, "checkpoint", "checkpoint", "value", {
        "other magic": b"PSC2" + value[4:],
        "cut off": value[:-1],
        "prolonged": value + b"\0",
        "empty": b"",
        "magic alone": value[:4],
        "more heads announced": value[:8] + bytes((value[8] + 1,)) + value[9:],
        "heads descending": value[:9] + heads[1] + heads[0] + value[91:],
        "a device twice": value[:9] + heads[0] + heads[0] + value[91:],
    })  # fmt: skip


def _pairing(true: Row) -> Iterator[Row]:
    invite = bytes.fromhex(true["invite"])
    base = {"invite": true["invite"]}
    yield from _vary(base | {"message": "invite"}, "pairing", "pairing", "invite", {
        "invite with other magic": b"PSP2" + invite[4:],
        "invite of an unknown suite": invite[:4] + b"\2" + invite[5:],
        "invite cut off": invite[:-1],
        "invite prolonged": invite + b"\0",
    })  # fmt: skip
    committed = {"commitment": true["commitment"]}
    for message, before in (("m1", "m3"), ("m2", "m1"), ("m3", "m1")):
        raw = bytes.fromhex(true[message])
        yield from _vary(base | committed | {"message": message}, "pairing", "pairing", message, {
            f"{message} cut off": raw[:-1],
            f"{message} of 15 bytes behind its nonce": raw[:39],
            f"{message} empty": b"",
            f"{message} flipped": raw[:-1] + bytes((raw[-1] ^ 1,)),
            f"{message} is {before} replayed": bytes.fromhex(true[before]),
        })  # fmt: skip
    other = {"invite": (invite[:69] + bytes(32) + invite[101:]).hex(), "message": "m1"}
    yield from _vary(other, "pairing", "pairing", "m1", {
        "m1 under another QR secret": bytes.fromhex(true["m1"]),
    })  # fmt: skip
    keys = PairingKeys(Invite.decode(invite))
    add, good = bytes.fromhex(true["link"]), b"PSG1\2" + bytes(32) + bytes((1,)) * 32
    yield from _vary(base | {"message": "m2"}, "pairing", "pairing", "m2", {
        f"m2 {name}": keys.seal_m2(bytes(32), add + more, aead_nonce=bytes(24))
        for name, more in {
            "with policy keys of another magic": b"PSG2" + good[4:],
            "with policy keys and no number": good[:4],
            "with no policy key after all": b"PSG1\0",
            "with five policy keys": b"PSG1\5" + b"".join(bytes((at,)) * 32 for at in range(5)),
            "with one policy key twice": b"PSG1\2" + bytes(64),
            "with policy keys cut off": good[:-1],
            "with policy keys prolonged": good + b"\0",
        }.items()
    })  # fmt: skip
    m3 = base | {"message": "m3", "m3": true["m3"]}
    yield from _vary(m3, "pairing", "pairing", "commitment", {
        "m3 opens another nonce than was committed to": bytes(32),
    })  # fmt: skip
    cert = bytes.fromhex(true["cert"])
    yield from _vary({}, "cert", "cert", "cert", {
        "role 0": cert[:68] + b"\0" + cert[69:],
        "unknown KEM": cert[:69] + b"\1" + cert[70:],
        "reserved byte set": cert[:75] + b"\1",
        "box key zero": cert[:32] + bytes(32) + cert[64:],
        "cut off": cert[:-1],
        "prolonged": cert + b"\0",
    })  # fmt: skip


def _recovery(true: Row) -> Iterator[Row]:
    paper: str = true["paper"]
    first = "A" if paper[0] != "A" else "B"
    last = "A" if paper[-1] != "A" else "B"
    cases = {
        "first letter mistyped": first + paper[1:],
        "last letter mistyped": paper[:-1] + last,
        "two letters swapped": paper[1] + paper[0] + paper[2:],
        "a letter missing": paper[1:],
        "a letter too many": paper + "A",
        "letters that base32 lacks": "0189" + paper[4:],
        "empty": "",
    }
    for name, bad in cases.items():
        yield {
            "name": f"recovery: {name}",
            "kind": "recovery",
            "expect": "reject",
            "why": name,
            "paper": bad,
        }


def _tokens(true: Row, work: Row) -> Iterator[Row]:
    base = {name: true[name] for name in ("token", "issuer_pk", "audience", "genesis", "now_ms")}
    raw = bytes.fromhex(true["token"])
    _, secret = sign_keypair(bytes.fromhex(true["issuer_seed"]))
    suite = raw[:4] + b"\2" + raw[5:96]
    yield from _vary(base, "token", "token", "token", {
        "cut off": raw[:-1],
        "prolonged": raw + b"\0",
        "subject altered": raw[:60] + bytes((raw[60] ^ 1,)) + raw[61:],
        "signature zero": raw[:96] + bytes(64),
        "signed under another label": raw[:96] + sign(secret, labels.RECEIPT, raw[:96]),
        "unknown suite": suite + sign(secret, labels.ENROL_TOKEN, suite),
    })  # fmt: skip
    yield from _vary(base, "token", "token", "genesis", {"for another account": bytes(32)})
    yield from _vary(base, "token", "token", "issuer_pk", {"of another issuer": seeded("issuer")})
    for name, fields in {
        "for another deployment": {"audience": "sync.example.net"},
        "expired": {"now_ms": true["expiry_ms"]},
    }.items():
        yield {
            **base, "name": f"token: {name}", "kind": "token", "expect": "reject", "why": name,
            **fields,
        }  # fmt: skip
    for name, fields in {
        "too weak": {"bits": 40},
        "of another hour": {"hour": work["hour"] + 1},
        "another counter": {"counter": work["counter"] + 1},
        "of another account": {"genesis": bytes(32).hex()},
    }.items():
        yield {
            **work, "name": f"work: {name}", "kind": "work", "expect": "reject", "why": name,
            **fields,
        }  # fmt: skip
