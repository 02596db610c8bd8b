"""Grants: epoch keys reach the right device with the right link, or are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from client.vectors.sealed import seal_with
from crypto import grant, labels, link
from crypto.chain import Chain
from crypto.epoch import EpochKeys, generate
from crypto.errors import ChainError, CryptoError, FormatError, OpenError, SignatureError
from crypto.grant import SealedGrant
from crypto.ids import AccountId, DeviceId, LinkHash
from crypto.keys import Identity
from crypto.link import Link
from tests.vectors.story import grant_plain, seeded, story


def came_with(seq: int) -> tuple[Link, Chain]:
    """A link, and the chain with it."""
    return link.parse(story().signed[seq].raw), story().chains[seq + 1]


def grants_of(seq: int) -> list[SealedGrant]:
    """The grants that came with a link."""
    return [
        SealedGrant(
            story().people[row["recipient"]].device_id, row["epoch"], bytes.fromhex(row["sealed"])
        )
        for row in story().grants
        if row["link_seq"] == seq
    ]


def plain_for_c(**other: Any) -> bytes:
    """B's grant of epoch 2 for C with link 5, or a corruption of it."""
    fields: dict[str, Any] = {
        "sender": story().people["B"],
        "keys": story().keys[2],
        "to": story().people["C"],
        "link_seq": 5,
        "link_prev": story().chains[5].head,
        **other,
    }
    to, keys, sender = fields.pop("to"), fields.pop("keys"), fields.pop("sender")
    box_pk = fields.pop("box_pk", to.box_pk)
    return grant_plain(sender, to.device_id, box_pk, keys, **fields)


def opened_by_c(plain: bytes, seq: int = 5) -> EpochKeys:
    """What C makes of it."""
    own = story().people["C"]
    sealed = seal_with(seeded("esk"), own.box_pk, plain)
    return grant.open_(own, sealed, *came_with(seq))


def test_a_grant_arrives() -> None:
    """The recipient finds the epoch key that the chain commits to."""
    assert opened_by_c(plain_for_c()).secret == story().keys[2].secret


def test_make_and_open_agree() -> None:
    """What `make` seals, `open_` opens: 292 bytes, another box each time."""
    parsed, after = came_with(5)
    device = after.find(story().people["C"].device_id)
    assert device is not None
    made = [
        grant.make(story().people["B"], device, story().keys[2], link_seq=5, link_prev=parsed.prev)
        for _ in range(2)
    ]
    assert made[0].sealed != made[1].sealed
    for one in made:
        assert len(one.sealed) == grant.SEALED_BYTES
        keys = grant.open_(story().people["C"], one.sealed, parsed, after)
        assert keys.secret == story().keys[2].secret


GHOST = Identity(seeded("ghost/ik"), seeded("ghost/bk"))
CASES: list[tuple[str, dict[str, Any], type[CryptoError], str]] = [
    ("magic", {"head": b"PSG2\1\1\0\0"}, FormatError, "grant"),
    ("suite", {"head": b"PSG1\2\1\0\0"}, FormatError, "grant"),
    ("kind", {"head": b"PSG1\1\2\0\0"}, FormatError, "grant"),
    ("flags", {"head": b"PSG1\1\1\1\0"}, FormatError, "grant"),
    ("sender-ghost", {"sender": GHOST}, ChainError, "grant-sender"),
    ("label", {"label": labels.LINK}, SignatureError, "signature"),
    ("link-seq", {"link_seq": 4}, ChainError, "grant-link"),
    ("link-prev", {"link_prev": bytes(32)}, ChainError, "grant-link"),
    ("recipient", {"to": GHOST}, ChainError, "grant-recipient"),
    ("box-key", {"box_pk": GHOST.box_pk}, ChainError, "grant-recipient"),
]


@pytest.mark.parametrize(("name", "change", "error", "rule"), CASES, ids=[row[0] for row in CASES])
def test_each_field_is_checked(
    name: str, change: dict[str, Any], error: type[CryptoError], rule: str
) -> None:
    """A grant with one wrong field, signed by its maker, is refused by that field's rule."""
    with pytest.raises(error) as caught:
        opened_by_c(plain_for_c(**change))
    assert caught.value.rule == rule, name


def test_a_sender_other_than_the_links_is_refused() -> None:
    """Another member of the account can't slip a grant in beside the link's."""
    with pytest.raises(ChainError, match="grant-sender"):
        opened_by_c(plain_for_c(sender=story().people["A"]))


def test_a_grant_of_another_account_is_refused() -> None:
    """The account stands in the signed part."""
    elsewhere = EpochKeys(AccountId(b"\1" * 32), 2, story().keys[2].secret)
    with pytest.raises(ChainError, match="grant-account"):
        opened_by_c(plain_for_c(keys=elsewhere))


@pytest.mark.parametrize("epoch", [2, 3, 99])
def test_a_key_that_is_not_committed_to_is_refused(epoch: int) -> None:
    """An honest signature doesn't help a key that the chain doesn't name."""
    keys = EpochKeys(story().chain.account, epoch, seeded("another key"))
    with pytest.raises((SignatureError, ChainError)) as caught:
        opened_by_c(plain_for_c(keys=keys))
    assert caught.value.rule in ("commitment", "grant-epoch")


@pytest.mark.parametrize(("seq", "epoch"), [(8, 1), (9, 3)])
def test_a_link_brings_only_keys_of_its_live_epochs(seq: int, epoch: int) -> None:
    """ADD brings the current epoch's key and the one before, ROTATE its new epoch's alone."""
    own, sender = story().people["D"], story().people["R"]
    plain = grant_plain(
        sender,
        own.device_id,
        own.box_pk,
        story().keys[epoch],
        link_seq=seq,
        link_prev=story().chains[seq].head,
    )
    sealed = seal_with(seeded("esk"), own.box_pk, plain)
    with pytest.raises(ChainError, match="grant-epoch"):
        grant.open_(own, sealed, *came_with(seq))


