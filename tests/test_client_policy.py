"""What a device holds as policy: whose bundles it takes, and that it never goes back."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from client.errors import UserError
from client.gate import SignalRefused
from client.governed.holding import HELD_ROW, KEYS_MAX, Holding, Shown, SignedPolicy
from client.rows import pack, unpack
from crypto import labels
from crypto.policy import Bundle
from crypto.policy.access import Access, Grant
from mpc.keys import PublisherKey
from tests.governed_service import KEYS, Governed, row_of
from tests.governed_worlds import GET, KEY, OPEN, OTHER_KEY, PUBLISH, bundle, shown
from tests.redis_process import RedisServer
from tests.served import serving
from tests.shell_worlds import Fleet, Watching, endpoint_of, fleet, put, rules

FIRST = bundle()
SECOND = bundle(FIRST)
THIRD = bundle(SECOND)


@dataclass
class Told:
    """Alarms, once each as a device's notices are."""

    rules: list[str] = field(default_factory=list)
    evidence: list[tuple[bytes, ...]] = field(default_factory=list)
    about: set[bytes] = field(default_factory=set)

    def __call__(self, rule: str, sentence: str, *evidence: bytes, about: bytes) -> None:
        assert sentence.endswith(".")
        if about not in self.about:
            self.about.add(about)
            self.rules.append(rule)
            self.evidence.append(evidence)


@dataclass
class Phone:
    """A holding with its vault."""

    told: Told = field(default_factory=Told)
    rows: dict[str, bytes] = field(default_factory=dict)
    holding: Holding = field(default_factory=lambda: Holding({}))

    def pin(self, key: PublisherKey = KEY) -> None:
        self.holding.pin(key.public)
        self.store()

    def take(self, made: Shown) -> int | None:
        again = self.holding.take(made, self.told)
        self.store()
        return again

    def store(self) -> None:
        for name, row in self.holding.take_changes().items():
            if row is None:
                self.rows.pop(name, None)
            else:
                self.rows[name] = row

    def restart(self) -> None:
        self.holding = Holding(self.rows)


@pytest.fixture
def phone() -> Phone:
    """Governed by the publisher."""
    made = Phone()
    made.pin()
    return made


def nothing_newer(made: Bundle) -> Shown:
    """An answer to who asked with this number."""
    return Shown(made.sequence, made.hash, None)


# --- what is taken ---


def test_a_device_without_a_key_takes_nothing() -> None:
    """It is not governed, and asks for nothing."""
    free = Phone()
    assert not free.holding.governed
    assert not free.holding.wants(1)
    free.take(shown(FIRST))
    assert (free.holding.bundle, free.rows, free.told.rules) == (None, {}, [])


def test_a_newer_bundle_is_taken_and_outlives_a_restart(phone: Phone) -> None:
    """The next one, or one far ahead whose past this device never saw."""
    assert phone.holding.governed
    assert phone.holding.sequence == 0
    assert phone.holding.wants(1)
    for made in (FIRST, SECOND, bundle(bundle(THIRD))):
        phone.take(shown(made))
        phone.restart()
        assert phone.holding.bundle == made
        assert not phone.holding.wants(made.sequence)
        assert phone.holding.wants(made.sequence + 1)
    assert phone.told.rules == []


def test_listeners_hear_of_each_change_alone(phone: Phone) -> None:
    """Not of the same bundle again, nor of one that was refused."""
    heard: list[int] = []
    phone.holding.on_changed(lambda: heard.append(phone.holding.sequence))
    for made in (FIRST, FIRST, SECOND, FIRST):
        phone.take(shown(made))
    phone.holding.unpin(KEY.public[:4])
    assert heard == [1, 2, 0]


# --- what is refused ---


def test_an_older_bundle_is_refused_and_proved(phone: Phone) -> None:
    """The newer one stays; the alarm has what the service showed, once however often."""
    phone.take(shown(SECOND))
    for _ in range(2):
        phone.take(shown(FIRST))
        phone.restart()
    assert phone.holding.bundle == SECOND
    assert phone.told.rules == ["policy-rollback"]
    assert phone.told.evidence == [(FIRST.encoded, FIRST.sign(KEY), KEY.public)]


def test_a_service_that_speaks_of_an_older_one_is_accused(phone: Phone) -> None:
    """Also one that says that it has none any more."""
    phone.take(shown(SECOND))
    assert phone.holding.wants(1)
    assert phone.take(nothing_newer(FIRST)) is None
    assert phone.take(Shown(0, b"", None)) is None
    assert phone.told.rules == ["policy-rollback"] * 2
    assert phone.holding.bundle == SECOND


