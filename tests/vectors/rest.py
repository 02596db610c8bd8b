"""Positives of the section `more`: recovery, pairing, receipts, checkpoints, enrolment."""

from __future__ import annotations

from crypto import enrol, heads, link, recovery
from crypto.cert import DeviceCert
from crypto.checkpoint import Checkpoint, state_hash
from crypto.enrol import Token, TokenKey
from crypto.ids import LinkHash
from crypto.link import Add
from crypto.pairing import Invite, PairingKeys, commitment
from crypto.receipt import Receipt, ServerKey
from tests.vectors.story import START_MS, Row, Story, seeded

AUDIENCE = "sync.example.org"
HOUR = START_MS // enrol.HOUR_MS


def positives(story: Story) -> dict[str, list[Row]]:
    """All parts."""
    return {
        "recovery": [_recovery(story)],
        "pairing": [_pairing(story), _pairing(story, seeded("policy"), seeded("next policy"))],
        "receipts": [_receipt(story, deleted=False), _receipt(story, deleted=True)],
        "checkpoints": [_checkpoint(story), _empty_checkpoint()],
        "tokens": [_token(story)],
        "work": [_work(story)],
        "grant_sets": list(_grant_sets(story)),
    }


def _recovery(story: Story) -> Row:
    secret = seeded("r20", 20)
    own = recovery.identity(secret)
    return {
        "secret": secret.hex(),
        "paper": recovery.to_paper(secret),
        "ik_pk": own.ik_pk.hex(),
        "bk_pk": own.box_pk.hex(),
    }


def _pairing(story: Story, *policy_keys: bytes) -> Row:
    """How B, from a code that A showed, could have come to link 1, and under its policy."""
    add = link.parse(story.signed[1].raw)
    assert isinstance(add.body, Add)
    invite = Invite(
        account_id=story.chain.account,
        inviter=story.people["A"].device_id,
        rendezvous=seeded("rendezvous", 16),
        secret=seeded("qr secret"),
        expiry_ms=START_MS + 300_000,
        chain_seq=0,
        chain_head=story.chains[1].head,
    )
    keys, cert = PairingKeys(invite), DeviceCert.encode(add.body.cert)
    n_nonce, e_nonce = seeded("n nonce"), seeded("e nonce")
    m1 = keys.seal_m1(add.body.cert, n_nonce, aead_nonce=seeded("m1", 24))
    m2_nonce = seeded("m2 governed" if policy_keys else "m2", 24)
    m2 = keys.seal_m2(e_nonce, add.raw, policy_keys=policy_keys, aead_nonce=m2_nonce)
    m3 = keys.seal_m3(n_nonce, story.signed[1].pop, aead_nonce=seeded("m3", 24))
    governed = {"policy_keys": [key.hex() for key in policy_keys]} if policy_keys else {}
    return governed | {
        "invite": invite.encode().hex(),
        "text": invite.text(),
        "cert": cert.hex(),
        "n_nonce": n_nonce.hex(),
        "e_nonce": e_nonce.hex(),
        "commitment": commitment(n_nonce).hex(),
        "link": add.raw.hex(),
        "pop": story.signed[1].pop.hex(),
        "m1": m1.hex(),
        "m2": m2.hex(),
        "m3": m3.hex(),
        "code": keys.code(m1, e_nonce, n_nonce, policy_keys),
    }


def _receipt(story: Story, *, deleted: bool) -> Row:
    key = ServerKey(seeded("server"))
    stated = Receipt(
        account_id=story.chain.account,
        chain_seq=story.chain.seq,
        chain_head=story.chain.head,
        heads_digest=heads.digest(story.vector()),
        server_ms=START_MS + 5,
        nonce=seeded("request nonce", 16),
    )
    return {
        "server_seed": seeded("server").hex(),
        "server_pk": key.public.hex(),
        "deleted": deleted,
        "account_id": stated.account_id.hex(),
        "chain_seq": stated.chain_seq,
        "chain_head": stated.chain_head.hex(),
        "heads": [[row[0], row[1], row[2].hex()] for row in sorted(story.vector())],
        "heads_digest": stated.heads_digest.hex(),
        "server_ms": stated.server_ms,
        "nonce": stated.nonce.hex(),
        "receipt": key.sign(stated, deleted=deleted).hex(),
    }


def _checkpoint(story: Story) -> Row:
    winners = {
        sealed.header.tag: sealed.op_hash
        for sealed in sorted(story.ops.values(), key=lambda sealed: sealed.order)
        if sealed.header.kind == 1 and sealed.header.epoch == story.chain.epoch
    }
    return _checkpoint_row(
        story.checkpoint(), [[tag.hex(), op_hash.hex()] for tag, op_hash in winners.items()]
    )


def _empty_checkpoint() -> Row:
    count, digest = state_hash(())
    return _checkpoint_row(Checkpoint(1, (), count, digest), [])


def _checkpoint_row(value: Checkpoint, winners: list[list[str]]) -> Row:
    return {
        "epoch": value.epoch,
        "heads": [[row[0], row[1], row[2].hex()] for row in value.held],
        "winners": winners,
        "count": value.count,
        "state_hash": value.state_hash.hex(),
        "value": value.encode().hex(),
    }


def _token(story: Story) -> Row:
    seed, salt = seeded("issuer"), seeded("salt")
    subject = enrol.subject(salt, "user-1")
    token = Token(story.chain.hashes[0], subject, START_MS + 60_000)
    return {
        "issuer_seed": seed.hex(),
        "issuer_pk": TokenKey(seed).public.hex(),
        "salt": salt.hex(),
        "user_id": "user-1",
        "audience": AUDIENCE,
        "genesis": token.genesis.hex(),
        "expiry_ms": token.expiry_ms,
        "now_ms": START_MS,
        "token": TokenKey(seed).issue(token, AUDIENCE).hex(),
    }


def _work(story: Story) -> Row:
    genesis, bits = LinkHash(story.chain.hashes[0]), 12
    counter = next(found for found in enrol.prove_work(genesis, HOUR, bits) if found is not None)
    return {"genesis": genesis.hex(), "hour": HOUR, "bits": bits, "counter": counter}


def _grant_sets(story: Story) -> list[Row]:
    by_link: dict[int, list[Row]] = {}
    for row in story.grants:
        recipient = story.devices[row["recipient"]]["device_id"]
        by_link.setdefault(row["link_seq"], []).append(
            {"recipient_id": recipient, "epoch": row["epoch"], "sealed": row["sealed"]}
        )
    return [{"link_seq": seq, "grants": rows} for seq, rows in sorted(by_link.items())]
