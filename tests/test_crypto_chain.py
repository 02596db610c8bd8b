"""The device chain: every rule of docs/protocol.md, 1.2, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace
from functools import cache

import pytest

from crypto import labels, link
from crypto.cert import DeviceCert, Role
from crypto.chain import DEVICES_EVER_MAX, EMPTY, Chain
from crypto.errors import ChainError, CryptoError, FormatError, SignatureError
from crypto.ids import DeviceId, OpHash
from crypto.keys import Identity
from crypto.link import Add, Cut, Genesis, LinkType, Rebox, Rotate, SignedLink
from tests.vectors import badlinks
from tests.vectors.badlinks import Builder, ghost
from tests.vectors.story import Row, seeded, story


def test_the_story_holds() -> None:
    """Ten links of all types lead to the stated members, epochs and keys."""
    chain = EMPTY
    for signed in story().signed:
        chain = chain.apply(signed)
    assert chain == story().chain
    assert (chain.seq, chain.epoch, sorted(chain.commits)) == (9, 4, [1, 2, 3, 4])
    named = [(story().name_of(device.device_id), device.active) for device in chain.devices]
    assert named == [("A", True), ("B", False), ("R", True), ("C", False), ("D", True)]
    assert [device.index for device in chain.devices] == [0, 1, 2, 3, 4]
    assert chain.account == link.account_id(story().signed[0].raw)


def test_devices_remember_who_added_them() -> None:
    """Every device can announce a new one together with who let it in."""
    added = {
        story().name_of(d.device_id): story().name_of(d.added_by) for d in story().chain.devices
    }
    assert added == {"A": "A", "B": "A", "R": "A", "C": "B", "D": "R"}
    assert [device.added_seq for device in story().chain.devices] == [0, 1, 2, 5, 8]


def test_a_rebox_replaces_the_key_and_keeps_the_device() -> None:
    """Same id and index, next generation; the old key stays taken."""
    before, after = story().chains[3].devices[0], story().chains[4].devices[0]
    assert (after.device_id, after.index, after.box_gen) == (before.device_id, 0, 2)
    assert after.box_pk != before.box_pk
    assert {before.box_pk, after.box_pk} <= story().chain.box_keys


def test_a_cut_is_kept_with_the_revoked_device() -> None:
    """The chain says up to which op a revoked device counts."""
    device = story().chain.devices[3]
    last = story().ops["C2"]
    assert device.cut == Cut(device.device_id, 2, last.op_hash)
    assert not device.active


RULES = {
    "second genesis": "seq",
    "starts with an ADD": "no-genesis",
    "genesis with seq 1": "genesis-fields",
    "genesis with prev": "genesis-fields",
    "genesis with account": "genesis-fields",
    "genesis of a recovery key": "genesis-cert",
    "genesis with generation 2": "genesis-cert",
    "genesis of another device than the signer": "signer",
    "genesis with epoch 2": "epoch",
    "genesis signature zero": "signature",
    "genesis with a pop": "pop",
    "genesis with an identity key of small order": "signature",
    "other magic": "magic",
    "suite 0": "suite",
    "unknown suite 2": "suite",
    "type 0": "type",
    "type 5": "type",
    "flags set": "flags",
    "role 0": "role",
    "role 3": "role",
    "unknown KEM": "kem",
    "reserved byte set": "reserved",
    "cut off after 95": "length",
    "prolonged": "length",
    "seq repeated": "seq",
    "seq skipped": "seq",
    "prev of an older link": "prev",
    "another account": "account",
    "ghost device signs itself in": "signer",
    "revoked device adds": "signer",
    "revoked device rotates": "signer",
    "signed by another device": "signature",
    "signed under the label of proofs": "signature",
    "signed under the label of ops": "signature",
    "proof of possession missing": "signature",
    "proof of possession by the adder": "signature",
    "proof of possession under the label of links": "signature",
    "proof of possession over another link": "signature",
    "ADD names epoch 1": "epoch",
    "ADD names epoch 3": "epoch",
    "new device with generation 2": "box-gen",
    "active device added again": "device-again",
    "revoked device added again": "device-again",
    "new device with another device's box key": "box-key-again",
    "new device with a replaced box key": "box-key-again",
    "new device with a revoked box key": "box-key-again",
    "box key of low order: zero": "low-order",
    "ROTATE to epoch 2": "epoch",
    "ROTATE to epoch 4": "epoch",
    "revokes itself": "revoke-self",
    "revokes the recovery key": "revoke-recovery",
    "revokes a ghost": "revoke-unknown",
    "recovery key revokes itself": "revoke-self",
    "revokes a revoked device": "revoke-unknown",
    "no full device remains": "last-device",
    "cuts descending": "order",
    "a device cut twice": "order",
    "ROTATE with a pop": "pop",
    "REBOX to generation 4": "box-gen",
    "REBOX of the recovery key": "rebox-role",
    "REBOX to its own box key": "box-key-again",
    "REBOX to another's box key": "box-key-again",
    "REBOX of low order: zero": "low-order",
    "REBOX of a revoked device": "signer",
}


@cache
def bad_links() -> dict[str, Row]:
    """All links that must be refused, by name."""
    return {row["name"].removeprefix("chain: "): row for row in badlinks.negatives(story())}


def refusal(row: Row) -> CryptoError:
    """What the chain says to a bad link."""
    signed = SignedLink(*(bytes.fromhex(row[part]) for part in ("link", "sig", "pop")))
    with pytest.raises(CryptoError) as caught:
        story().chains[row["prefix"]].apply(signed)
    return caught.value


@pytest.mark.parametrize("name", RULES)
def test_each_rule_refuses_what_it_is_for(name: str) -> None:
    """A link that breaks one rule is refused by that rule, and says so by its slug."""
    assert refusal(bad_links()[name]).rule == RULES[name]


def test_every_bad_link_is_refused() -> None:
    """Also those that several rules would refuse."""
    for row in bad_links().values():
        assert isinstance(refusal(row), (FormatError, SignatureError, ChainError)), row["name"]


def test_a_refused_link_leaves_the_chain_as_it_was() -> None:
    """A chain is a value: it can't be changed, and a refusal gives no other."""
    chain = story().chains[5]
    refusal(bad_links()["revoked device rotates"])
    assert chain == story().chains[5]
    with pytest.raises(FrozenInstanceError):
        chain.epoch = 9  # type: ignore[misc]
    with pytest.raises(TypeError):
        chain.commits[9] = bytes(32)  # type: ignore[index]


