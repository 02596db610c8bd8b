"""The service's key is followed by another: devices go along, and only for a good reason."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from client.cli import options
from client.endpoint import Endpoint, EndpointError, Superseded
from client.remote import Remote
from client.serverkeys import signer_of
from client.sync import ENDPOINT_ROW, SyncedDevice
from client.transport import Signer, SystemClock
from crypto import succession
from crypto.receipt import ServerKey
from services.server import Secrets
from tests.served import AUDIENCE, SECRETS, Service, serving
from tests.shell_worlds import DAY_MS, Clock, endpoint_of, fleet, put, rules, shown

SEEDS = [b"\x07" * 32, *(bytes((number,)) * 32 for number in range(0x20, 0x24))]
KEYS = [ServerKey(seed).public for seed in SEEDS]


def named(old: int, new: int, *, days: float = 1, audience: str = AUDIENCE) -> bytes:
    """A succession that was made now."""
    now_ms = SystemClock().wall_ms()
    return succession.make(
        SEEDS[old],
        SEEDS[new],
        audience=audience,
        made_ms=now_ms,
        until_ms=now_ms + int(days * DAY_MS),
    )


def put_in_force(service: Service, key: int, *successions: bytes) -> None:
    """As a reload does."""
    service.server.keys.secrets = Secrets(SEEDS[key], SECRETS.pepper, successions=successions)


def pinned(synced: SyncedDevice) -> bytes:
    """What is stored; else what is in memory."""
    row = synced.vault.load().get(ENDPOINT_ROW)
    stored = synced.transport.endpoint if row is None else Endpoint.decode(row)
    assert stored == synced.transport.endpoint
    return stored.server_key


async def test_a_device_follows_to_the_newest_key_and_stores_it(tmp_path: Path) -> None:
    """One that was away for two rotations, and one that was there for each; a new one that was
    given the oldest key; and the receipt of a deletion."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        b = await devices.another(a)
        first, second = named(0, 1), named(1, 2, days=0)
        put_in_force(service, 1, first)
        await a.sync_once()
        assert (pinned(a), pinned(b)) == (KEYS[1], KEYS[0])
        put_in_force(service, 2, first, second)
        put(a, "theme", "dark")
        for synced in (a, b):
            await synced.sync_once()
        c = await devices.another(a)
        for synced in (a, b, c):
            assert pinned(synced) == KEYS[2]
            assert not rules(synced)
            assert [row.rule for row in synced.core.notices].count("server-key") >= 1
        assert shown(c) == {"ui/theme": "dark"}
        third = named(2, 3)
        put_in_force(service, 3, first, second, third)
        a.sign_as_device()
        await a.remote.delete_account(Signer(a.core.identity, a.core.account_id))
        assert pinned(a) == KEYS[3]


@pytest.mark.parametrize(
    ("statements", "rule"),
    [
        ((), "receipt-signature"),
        ((named(3, 1),), "receipt-signature"),
        ((named(0, 2),), "receipt-signature"),
        ((named(0, 1), named(0, 2)), "server-key-succession-fork"),
        ((named(0, 1, audience="else"),), "server-key-audience"),
        ((named(0, 1)[:-1],), "server-key-length"),
    ],
    ids=["none", "of another key", "to another key", "to two keys", "elsewhere", "cut off"],
)
async def test_a_key_without_a_good_succession_is_an_alarm(
    tmp_path: Path, statements: tuple[bytes, ...], rule: str
) -> None:
    """And the pinned one stays pinned; with the right key back, all is well."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        put_in_force(service, 1, *statements)
        await a.sync_once()
        assert rule in rules(a)
        assert pinned(a) == KEYS[0]
        alarms = len(rules(a))
        put_in_force(service, 0)
        await a.sync_once()
        assert len(rules(a)) == alarms


async def test_the_key_before_counts_until_its_end(tmp_path: Path) -> None:
    """A replica that did not look at its files yet signs with it; a thief of it does so later."""
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        clock = Clock()
        a = await devices.first(clock=clock)
        step = named(0, 1, days=1)
        put_in_force(service, 1, step)
        await a.sync_once()
        put_in_force(service, 0)
        await a.sync_once()
        assert not rules(a)
        assert pinned(a) == KEYS[1]
        clock.offset_ms = 2 * DAY_MS
        await a.sync_once()
        assert rules(a) == ["receipt-signature"]
        assert pinned(a) == KEYS[1]
        # The thief's own succession from the old key is not even looked at.
        put_in_force(service, 4, named(0, 4), step)
        await a.sync_once()
        assert pinned(a) == KEYS[1]


async def test_the_pin_is_on_the_disk_before_the_receipt_is_believed(tmp_path: Path) -> None:
    """`on_new_key` is told once, of the whole way, and only if the receipt is by that key."""
    told: list[Endpoint] = []
    async with serving(tmp_path) as service, fleet(endpoint_of(service)) as devices:
        a = await devices.first()
        a.sign_as_device()
        remote = Remote(a.transport, a.remote.signer, on_new_key=told.append)
        put_in_force(service, 2, named(0, 1))
        got = await remote.get_receipt()
        assert await remote.signer_of(got.data, got.nonce) == KEYS[0]
        assert not told
        put_in_force(service, 2, named(0, 1), named(1, 2))
        got = await remote.get_receipt()
        assert await remote.signer_of(got.data, got.nonce) == KEYS[2]
        [endpoint] = told
        assert [row.key for row in endpoint.before] == [KEYS[0], KEYS[1]]
        assert Endpoint.decode(endpoint.encode()) == endpoint
        assert signer_of(endpoint, b"", nonce=b"", now_ms=0) == KEYS[2]


def test_what_was_given_once_does_not_take_a_device_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that still names the old key is the pinned one's past; another key is a
    person's word."""
    stored = Endpoint(("127.0.0.1:1",), AUDIENCE, KEYS[1], before=(Superseded(KEYS[0], 5),))
    for given, key, before in (
        (KEYS[0].hex().upper(), KEYS[1], stored.before),
        (KEYS[1].hex(), KEYS[1], stored.before),
        (KEYS[2].hex(), KEYS[2], ()),
    ):
        monkeypatch.setenv("ROOKERY_SERVER_KEY", given)
        arguments = argparse.Namespace(
            server=None,
            audience=None,
            server_key=None,
            tls_ca=None,
            insecure=False,
            client_cert=None,
            client_key=None,
        )
        found = options.endpoint(arguments, stored)
        assert (found.server_key, found.before) == (key, before)
    with pytest.raises(EndpointError):
        Endpoint.decode(stored.encode().replace(KEYS[0].hex().encode(), b"xyz"))
