"""Wake handles and whose turn it is, on every backend."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from itertools import cycle

import pytest

from crypto.ids import DeviceId
from services.store.base import Store
from services.store.errors import AccountAbsent
from services.store.wake import HORIZON_MS, Claim, Mark, Outcome, Pace, Settled
from tests.store_worlds import NOW_MS, Client, Factory

HANDLE = b"h" * 560
EXPIRES_MS = NOW_MS + 1_000_000
PACE = Pace(debounce_ms=60_000, spread_ms=lambda: 0)
LEASE_MS = 30_000


class Phones:
    """Devices of one account, seen by whoever wakes them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.wake = client.store.wake

    @classmethod
    async def create(cls, store: Store, seed: int = 0, *, devices: int = 2) -> Phones:
        """All of them have handles, the n-th one of n."""
        phones = cls(await Client.create(store, seed, devices=devices))
        for index in range(devices):
            await phones.set_handle(index)
        return phones

    def device(self, index: int) -> DeviceId:
        return self.client.world.authors[index].device_id

    async def set_handle(
        self, index: int, handle: bytes | None = None, expires_ms: int = EXPIRES_MS
    ) -> None:
        await self.wake.set_handle(
            self.client.world.account_id,
            self.device(index),
            handle or bytes((index,)) * 560,
            expires_ms=expires_ms,
        )

    async def expires_ms(self, index: int) -> int:
        return await self.wake.handle_expires_ms(
            self.client.world.account_id, self.device(index), now_ms=NOW_MS
        )

    async def mark(
        self, at_ms: int = NOW_MS, *, awake: Collection[int] = (0,), pace: Pace = PACE
    ) -> int | None:
        known = frozenset(self.device(index) for index in awake)
        row = Mark(self.client.world.account_id, known)
        return await self.wake.mark([row], now_ms=at_ms, pace=pace)

    async def claim(self, at_ms: int = NOW_MS, most: int = 100) -> tuple[list[Claim], int | None]:
        claims, due_ms = await self.wake.claim(now_ms=at_ms, lease_ms=LEASE_MS, claims_max=most)
        return list(claims), due_ms

    async def settle(
        self, claim: Claim, outcome: Outcome = Outcome.DONE, *, at_ms: int = NOW_MS, due_ms: int = 0
    ) -> None:
        await self.wake.settle([Settled(claim, outcome, due_ms)], now_ms=at_ms, pace=PACE)


@pytest.fixture
async def phones(store: Store) -> Phones:
    """Two devices with handles."""
    return await Phones.create(store)


async def test_a_device_that_is_due_is_claimed_once(phones: Phones) -> None:
    """Its handle comes with the claim; nobody else gets it before the lease ends."""
    assert await phones.mark() == NOW_MS
    [claim], due_ms = await phones.claim()
    assert (claim.device_id, claim.handle, claim.tries) == (phones.device(1), b"\1" * 560, 0)
    assert claim.account_id == phones.client.world.account_id
    assert due_ms == NOW_MS + LEASE_MS
    assert await phones.claim() == ([], NOW_MS + LEASE_MS)
    await phones.settle(claim)
    assert await phones.claim(NOW_MS + LEASE_MS) == ([], None)


async def test_who_is_awake_is_not_marked(phones: Phones) -> None:
    """Neither the author nor a device with an open stream is due."""
    assert await phones.mark(awake=(0, 1)) is None
    assert await phones.claim() == ([], None)


async def test_many_ops_are_one_poke(phones: Phones) -> None:
    """A device that is due already stays due at the same time."""
    dues = [await phones.mark(NOW_MS + at) for at in range(0, 20_000, 1_000)]
    assert dues == [NOW_MS, *[None] * 19]
    assert len((await phones.claim(NOW_MS + 20_000))[0]) == 1


async def test_the_next_poke_waits_until_the_debounce_is_over(phones: Phones) -> None:
    """At most one poke in that time, and the last op is never left without one."""
    await phones.mark()
    [claim], _ = await phones.claim()
    await phones.settle(claim, at_ms=NOW_MS + 5)
    assert await phones.mark(NOW_MS + 10) == NOW_MS + PACE.debounce_ms
    assert await phones.claim(NOW_MS + PACE.debounce_ms - 1) == ([], NOW_MS + PACE.debounce_ms)
    assert len((await phones.claim(NOW_MS + PACE.debounce_ms))[0]) == 1