def test_the_empty_chain_has_no_head_and_no_account() -> None:
    """Asking for them is refused, not answered with zeros."""
    with pytest.raises(ChainError, match="empty"):
        _ = EMPTY.head
    with pytest.raises(ChainError, match="empty"):
        _ = EMPTY.account
    assert EMPTY.seq == -1


def test_a_fork_of_the_chain_goes_its_own_way() -> None:
    """After different links, each side refuses the other's next one."""
    left, right = Builder(story(), 5), Builder(story(), 5)
    first = left.add(story().people["A"], ghost())
    second = right.rotate(story().people["A"])
    chain = story().chains[5].apply(first)
    with pytest.raises(ChainError, match="seq"):
        chain.apply(second)


def test_only_a_recovery_key_revokes_a_recovery_key() -> None:
    """A thief with an unlocked phone can't lock out the paper key; another paper can."""
    b = Builder(story(), 5)
    other = Identity(seeded("paper 2/ik"), seeded("paper 2/bk"))
    add = b.add(story().people["R"], other, DeviceCert.of(other, Role.RECOVERY))
    chain = story().chains[5].apply(add)
    first = chain.find(story().people["R"].device_id)
    assert first is not None
    cut = Cut(first.device_id, 0, OpHash(bytes(32)))

    def rotated(signer: Identity) -> Chain:
        body = Rotate(chain.epoch + 1, bytes(32), bytes(32), (cut,))
        return chain.apply(
            link.build(signer, body, account=chain.account, seq=chain.seq + 1, prev=chain.head)
        )

    with pytest.raises(ChainError, match="revoke-recovery"):
        rotated(story().people["A"])
    assert first.device_id not in {device.device_id for device in rotated(other).active}


