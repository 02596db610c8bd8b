"""What a device does when the service, another device or a copy of itself goes wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from client.device import Device
from client.errors import NotAllowed, RowsError
from client.recovery import Recovery
from client.steps import AppendLink, ChainItem, GetChain
from crypto import link, op
from crypto.ids import DeviceId
from crypto.link import SignedLink
from crypto.names import tag
from crypto.op import HEADER, Verb, parse_any
from crypto.receipt import Receipt
from tests.client_worlds import Phone, Refused, Service, first_phone, pair, settle
from tests.crafted_ops import crafted
from tests.judge_worlds import SeededRand, World, seeded

DAY_MS = 86_400_000


@pytest.fixture
def a() -> Phone:
    return first_phone(Service())


def put(phone: Phone, key: str, value: str) -> None:
    phone.device.put("ui", key, value, now_ms=phone.now_ms)
    phone.store()


def copied(phone: Phone, seed: str) -> Phone:
    """A restored backup, or a thief's copy, of a phone's rows."""
    clone = Phone(Device.load(dict(phone.rows)), phone.service, seed)
    clone.rows = dict(phone.rows)
    return clone


def test_a_restored_service_gets_back_what_it_lost(a: Phone) -> None:
    """Evolu #660, etesync-android #189: generation changes, devices push again, silently."""
    b = pair(a, "b")
    put(a, "k1", "old")
    settle(a, b)
    backup = a.service.position
    put(a, "k2", "new")
    put(b, "k1", "newer")
    settle(a, b)
    heads = dict(a.service.heads)
    a.service.restore(backup)
    assert a.service.heads != heads
    b.poke()
    settle(b, a)
    assert a.service.heads == heads
    assert a.alarms == b.alarms == []
    c = pair(a, "c")
    assert c.device.list("ui") == {"k1": "newer", "k2": "new"}


def test_links_that_the_service_lost_come_back_with_their_grants(a: Phone) -> None:
    """A rotation and a device that the backup does not know: links and ops alternate."""
    put(a, "k1", "v")
    b = pair(a, "b")
    settle(a, b)
    put(a, "k2", "v")
    settle(a, b)
    a.device.rotate()
    settle(a, b)
    put(b, "k3", "v")
    settle(a, b)
    heads, chain = dict(a.service.heads), a.service.chain
    a.service.restore(1)
    settle(b, a)
    assert dict(a.service.heads) == heads
    assert a.service.chain == chain
    assert a.alarms == b.alarms == []
    assert pair(a, "c").device.list("ui") == {"k1": "v", "k2": "v", "k3": "v"}


def test_a_refused_restore_is_an_alarm(a: Phone) -> None:
    """C15: what is lost and not taken back is told."""
    put(a, "k1", "v")
    a.sync()
    a.service.restore(0)

    def refuse(ops: tuple[bytes, ...], caller: object) -> None:
        raise Refused("DEVICE_FORKED")

    a.service.push = refuse  # type: ignore[method-assign]
    a.poke()
    assert a.alarms == ["restore-refused"]
    assert not a.device.status.cloned


def test_a_rollback_without_a_new_generation_is_found_by_the_receipt(a: Phone) -> None:
    """The service forgets and says nothing: the next check in heals it."""
    put(a, "k1", "v")
    a.sync()
    a.service.restore(0)
    a.service.generation -= 1
    a.device.check_in()
    a.sync()
    assert a.service.heads[a.device.identity.device_id][0] == 2
    assert a.alarms == []


def test_a_receipt_of_another_history_is_evidence(a: Phone) -> None:
    """C15: other bytes at the same place."""
    put(a, "k1", "v")
    a.sync()
    me = a.device.identity.device_id
    a.service.heads[me] = (1, type(a.service.heads[me][1])(seeded("other")))
    a.device.check_in()
    a.sync()
    assert a.alarms == ["receipt-fork"]
    assert len(a.device.notices[-1].evidence) == 2


