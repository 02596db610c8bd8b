"""An account that the service has lost altogether comes back from a device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from client.errors import AccountGone, NotAllowed
from client.remake import LATER_BYTES_MAX
from client.steps import CreateAccount
from client.sync import SyncedDevice
from crypto import op
from tests.cli_process import Home, join
from tests.client_worlds import Phone, Service, first_phone, pair, settle
from tests.service_process import ServiceProcess
from tests.shell_worlds import Fleet, fleet, like, put, rules, shown
from tests.test_client_healing import put as write


def lose(service: ServiceProcess) -> None:
    """The database is gone; the identity key is not."""
    service.kill()
    for file in service.folder.glob("service.db*"):
        if not file.name.endswith((".key", ".pepper")):
            file.unlink()
    service.start()


async def find_gone(*devices: SyncedDevice) -> None:
    """Each is told that the service does not know it, as often as it asks."""
    for synced in devices:
        for _ in range(2):
            with pytest.raises(AccountGone):
                await synced.sync_once()


async def agree(*devices: SyncedDevice) -> None:
    """All of them sync until each has seen what the others gave back, and show the same."""
    for _ in range(3):
        for synced in devices:
            await synced.sync_once()
    first = devices[0]
    for synced in devices:
        assert shown(synced) == shown(first)
        assert rules(synced) in (["account-gone"], [])
        assert synced.core.status.edits_waiting == synced.core.status.ops_on_hold == 0
        assert synced.core.chain == first.core.chain


async def rotate(synced: SyncedDevice, *others: SyncedDevice) -> None:
    """A new epoch, and everybody moves there."""
    synced.edit(lambda core, _: core.rotate())
    for one in (synced, *others, synced):
        await one.sync_once()


async def _two(devices: Fleet) -> tuple[SyncedDevice, SyncedDevice]:
    a = await devices.first()
    put(a, "theme", "dark")
    b = await devices.another(a)
    like(b, "thai", 2)
    for synced in (b, a):
        await synced.sync_once()
    return a, b


@pytest.mark.parametrize("by", [0, 1])
async def test_an_account_comes_back_from_either_device(
    own_server: ServiceProcess, by: int
) -> None:
    """The one that made the account and the one that joined it: nothing is lost, the other one
    heals by itself, and a new device sees everything."""
    async with fleet(own_server.endpoint) as devices:
        both = await _two(devices)
        lose(own_server)
        put(both[0], "lang", "written while it was gone")
        await find_gone(*both)
        restorer, other = both[by], both[1 - by]
        await restorer.make_again()
        await agree(restorer, other)
        assert shown(other) == {
            "ui/theme": "dark", "ui/lang": "written while it was gone", "cuisine/thai": 2,
        }  # fmt: skip
        c = await devices.another(other)
        assert shown(c) == shown(other)
        assert not rules(c)


async def test_both_devices_may_bring_it_back(own_server: ServiceProcess) -> None:
    """The order does not matter, and nothing is made twice."""
    async with fleet(own_server.endpoint) as devices:
        a, b = await _two(devices)
        lose(own_server)
        await find_gone(a, b)
        await b.make_again()
        await a.make_again()
        await agree(a, b)
        assert len(a.core.devices) == 2


@pytest.mark.parametrize("by", [0, 1])
async def test_an_account_of_several_epochs_comes_back(own_server: ServiceProcess, by: int) -> None:
    """Links and ops alternate, so that each epoch takes its own ops; a device that joined later
    brings stubs of what is too old for the place where it begins."""
    async with fleet(own_server.endpoint) as devices:
        a = await devices.first()
        for number in range(3):
            put(a, f"k{number}", number)
            await a.sync_once()
            await rotate(a)
        b = await devices.another(a)
        put(b, "k9", 9)
        await b.sync_once()
        await rotate(a, b)
        lose(own_server)
        await find_gone(a, b)
        restorer, other = (a, b) if by == 0 else (b, a)
        await restorer.make_again()
        await agree(restorer, other)
        assert len(shown(a)) == 4
        c = await devices.another(b)
        assert shown(c) == shown(a)


async def test_a_device_an_epoch_behind_brings_it_back(own_server: ServiceProcess) -> None:
    """The rotation that it has not seen comes from the device that made it."""
    async with fleet(own_server.endpoint) as devices:
        a, b = await _two(devices)
        await rotate(a)
        put(a, "k1", "of the new epoch")
        await a.sync_once()
        lose(own_server)
        put(b, "k2", "of the old one")
        await find_gone(a, b)
        assert (a.core.status.epoch, b.core.status.epoch) == (2, 1)
        await b.make_again()
        await agree(b, a)
        assert b.core.status.epoch == 2
        assert {"ui/k1", "ui/k2", "ui/theme", "cuisine/thai"} == set(shown(b))


async def test_a_device_that_has_not_changed_its_box_key_yet_takes_nobodys_place(
    own_server: ServiceProcess,
) -> None:
    """A REBOX that nobody asked for would stand where the lost link of another one stood."""
    async with fleet(own_server.endpoint) as devices:
        a, b = await _two(devices)
        c = await devices.another(a)
        a.edit(lambda core, _: core.rotate())
        await a.sync_once()
        # b has the rotation, but not its own REBOX yet.
        page = await b.remote.get_chain(b.core.chain.seq, all_grants=True)
        b.core.on_chain(page.items, lamport_max=0, more=False, now_ms=b.now_ms())
        b.save()
        await c.sync_once()
        lose(own_server)
        await find_gone(b, c)
        await b.make_again()
        await b.sync_once()
        await agree(b, c, a)


async def test_what_is_deleted_comes_back_only_when_asked_for(own_server: ServiceProcess) -> None:
    """A device whose account is gone syncs and waits; a removed one can't bring it back."""
    async with fleet(own_server.endpoint) as devices:
        a, b = await _two(devices)
        a.edit(lambda core, _: core.rotate([b.core.identity.device_id]))
        await a.sync_once()
        with pytest.raises(AccountGone):
            await b.sync_once()
        with pytest.raises(AccountGone):
            await b.make_again()
        await a.sync_once()
        assert not a.core.status.cloned
        assert sum(row.active for row in a.core.devices) == 1