def test_a_grant_taken_to_another_link_is_refused() -> None:
    """The same box beside another link of the same signer is not taken."""
    first = next(row for row in story().grants if row["link_seq"] == 4 and row["recipient"] == "A")
    own = story().people["A"]
    with pytest.raises(ChainError, match="grant-link"):
        grant.open_(own, bytes.fromhex(first["sealed"]), *came_with(7))


def test_another_device_cant_open_it() -> None:
    """The box opens with the recipient's key only, and with its newest only."""
    sealed = grants_of(5)[0].sealed
    with pytest.raises(OpenError):
        grant.open_(story().people["A"], sealed, *came_with(5))
    renewed = story().people["C"].with_box_key(seeded("another"))
    with pytest.raises(OpenError):
        grant.open_(renewed, sealed, *came_with(5))


def test_every_flipped_bit_is_refused() -> None:
    """All 2,336 single-bit changes of a sealed grant fail alike."""
    sealed = bytearray(grants_of(5)[1].sealed)
    parsed, after = came_with(5)
    for bit in range(8 * len(sealed)):
        sealed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(OpenError):
            grant.open_(story().people["C"], bytes(sealed), parsed, after)
        sealed[bit // 8] ^= 1 << bit % 8


def test_every_flipped_bit_inside_is_refused() -> None:
    """All changes of the plaintext by somebody who can seal are refused too."""
    plain = bytearray(plain_for_c())
    for bit in range(8 * len(plain)):
        plain[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CryptoError):
            opened_by_c(bytes(plain))
        plain[bit // 8] ^= 1 << bit % 8


@given(st.binary(max_size=400))
def test_noise_is_refused(data: bytes) -> None:
    """Random bytes of any length give one error."""
    with pytest.raises(OpenError):
        grant.open_(story().people["C"], data, *came_with(5))


@settings(max_examples=50)
@given(st.binary(max_size=400))
def test_sealed_noise_is_refused(data: bytes) -> None:
    """A sealed box authenticates nobody: what is in it still has to be a grant."""
    with pytest.raises(CryptoError):
        opened_by_c(data)


@pytest.mark.parametrize("seq", [1, 2, 4, 5, 7, 8, 9])
def test_complete_grants_pass(seq: int) -> None:
    """The grants that came with each link of the story are those that it needs."""
    grant.check_complete(*came_with(seq), grants_of(seq))


@pytest.mark.parametrize("seq", [0, 3, 6])
def test_links_without_grants(seq: int) -> None:
    """GENESIS and REBOX travel alone; a grant beside them is surplus."""
    grant.check_complete(*came_with(seq), [])
    with pytest.raises(ChainError, match="grants-missing"):
        grant.check_complete(*came_with(seq), grants_of(1))


def test_missing_and_surplus_grants_are_refused() -> None:
    """ROTATE without one device's grant, with a stranger's, or with another epoch's."""
    rows = grants_of(4)
    stranger = replace(rows[0], recipient_id=DeviceId(seeded("stranger", 16)))
    for bad in (
        [],
        rows[1:],
        rows[:-1],
        [*rows, stranger],
        [stranger, *rows[1:]],
        [replace(rows[0], epoch=1), *rows[1:]],
    ):
        with pytest.raises(ChainError, match="grants-missing"):
            grant.check_complete(*came_with(4), bad)


def test_replaced_and_swapped_grants_are_refused() -> None:
    """The link commits to the very boxes, each with its recipient."""
    rows = grants_of(4)
    swapped = [replace(rows[0], sealed=rows[1].sealed), replace(rows[1], sealed=rows[0].sealed)]
    for bad in ([replace(rows[0], sealed=bytes(292)), *rows[1:]], [*swapped, *rows[2:]]):
        with pytest.raises(ChainError, match="grants-digest"):
            grant.check_complete(*came_with(4), bad)


def test_doubles_and_wrong_lengths_are_refused() -> None:
    """Two grants for one device and epoch, or a box of 291 bytes, have no digest."""
    rows = grants_of(4)
    with pytest.raises(FormatError):
        grant.check_complete(*came_with(4), [*rows, rows[0]])
    with pytest.raises(FormatError):
        grant.digest([replace(rows[0], sealed=rows[0].sealed[:-1])])
    with pytest.raises(FormatError):
        grant.digest([replace(rows[0], epoch=1 << 32)])


def test_the_digest_doesnt_depend_on_order() -> None:
    """Grants are sorted by recipient and epoch before they are hashed."""
    rows = grants_of(4)
    assert grant.digest(rows) == grant.digest(reversed(rows))


def test_an_epoch_key_is_hedged() -> None:
    """A repeated random draw still gives different keys on different devices."""
    rand = bytes(32)
    assert generate(rand, b"\1" * 32) != generate(rand, b"\2" * 32)
    assert generate(rand, b"\1" * 32) != generate(b"\1" * 32, b"\1" * 32)


def test_a_digest_of_a_foreign_id_is_refused() -> None:
    """The recipient has to be a device id, not bytes of another length."""
    short: Any = b"short"
    with pytest.raises(FormatError):
        grant.digest([SealedGrant(short, 1, bytes(292))])
    wrong: Any = LinkHash(bytes(32))
    with pytest.raises(FormatError):
        grant.digest([SealedGrant(wrong, 1, bytes(292))])
