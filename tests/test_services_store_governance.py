"""Policy bundles, entries of consent and the audit log, on every backend."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from crypto.ids import AccountId
from services.store.base import Limits, Store
from services.store.errors import AccountAbsent, ConsentConflict, PolicyConflict, QuotaExceeded
from services.store.governance import (
    AUDIT_BODY_BYTES_MAX,
    NOTHING,
    AuditEntry,
    ConsentState,
    Head,
    audit_hash,
    first_broken,
)
from tests.governance_rows import append_consents, consent_after, policy_after, put_policies
from tests.store_worlds import NOW_MS, Client, Factory

PATIENCE_S = 30.0


# --- policy bundles ---


async def test_bundles_stand_in_their_order_for_good(store: Store) -> None:
    """The newest is found without its number, older ones by theirs."""
    policies = store.governance
    assert await policies.policy() is None
    assert await policies.policy_sequence() == 0
    rows = await put_policies(store, 3)
    assert await policies.policy() == rows[2]
    assert await policies.policy_sequence() == 3
    assert [await policies.policy(number) for number in range(5)] == [None, *rows, None]


async def test_the_newest_bundle_again_changes_nothing(store: Store) -> None:
    """Whoever heard no answer asks again; the time that is kept is the first one's."""
    [first] = await put_policies(store, 1)
    assert not await store.governance.put_policy(replace(first, at_ms=NOW_MS + 5))
    assert await store.governance.policy() == first


async def test_a_bundle_that_does_not_follow_is_refused(store: Store) -> None:
    """Another number, another predecessor, other bytes at the newest place, an older one."""
    first = policy_after(NOTHING)
    for wrong in (replace(first, sequence=2), replace(first, previous=b"p" * 32)):
        with pytest.raises(PolicyConflict) as none:
            await store.governance.put_policy(wrong)
        assert (none.value.sequence, none.value.hash) == NOTHING
    rows = await put_policies(store, 2)
    after = policy_after(Head(2, rows[1].hash))
    for wrong in (
        rows[0],
        policy_after(Head(1, rows[0].hash), b"another"),
        replace(rows[1], sig=b"t" * 64),
        replace(after, previous=rows[0].hash),
        replace(after, previous=bytes(32)),
        replace(after, sequence=4),
    ):
        with pytest.raises(PolicyConflict) as conflict:
            await store.governance.put_policy(wrong)
        assert (conflict.value.sequence, conflict.value.hash) == (2, rows[1].hash)
    assert await store.governance.policy() == rows[1]


async def test_of_bundles_at_once_one_is_taken(store: Store) -> None:
    """The others hear of the conflict."""
    rival = [policy_after(NOTHING, b"bundle of %d" % number) for number in range(8)]
    answers = await asyncio.gather(
        *(store.governance.put_policy(row) for row in rival), return_exceptions=True
    )
    assert sorted(str(type(answer).__name__) for answer in answers) == [
        *["PolicyConflict"] * 7,
        "bool",
    ]
    assert await store.governance.policy() == rival[answers.index(True)]


async def test_whoever_listens_hears_of_a_bundle(store: Store) -> None:
    """Also of one that was there before it listened, if only by asking."""
    told = asyncio.Event()
    store.governance.on_policy(told.set)
    await put_policies(store, 1)
    await asyncio.wait_for(told.wait(), PATIENCE_S)


# --- consent ---


async def test_entries_of_consent_stand_in_their_order(store: Store) -> None:
    """Read after a seq, some at a time; of each purpose the newest counts."""
    client = await Client.create(store)
    account = client.world.account_id
    said = [
        ("dishes", True),
        ("taste", True),
        ("dishes", False),
        ("dishes", True),
        ("taste", False),
    ]
    rows = await append_consents(store, account, said)
    consents = store.governance
    assert await consents.consents(account, 0, rows_max=9) == rows
    assert await consents.consents(account, 1, rows_max=2) == rows[1:3]
    assert await consents.consents(account, 5, rows_max=9) in ([], ())
    assert await consents.consent_head(account) == (5, rows[4].hash)
    assert await consents.consent_state(account, rows[0].tag) == (4, True)
    assert await consents.consent_state(account, rows[1].tag) == (5, False)
    assert await consents.consent_state(account, b"t" * 32) is None