@pytest.fixture
def a() -> Phone:
    return first_phone(Service())


def emptied(service: Service) -> None:
    """The model loses everything."""
    fresh = Service()
    fresh.generation = service.generation + 1
    service.__dict__.update(fresh.__dict__)


def epochs_pushed(phone: Phone) -> Callable[[], set[tuple[int, bool]]]:
    """(epochs behind the service, whole?) of what a phone pushes from now on."""
    seen: set[tuple[int, bool]] = set()
    take = phone.service.push

    def push(ops: tuple[bytes, ...], caller: object) -> None:
        for raw in ops:
            sealed = op.parse_any(raw)
            behind = phone.service.chain.epoch - sealed.header.epoch
            seen.add((behind, sealed.ct is not None))
        take(ops, caller)  # type: ignore[arg-type]

    phone.service.push = push  # type: ignore[method-assign]
    return lambda: seen


@pytest.mark.parametrize("grace", [True, False])
def test_what_is_two_epochs_old_goes_up_as_stubs(a: Phone, grace: bool) -> None:
    """A chain that stands already, with all of its rotations: no whole op of an epoch that the
    service takes none of. Without grace, none of the epoch before either."""
    for number in range(3):
        write(a, f"k{number}", "v")
        a.sync()
        if number < 2:
            a.device.rotate()
            a.sync()
    items = list(a.service.items)
    emptied(a.service)
    a.service.grace = grace
    for item in items:
        a.service.append(item)
    pushed = epochs_pushed(a)
    a.device.on_generation_changed()
    a.poke()
    assert (2, False) in pushed()
    assert (2, True) not in pushed()
    assert a.alarms == []
    assert a.service.heads
    assert pair(a, "b").device.list("ui") == {"k0": "v", "k1": "v", "k2": "v"}


