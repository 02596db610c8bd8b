"""What a service says of a push that it refused, and what it has to show for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from client.remote import ChainPage, Remote
from client.remoteerrors import ProtocolBreach
from client.steps import GetChain
from crypto import op
from crypto.ids import DeviceId, OpHash
from tests.client_worlds import Phone, Refused, Service, first_phone, pair, settle
from tests.judge_worlds import seeded
from tests.served import serving
from tests.shell_worlds import endpoint_of, fleet, rules
from tests.test_client_healing import copied, put

HOUR_MS = 3_600_000
Push = Callable[[tuple[bytes, ...], DeviceId], None]


@pytest.fixture
def a() -> Phone:
    phone = first_phone(Service())
    put(phone, "base", "v")
    phone.sync()
    return phone


def refusing(service: Service, reason: str, *, store: bool = False) -> list[tuple[bytes, ...]]:
    """Lets the service refuse every push, after it has stored it if so wished. The pushes."""
    take: Push = service.push
    pushes = []

    def refuse(ops: tuple[bytes, ...], caller: DeviceId) -> None:
        pushes.append(ops)
        if store:
            take(ops, caller)
        raise Refused(reason)

    service.push = refuse  # type: ignore[method-assign]
    return pushes


def honest(service: Service) -> None:
    """The service takes pushes again."""
    del service.push


def signed_by(phone: Phone, pushes: list[tuple[bytes, ...]]) -> dict[int, set[OpHash]]:
    """Every version of every op that a device let out."""
    found: dict[int, set[OpHash]] = defaultdict(set)
    for raw in (raw for ops in pushes for raw in ops):
        sealed = op.parse_any(raw)
        if sealed.header.device_id == phone.device.identity.device_id:
            found[sealed.header.dev_seq].add(sealed.op_hash)
    return found


def test_a_fork_that_is_only_claimed_costs_no_identity(a: Phone) -> None:
    """DEVICE_FORKED without another version: identity and edits stay, the person is told, and
    the same bytes go out again later."""
    me, base = a.device.identity.device_id, set(a.rows)
    put(a, "k1", "kept")
    pushes = refusing(a.service, "DEVICE_FORKED")
    for _ in range(5):
        a.poke()
        a.device.check_in()
        a.sync()
    assert len(pushes) == 1
    assert not a.device.status.cloned
    assert a.device.identity.device_id == me
    assert a.alarms == ["fork-unproven"]
    assert len(a.device.notices[-1].evidence) == 2
    assert set(a.rows) > base
    a.reload()
    a.poke()
    assert len(pushes) == 2
    honest(a.service)
    a.poke()
    assert a.device.status.edits_waiting == 1
    a.now_ms += HOUR_MS + 1
    a.poke()
    assert a.device.status.edits_waiting == 0
    assert set(map(len, signed_by(a, [*pushes, a.pushes[-1].ops]).values())) == {1}


def test_a_fork_that_is_signed_and_not_shown_costs_no_identity(a: Phone) -> None:
    """A receipt with a made-up op: only what our own key signed is a proof."""
    put(a, "k1", "kept")
    me = a.device.identity.device_id
    a.service.heads[me] = (a.service.heads[me][0] + 1, OpHash(seeded("made up")))
    refusing(a.service, "DEVICE_FORKED")
    for _ in range(5):
        a.poke()
    assert not a.device.status.cloned
    assert sorted(a.alarms) == ["fork-unproven", "receipt-withheld"]
    assert a.device.get("ui", "k1") == "kept"


def test_a_copy_that_is_shown_is_believed_with_its_proof(a: Phone) -> None:
    """The other version, under this device's own signature, is kept as evidence."""
    clone = copied(a, "clone")
    put(a, "k1", "by a")
    a.sync()
    put(clone, "k2", "by the clone")
    clone.device.on_chain_seq(0)
    clone.sync()
    assert clone.device.status.cloned
    [notice] = [row for row in clone.device.notices if row.rule == "cloned"]
    [proof] = notice.evidence
    sealed = op.parse_any(proof)
    op.verify(sealed, clone.device.identity.ik_pk)
    assert sealed.op_hash == a.service.heads[a.device.identity.device_id][1]


def restored_after(a: Phone, b: Phone, last: Callable[[], None]) -> Phone:
    """A copy of `a` with an edit in flight, made before `a` went on and what it wrote was
    trimmed but for what `last` wrote."""
    old = copied(a, "restored")
    old.device.put("ui", "k9", "kept", now_ms=old.now_ms)
    assert old.device.next_push(now_ms=old.now_ms, rand=old.rand) is not None
    old.store()
    for number in range(3):
        put(a, "k1", f"v{number}")
        a.sync()
    settle(a, b)
    put(b, "k1", "superseded")
    settle(b, a)
    last()
    return old


def test_a_copy_is_shown_by_what_trimming_leaves_of_it(a: Phone) -> None:
    """The op at the number in question is gone from the service; a later one of the same
    signature stands for it."""
    b = pair(a, "b")
    settle(a, b)

    def last() -> None:
        put(a, "k2", "newest")
        settle(a, b)

    old = restored_after(a, b, last)
    me = a.device.identity.device_id
    newest = a.service.heads[me][0]
    a.service.rows = [
        row for row in a.service.rows
        if row.sealed.header.device_id != me or row.sealed.header.dev_seq in (1, 2, newest)
    ]  # fmt: skip
    refusing(a.service, "DEVICE_FORKED")
    old.sync()
    assert old.device.status.cloned
    [notice] = [row for row in old.device.notices if row.rule == "cloned"]
    sealed = op.parse_any(notice.evidence[1])
    assert (sealed.header.device_id, sealed.header.dev_seq) == (me, newest)