def test_a_forged_receipt_is_not_believed(a: Phone) -> None:
    """Signed by another key than the pinned one."""
    nonce = seeded("n", 16)
    data, rows = a.service.receipt(nonce)
    a.device.on_receipt(data, rows, server_key=seeded("pk"), nonce=nonce, now_ms=0)
    assert a.alarms == ["receipt-signature"]


def test_contradicting_receipts_prove_equivocation(a: Phone) -> None:
    """Two signed statements of one chain seq with two heads."""
    a.device.check_in()
    a.sync()
    world = World.of("x")
    a.service.chain = world.chain
    nonce = seeded("n", 16)
    told = a.service.receipt(nonce)[0]
    forged = a.service.key.sign(
        Receipt(a.device.account_id, 0, world.chain.head, told[80:112], 1, nonce)
    )
    a.device.on_receipt(forged, [], server_key=a.service.key.public, nonce=nonce, now_ms=0)
    assert "equivocation" in a.alarms
    assert "receipt-chain" in a.alarms


def test_a_restored_clone_loses_no_writes(a: Phone) -> None:
    """turso #8129, submersion #309: DEVICE_FORKED, a new identity, edits kept."""
    b = pair(a, "b")
    settle(a, b)
    clone = copied(b, "clone")
    put(b, "k1", "by b")
    b.device.add_score("s", "x", 5, now_ms=b.now_ms)
    settle(b)
    put(clone, "k2", "by the clone")
    clone.device.add_score("s", "x", 7, now_ms=clone.now_ms)
    clone.store()
    # The clone pushes before it looks.
    push = clone.device.next_push(now_ms=clone.now_ms, rand=clone.rand)
    clone.store()
    assert push is not None
    with pytest.raises(Refused, match="DEVICE_FORKED"):
        clone.service.push(push.ops, clone.device.identity.device_id)
    clone.device.on_push_refused(push, "DEVICE_FORKED", {}, now_ms=clone.now_ms)
    assert clone.alarms == []
    clone.sync()
    assert clone.device.status.cloned
    assert clone.device.next_push(now_ms=clone.now_ms, rand=clone.rand) is None
    clone.device.reidentify(now_ms=clone.now_ms, rand=clone.rand)
    clone.store()
    clone.sync()
    settle(a, b, clone)
    assert clone.alarms == ["cloned"]
    for phone in (a, b, clone):
        assert phone.device.list("ui") == {"k1": "by b", "k2": "by the clone"}
        assert phone.device.score("s", "x", now_ms=phone.now_ms) == 12


def test_a_clone_that_looks_first_finds_itself(a: Phone) -> None:
    """Own ops that this phone did not write: the identity is in use elsewhere."""
    clone = copied(a, "clone")
    put(a, "k1", "v")
    a.sync()
    clone.poke()
    assert clone.device.status.cloned
    assert clone.device.get("ui", "k1") == "v"
    clone.reload()
    assert clone.device.status.cloned


def test_a_fork_sets_one_device_aside_and_wedges_nothing(a: Phone) -> None:
    """whatsmeow #858: both versions are evidence, other devices go on syncing."""
    b = pair(a, "b")
    settle(a, b)
    put(b, "base", "kept")
    settle(a, b)
    clone = copied(b, "clone")
    put(b, "k1", "one")
    settle(b, a)
    assert a.device.get("ui", "k1") == "one"
    put(clone, "k1", "two")
    push = clone.device.next_push(now_ms=clone.now_ms, rand=clone.rand)
    assert push is not None
    a.device.on_page(push.ops, a.device.cursor, more=False, now_ms=a.now_ms)
    a.store()
    for _ in range(2):
        assert a.alarms == ["fork"]
        assert a.device.get("ui", "k1") is None
        assert a.device.get("ui", "base") == "kept"
        [info] = [row for row in a.device.devices if row.set_aside]
        assert info.device_id == b.device.identity.device_id
        a.reload()
    fork = a.device.notices[-1]
    assert len(fork.evidence) == 2
    c = pair(a, "c")
    put(c, "k2", "goes on")
    settle(c, a)
    assert a.device.get("ui", "k2") == "goes on"