def test_a_late_device_waits_for_the_one_that_has_the_beginning(a: Phone) -> None:
    """Where history was trimmed before it joined, the service takes its part only after that of
    an older device: it says so, loses nothing, and gives it back then."""
    for number in range(3):
        a.device._core.state.lamport_max += 4000
        write(a, "k", f"v{number}")
        a.sync()
    a.device.rotate()
    a.sync()
    a.service.trim(a.marks[-1])
    a.service.drop_epoch(1)
    b = pair(a, "b")
    write(b, "x", "1")
    settle(a, b)
    heads = {key: row[0] for key, row in a.service.heads.items()}
    emptied(a.service)
    b.device.make_again()
    b.sync()
    assert b.alarms == ["restore-refused"]
    assert b.device.list("ui") == {"k": "v2", "x": "1"}
    settle(a, b)
    b.device.make_again()
    b.sync()
    assert b.alarms == []  # what stood in the way of the first attempt is gone
    assert all(b.service.heads[key][0] >= seq for key, seq in heads.items())
    assert pair(a, "c").device.list("ui") == {"k": "v2", "x": "1"}


def test_a_late_device_that_is_left_alone_publishes_all_again(a: Phone) -> None:
    """The device that had the beginning never comes back: a rotation publishes what the late one
    shows, and who joins then sees it."""
    write(a, "k", "v")
    a.sync()
    a.device.rotate()
    a.sync()
    a.service.trim(a.marks[-1])
    a.service.drop_epoch(1)
    b = pair(a, "b")
    write(b, "x", "1")
    settle(a, b)
    assert b.device._core.state.logs[0].base
    emptied(a.service)
    b.device.make_again()
    b.sync()
    b.device.rotate([a.device.identity.device_id])
    settle(b)
    c = pair(b, "c")
    settle(b, c)
    assert c.device.list("ui") == b.device.list("ui") == {"k": "v", "x": "1"}
    assert b.alarms == c.alarms == []


def test_a_long_chain_is_brought_in_several_calls(
    a: Phone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call holds so many bytes; the next one goes on where it ended."""
    assert LATER_BYTES_MAX < 1 << 20
    for _ in range(3):
        a.device.rotate()
        a.sync()
    b = pair(a, "b")
    settle(a, b)
    emptied(a.service)
    monkeypatch.setattr("client.remake.LATER_BYTES_MAX", 1500)
    b.device.make_again()
    calls = []
    while isinstance(step := b.device.next_step(now_ms=b.now_ms, rand=b.rand), CreateAccount):
        calls.append(step)
        b.step()
    assert len(calls) > 2
    assert b.service.chain.seq == b.device.chain.find(b.device.identity.device_id).added_seq  # type: ignore[union-attr]
    settle(b, a)
    assert a.service.chain == b.device.chain


def test_a_device_without_all_grants_says_so(a: Phone) -> None:
    """A link goes up with all of its grants or not at all."""
    b = pair(a, "b")
    settle(a, b)
    rows = dict(b.rows)
    view = b.device._core.view
    view.items[1] = type(view.items[1])(view.items[1].link)
    with pytest.raises(NotAllowed, match="another device"):
        b.device.make_again()
    assert rows == b.rows


def test_the_command_restores_what_is_lost_and_nothing_else(
    tmp_path: Path, own_server: ServiceProcess
) -> None:
    """`restore-account`: nothing where the account stands, everything where it does not, and a
    plain sentence for a device that was removed."""
    a, b = Home(tmp_path, "a", own_server), Home(tmp_path, "b", own_server)
    a.run("init", "--no-recovery", service=True)
    a.run("set", "ui/theme", "dark")
    assert join(a, b) == (0, 0)
    assert a.run("restore-account", "--json").json["restored"] is False
    lose(own_server)
    assert "restore-account" in a.run("sync", code=6).err
    assert "nothing was restored" in a.run("restore-account", typed="no\n", code=1).err
    assert a.run("restore-account", "--json", "--yes").json["restored"] is True
    b.run("set", "ui/lang", "fr")
    a.run("sync")
    settings = {"ui/theme": "dark", "ui/lang": "fr"}
    assert a.run("export").json["settings"] == settings
    assert b.run("export").json["settings"] == settings
    number = b.run("status", "--json").json["device"][:8]
    a.run("revoke", number)
    done = b.run("restore-account", "--yes", code=6)
    assert "was removed" in done.err
    assert a.run("sync", "--json").json