def test_a_recovery_key_may_revoke_every_phone_but_the_last() -> None:
    """It adds a new phone first, then revokes the lost ones."""
    b = Builder(story(), 6)
    gone = [Cut(story().people[name].device_id, 0, OpHash(bytes(32))) for name in "ABC"]
    with pytest.raises(ChainError, match="last-device"):
        b.chain.apply(b.rotate(story().people["R"], *gone))
    assert len(b.chain.apply(b.rotate(story().people["R"], *gone[:2])).active) == 2


def many(count: int) -> Iterator[Chain]:
    """A chain that grows by one device at a time."""
    chain = story().chains[1]
    signer = story().people["A"].with_box_key(seeded("A/bk"))
    for at in range(count):
        new = Identity(seeded(f"many/{at}/ik"), seeded(f"many/{at}/bk"))
        body = Add(DeviceCert.of(new), 1, bytes(32))
        draft = link.build(signer, body, account=chain.account, seq=chain.seq + 1, prev=chain.head)
        chain = chain.apply(replace(draft, pop=link.prove_possession(new, draft.raw)))
        yield chain


def test_at_most_255_devices_ever() -> None:
    """The 256th is refused, also if others were revoked: indices are one byte."""
    grown = many(DEVICES_EVER_MAX)
    for _ in range(DEVICES_EVER_MAX - 1):
        chain = next(grown)
    assert len(chain.devices) == DEVICES_EVER_MAX
    with pytest.raises(ChainError, match="devices-ever"):
        next(grown)


def test_a_small_order_identity_key_signs_nothing() -> None:
    """A key under which every signature would hold elsewhere is refused for ADD as well."""
    small = b"\1" + bytes(31)
    b = Builder(story(), 5)
    cert = replace(DeviceCert.of(ghost()), ik_pk=small)
    draft = b.next(story().people["A"], Add(cert, b.chain.epoch, bytes(32)))
    with pytest.raises(SignatureError):
        b.chain.apply(replace(draft, pop=small + bytes(32)))


def test_what_is_built_is_what_is_parsed() -> None:
    """All bodies survive encoding and parsing; cuts are sorted on the way."""
    own = story().people["A"]
    one, two, three = (
        Cut(DeviceId(bytes((at,)) * 16), at, OpHash(bytes((at,)) * 32)) for at in (1, 2, 3)
    )
    bodies: dict[LinkType, link.Body] = {
        LinkType.GENESIS: Genesis(DeviceCert.of(own), b"\1" * 32),
        LinkType.ADD: Add(DeviceCert.of(ghost()), 7, b"\2" * 32),
        LinkType.ROTATE: Rotate(8, b"\3" * 32, b"\4" * 32, (one, two, three)),
        LinkType.REBOX: Rebox(ghost().box_pk, 9),
    }
    for kind, body in bodies.items():
        signed = link.build(own, body)
        assert signed.raw[5] == kind
        assert link.parse(signed.raw).body == body
    shuffled = link.build(own, Rotate(8, b"\3" * 32, b"\4" * 32, (two, one, three)))
    assert link.parse(shuffled.raw).body == bodies[LinkType.ROTATE]


def test_sizes_are_those_of_the_specification() -> None:
    """112, 112, 69 + 56 n and 36 bytes of body behind 96 bytes of head."""
    assert [len(signed.raw) - 96 for signed in story().signed] == [
        112, 112, 112, 36, 69, 112, 36, 69 + 56, 112, 69 + 56,
    ]  # fmt: skip


def test_proof_of_possession_has_a_label_of_its_own() -> None:
    """A link's signature by the new device is no proof of possession, and the other way round."""
    signed = story().signed[1]
    new = story().people["B"]
    assert signed.pop == new.sign(labels.LINK_POP, signed.raw)
    assert signed.pop != new.sign(labels.LINK, signed.raw)