def test_an_omitted_op_is_exposed_and_told(a: Phone) -> None:
    """The service hides b's op; c's next op names it; after retries: withheld."""
    b, c = pair(a, "b"), pair(a, "c")
    settle(a, b, c)
    put(b, "k1", "hidden")
    settle(b, c)
    hidden = b.service.heads[b.device.identity.device_id][1]
    put(c, "k2", "v")
    c.sync()
    service = a.service
    a.service = copy.copy(service)
    a.service.hide = lambda sealed: sealed.op_hash == hidden
    for _ in range(5):
        a.poke()
    assert a.alarms == ["withheld"]
    assert a.device.status.ops_on_hold >= 1
    a.reload()
    assert a.device.status.ops_on_hold >= 1
    a.service = service
    a.device.on_generation_changed()
    a.sync()
    assert a.device.list("ui") == {"k1": "hidden", "k2": "v"}
    assert a.device.status.ops_on_hold == 0


def test_one_bad_record_stops_nothing(a: Phone) -> None:
    """Baileys #1286: forged, damaged and senseless ops are set aside one by one."""
    b = pair(a, "b")
    put(b, "k1", "v")
    settle(b)
    ops, cursor, _ = a.service.pull(b"", 1000)
    damaged = ops[-1][:-1] + bytes((ops[-1][-1] ^ 1,))
    other = World.of("x").op("x").raw
    a.device.on_page([b"rubbish", damaged, other, *ops], cursor, more=False, now_ms=a.now_ms)
    assert a.device.get("ui", "k1") == "v"
    assert a.alarms == ["format", "signature", "account"]


def test_a_ghost_device_is_not_believed(a: Phone) -> None:
    """WhatsApp, Matrix: the service can't add a device."""
    ghost = World.of("ghost")
    draft = link.build(
        ghost.people["ghost"],
        link.Rebox(seeded("bk"), 2),
        account=a.device.account_id,
        seq=1,
        prev=a.device.chain.head,
    )
    a.device.on_chain(
        [ChainItem(SignedLink(draft.raw, draft.sig))], lamport_max=0, more=False, now_ms=0
    )
    assert a.alarms == ["chain-signer"]
    assert a.device.chain.seq == 0
    put(a, "k1", "v")
    a.sync()
    assert a.device.get("ui", "k1") == "v"


def test_a_second_chain_is_evidence_and_wedges_nothing(a: Phone) -> None:
    """C2: the persisted head only moves forward."""
    other = first_phone(Service("other"), seed="other")
    a.device.on_chain([ChainItem(other.service.items[0].link)], lamport_max=0, more=False, now_ms=0)
    assert a.alarms == ["chain-fork"]
    put(a, "k1", "v")
    a.sync()
    assert a.service.position >= 2


def test_unrequested_keys_are_not_taken(a: Phone) -> None:
    """Matrix CVE-2022-39246: a grant counts only with its link and commitment."""
    b = pair(a, "b", sync=False)
    c = pair(a, "c", sync=False)
    items = list(a.service.items)
    mixed = ChainItem(items[1].link, items[2].grants)
    b.device.on_chain([items[0], mixed], lamport_max=0, more=False, now_ms=0)
    assert b.device._core.view.keys == {}
    assert b.alarms == ["grants-missing"]
    del c


def test_a_removed_device_writes_nothing_past_its_cut(a: Phone) -> None:
    """Applying a ROTATE takes back what came later; nobody is alarmed by it."""
    b, c = pair(a, "b"), pair(a, "c")
    put(b, "k1", "before")
    settle(a, b, c)
    put(b, "k1", "past the cut")
    b.poke()
    settle(c)
    assert c.device.get("ui", "k1") == "past the cut"
    # a has not seen it, and removes b.
    a.device.rotate([b.device.identity.device_id])
    core = a.device._core
    core.behind = False
    a.sync()
    settle(a, c)
    assert c.device.get("ui", "k1") == a.device.get("ui", "k1") == "before"
    assert a.alarms == c.alarms == []
    c.reload()
    assert c.device.get("ui", "k1") == "before"