def test_another_bundle_under_the_same_number_is_refused(phone: Phone) -> None:
    """Both are the evidence. By its hash alone the service is asked for the bytes."""
    phone.take(shown(FIRST))
    phone.take(shown(SECOND))
    rival = bundle(FIRST, title="For somebody else")
    assert phone.take(nothing_newer(rival)) == 1
    assert phone.told.rules == []
    assert phone.take(shown(rival)) is None
    assert phone.told.rules == ["policy-fork"]
    assert [SignedPolicy(*phone.told.evidence[0][at : at + 3]) for at in (0, 3)] == [
        shown(SECOND).policy, shown(rival).policy,
    ]  # fmt: skip
    assert phone.holding.bundle == SECOND
    assert phone.take(nothing_newer(SECOND)) is None


def test_one_that_follows_on_another_past_is_refused(phone: Phone) -> None:
    """The next one must name the hash of the one that is held."""
    phone.take(shown(FIRST))
    phone.take(shown(SECOND))
    phone.take(shown(bundle(bundle(FIRST, title="Another past"))))
    assert phone.told.rules == ["policy-fork"]
    assert phone.holding.bundle == SECOND
    phone.take(shown(THIRD))
    assert phone.holding.bundle == THIRD


def test_what_the_publisher_did_not_sign_is_refused(phone: Phone) -> None:
    """Another key's bundle, a changed one, one under a false name; and one of a form that this
    version can't read is told as such."""
    phone.take(shown(FIRST))
    policy = shown(SECOND).policy
    assert policy is not None
    forged = [
        shown(SECOND, OTHER_KEY),
        Shown(2, SECOND.hash, replace(policy, sig=bytes(64))),
        Shown(2, SECOND.hash, replace(policy, data=policy.data[:-1] + b"\0")),
        Shown(2, SECOND.hash, replace(policy, sig=SECOND.sign(OTHER_KEY))),
        Shown(2, SECOND.hash, replace(policy, sig=b"short")),
    ]
    for one in forged:
        phone.told.about.clear()
        phone.take(one)
    assert phone.holding.bundle == FIRST
    assert phone.told.rules[:4] == ["policy-signature"] * 4
    odd = SignedPolicy(b"\xa0", KEY.sign(labels.POLICY_SIG, b"\xa0"), KEY.public)
    phone.take(Shown(2, b"", odd))
    assert phone.told.rules[-1] == "policy-form"
    assert phone.holding.bundle == FIRST


# --- keys ---


def test_a_publishers_key_is_exchanged(phone: Phone) -> None:
    """With both pinned the sequence goes on under the new one; the old one is removed then."""
    phone.take(shown(FIRST))
    phone.pin(OTHER_KEY)
    phone.take(shown(SECOND, OTHER_KEY))
    assert phone.holding.unpin(KEY.public[:4])
    phone.store()
    phone.restart()
    assert phone.holding.keys == (OTHER_KEY.public,)
    assert phone.holding.bundle == SECOND
    phone.take(shown(FIRST))
    assert phone.told.rules == ["policy-signature"]


def test_what_a_key_signed_is_in_force_while_it_is_trusted(phone: Phone) -> None:
    """Taken back and given again, it can't be used to go back."""
    phone.take(shown(SECOND))
    phone.holding.unpin(KEY.public[:4])
    assert (phone.holding.governed, phone.holding.bundle) == (False, None)
    phone.store()
    phone.restart()
    phone.pin()
    assert phone.holding.bundle == SECOND
    phone.take(shown(FIRST))
    assert phone.told.rules == ["policy-rollback"]


def test_another_publisher_begins_anew(phone: Phone) -> None:
    """Numbers are of one publisher: a device that trusts another now has none of the old."""
    phone.take(shown(THIRD))
    phone.holding.unpin(KEY.public[:4])
    phone.pin(OTHER_KEY)
    assert phone.holding.sequence == 0
    phone.take(shown(FIRST, OTHER_KEY))
    assert phone.holding.bundle == FIRST
    assert phone.told.rules == []


def test_keys_have_a_form_and_a_number(phone: Phone) -> None:
    """Each refusal says what to do."""
    with pytest.raises(UserError, match="64 hexadecimal"):
        phone.holding.pin(b"short")
    with pytest.raises(UserError, match="8 digits"):
        phone.holding.unpin(b"abc")
    assert not phone.holding.unpin(b"abcd")
    phone.holding.pin(KEY.public)
    for number in range(KEYS_MAX - 1):
        phone.holding.pin(bytes((number,)) * 32)
    with pytest.raises(UserError, match="remove one"):
        phone.holding.pin(b"\xff" * 32)
    assert len(phone.holding.keys) == KEYS_MAX