async def test_consent_is_compared_and_set(store: Store) -> None:
    """Of two devices one is first; the other hears of what stands there. Again is fine."""
    client = await Client.create(store)
    account = client.world.account_id
    [first] = await append_consents(store, account, [("dishes", True)])
    assert not await store.governance.append_consent(account, replace(first, at_ms=NOW_MS + 9))
    after = consent_after(Head(1, first.hash), granted=False)
    for wrong in (
        consent_after(NOTHING, "another"),
        replace(after, prev=bytes(32)),
        replace(after, seq=3),
        replace(after, seq=1, prev=b"p" * 32),
    ):
        with pytest.raises(ConsentConflict) as conflict:
            await store.governance.append_consent(account, wrong)
        assert (conflict.value.seq, conflict.value.hash) == (1, first.hash)
    assert await store.governance.consents(account, 0, rows_max=9) == [first]


async def test_consent_needs_its_account_and_ends_with_it(store: Store) -> None:
    """No entry of an account that is not there; deletion takes all of them, and the same
    account made anew begins with none."""
    client = await Client.create(store)
    other = await Client.create(store, 1)
    account = client.world.account_id
    rows = await append_consents(store, account, [("dishes", True), ("taste", True)])
    [kept] = await append_consents(store, other.world.account_id, [("dishes", True)])
    await store.delete_account(account)
    absent = AccountId(b"a" * 32)
    for gone in (account, absent):
        with pytest.raises(AccountAbsent):
            await store.governance.append_consent(gone, consent_after(NOTHING))
        assert not await store.governance.consents(gone, 0, rows_max=9)
        assert await store.governance.consent_head(gone) == NOTHING
        assert await store.governance.consent_state(gone, rows[0].tag) is None
    await client.make_again(())
    assert await store.governance.consent_head(account) == NOTHING
    assert await store.governance.consent_state(account, rows[0].tag) is None
    assert await store.governance.consents(other.world.account_id, 0, rows_max=9) == [kept]


async def test_an_account_has_so_many_entries_at_most(store_factory: Factory) -> None:
    """The bound is the store's."""
    store = await store_factory(limits=Limits(consents_max=2))
    client = await Client.create(store)
    account = client.world.account_id
    rows = await append_consents(store, account, [("dishes", True), ("dishes", False)])
    with pytest.raises(QuotaExceeded) as full:
        await store.governance.append_consent(account, consent_after(Head(2, rows[1].hash)))
    assert (full.value.limit, full.value.maximum) == ("consents_per_account", 2)


async def test_what_is_on_can_be_withdrawn_however_much_was_said(store_factory: Factory) -> None:
    """The bound is on what an account may begin: nobody is kept from taking back what they gave,
    once for each purpose."""
    store = await store_factory(limits=Limits(consents_max=2))
    client = await Client.create(store)
    account = client.world.account_id
    await append_consents(store, account, [("dishes", True), ("walks", True)])
    rows = await append_consents(store, account, [("walks", False)])
    for row in (
        consent_after(Head(3, rows[0].hash), "walks", granted=False, salt=account),
        consent_after(Head(3, rows[0].hash), "elsewhere", granted=False, salt=account),
        consent_after(Head(3, rows[0].hash), "walks", salt=account),
    ):
        with pytest.raises(QuotaExceeded):
            await store.governance.append_consent(account, row)
    assert not await store.governance.append_consent(account, rows[0])
    rows = await append_consents(store, account, [("dishes", False)])
    assert await store.governance.consent_head(account) == Head(4, rows[0].hash)
    state = await store.governance.consent_state(account, rows[0].tag)
    assert state == ConsentState(4, granted=False)


# --- the audit log ---


async def test_the_audit_log_is_a_chain(store: Store) -> None:
    """Each entry has the hash of the one before, and its own is over all of it; times never
    go back."""
    audit = store.governance
    assert await audit.audit_head() == NOTHING
    times = (NOW_MS, NOW_MS + 7, NOW_MS + 3)
    made = [await audit.append_audit(b"what %d" % at, now_ms=at) for at in times]
    assert [entry.at_ms for entry in made] == [NOW_MS, NOW_MS + 7, NOW_MS + 7]
    assert [entry.body for entry in made] == [b"what %d" % at for at in times]
    assert list(await audit.read_audit(0, rows_max=9)) == made
    assert list(await audit.read_audit(1, rows_max=1)) == made[1:2]
    assert await audit.audit_head() == (3, made[2].hash)
    assert first_broken(made, NOTHING) is None