async def test_ops_that_come_while_a_poke_is_under_way_make_another_one(phones: Phones) -> None:
    """What was poked may have looked before them."""
    await phones.mark()
    [claim], _ = await phones.claim()
    await phones.mark(NOW_MS + 1)
    await phones.settle(claim, at_ms=NOW_MS + 2)
    [again], _ = await phones.claim(NOW_MS + PACE.debounce_ms)
    assert again.turn != claim.turn


async def test_devices_of_one_account_are_spread(store: Store) -> None:
    """Each draws for itself when it is poked."""
    phones = await Phones.create(store, devices=3)
    drawn = cycle((700, 200))
    assert await phones.mark(pace=Pace(60_000, lambda: next(drawn))) == NOW_MS + 200
    assert len((await phones.claim(NOW_MS + 200))[0]) == 1
    assert len((await phones.claim(NOW_MS + 700))[0]) == 1


async def test_a_claim_whose_holder_died_is_anybodys_after_its_lease(phones: Phones) -> None:
    """And the one who comes late with it changes nothing any more."""
    await phones.mark()
    [dead], _ = await phones.claim()
    [claim], _ = await phones.claim(NOW_MS + LEASE_MS)
    assert claim.handle == dead.handle
    await phones.settle(dead, Outcome.GONE)
    await phones.settle(dead)
    assert await phones.expires_ms(1) == EXPIRES_MS
    await phones.settle(claim)
    assert await phones.claim(NOW_MS + 2 * LEASE_MS) == ([], None)


async def test_what_is_due_outlives_the_process(store_factory: Factory) -> None:
    """Marks and claims are durable."""
    store = await store_factory()
    phones = await Phones.create(store)
    await phones.mark()
    await store.close()
    phones.client.store = store = await store_factory()
    phones = Phones(phones.client)
    assert len((await phones.claim())[0]) == 1
    await store.close()
    phones.client.store = await store_factory()
    assert len((await Phones(phones.client).claim(NOW_MS + LEASE_MS))[0]) == 1


async def test_a_poke_in_vain_is_tried_again_when_it_says(phones: Phones) -> None:
    """It counts its tries; one that succeeds begins anew."""
    await phones.mark()
    [claim], _ = await phones.claim()
    await phones.settle(claim, Outcome.LATER, due_ms=NOW_MS + 7)
    assert await phones.claim(NOW_MS + 6) == ([], NOW_MS + 7)
    [claim], _ = await phones.claim(NOW_MS + 7)
    assert claim.tries == 1
    await phones.settle(claim)
    await phones.mark(NOW_MS + 200_000)
    assert (await phones.claim(NOW_MS + 200_000))[0][0].tries == 0


async def test_a_handle_that_is_gone_goes_and_a_newer_one_stays(phones: Phones) -> None:
    """The verdict is about the handle that was sent, not about the device."""
    await phones.mark()
    [claim], _ = await phones.claim()
    await phones.set_handle(1, HANDLE)
    await phones.settle(claim, Outcome.GONE)
    assert await phones.expires_ms(1) == EXPIRES_MS
    [claim], _ = await phones.claim(NOW_MS + LEASE_MS)
    assert claim.handle == HANDLE
    await phones.settle(claim, Outcome.GONE)
    assert await phones.expires_ms(1) == 0
    assert await phones.mark(NOW_MS + 500_000) is None


async def test_handles_expire_and_are_swept(phones: Phones) -> None:
    """One that was not renewed is no longer used, and then no longer held."""
    await phones.set_handle(1, HANDLE, NOW_MS + 10)
    await phones.mark()
    assert await phones.claim(NOW_MS + 10) == ([], None)
    await phones.client.store.sweep(now_ms=NOW_MS + 10)
    assert await phones.mark(NOW_MS + 10) is None
    assert await phones.expires_ms(1) == 0
    assert await phones.expires_ms(0) == EXPIRES_MS