def test_a_bundle_that_this_version_cannot_read_is_still_a_floor(phone: Phone) -> None:
    """Nothing is in force then; nothing older is taken, the same bundle again is."""
    phone.take(shown(SECOND))
    sequence, digest, data, *rest = unpack(phone.rows[HELD_ROW], 5)
    phone.rows[HELD_ROW] = pack(sequence, digest, data + b"of a later version", *rest)
    phone.restart()
    assert (phone.holding.governed, phone.holding.bundle) == (True, None)
    phone.take(shown(FIRST))
    assert phone.holding.bundle is None
    assert phone.told.rules == ["policy-rollback"]
    phone.take(shown(SECOND))
    assert phone.holding.bundle == SECOND


# --- with a service ---


@pytest.fixture
async def governed(tmp_path: Path) -> AsyncIterator[Governed]:
    """A governed service without a bundle."""
    async with serving(tmp_path, **KEYS) as service:
        yield Governed(service)


@pytest.fixture
async def devices(governed: Governed) -> AsyncIterator[Fleet]:
    """Devices of that service, which has a bundle that lets them in."""
    await governed.publish(FIRST)
    async with fleet(endpoint_of(governed.service)) as made:
        yield made


async def test_a_governed_device_has_the_policy_with_its_first_sync(
    governed: Governed, devices: Fleet
) -> None:
    """Until then nothing may be recorded; then what the policy declares, if it is agreed to. It
    is there after a restart, without the service."""
    synced = await devices.first()
    assert not synced.governed
    put(synced, "anything", True)
    synced.pin_policy(KEY.public)
    assert (synced.governed, synced.policy) == (True, None)
    with pytest.raises(SignalRefused) as none:
        put(synced, "spicy", True, "app")
    assert none.value.rule == "no-policy"
    await synced.sync_once()
    assert synced.policy == FIRST
    for collection, rule in (("ui", "undeclared"), ("app", "purpose-off")):
        with pytest.raises(SignalRefused) as refused:
            put(synced, "spicy", True, collection)
        assert refused.value.rule == rule
    again = devices.again(synced)
    assert (again.governed, again.policy) == (True, FIRST)
    assert rules(synced) == []


async def test_each_sync_brings_what_was_published_since(
    governed: Governed, devices: Fleet
) -> None:
    """And asks for nothing while nothing is."""
    synced = await devices.first()
    synced.pin_policy(KEY.public)
    await synced.sync_once()
    asked = governed.service.log.getvalue().count("Policy/GetPolicy")
    await synced.sync_once()
    assert governed.service.log.getvalue().count("Policy/GetPolicy") == asked
    await governed.publish(SECOND)
    await governed.publish(THIRD)
    await synced.sync_once()
    assert synced.policy == THIRD


async def test_a_connected_device_hears_of_a_bundle_at_once(
    governed: Governed, devices: Fleet
) -> None:
    """Within one push, while nothing else happens; also one that watches from before any."""
    synced = await devices.first()
    synced.pin_policy(KEY.public)
    watching = Watching(synced)
    await watching.until_live()
    for made in (SECOND, THIRD):
        await governed.publish(made)
        await watching.until(lambda made=made: synced.policy == made)  # type: ignore[misc]
    await watching.stop()
    assert rules(synced) == []


async def test_a_connected_device_that_may_not_watch_hears_with_a_heartbeat(
    tmp_path: Path,
) -> None:
    """Every frame of its stream of ops says which number is the newest, and it asks for that."""
    shut = Access((), tuple(one for one in OPEN.grants if not one.method.endswith("Policy/*")))
    named = tuple(Grant("anyone", method, ("*",)) for method in (GET, PUBLISH))
    access = replace(shut, grants=(*shut.grants, *named))
    first = bundle(access=access)
    async with serving(tmp_path, heartbeat_s=0.3, **KEYS) as service:
        await Governed(service).publish(first)
        async with fleet(endpoint_of(service)) as devices:
            synced = await devices.first()
            synced.pin_policy(KEY.public)
            watching = Watching(synced)
            await watching.until_live()
            await Governed(service).publish(bundle(first, access=access))
            await watching.until(lambda: synced.holding.sequence == 2)
            await watching.stop()
            assert len(service.server.policy_hub) == 0


