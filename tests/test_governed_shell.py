"""Governed devices on a real service: what is recorded, sent and kept, by the frames they send."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from client.gate import SignalRefused
from client.sync import SyncedDevice
from client.transport import Signer
from client.values import encode
from client.vault import MemoryVault
from crypto.policy.flags import Flag
from crypto.policy.generalise import DAY_MS, Day
from crypto.policy.signals import Reach
from crypto.policy.values import Text, Whole
from mpc.keys import PublisherKey
from rookery.v1 import sync_pb2
from tests.consent_worlds import COUNTING, House, house, policy, rate, record
from tests.governed_worlds import KEY
from tests.policy_samples import signal
from tests.shell_worlds import Clock, rules

MARK = "moonlit-heron"


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    """Two devices under a policy with a note that stays, and a time to the day; all is allowed."""
    async with house(tmp_path) as made:
        counting: dict[str, Any] = {"purposes": (COUNTING,)}
        signals = (
            *policy().signals[:-1],
            signal("note", Text(40), collection="notes", reach=Reach.DEVICE, **counting),
            signal("opened", Whole(0, 1 << 42), collection="app", generalise=(Day(),), **counting),
        )
        await made.publish(policy(made.held, signals=signals))
        await made.both()
        await made.a.consenting.grant(COUNTING)
        await made.both()
        yield made


class Line:
    """All that a device sends from now on."""

    def __init__(self, synced: SyncedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[Message] = []
        call = synced.transport.call

        async def heard(method: Any, message: Message, signer: Signer | None = None) -> Any:
            self.sent.append(message)
            return await call(method, message, signer)

        monkeypatch.setattr(synced.transport, "call", heard)

    @property
    def ops(self) -> list[bytes]:
        """Those that were pushed."""
        pushes = [one for one in self.sent if isinstance(one, sync_pb2.PushRequest)]
        return [op for push in pushes for op in push.ops]

    def holds(self, value: str) -> bool:
        """Whether a frame has it: raw, in hexadecimal or base64."""
        raw = value.encode()
        forms = (raw, raw.hex().encode(), base64.b64encode(raw).rstrip(b"="))
        frames = [one.SerializeToString() for one in self.sent]
        return any(form in frame for frame in frames for form in forms)


def later(home: House, days: float) -> None:
    """Everybody's clock, the service's too, is so much further."""
    ms = round(days * DAY_MS)
    home.relay.service.moment.offset_ms += ms
    for synced in (home.a, home.b):
        clock = synced.transport.clock
        assert isinstance(clock, Clock)
        clock.offset_ms += ms


async def test_what_stays_on_the_device_sends_nothing_at_all(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No op, no frame with it; the same device knows it after a restart, the other one never."""
    line = Line(home.a, monkeypatch)
    record(home.a, "notes/note", MARK)
    await home.both()
    assert line.sent, "it did sync"
    assert line.ops == []
    assert not line.holds(MARK)
    home.a.edit(lambda core, now_ms: core.remove("notes", "note", now_ms=now_ms))
    await home.a.sync_once()
    assert line.ops == [], "its removal is none of the account's business either"
    record(home.a, "notes/note", MARK)
    assert home.devices.again(home.a).core.get("notes", "note") == MARK
    assert home.b.core.get("notes", "note") is None
    record(home.a, "food/cuisine", "thai")
    await home.a.sync_once()
    assert len(line.ops) == 1, "what syncs is sent"


async def test_the_exact_time_is_in_neither_vault(home: House) -> None:
    """The vaults of both devices, as the shell stores them."""
    exact_ms = home.a.now_ms() - 12_345_678
    record(home.a, "app/opened", exact_ms)
    await home.both()
    for synced in (home.a, home.b):
        assert synced.core.get("app", "opened") == exact_ms - exact_ms % DAY_MS
        assert isinstance(synced.vault, MemoryVault)
        rows = synced.vault.load().values()
        assert not any(encode(exact_ms) in row or b"%d" % exact_ms in row for row in rows)


async def test_a_kill_switch_stops_recording_with_the_next_bundle_and_a_rollback_lets_it_on(
    home: House,
) -> None:
    """What was recorded before stays, for nothing says that it must go."""
    record(home.a, "food/cuisine", "thai")
    before = home.held
    kill = Flag("stop", "kill", ("signal", "cuisine"), True, 100, None)
    await home.publish(policy(before, signals=before.signals, flags=(kill,)))
    await home.both()
    with pytest.raises(SignalRefused, match="rule killed"):
        record(home.b, "food/cuisine", "lao")
    assert home.b.core.get("food", "cuisine") == "thai"
    await home.publish(policy(home.held, signals=before.signals))
    await home.both()
    record(home.b, "food/cuisine", "lao")


async def test_retention_is_kept_by_every_sync_of_the_account(home: House) -> None:
    """By the clocks of service and device together; and the device is told of nothing odd."""
    record(home.a, "food/cuisine", "thai")
    rate(home.a, "soup")
    record(home.a, "notes/note", MARK)
    await home.both()
    later(home, 89)
    await home.both()
    assert home.b.core.get("food", "cuisine") == "thai"
    later(home, 2)
    await home.b.sync_once()
    assert home.b.core.get("food", "cuisine") is None
    assert home.b.core.scores("rating", now_ms=home.b.now_ms()) == {}
    await home.both()
    assert home.a.core.collections() == ()
    assert not any(MARK.encode() in row for row in home.a.vault.load().values())
    assert rules(home.a) == rules(home.b) == []


async def test_a_new_device_is_governed_from_its_first_moment_on(tmp_path: Path) -> None:
    """By the policy of the one that adds it: before its first sync it records nothing, then what
    the bundle declares; started again, it still is."""
    async with house(tmp_path) as home:
        early: list[str] = []

        def spoil(digits: str) -> str:
            [new] = [one for one in home.devices.open if one not in (home.a, home.b)]
            with pytest.raises(SignalRefused) as refused:
                record(new, "food/cuisine", "thai")
            early.append(refused.value.rule)
            return digits

        c = await home.devices.another(home.a, spoil=spoil)
        assert early == ["no-policy"]
        assert c.policy == home.held
        for one in (c, home.devices.again(c)):
            assert one.holding.keys == home.a.holding.keys == (KEY.public,)
            with pytest.raises(SignalRefused, match="rule undeclared"):
                record(one, "food/secret", "thai")


async def test_before_the_first_bundle_a_governed_device_records_nothing(tmp_path: Path) -> None:
    """Pinning the publisher is enough; letting go of it ends it."""
    async with house(tmp_path) as home:
        free = await home.devices.another(home.a)
        assert free.unpin_policy(KEY.public)
        free.pin_policy(PublisherKey(bytes(32)).public)
        with pytest.raises(SignalRefused, match="rule no-policy"):
            record(free, "food/cuisine", "thai")
        assert free.unpin_policy(PublisherKey(bytes(32)).public)
        record(free, "food/anything", "thai")