async def test_a_removed_handle_is_gone(phones: Phones) -> None:
    """With what was due; removing it twice is fine."""
    await phones.mark()
    for _ in range(2):
        await phones.wake.remove_handle(phones.client.world.account_id, phones.device(1))
    assert await phones.claim() == ([], None)
    assert await phones.expires_ms(1) == 0


async def test_a_revoked_device_loses_its_handle_and_gets_none(store: Store) -> None:
    """In the transaction that revokes it."""
    phones = await Phones.create(store, devices=3)
    await phones.mark()
    await phones.client.rotate(revoke=[1])
    [claim], _ = await phones.claim()
    assert claim.device_id == phones.device(2)
    with pytest.raises(AccountAbsent):
        await phones.set_handle(1)
    assert await phones.expires_ms(1) == 0


async def test_a_deleted_account_has_no_handles(phones: Phones) -> None:
    """Deletion takes them; whoever still holds a claim finds nothing."""
    await phones.mark()
    [claim], _ = await phones.claim()
    await phones.client.store.delete_account(phones.client.world.account_id)
    await phones.settle(claim, Outcome.LATER, due_ms=NOW_MS)
    assert await phones.claim(NOW_MS + LEASE_MS) == ([], None)
    assert await phones.mark() is None
    with pytest.raises(AccountAbsent):
        await phones.set_handle(1)


async def test_the_longest_due_come_first_and_no_more_than_asked_for(store: Store) -> None:
    """Over accounts."""
    all_ = [await Phones.create(store, seed) for seed in range(4)]
    for late, phones in enumerate(all_):
        await phones.mark(NOW_MS + 10 * late)
    claims, due_ms = await all_[0].claim(NOW_MS + 100, most=3)
    owners = {claim.account_id for claim in claims}
    assert owners == {phones.client.world.account_id for phones in all_[:3]}
    assert due_ms == NOW_MS + 30


async def test_a_clock_that_was_wrong_silences_nobody(phones: Phones) -> None:
    """What is due in a far future, or was poked there, is due again once the clock is right."""
    far_ms = NOW_MS + 10 * HORIZON_MS
    await phones.set_handle(1, HANDLE, far_ms + EXPIRES_MS)
    await phones.mark(far_ms)
    assert await phones.mark() == NOW_MS
    await phones.settle((await phones.claim())[0][0])
    await phones.mark(far_ms)
    await phones.settle((await phones.claim(far_ms))[0][0], at_ms=far_ms)
    assert await phones.mark() == NOW_MS + PACE.debounce_ms


async def test_of_many_who_claim_at_once_one_gets_it(phones: Phones) -> None:
    """Replicas that look at the same time don't poke twice."""
    await phones.mark()
    found = await asyncio.gather(*(phones.claim() for _ in range(8)))
    assert [claim.device_id for claims, _ in found for claim in claims] == [phones.device(1)]


async def test_marks_and_claims_at_once_leave_nobody_behind(store: Store) -> None:
    """However they fall together, a device that is due is found; none stays due unseen."""
    phones = await Phones.create(store, devices=3)
    at_once = Pace(0, lambda: 0)

    async def poke(at_ms: int) -> None:
        claims, _ = await phones.claim(at_ms)
        for claim in claims:
            await phones.settle(claim, at_ms=at_ms)

    for at_ms in range(NOW_MS, NOW_MS + 40_000, 1_000):
        calls = [phones.mark(at_ms, pace=at_once), poke(at_ms), poke(at_ms)]
        await asyncio.gather(*calls, phones.mark(at_ms + 1, pace=at_once), poke(at_ms + 1))
    end_ms = NOW_MS + 200_000
    claims, _ = await phones.claim(end_ms)
    while claims:
        for claim in claims:
            await phones.settle(claim, at_ms=end_ms)
        end_ms += 200_000
        claims, _ = await phones.claim(end_ms)
    assert await phones.mark(end_ms, pace=at_once) == end_ms
    assert len((await phones.claim(end_ms))[0]) == 2
