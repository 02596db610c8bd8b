"""The section `more`: formats that the shared schema has no section for.

Recovery keys, pairing, receipts, successions, checkpoints, enrolment, wake handles, consent
and joint aggregates, each with its refusals.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from client.vectors import aggregates, consents, ondevice, policies
from client.vectors.fields import Entry, Malformed, data, entry, expect, items, number, rows, text
from client.vectors.report import Report
from client.vectors.sealed import head_rows, seal_with
from client.vectors.world import World
from crypto import enrol, grant, link, receipt, recovery, succession, wake
from crypto.cert import DeviceCert
from crypto.checkpoint import Checkpoint, state_hash
from crypto.enrol import Token, TokenKey
from crypto.grant import SealedGrant
from crypto.ids import AccountId, DeviceId, LinkHash, OpHash, Tag
from crypto.pairing import Invite, PairingKeys, commitment
from crypto.receipt import Receipt, ServerKey
from crypto.succession import Succession
from crypto.wake import GatewayKey, Platform, PushToken

Check: TypeAlias = Callable[[World, Entry], object]


def more(world: World, report: Report) -> None:
    """Every row of every part of `more`."""
    for place, part in rows(world.file.get("more")):
        check = PARTS.get(place[1:])
        if check is None:
            report.notes.append(f"unknown section 'more{place}' is not checked")
            continue
        for row_place, row in rows(part):
            report.holds(f"more{place}{row_place}", partial(_part, check, world, row))


def _part(check: Check, world: World, value: object) -> None:
    check(world, entry(value))


def _recovery(_: World, row: Entry) -> None:
    secret = data(row, "secret")
    expect("paper", recovery.to_paper(secret), text(row, "paper"))
    expect("secret", recovery.from_paper(text(row, "paper")), secret)
    own = recovery.identity(secret)
    expect("ik_pk", own.ik_pk, data(row, "ik_pk"))
    expect("bk_pk", own.box_pk, data(row, "bk_pk"))


def _invite(row: Entry) -> Invite:
    raw = data(row, "invite")
    invite = Invite.decode(raw)
    expect("invite", invite.encode(), raw)
    return invite


def _pairing(_: World, row: Entry) -> None:
    invite = _invite(row)
    expect("text", invite.text(), text(row, "text"))
    expect("text read", Invite.from_text(text(row, "text")), invite)
    keys = PairingKeys(invite)
    m1, m2, m3 = data(row, "m1"), data(row, "m2"), data(row, "m3")
    cert, committed = keys.open_m1(m1)
    e_nonce, add, policy = keys.open_m2(m2)
    n_nonce, pop = keys.open_m3(m3, committed)
    expect("cert", cert.encode(), data(row, "cert"))
    expect("commitment", commitment(n_nonce), committed)
    expect("link", add, data(row, "link"))
    expect("pop", pop, data(row, "pop"))
    expect("policy keys", [key.hex() for key in policy], row.get("policy_keys", []))
    expect("code", keys.code(m1, e_nonce, n_nonce, policy), text(row, "code"))
    expect("m1", keys.seal_m1(cert, n_nonce, aead_nonce=m1[:24]), m1)
    again = keys.seal_m2(e_nonce, add, policy_keys=policy, aead_nonce=m2[:24])
    expect("m2", again, m2)
    expect("m3", keys.seal_m3(n_nonce, pop, aead_nonce=m3[:24]), m3)


def _open_receipt(_: World, row: Entry) -> Receipt:
    return receipt.open_(
        data(row, "receipt"),
        data(row, "server_pk"),
        nonce=data(row, "nonce"),
        deleted=bool(row.get("deleted")),
    )


def _receipt(world: World, row: Entry) -> None:
    opened = _open_receipt(world, row)
    stated = Receipt(
        AccountId.of(data(row, "account_id")),
        number(row, "chain_seq"),
        LinkHash.of(data(row, "chain_head")),
        data(row, "heads_digest"),
        number(row, "server_ms"),
        data(row, "nonce"),
    )
    expect("receipt", opened, stated)
    key = ServerKey(data(row, "server_seed"))
    again = key.sign(stated, deleted=bool(row.get("deleted")))
    expect("receipt signed again", again, data(row, "receipt"))


def _open_succession(_: World, row: Entry) -> Succession:
    return succession.open_(data(row, "succession"), audience=text(row, "audience"))


def _succession(world: World, row: Entry) -> None:
    stated = Succession(
        data(row, "old_pk"), data(row, "new_pk"), number(row, "made_ms"), number(row, "until_ms")
    )
    expect("succession", _open_succession(world, row), stated)
    again = succession.make(
        data(row, "old_seed"),
        data(row, "new_seed"),
        audience=text(row, "audience"),
        made_ms=stated.made_ms,
        until_ms=stated.until_ms,
    )
    expect("succession signed again", again, data(row, "succession"))


def _checkpoint(_: World, row: Entry) -> None:
    winners = [_winner(item) for item in items(row, "winners")]
    count, digest = state_hash(winners)
    expect("state_hash", digest, data(row, "state_hash"))
    held = head_rows(items(row, "heads"))
    value = Checkpoint(number(row, "epoch"), held, count, digest)
    expect("value", value.encode(), data(row, "value"))
    expect("checkpoint", Checkpoint.decode(data(row, "value")), value)


def _winner(item: object) -> tuple[Tag, OpHash]:
    if not isinstance(item, list) or len(item) != 2:
        raise Malformed("malformed: a winner is [tag, op_hash]")
    pair = {"tag": item[0], "op_hash": item[1]}
    return Tag.of(data(pair, "tag")), OpHash.of(data(pair, "op_hash"))


def _open_token(_: World, row: Entry) -> Token:
    return enrol.open_token(
        data(row, "token"),
        data(row, "issuer_pk"),
        audience=text(row, "audience"),
        genesis=LinkHash.of(data(row, "genesis")),
        now_ms=number(row, "now_ms"),
    )


def _token(world: World, row: Entry) -> None:
    opened = _open_token(world, row)
    subject = enrol.subject(data(row, "salt"), text(row, "user_id"))
    expect("subject", opened.subject, subject)
    expect("expiry_ms", opened.expiry_ms, number(row, "expiry_ms"))
    again = TokenKey(data(row, "issuer_seed")).issue(opened, text(row, "audience"))
    expect("token issued again", again, data(row, "token"))


def _work(_: World, row: Entry) -> None:
    genesis = LinkHash.of(data(row, "genesis"))
    enrol.check_work(genesis, number(row, "hour"), number(row, "counter"), number(row, "bits"))


def _open_handle(_: World, row: Entry) -> PushToken:
    return GatewayKey(data(row, "gateway_sk")).open(
        data(row, "handle"), audience=text(row, "audience"), now_ms=number(row, "now_ms")
    )


def _handle(world: World, row: Entry) -> None:
    key = GatewayKey(data(row, "gateway_sk"))
    expect("gateway_pk", key.public, data(row, "gateway_pk"))
    stated = PushToken(Platform(number(row, "platform")), data(row, "token"))
    expect("token", _open_handle(world, row), stated)
    plain = wake.encode(
        stated, audience=text(row, "audience"), expires_ms=number(row, "expires_ms")
    )
    expect("plain", plain, data(row, "plain"))
    again = seal_with(data(row, "esk"), key.public, plain)
    expect("handle sealed again", again, data(row, "handle"))


def _open_pairing(_: World, row: Entry) -> None:
    """One message of a pairing; `message` says which."""
    keys = PairingKeys(_invite(row))
    match text(row, "message"):
        case "invite":
            pass
        case "m1":
            keys.open_m1(data(row, "m1"))
        case "m2":
            keys.open_m2(data(row, "m2"))
        case "m3":
            keys.open_m3(data(row, "m3"), data(row, "commitment"))
        case other:
            raise Malformed(f"malformed: pairing has no message {other!r}")


def _grant_set(world: World, row: Entry) -> None:
    """The grants that came with a link, all together."""
    parsed, after = world.link_at(number(row, "link_seq"))
    if row.get("link") is not None:
        parsed = link.parse(data(row, "link"))
    came = [
        SealedGrant(
            DeviceId.of(data(entry(item), "recipient_id")),
            number(entry(item), "epoch"),
            data(entry(item), "sealed"),
        )
        for item in items(row, "grants")
    ]
    grant.check_complete(parsed, after, came)


PARTS: dict[str, Check] = {
    "recovery": _recovery,
    "pairing": _pairing,
    "receipts": _receipt,
    "successions": _succession,
    "checkpoints": _checkpoint,
    "tokens": _token,
    "work": _work,
    "grant_sets": _grant_set,
    "wake_handles": _handle,
    "consents": consents.check,
    "policies": policies.check,
    "policy_flags": policies.check_flag,
    "policy_values": policies.check_value,
    "variants": ondevice.check_variant,
    "cohorts": ondevice.check_cohort,
    **aggregates.PARTS,
}

REFUSALS: dict[str, Check] = {
    "cert": lambda _, row: DeviceCert.decode(data(row, "cert")),
    "recovery": lambda _, row: recovery.from_paper(text(row, "paper")),
    "pairing": _open_pairing,
    "receipt": _open_receipt,
    "succession": _open_succession,
    "checkpoint": lambda _, row: Checkpoint.decode(data(row, "value")),
    "token": _open_token,
    "work": _work,
    "grant-set": _grant_set,
    "wake-handle": _open_handle,
    "consent": consents.read,
    "policy": policies.read,
    **aggregates.REFUSALS,
}