def test_a_service_that_hides_ops_from_the_initiator_loses_nothing(a: Phone) -> None:
    """Rotation step 4: others publish what wins and is missing."""
    b = pair(a, "b")
    settle(a, b)
    put(b, "k1", "v")
    b.sync()
    service = a.service
    b_id = b.device.identity.device_id
    a.service = copy.copy(service)
    a.service.hide = lambda sealed: sealed.header.device_id == b_id and sealed.header.epoch == 1
    a.device.rotate()
    a.sync()
    # The model is shared but for the fault.
    service.chain, service.items = a.service.chain, a.service.items
    service.position, service.lamport_max = a.service.position, a.service.lamport_max
    b.sync()
    service.drop_epoch(1)
    assert any(key[0] == 2 for key in service.winners)
    b.poke()
    names = {row.sealed.header.tag for row in service.rows if row.sealed.header.epoch == 2}
    assert tag(b.device._core.view.keys[2], b"ui", b"k1") in names


def test_the_account_is_gone_and_the_data_is_not(a: Phone) -> None:
    """evolu #656: the service can never order a wipe."""
    put(a, "k1", "v")
    a.device.on_account_gone(now_ms=0)
    assert a.alarms == ["account-gone"]
    assert a.device.get("ui", "k1") == "v"
    assert a.device.next_step(now_ms=0, rand=a.rand) is None


def test_a_quota_is_told_by_its_name(a: Phone) -> None:
    """brave-browser #35042: never lie about what is stored; the limit has a name."""
    refuse_new_names(a, room=0)
    put(a, "k1", "v")
    a.sync()
    assert "records_per_account" in a.device.notices[-1].sentence
    assert a.device.status.edits_waiting >= 1
    assert a.device.get("ui", "k1") == "v"
    assert a.alarms == []


def test_a_full_account_still_takes_changes_of_what_it_has(a: Phone) -> None:
    """A new name that finds no room waits by itself; known names, and later it, go out."""
    put(a, "known", "v1")
    a.sync()
    allow = refuse_new_names(a, room=0)
    put(a, "new", "v")
    put(a, "known", "v2")
    a.sync()
    assert a.device.status.edits_waiting == 1
    b = pair(a, "b")
    assert b.device.list("ui") == {"known": "v2"}
    allow()
    a.now_ms += 3_600_000
    settle(a, b)
    assert b.device.list("ui") == {"known": "v2", "new": "v"}
    assert a.device.status.edits_waiting == 0


@pytest.mark.parametrize("room", [1, 7, 19])
def test_as_many_new_names_go_out_as_there_is_room_for(a: Phone, room: int) -> None:
    """A batch that fits in part is made smaller until it fits, and no call is wasted on more."""
    a.sync()
    refuse_new_names(a, room=room)
    for number in range(20):
        put(a, f"k{number:02}", "v")
    a.sync()
    assert a.device.status.edits_waiting == 20 - room
    assert a.alarms == []


def refuse_new_names(a: Phone, *, room: int) -> Callable[[], None]:
    """The service takes `room` more names. Gives what lifts the limit."""
    take = a.service.push
    known = {row.sealed.header.tag for row in a.service.rows}

    def push(ops: tuple[bytes, ...], caller: DeviceId) -> None:
        headers = [op.parse(raw).header for raw in ops]
        new = {row.tag for row in headers if row.kind == op.Kind.RECORD} - known
        if len(new) > limit[0]:
            raise Refused("QUOTA", limit="records_per_account")
        take(ops, caller)
        limit[0] -= len(new)
        known.update(new)

    limit = [room]
    a.service.push = push  # type: ignore[method-assign]

    def allow() -> None:
        limit[0] = 1 << 30

    return allow


