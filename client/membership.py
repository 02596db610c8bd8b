"""Links that this device makes: ADD, ROTATE, REBOX, and what a longer chain changes here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from client import doubt, healing, intake, regain, remoteerrors as reasons
from client.chainview import pack_item, unpack_item
from client.core import Core
from client.errors import NoSuchDevice, NotAllowed
from client.outbox import Edit
from client.profile import Name, part_of
from client.rows import Rows, pack, unpack
from client.steps import AppendLink, ChainItem, Rand
from client.values import Part
from crypto import chain as chains, epoch as epochs, grant, link
from crypto.cert import DeviceCert, Role
from crypto.chain import Chain
from crypto.epoch import EpochKeys
from crypto.grant import SealedGrant
from crypto.ids import DeviceId, OpHash
from crypto.keys import Identity
from crypto.link import Add, Cut, Link, Rebox, Rotate, SignedLink

_REFUSALS_MAX = 3


class Pending(NamedTuple):
    """A link of ours that is not in the chain yet; a REBOX has its new secret key beside it."""

    item: ChainItem
    parsed: Link
    box_sk: bytes = b""


class Membership:
    """What this device wants to change about the chain."""

    def __init__(self) -> None:
        self.pending: Pending | None = None
        self.revoke: list[DeviceId] | None = None
        """A rotation is wanted, without these devices."""
        self.drafts: dict[bytes, tuple[SealedGrant, ...]] = {}
        """ADD links that wait for their proof of possession, and their grants. In memory."""

    @classmethod
    def load(cls, rows: Rows) -> Membership:
        """From the rows `pending` and `rotate`."""
        wish = cls()
        if "pending" in rows:
            packed, box_sk = unpack(rows["pending"], 2)
            item = unpack_item(packed)
            wish.pending = Pending(item, link.parse(item.link.raw), box_sk)
        if "rotate" in rows:
            wish.revoke = [DeviceId(row) for row in unpack(rows["rotate"], 1)[0]]
        return wish


def set_pending(core: Core, wish: Membership, item: ChainItem, box_sk: bytes = b"") -> None:
    """Stores a link before it is sent."""
    wish.pending = Pending(item, link.parse(item.link.raw), box_sk)
    core.journal.set("pending", pack(pack_item(item), box_sk))


def _drop_pending(core: Core, wish: Membership) -> None:
    wish.pending = None
    core.journal.drop("pending")


def want_rotation(core: Core, wish: Membership, revoke: Sequence[DeviceId]) -> None:
    """NoSuchDevice, NotAllowed if the chain's rules forbid it."""
    chain, me = core.view.chain, core.me
    if me is None or not me.active:
        raise NotAllowed("This device is not part of the account now.")
    for device_id in revoke:
        target = chain.find(device_id)
        if target is None or not target.active:
            raise NoSuchDevice
        if target.device_id == me.device_id:
            raise NotAllowed("A device can't remove itself; do it on another one.")
        if target.role is Role.RECOVERY and me.role is not Role.RECOVERY:
            raise NotAllowed("Only the recovery key itself can be used to replace it.")
    wish.revoke = sorted({*revoke, *(wish.revoke or ())})
    core.journal.set("rotate", pack([bytes(row) for row in wish.revoke]))


def want_identity(core: Core, rand: Rand) -> None:
    """NotAllowed if this device can't add another one any more."""
    me = core.me
    if me is None or not me.active:
        raise NotAllowed("This device was removed from the account; pair it again.")
    if core.next_identity is None:
        core.next_identity = Identity(rand(32), rand(32))
        core.save_identity()


def next_link(core: Core, wish: Membership, rand: Rand) -> AppendLink | None:
    """The link to append now."""
    if core.link_refusals >= _REFUSALS_MAX:
        return None
    if wish.pending is not None and wish.pending.parsed.prev != core.state.chain.head:
        _overtaken(core, wish, wish.pending)
    if wish.pending is None:
        _build_what_is_wanted(core, wish, rand)
    return AppendLink(wish.pending.item) if wish.pending is not None else None


def _overtaken(core: Core, wish: Membership, pending: Pending) -> None:
    """Another link came first: build anew what can be built anew."""
    _drop_pending(core, wish)
    if isinstance(pending.parsed.body, Add) and core.next_identity is None:
        core.tell(
            "add-overtaken",
            "The device was not added because the device list changed meanwhile. Pair it again.",
            about=pending.item.link.raw[:48],
        )


def _build_what_is_wanted(core: Core, wish: Membership, rand: Rand) -> None:
    me = core.me
    if me is None or not me.active or core.state.chain.epoch not in core.view.keys:
        return
    if core.next_identity is not None:
        new = core.next_identity
        draft, grants = draft_add(core, DeviceCert.of(new))
        pop = link.prove_possession(new, draft.raw)
        set_pending(core, wish, ChainItem(SignedLink(draft.raw, draft.sig, pop), grants))
    elif wish.revoke is not None:
        set_pending(core, wish, _rotate(core, wish.revoke, rand))
    elif _rebox_due(core) and not core.rebox_refused:
        box_sk = rand(32)
        body = Rebox(core.identity.with_box_key(box_sk).box_pk, me.box_gen + 1)
        set_pending(core, wish, ChainItem(_build(core, body)), box_sk)