def test_a_copy_is_shown_by_another_device_that_saw_it(a: Phone) -> None:
    """Nothing that it wrote is left at the service; another device's op names it."""
    b = pair(a, "b")
    settle(a, b)

    def last() -> None:
        put(b, "k2", "newest")
        settle(b, a)

    old = restored_after(a, b, last)
    me, other = a.device.identity.device_id, b.device.identity.device_id
    a.service.rows = [
        row for row in a.service.rows
        if row.sealed.header.device_id != me or row.sealed.header.dev_seq <= 2
    ]  # fmt: skip
    refusing(a.service, "DEVICE_FORKED")
    old.sync()
    assert old.device.status.cloned
    [notice] = [row for row in old.device.notices if row.rule == "cloned"]
    assert op.parse_any(notice.evidence[1]).header.device_id == other


def test_a_batch_that_is_stored_and_called_a_fork_is_committed(a: Phone) -> None:
    """The service has our own bytes: they come back by a pull, and nobody is a copy."""
    put(a, "k1", "v")
    pushes = refusing(a.service, "DEVICE_FORKED", store=True)
    a.sync()
    assert len(pushes) == 1
    assert not a.device.status.cloned
    assert a.device.status.edits_waiting == a.device.status.ops_in_flight == 0
    assert a.alarms == []


@pytest.mark.parametrize("store", [True, False])
def test_a_stale_epoch_makes_no_second_version_of_an_op(a: Phone, store: bool) -> None:
    """EPOCH_STALE at a real rotation: a batch is sealed again only once the service has signed
    that it does not hold the former one."""
    b = pair(a, "b")
    settle(a, b)
    b.device.add_score("s", "x", 3, now_ms=b.now_ms)
    put(b, "k1", "v")
    assert b.device.next_push(now_ms=b.now_ms, rand=b.rand) is not None
    b.store()
    a.device.rotate()
    a.sync()
    pushes = refusing(a.service, "EPOCH_STALE", store=store)
    for _ in range(40):
        b.step()
        if pushes:
            break
    honest(a.service)
    b.sync()
    settle(a, b)
    assert b.alarms == (["refused-but-held"] if store else [])
    assert a.alarms == []
    versions = signed_by(b, [*(pushes if store else ()), *(row.ops for row in b.pushes)])
    assert set(map(len, versions.values())) == {1}
    for phone in (a, b):
        assert phone.device.score("s", "x", now_ms=phone.now_ms) == 3
        assert phone.device.get("ui", "k1") == "v"
        assert not any(row.set_aside for row in phone.device.devices)


def test_a_stale_batch_waits_for_the_signature(a: Phone) -> None:
    """The chain alone does not unseal: without a receipt the bytes stay in flight."""
    b = pair(a, "b")
    settle(a, b)
    put(b, "k1", "v")
    first = b.device.next_push(now_ms=b.now_ms, rand=b.rand)
    b.store()
    assert first is not None
    a.device.rotate()
    a.sync()
    b.device.on_push_refused(first, "EPOCH_STALE", {}, now_ms=b.now_ms)
    b.device.on_chain(
        b.service.items[b.device.chain.seq + 1 :], lamport_max=0, more=False, now_ms=b.now_ms
    )
    assert b.device.next_push(now_ms=b.now_ms, rand=b.rand) is None
    assert b.device.status.ops_in_flight == len(first.ops)


def test_a_device_list_that_is_only_claimed_is_not_asked_for_for_ever(a: Phone) -> None:
    """ServerInfo.chain_seq is unsigned: who claims links and delivers none gets three questions
    a sync, and an alarm."""
    for _ in range(2):
        a.device.on_poke()
        asked = 0
        for number in range(60):
            step = a.device.next_step(now_ms=a.now_ms, rand=a.rand)
            asked += isinstance(step, GetChain)
            if not a.step():
                break
            a.device.on_chain_seq((1 << 60) + number)
        else:
            raise AssertionError("it never comes to rest")
        assert 1 <= asked <= 3
    assert a.alarms == ["chain-unshown"]
    b = pair(a, "b")
    assert b.device.get("ui", "base") == "v"


class _Endless(Remote):
    """A service that never ends its answer."""

    calls = 0

    async def get_chain(self, after_seq: int, *, all_grants: bool) -> ChainPage:
        self.calls += 1
        page = await super().get_chain(-1, all_grants=all_grants)
        return ChainPage(page.items, page.lamport_max, more=True)


async def test_an_answer_without_end_is_ended_by_the_client(tmp_path: Path) -> None:
    """The same links again and again, and always more to come."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        a.remote = endless = _Endless(a.transport)
        a.core.on_chain_seq(1 << 60)
        with pytest.raises(ProtocolBreach, match="sends nothing of it"):
            await a.sync_once()
        assert endless.calls == 1
        assert not rules(a)
        a.remote = Remote(a.transport)
        await a.sync_once()