@pytest.mark.parametrize(
    ("reason", "metadata"),
    [("QUOTA", {"limit": "records_per_account"}), ("OP_INVALID", {"index": "0", "rule": "x"})],
)
def test_a_service_that_takes_a_batch_and_denies_it_frames_nobody(
    a: Phone, reason: str, metadata: dict[str, str]
) -> None:
    """A refused batch is dropped only once the service has signed that it does not hold it."""
    b = pair(a, "b")
    take = a.service.push

    def lie(ops: tuple[bytes, ...], caller: DeviceId) -> None:
        take(ops, caller)
        a.service.push = take  # type: ignore[method-assign]
        raise Refused(reason, **metadata)

    a.service.push = lie  # type: ignore[method-assign]
    put(a, "k1", "v")
    put(a, "k2", "v")
    a.sync()
    put(a, "k3", "v")
    settle(a, b)
    assert not a.device.status.cloned
    assert a.alarms[-1:] == ["refused-but-held"]
    assert b.alarms == []
    assert b.device.list("ui") == {"k1": "v", "k2": "v", "k3": "v"}


def test_a_record_without_its_winner_is_told(a: Phone) -> None:
    """C14: a stub says that something better exists; it must be shown."""
    b = pair(a, "b", sync=False)
    put(a, "k1", "v1")
    a.sync()
    put(a, "k1", "v2")
    a.sync()
    winner = a.service.rows[-1].sealed
    a.service.hide = lambda sealed: sealed.op_hash == winner.op_hash
    b.sync()
    assert b.alarms == ["payload-withheld"]


def test_paper_brings_back_everything() -> None:
    """etesync-android #198, atuin #1183: all devices lost, the recovery key adds a new one."""
    secret = seeded("paper", 20)
    a = first_phone(Service(), paper=secret)
    put(a, "k1", "v")
    settle(a)
    rand = SeededRand("recovery")
    service = a.service
    way = Recovery(secret, a.device.account_id, rand=rand)
    while (step := way.next_step()) is not None:
        if isinstance(step, GetChain):
            items = service.items[step.after_seq + 1 :]
            way.on_chain(items, more=False)
        else:
            service.append(step.item)
            way.on_appended()
    phone = Phone(way.device(now_ms=a.now_ms), service, "new")
    phone.sync()
    assert phone.device.get("ui", "k1") == "v"
    phone.device.rotate([a.device.identity.device_id])
    phone.sync()
    a.poke()
    assert a.device.status.revoked
    assert phone.alarms == []


def test_another_papers_key_recovers_nothing() -> None:
    """A recovery key of nobody."""
    a = first_phone(Service(), paper=seeded("paper", 20))
    way = Recovery(seeded("other", 20), a.device.account_id, rand=SeededRand("r"))
    assert isinstance(way.next_step(), GetChain)
    way.on_chain(a.service.items, more=False)
    with pytest.raises(NotAllowed):
        way.next_step()


def test_a_link_that_lost_the_race_is_built_anew(a: Phone) -> None:
    """Two rotations at once: compare-and-set lets one through, the other follows."""
    b = pair(a, "b")
    settle(a, b)
    a.device.rotate()
    b.device.rotate()
    step = b.device.next_step(now_ms=b.now_ms, rand=b.rand)
    assert isinstance(step, AppendLink)
    settle(a, b)
    assert a.service.chain.epoch == 3
    put(a, "k1", "v")
    settle(a, b)
    assert b.device.get("ui", "k1") == "v"
    assert a.alarms == b.alarms == []


def test_covers_carry_no_record() -> None:
    """A cover is a control op; judged like every op."""
    world = World.of("a")
    assert world.op("a", verb=Verb.COVER).header.kind == 2