def _rebox_due(core: Core) -> bool:
    """Once in every epoch: a thief who copied the box key once and left can't open the next."""
    me, chain = core.me, core.state.chain
    if me is None or me.role is not Role.FULL or core.cloned:
        return False
    began = core.view.epoch_starts[chain.epoch][0]
    last = max(core.view.reboxed.get(me.device_id, 0), me.added_seq)
    # After a service lost the account, a device that is not back yet may hold links beyond ours:
    # one that nobody asked for must not take their place.
    return chain.epoch > 1 and last < began and chain.epoch != core.remade_epoch


def _build(core: Core, body: Rotate | Rebox) -> SignedLink:
    chain = core.state.chain
    return link.build(
        core.identity, body, account=chain.account, seq=chain.seq + 1, prev=chain.head
    )


def _rotate(core: Core, revoke: Sequence[DeviceId], rand: Rand) -> ChainItem:
    chain = core.state.chain
    gone = {row for row in revoke if (device := chain.find(row)) is not None and device.active}
    number = chain.epoch + 1
    keys = EpochKeys(chain.account, number, epochs.generate(rand(32), core.identity.ik_seed))
    grants = tuple(
        grant.make(core.identity, device, keys, link_seq=chain.seq + 1, link_prev=chain.head)
        for device in chain.active
        if device.device_id not in gone
    )
    cuts = tuple(_cut(core, row) for row in sorted(gone))
    body = Rotate(number, keys.commitment, grant.digest(grants), cuts)
    return ChainItem(_build(core, body), grants)


def _cut(core: Core, device_id: DeviceId) -> Cut:
    """A revoked device ends at the last op of it that we hold."""
    device = core.state.find(device_id)
    assert device is not None
    log = core.state.logs[device.index]
    return Cut(device_id, log.seq, log.head if log.seq else OpHash(bytes(OpHash.size)))


def draft_add(core: Core, cert: DeviceCert) -> tuple[SignedLink, tuple[SealedGrant, ...]]:
    """An ADD link without its proof of possession, and the new device's grants: the current
    epoch's, and the one before while records still live in it."""
    chain = core.state.chain
    live = [chain.epoch, chain.epoch - 1] if core.stale else [chain.epoch]
    keys = [core.view.keys[number] for number in live if number in core.view.keys]
    return unproven_add(core.identity, chain, cert, keys)


def unproven_add(
    signer: Identity, chain: Chain, cert: DeviceCert, keys: Sequence[EpochKeys]
) -> tuple[SignedLink, tuple[SealedGrant, ...]]:
    """The ADD link that follows `chain`, without its proof of possession, and the grants of
    these keys for the new device."""
    seq = chain.seq + 1
    recipient = chains.Device(
        len(chain.devices), cert.device_id, cert.ik_pk, cert.box_pk, cert.box_gen, cert.role,
        seq, signer.device_id,
    )  # fmt: skip
    grants = tuple(
        grant.make(signer, recipient, each, link_seq=seq, link_prev=chain.head) for each in keys
    )
    body = Add(cert, chain.epoch, grant.digest(grants))
    return link.build(signer, body, account=chain.account, seq=seq, prev=chain.head), grants


def take_chain(
    core: Core, wish: Membership, items: Sequence[ChainItem], *, lamport_max: int = 0
) -> bool:
    """Takes links one by one, so that a new box key opens what follows it. False if one was
    refused."""
    links: list[Link] = []
    healthy = True
    for item in items:
        done = core.view.extend([item], core.identity, core.journal)
        for error in done.evidence:
            core.accuse(error)
        links += done.links
        if done.evidence and not done.links:
            healthy = False
            break
        if done.links:
            _settle(core, wish, done.links[-1])
    if core.view.chain.hashes:
        if core.fresh and not core.lamport_hint:
            core.lamport_hint = lamport_max
        _use_chain(core, links)
    return healthy


def claimed(core: Core, chain_seq: int) -> None:
    """The service speaks of a chain of this length: it is asked for it, but not for ever."""
    if chain_seq > core.view.chain.seq and core.chain_tries < _REFUSALS_MAX:
        core.chain_claimed = chain_seq
        core.chain_due = True


def weigh_claim(core: Core) -> None:
    """The service has sent all that it wants to send of the chain."""
    if core.chain_claimed <= core.view.chain.seq:
        core.chain_tries = 0
        return
    core.chain_tries += 1
    if core.chain_tries == _REFUSALS_MAX:
        core.alarm(
            "chain-unshown",
            "The service says that your device list is longer than what it delivers.",
        )