async def test_those_who_append_at_once_make_one_chain(store: Store) -> None:
    """Every entry is there, once."""
    bodies = [b"entry %d" % number for number in range(40)]
    made = await asyncio.gather(
        *(store.governance.append_audit(body, now_ms=NOW_MS) for body in bodies)
    )
    entries = list(await store.governance.read_audit(0, rows_max=100))
    assert sorted(entry.body for entry in entries) == sorted(bodies)
    assert sorted(made, key=lambda entry: entry.seq) == entries
    assert first_broken(entries, NOTHING) is None


async def test_what_is_trimmed_leaves_an_anchor(store: Store) -> None:
    """Of what is older, the newest stays: the rest follows on it, and it shows how old what is
    gone was. So does what is appended after all that is left was older."""
    audit = store.governance
    made = [await audit.append_audit(b"body", now_ms=NOW_MS + at) for at in range(5)]
    assert await audit.trim_audit(before_ms=NOW_MS) == 0
    assert await audit.audit_anchor() == NOTHING
    assert await audit.trim_audit(before_ms=NOW_MS + 1) == 0
    assert await audit.trim_audit(before_ms=NOW_MS + 3) == 2
    assert await audit.trim_audit(before_ms=NOW_MS + 3) == 0
    anchor = await audit.audit_anchor()
    assert anchor == (2, made[1].hash)
    left = list(await audit.read_audit(0, rows_max=9))
    assert left == made[2:]
    assert first_broken(left, anchor) is None
    assert await audit.trim_audit(before_ms=NOW_MS + 9) == 2
    assert await audit.read_audit(0, rows_max=9) == made[4:]
    assert await audit.audit_head() == (5, made[4].hash)
    after = await audit.append_audit(b"after", now_ms=NOW_MS)
    assert (after.seq, after.prev, after.at_ms) == (6, made[4].hash, NOW_MS + 4)


async def test_a_long_log_is_trimmed_some_at_a_time(store: Store) -> None:
    """Until no more than one is left that is older."""
    made = [await store.governance.append_audit(b"b", now_ms=NOW_MS) for _ in range(520)]
    gone: list[int] = []
    while not gone or gone[-1]:
        gone.append(await store.governance.trim_audit(before_ms=NOW_MS + 1))
    assert gone == [512, 7, 0]
    assert await store.governance.audit_anchor() == (519, made[-2].hash)


async def test_an_entry_has_a_bound(store: Store) -> None:
    """A log is no place for anything large."""
    await store.governance.append_audit(b"b" * AUDIT_BODY_BYTES_MAX, now_ms=NOW_MS)
    with pytest.raises(ValueError, match="at most"):
        await store.governance.append_audit(b"b" * (AUDIT_BODY_BYTES_MAX + 1), now_ms=NOW_MS)


def entry(seq: int, prev: bytes, body: bytes = b"body", at_ms: int = NOW_MS) -> AuditEntry:
    return AuditEntry(seq, at_ms, prev, body, audit_hash(seq, at_ms, prev, body))


def test_whatever_is_changed_in_the_log_shows() -> None:
    """A changed, missing, added or moved entry is named by its seq."""
    first = entry(1, bytes(32))
    second = entry(2, first.hash)
    third = entry(3, second.hash)
    assert first_broken([first, second, third], NOTHING) is None
    assert first_broken([replace(first, body=b"BODY"), second, third], NOTHING) == 1
    assert first_broken([first, replace(second, at_ms=NOW_MS + 1), third], NOTHING) == 2
    assert first_broken([first, third], NOTHING) == 2
    assert first_broken([first, entry(2, first.hash, b"other"), third], NOTHING) == 3
    assert first_broken([second, first, third], NOTHING) == 1
    assert first_broken([second, third], Head(1, first.hash)) is None
    assert first_broken([second, third], Head(1, b"h" * 32)) == 2


# --- what outlives a process ---


async def test_all_of_it_is_there_after_a_restart(store_factory: Factory) -> None:
    """Durable when the call returned, and each chain goes on where it was."""
    store = await store_factory()
    client = await Client.create(store)
    account = client.world.account_id
    policies = await put_policies(store, 2)
    consents = await append_consents(store, account, [("dishes", True)])
    made = [await store.governance.append_audit(b"one", now_ms=NOW_MS) for _ in range(2)]
    await store.governance.trim_audit(before_ms=NOW_MS)
    await store.close()
    again = await store_factory()
    assert await again.governance.policy() == policies[1]
    assert await again.governance.consents(account, 0, rows_max=9) == consents
    made.append(await again.governance.append_audit(b"two", now_ms=NOW_MS))
    assert list(await again.governance.read_audit(0, rows_max=9)) == made
    assert first_broken(made, NOTHING) is None