@pytest.mark.parametrize("reason", ["EPOCH_STALE", "CHAIN_GAP", "LAMPORT_AHEAD", "QUOTA", "OTHER"])
def test_a_service_that_refuses_everything_gets_no_storm(a: Phone, reason: str) -> None:
    """Standard Notes #4071: a device comes to rest, keeps its edits and says so."""
    put(a, "k1", "v")
    pushes = []

    def refuse(ops: tuple[bytes, ...], caller: object) -> None:
        pushes.append(ops)
        raise Refused(reason)

    a.service.push = refuse  # type: ignore[method-assign]
    a.sync(steps_max=50)
    assert 1 <= len(pushes) <= 3
    assert a.device.status.edits_waiting >= 1
    assert a.device.get("ui", "k1") == "v"


def test_a_refused_op_does_not_hold_up_the_others(a: Phone) -> None:
    """OP_INVALID: the rest is sent; the one change stays here with an alarm and is tried again."""
    a.sync()
    for key in ("k1", "k2", "k3"):
        put(a, key, "v")
    take = a.service.push

    def once(ops: tuple[bytes, ...], caller: DeviceId) -> None:
        a.service.push = take  # type: ignore[method-assign]
        raise Refused("OP_INVALID", index="1", rule="x")

    a.service.push = once  # type: ignore[method-assign]
    a.sync()
    assert a.alarms == ["op-invalid"]
    assert len(a.device.list("ui")) == 3
    assert a.device.status.edits_waiting == 1
    a.reload()
    a.sync()
    assert a.device.status.edits_waiting == 0


def test_the_service_can_not_empty_the_outbox(a: Phone) -> None:
    """A service that calls everything invalid, again and again, takes no change away."""
    a.sync()
    for key in ("k1", "k2", "k3"):
        put(a, key, "v")

    def refuse(ops: tuple[bytes, ...], caller: DeviceId) -> None:
        raise Refused("OP_INVALID", index="0", rule="x")

    a.service.push = refuse  # type: ignore[method-assign]
    for _ in range(5):
        a.poke()
    a.reload()
    assert len(a.device.list("ui")) == 3
    assert a.device.status.edits_waiting == 3


def test_a_link_that_is_always_refused_gets_no_storm(a: Phone) -> None:
    """CHAIN_CONFLICT without another link behind it."""
    calls = []

    def refuse(item: ChainItem) -> None:
        calls.append(item)
        raise Refused("CHAIN_CONFLICT")

    a.service.append = refuse  # type: ignore[method-assign]
    a.device.rotate()
    a.sync(steps_max=50)
    assert len(calls) == 3


def test_a_wrong_clock_in_a_score_lets_nothing_grow(a: Phone) -> None:
    """A part that changed in the future does not decay, and does not grow either."""
    a.device.add_score("s", "x", 4, now_ms=a.now_ms + 10 * DAY_MS, half_life_ms=DAY_MS)
    assert a.device.score("s", "x", now_ms=a.now_ms, half_life_ms=DAY_MS) == 4


def test_rows_changed_from_outside_are_refused(a: Phone) -> None:
    """A device does not start from rows that don't fit together."""
    put(a, "k1", "v")
    a.sync()
    for name in ("id", "self", "link:000000"):
        rows = dict(a.rows)
        rows[name] = b"\x80"
        with pytest.raises(RowsError):
            Device.load(rows)
    rows = {name: row for name, row in a.rows.items() if name != "op:000:000000000000001"}
    with pytest.raises(RowsError):
        Device.load(rows)


def test_who_saw_the_other_side_of_a_fork_is_believed_once_it_shows(a: Phone) -> None:
    """C17: c saw b's other version. It looks like two histories until b's fork is known;
    then c's change counts."""
    b, c = pair(a, "b"), pair(a, "c")
    settle(a, b, c)
    clone = copied(b, "clone")

    def sealed(phone: Phone, key: str) -> tuple[bytes, ...]:
        put(phone, key, "v")
        push = phone.device.next_push(now_ms=phone.now_ms, rand=phone.rand)
        assert push is not None
        return push.ops

    def show(phone: Phone, ops: tuple[bytes, ...]) -> None:
        phone.device.on_page(ops, phone.device.cursor, more=False, now_ms=phone.now_ms)
        phone.store()

    one, two = sealed(b, "k1"), sealed(clone, "k1")
    show(c, two)
    seen = sealed(c, "k2")
    show(a, one)
    show(a, seen)
    assert a.device.get("ui", "k2") is None
    assert a.alarms == ["heads"]
    show(a, two)
    assert a.device.get("ui", "k2") == "v"
    assert a.device.get("ui", "k1") is None
    a.reload()
    assert a.device.get("ui", "k2") == "v"