def _settle(core: Core, wish: Membership, parsed: Link) -> None:
    """Our own link stands in the chain."""
    pending = wish.pending
    if pending is None or pending.parsed.link_hash != parsed.link_hash:
        return
    _drop_pending(core, wish)
    if pending.box_sk:
        core.identity = core.identity.with_box_key(pending.box_sk)
        core.save_identity()
    elif isinstance(parsed.body, Rotate):
        wish.revoke = None
        core.journal.drop("rotate")
    elif (
        core.next_identity is not None
        and isinstance(parsed.body, Add)
        and parsed.body.cert.device_id == core.next_identity.device_id
    ):
        _become(core, core.next_identity, len(core.view.chain.devices) - 1)


def _become(core: Core, new: Identity, index: int) -> None:
    """Goes on under a new identity, with all edits. Our parts of scores get new names, and
    hold what was added since they were last committed."""
    old = core.me
    if old is not None:
        core.past.end(old.index, core.state.logs[old.index].seq, core.journal)
    doubt.ground(core)
    for edit in list(core.outbox.edits.values()):
        part = part_of(edit.name.key)
        if part is not None and old is not None and part[1] == old.index:
            core.outbox.remove(edit.name, core.journal)
            name = Name(edit.name.collection, f"{part[0]}#{index}")
            value = Part(edit.delta, edit.wall_ms).encode()
            core.outbox.put(Edit(name, value, edit.lamport, edit.wall_ms, edit.delta), core.journal)
    core.identity, core.next_identity, core.cloned = new, None, False
    core.save_identity()
    core.tell(
        "new-identity",
        "This device has a new identity. Remove the old one once no copy of it is in use.",
        about=new.device_id,
        device_id=new.device_id,
    )


def _use_chain(core: Core, links: Sequence[Link]) -> None:
    known = core.me is not None
    state = core.open_state()
    epoch_before = core.profile.epoch
    for index in state.set_chain(core.view.chain):
        _drop_beyond_cut(core, index)
    state.lamport_hint = max(state.lamport_hint, core.lamport_hint)
    if core.profile.epoch != state.chain.epoch:
        core.profile.set_epoch(state.chain.epoch)
        core.epoch_seen_ms = core.now_ms if epoch_before else core.epoch_seen_ms or core.now_ms
        core.rebox_refused = False
    if links:
        core.blocked = False
        core.link_refusals = 0
        core.behind = True
    _announce(core, links, known=known)
    intake.retry(core)


def _drop_beyond_cut(core: Core, index: int) -> None:
    log, cut = core.state.logs[index], core.state.chain.devices[index].cut
    dropped = core.drop_ops(index, log.seq)
    regain.say_again(core, index, dropped)
    if cut is not None and log.seq < cut.seq and dropped:
        core.alarm(
            "cut",
            "A device was removed at another version of its last change than this one holds.",
            dropped[0].raw,
            about=cut.device_id,
            device_id=cut.device_id,
        )


def _announce(core: Core, links: Sequence[Link], *, known: bool) -> None:
    me = core.me
    for parsed in links:
        if not known and (me is None or parsed.seq <= me.added_seq):
            continue  # it was there before us
        if isinstance(parsed.body, Add):
            cert = parsed.body.cert
            what = "A recovery key" if cert.role is Role.RECOVERY else "A new device"
            core.tell(
                "device-added",
                f"{what} ({cert.device_id[:4].hex()}) was added to your account by device "
                f"{parsed.signer[:4].hex()}. If that was not you, remove both.",
                about=cert.device_id,
                device_id=cert.device_id,
            )
        elif isinstance(parsed.body, Rotate):
            for cut in parsed.body.cuts:
                _announce_removal(core, cut.device_id)


def _announce_removal(core: Core, device_id: DeviceId) -> None:
    if device_id == core.identity.device_id:
        core.alarm(
            "revoked",
            "This device was removed from the account. What it holds stays readable here.",
            about=device_id,
            device_id=device_id,
        )
    else:
        core.tell(
            "device-removed",
            f"Device {device_id[:4].hex()} was removed from your account.",
            about=device_id,
            device_id=device_id,
        )


def refused(core: Core, wish: Membership, raw: bytes, reason: str) -> None:
    """The service did not take a link."""
    if healing.link_refused(core, raw, reason):
        return
    core.link_refusals += 1
    if reason in (reasons.CHAIN_CONFLICT, reasons.CHAIN_GAP):
        core.chain_due = True
        if reason == reasons.CHAIN_GAP:
            core.receipt_due = True
        return
    pending = wish.pending
    if pending is None or pending.item.link.raw != raw:
        return
    _drop_pending(core, wish)
    core.rebox_refused = bool(pending.box_sk)
    if isinstance(pending.parsed.body, Rotate):
        wish.revoke = None
        core.journal.drop("rotate")
    core.next_identity = None
    core.save_identity()
    core.alarm(
        "link-refused",
        f"The service refused a change of your device list ({reason}).",
        raw,
        about=raw[:80],
    )