async def test_the_watch_comes_back_after_the_service_did(tmp_path: Path) -> None:
    """What was published meanwhile is there."""
    async with serving(tmp_path, **KEYS) as service:
        await Governed(service).publish(FIRST)
        address = service.server.address
        async with fleet(endpoint_of(service)) as devices:
            synced = await devices.first()
            synced.pin_policy(KEY.public)
            watching = Watching(synced)
            await watching.until(lambda: synced.policy == FIRST)
            await service.server.stop()
            async with serving(tmp_path, listen=address, **KEYS) as again:
                await Governed(again).publish(SECOND)
                await watching.until(lambda: synced.policy == SECOND)
                await Governed(again).publish(THIRD)
                await watching.until(lambda: synced.policy == THIRD)
                await watching.stop()


async def test_a_store_that_was_put_back_is_found_out(tmp_path: Path) -> None:
    """The device keeps the newer policy, and says what it saw; the publisher puts it again."""
    async with serving(tmp_path, **KEYS) as service:
        await Governed(service).publish(FIRST)
        async with fleet(endpoint_of(service)) as devices:
            synced = await devices.first()
            synced.pin_policy(KEY.public)
            await synced.sync_once()
    old = tmp_path / "old.db"
    shutil.copy(tmp_path / "rookery.db", old)
    async with serving(tmp_path, **KEYS) as service:
        await Governed(service).publish(SECOND)
        async with fleet(endpoint_of(service)) as devices:
            later = devices.again(synced)
            await later.sync_once()
            assert later.policy == SECOND
    shutil.copy(old, tmp_path / "rookery.db")
    async with serving(tmp_path, **KEYS) as service, fleet(endpoint_of(service)) as devices:
        after = devices.again(later)
        await after.sync_once()
        assert after.policy == SECOND
        assert "policy-rollback" in rules(after)
        watching = Watching(after)
        await watching.until_live()
        await Governed(service).publish(SECOND)
        await Governed(service).publish(THIRD)
        await watching.until(lambda: after.policy == THIRD)
        await watching.stop()


async def test_two_services_that_show_two_policies_are_found_out(tmp_path: Path) -> None:
    """A publisher that signed two for one number, or whoever has its key: both are kept."""
    async with serving(tmp_path, **KEYS) as service:
        await Governed(service).publish(FIRST)
        await Governed(service).publish(SECOND)
        async with fleet(endpoint_of(service)) as devices:
            synced = await devices.first()
            synced.pin_policy(KEY.public)
            await synced.sync_once()
    rival = bundle(FIRST, title="For somebody else")
    replace_newest(tmp_path, rival)
    async with serving(tmp_path, **KEYS) as service, fleet(endpoint_of(service)) as devices:
        after = devices.again(synced)
        watching = Watching(after)
        await watching.until(lambda: "policy-fork" in rules(after))
        await watching.stop()
        assert after.policy == SECOND
        [alarm] = [one for one in after.core.notices if one.rule == "policy-fork"]
        assert {SECOND.encoded, rival.encoded} <= {*alarm.evidence}


def replace_newest(folder: Path, made: Bundle) -> None:
    """What somebody with the publisher's key and the store can do."""
    row = row_of(made)
    with sqlite3.connect(folder / "rookery.db") as db:
        db.execute(
            "UPDATE policy SET hash = ?, data = ?, sig = ? WHERE sequence = ?",
            (row.hash, row.data, row.sig, row.sequence),
        )


async def test_devices_at_two_replicas_hear_of_what_either_took(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Whichever replica a device is connected to."""
    redis_server.flush()
    settings = {"redis_url": redis_server.url, **KEYS}
    async with serving(tmp_path, **settings) as one:
        await Governed(one).publish(FIRST)
        async with (
            serving(tmp_path, **settings) as two,
            fleet(endpoint_of(one)) as here,
            fleet(endpoint_of(two)) as there,
        ):
            phones = [await here.first(), await there.first()]
            watching = []
            for synced in phones:
                synced.pin_policy(KEY.public)
                watching.append(Watching(synced))
            for made, by in ((SECOND, one), (THIRD, two)):
                await Governed(by).publish(made)
                await asyncio.gather(
                    *(
                        watch.until(lambda watch=watch, made=made: watch.synced.policy == made)  # type: ignore[misc]
                        for watch in watching
                    )
                )
            for watch in watching:
                await watch.stop()
            assert [rules(synced) for synced in phones] == [[], []]