def test_a_new_device_counts_ops_of_an_epoch_that_it_has_no_key_for(a: Phone) -> None:
    """New devices get the current epoch: state, not superseded history."""
    b = pair(a, "b")
    put(a, "k1", "v")
    settle(a, b)
    a.device.rotate()
    settle(a, b)
    c = pair(a, "c")
    assert sorted(c.device._core.view.keys) == [2]
    assert c.device.list("ui") == {"k1": "v"}
    assert c.alarms == []
    put(c, "k2", "v")
    settle(a, b, c)
    assert b.device.list("ui") == {"k1": "v", "k2": "v"}


def forged_by_nobody(phone: Phone, seed: str) -> bytes:
    """Nothing but a header that parses: unknown author, an epoch that does not exist."""
    core = phone.device._core
    header = HEADER.pack(
        b"PSO1", 1, 1, 0, bytes(core.view.chain.account), 999, seeded(seed, 16), 1,
        seeded("prev"), 5, seeded("tag", 16), seeded("nonce", 24), seeded("kc"), 512 + 16,
    )  # fmt: skip
    return header + seeded("ct", 528) + seeded("sig", 64)


def test_forged_ops_of_nobody_stop_no_destruction_of_keys(a: Phone) -> None:
    """Anybody can make an op of an unknown device: it waits until the chain was fetched, then
    it is refused; meanwhile old keys go, and nothing of the account is crowded out."""
    b = pair(a, "b")
    put(a, "k1", "v")
    settle(a, b)
    forged = [forged_by_nobody(b, f"ghost {number}") for number in range(3000)]
    b.device.on_page(forged, b.device.cursor, more=False, now_ms=b.now_ms)
    b.store()
    assert b.device.status.ops_on_hold <= 256
    b.reload()
    a.device.rotate()
    settle(a, b)
    settle(a, b)
    settle(a, b)
    assert sorted(b.device._core.view.keys) == [2]
    assert b.device.status.ops_on_hold == 0
    assert set(b.alarms) == {"author"}
    assert not [name for name in b.rows if name.startswith("hold:")]


def test_an_op_of_a_device_that_the_chain_shows_later_is_taken(a: Phone) -> None:
    """Its author is unknown only until its link has come: also after a restart."""
    b = pair(a, "b")
    settle(a, b)
    c = pair(a, "c")
    a.device.rotate()
    settle(a, c)
    put(c, "k1", "v")
    settle(c)
    ops, cursor, _ = a.service.pull(b.device.cursor, 1000)
    b.device.on_page(ops, cursor, more=False, now_ms=b.now_ms)
    b.store()
    assert b.device.status.ops_on_hold > 0
    b.reload()
    settle(b)
    assert b.device.get("ui", "k1") == "v"
    assert b.device.status.ops_on_hold == 0
    assert b.alarms == []


def test_a_stub_first_and_the_whole_op_later(a: Phone) -> None:
    """A service that shows the stub of a live record first loses nobody the record."""
    b = pair(a, "b")
    settle(a, b)
    put(a, "k1", "v")
    a.sync()
    ops, cursor, _ = a.service.pull(b.device.cursor, 1000)
    stubs = [parse_any(raw).stub for raw in ops]
    b.device.on_page(stubs, cursor, more=False, now_ms=b.now_ms)
    b.store()
    assert b.device.get("ui", "k1") is None
    assert "payload-withheld" in b.alarms
    b.device.on_page(ops, cursor, more=False, now_ms=b.now_ms)
    b.store()
    for _ in range(2):
        assert b.device.get("ui", "k1") == "v"
        assert not b.device._core.oplog.orphans
        b.reload()


def test_a_bad_op_whose_stub_came_first_is_judged_when_it_comes_whole(a: Phone) -> None:
    """What its stub hid counts no more than it would have at first sight."""
    b = pair(a, "b")
    settle(a, b)
    bad = crafted(b, b"UI SPACE!", b"k1", b"\x63abc")
    for raw in (bad.stub, bad.raw):
        a.device.on_page([raw], a.device.cursor, more=False, now_ms=a.now_ms)
        a.store()
    assert "name" in a.alarms
    for _ in range(2):
        assert a.device.collections() == ()
        a.reload()


def test_a_receipt_that_names_more_than_is_delivered_is_an_alarm(a: Phone) -> None:
    """The service's own signature says that it withholds a record: once everything was
    fetched from the start, that is told, with the receipt; and it is no storm."""
    b = pair(a, "b")
    settle(a, b)
    put(a, "k1", "hidden")
    a.sync()
    service = b.service
    b.service = copy.copy(service)
    a_id = a.device.identity.device_id
    b.service.hide = lambda sealed: sealed.header.device_id == a_id
    b.device.check_in()
    b.sync(steps_max=30)
    assert b.alarms == ["receipt-withheld"]
    assert b.device.notices[-1].evidence[0][:4] == b"PST1"
    b.device.check_in()
    b.sync(steps_max=6)
    b.reload()
    b.service = service
    b.device.check_in()
    b.sync()
    assert b.device.get("ui", "k1") == "hidden"


def test_what_the_cursor_skipped_is_fetched_from_the_start(a: Phone) -> None:
    """A cursor beyond what was delivered: the receipt shows it, a full pull heals it."""
    b = pair(a, "b")
    settle(a, b)
    put(a, "k1", "v")
    a.sync()
    _, end, _ = a.service.pull(b"", 1000)
    b.device.on_page([], end, more=False, now_ms=b.now_ms)
    b.poke()
    assert b.device.get("ui", "k1") is None
    b.device.check_in()
    b.sync()
    assert b.device.get("ui", "k1") == "v"
    assert b.alarms == []


def test_a_receipt_of_a_longer_chain_than_is_delivered_is_an_alarm(a: Phone) -> None:
    """The service signs a link that it does not show."""
    nonce = seeded("n", 16)
    for _ in range(3):
        told = Receipt(
            a.device.account_id,
            7,
            a.device.chain.head,
            a.service.receipt(nonce)[0][80:112],
            1,
            nonce,
        )
        data = a.service.key.sign(told)
        a.device.on_receipt(data, [], server_key=a.service.key.public, nonce=nonce, now_ms=0)
        a.device.on_chain([], lamport_max=0, more=False, now_ms=0)
    assert a.alarms == ["chain-withheld"]


def test_two_receipts_of_one_place_with_two_ops_prove_equivocation(a: Phone) -> None:
    """One dev_seq, two op hashes, both signed by the service: also after a restart."""
    b = pair(a, "b")
    settle(a, b)
    b.device.check_in()
    b.sync()
    b.reload()
    a_id = a.device.identity.device_id
    seq, op_hash = a.service.heads[a_id]
    a.service.heads[a_id] = (seq, type(op_hash)(seeded("other")))
    b.device.check_in()
    b.sync()
    assert "equivocation" in b.alarms


def test_what_was_given_back_is_given_back_once(a: Phone) -> None:
    """A change that this device dropped meanwhile takes no other one's place in what is left."""
    for number in range(3):
        put(a, f"k{number}", "v")
        a.sync()
    heads = dict(a.service.heads)
    a.service.restore(0)
    a.device.on_generation_changed()
    while not a.device._core.again:
        a.step()
    core = a.device._core
    core.again.insert(0, (1, 0, (0, 999)))
    a.sync()
    given = [raw for push in a.pushes if push.again for raw in push.ops]
    assert len(given) == len(set(given)) == heads[a.device.identity.device_id][0]
    assert a.service.heads == heads
    assert a.alarms == []
