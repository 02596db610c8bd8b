"""Keys that are replaced: the files, the commands, and a service that takes them up as it runs."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest

from client.sync import SyncedDevice
from crypto import enrol, succession
from crypto.enrol import Token, TokenKey
from crypto.link import parse as parse_link
from crypto.primitives import sign_keypair
from rookery.v1 import accounts_pb2
from services import keys, listed
from services.audit.record import Record, lists_hash
from services.cli import main
from services.config import Config
from services.keeping import files, ring
from services.keeping.current import Keys, Trusted
from services.keeping.errors import KeepingError
from services.keeping.reload import Reloader, ServiceKeys
from services.keys import KeyFileError
from services.metrics import CallMetrics
from services.server import Secrets
from services.settings import ConfigError
from services.store.sqlite import SqliteStore
from services.telemetry import Telemetry, configure
from tests.served import AUDIENCE, CREATE, Service, refusal, serving, wire_link
from tests.service_process import ServiceProcess, command
from tests.shell_worlds import fleet, put, rules, shown
from tests.worlds import World

DAY_MS = 86_400_000
NOW_MS = 1_800_000_000_000
ISSUER = TokenKey(b"\x05" * 32)


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    """An identity key."""
    path = tmp_path / "server.key"
    keys.create(path, b"\x07" * 32)
    return path


def rotate(path: Path, *, at_ms: int = NOW_MS, overlap_ms: int = DAY_MS) -> tuple[bytes, bytes]:
    """As the command does."""
    return ring.rotate_identity(path, audience=AUDIENCE, now_ms=at_ms, overlap_ms=overlap_ms)


def public(path: Path) -> bytes:
    """The half that devices pin."""
    return sign_keypair(keys.read(path))[0]


# --- files ---


def test_a_rotation_leaves_a_way_from_every_key_to_the_one_in_force(identity: Path) -> None:
    """All files are their owner's alone, and of the old key only its public half is left."""
    pairs = [rotate(identity, at_ms=NOW_MS + at) for at in range(3)]
    found = ring.read_identity(identity, audience=AUDIENCE)
    assert found.public == pairs[-1][1] == public(identity)
    for old, _ in pairs:
        path = succession.follow(old, found.successions, audience=AUDIENCE)
        assert path[-1].new == found.public
    left = sorted(identity.parent.iterdir())
    assert [row.name for row in left] == ["server.key", "server.key.successions"]
    assert {stat.S_IMODE(row.stat().st_mode) for row in left} == {0o600}
    assert "07" * 32 not in (identity.parent / "server.key.successions").read_text()


@pytest.mark.parametrize("step", ["create", "write_whole", "replace"])
def test_a_rotation_that_is_cut_off_goes_on(
    identity: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """After a power failure at any of its steps the key in force works, and the same command ends
    what was begun: never does one key get two successors."""

    class Cut(Exception):
        """The power failed."""

    def fail(*_: object, **__: object) -> None:
        raise Cut

    with monkeypatch.context() as cut:
        cut.setattr(keys if step == "create" else files, step, fail)
        with pytest.raises(Cut):
            rotate(identity)
    before = ring.read_identity(identity, audience=AUDIENCE)
    assert before.public == sign_keypair(b"\x07" * 32)[0]
    old, new = rotate(identity)
    found = ring.read_identity(identity, audience=AUDIENCE)
    assert (old, new) == (before.public, found.public)
    [step_made] = succession.follow(old, found.successions, audience=AUDIENCE)
    assert step_made.new == new


def test_a_key_that_came_back_names_no_second_successor(identity: Path) -> None:
    """Whoever pinned the first one could not follow either."""
    kept = identity.read_bytes()
    rotate(identity)
    identity.write_bytes(kept)
    with pytest.raises(KeepingError, match="has named its successor"):
        rotate(identity)
    keys.create(identity.with_name("server.key.next"), b"\x09" * 32)
    with pytest.raises(KeepingError, match="is not the successor"):
        rotate(identity)


def test_a_key_is_retired_once_its_receipts_count_no_more(identity: Path) -> None:
    """With those before it; what leads on from later keys stays."""
    pairs = [rotate(identity, at_ms=NOW_MS + at) for at in range(3)]
    with pytest.raises(KeepingError, match="still count"):
        ring.retire_identity(identity, pairs[1][0], audience=AUDIENCE, now_ms=NOW_MS + 2)
    later = NOW_MS + 2 * DAY_MS
    assert ring.retire_identity(identity, pairs[1][0], audience=AUDIENCE, now_ms=later) == 2
    found = ring.read_identity(identity, audience=AUDIENCE)
    assert succession.follow(pairs[2][0], found.successions, audience=AUDIENCE)
    assert not succession.follow(pairs[0][0], found.successions, audience=AUDIENCE)
    with pytest.raises(KeepingError, match="no succession"):
        ring.retire_identity(identity, pairs[0][0], audience=AUDIENCE, now_ms=later)


@pytest.mark.parametrize("text", ["xyz", "00" * 232, "\n00\n", "é"])
def test_successions_that_are_none_are_refused(identity: Path, text: str) -> None:
    """They name the line; those of another deployment are none."""
    identity.with_name("server.key.successions").write_text(text)
    with pytest.raises(KeyFileError, match="line 1 is no succession"):
        ring.read_identity(identity, audience=AUDIENCE)
    identity.with_name("server.key.successions").unlink()
    rotate(identity)
    with pytest.raises(KeyFileError, match="of the deployment 'else'"):
        ring.read_identity(identity, audience="else")


def test_peppers_before_are_kept_until_they_are_retired(tmp_path: Path) -> None:
    """Newest in force; a kept file that others may read is refused."""
    path = tmp_path / "pepper"
    keys.create(path, b"\x01" * 32)
    old, new = ring.rotate_pepper(path)
    found = ring.read_pepper(path)
    assert found.before == (b"\x01" * 32,)
    assert enrol.pepper_mark(found.secret) == new
    assert "01" * 32 not in repr(found)
    with pytest.raises(KeepingError, match="rotate it first"):
        ring.retire_pepper(path, new)
    [kept] = ring.peppers_before(path)
    kept.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        ring.read_pepper(path)
    kept.chmod(0o600)
    ring.retire_pepper(path, old)
    assert ring.read_pepper(path).before == ()
    with pytest.raises(KeepingError, match="has that mark"):
        ring.retire_pepper(path, old)


def test_a_pepper_rotation_that_is_cut_off_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept under its second name, still in force: it counts once."""
    path = tmp_path / "pepper"
    keys.create(path, b"\x01" * 32)
    with monkeypatch.context() as cut:
        cut.setattr(files, "write_whole", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ring.rotate_pepper(path)
    assert ring.read_pepper(path).before == ()
    ring.rotate_pepper(path)
    assert ring.read_pepper(path).before == (b"\x01" * 32,)


def test_a_listed_key_may_end_with_a_day() -> None:
    """Until its last moment, in UTC; a day that is none names the setting."""
    text = "ab" * 32
    first, second = listed.parse("publishers", (text, f"{text} until 2027-01-31"))
    assert first.until_ms is None
    assert second.until_ms == 1_801_440_000_000
    assert listed.valid((first, second), second.until_ms) == (first.key,)
    assert listed.valid((second,), second.until_ms - 1) == (second.key,)
    for bad in (f"{text} until", f"{text} until 31.1.2027", f"{text} till 2027-01-31", "ab"):
        with pytest.raises(ConfigError, match="publishers"):
            listed.parse("publishers", (bad,))


# --- what the service does with them ---


def by_token(service: Service, world: World, user: str) -> accounts_pb2.CreateAccountRequest:
    """A CreateAccount that the app's backend vouches for."""
    genesis = parse_link(world.genesis.raw).link_hash
    subject = enrol.subject(b"\x06" * 32, user)
    token = ISSUER.issue(Token(genesis, subject, service.now_ms + 60_000), AUDIENCE)
    return accounts_pb2.CreateAccountRequest(genesis=wire_link(world.genesis), token=token)


async def test_accounts_under_peppers_before_count_against_their_subject(tmp_path: Path) -> None:
    """Two accounts, one under each pepper: a third is one too many while both are known, and
    counts from less once the first is retired."""
    issuers = [ISSUER.public.hex()]
    async with serving(
        tmp_path, enrolment="token", token_issuers=tuple(issuers), accounts_per_subject_max=2
    ) as service:

        async def create(seed: str, user: str = "alice") -> bytes:
            message = by_token(service, World.create(seed), user)
            return await service.raw(CREATE, message.SerializeToString())

        def pepper(now: bytes, *before: bytes) -> None:
            service.server.keys.secrets = Secrets(b"\x07" * 32, now, peppers_before=before)

        pepper(b"\x01" * 32)
        await create("one")
        pepper(b"\x02" * 32, b"\x01" * 32)
        await create("two")
        refused = await refusal(create("three"))
        assert (refused.reason, refused.metadata["limit"]) == ("QUOTA", "accounts_per_subject")
        await create("of somebody else", "bob")
        await create("one")
        pepper(b"\x03" * 32, b"\x02" * 32)
        await create("three")
        assert (await refusal(create("four"))).reason == "QUOTA"


async def until(service: ServiceProcess, event: str, count: int) -> None:
    """Returns once the process has logged so many of them; the test's time limit is the bound."""

    def logged() -> int:
        return sum(row["event"] == event for row in service.events)

    while await asyncio.to_thread(logged) < count:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def test_keys_are_rotated_under_load_and_no_call_fails(tmp_path: Path) -> None:
    """A real process under pushes and receipts: identity key and pepper rotate, by its own look
    and by SIGHUP; a publisher comes and goes; broken files change nothing. No call fails, no
    device has an alarm, and every device has the newest key pinned."""
    toml = tmp_path / "rookery.toml"
    toml.write_text('log_level = "info"\n')
    variables = {"ROOKERY_AUDIENCE": AUDIENCE}
    with ServiceProcess(tmp_path, "--config", str(toml), **variables) as service:
        async with fleet(service.endpoint) as devices:
            stop = asyncio.Event()

            async def load(synced: SyncedDevice) -> int:
                count = 0
                while not stop.is_set():
                    count += 1
                    put(synced, "count", count)
                    await synced.sync_once()
                return count

            busy = [await devices.first() for _ in range(2)]
            running = [asyncio.create_task(load(synced)) for synced in busy]
            for number, which in enumerate(("identity", "pepper", "identity"), start=1):
                ended = await command(service, "keys", "rotate", which, **variables)
                assert ended.code == 0, ended.err
                if number > 1:
                    service.hang_up()
                await until(service, "reloaded", number)
            toml.write_text('publishers = ["xyz"]\n')
            await until(service, "reload_refused", 1)
            key = tmp_path / "rookery-server.key"
            whole = key.read_text()
            toml.write_text(f'publishers = ["{"ab" * 32}"]\nrecords_max = 7\n')
            files.write_whole(key, b"half")
            service.hang_up()
            await until(service, "reload_refused", 2)
            files.write_whole(key, whole.encode())
            service.hang_up()
            await until(service, "reloaded", 4)
            stop.set()
            counts = await asyncio.gather(*running)
            assert min(counts) > 0
            for synced, count in zip(busy, counts, strict=True):
                await synced.sync_once()
                assert not rules(synced)
                assert synced.transport.endpoint.server_key == public(key)
                assert len(synced.transport.endpoint.before) == 2
                assert shown(synced) == {"ui/count": count}
        last = [row for row in service.events if row["event"] == "reloaded"][-1]
        assert last["waiting"] == "records_max"
        assert whole.strip() not in (tmp_path / "service.log").read_text()
        listing = await command(service, "keys", "list", "--json", **variables)
    rows = [json.loads(line) for line in listing.out.splitlines()]
    assert [row["kind"] for row in rows] == ["identity"] * 3 + ["pepper"] * 2
    assert rows[0]["id"] == public(key).hex()


async def test_which_lists_are_in_force_is_in_the_audit_log(tmp_path: Path) -> None:
    """From the start on, and whenever other ones are taken up: by a hash that whoever has the
    settings can make. What changes no list writes nothing."""
    toml = tmp_path / "rookery.toml"
    toml.write_text('log_level = "info"\n')
    variables = {"ROOKERY_AUDIENCE": AUDIENCE}
    with ServiceProcess(tmp_path, "--config", str(toml), **variables) as service:
        for number, text in enumerate(
            (f'policy_keys = ["{"cd" * 32}"]', f'policy_keys = ["{"cd" * 32}"]\nrecords_max = 7'),
            start=1,
        ):
            files.write_whole(toml, f'log_level = "info"\n{text}\n'.encode())
            service.hang_up()
            await until(service, "reloaded", number)
        shown_ = await command(service, "audit", "--json", **variables)
        checked = await command(service, "audit", "--verify", **variables)
    assert checked.code == 0
    rows = [json.loads(line) for line in shown_.out.splitlines()]
    none = dict.fromkeys(("token_issuers", "publishers", "analysts", "policy_keys"), ())
    before, after = lists_hash(none), lists_hash(none | {"policy_keys": ("cd" * 32,)})
    assert [(row["what"], row["outcome"], row["request"]) for row in rows] == [
        ("rookery-server serve", "OK", before),
        ("rookery-server reload", "BEGUN", after),
        ("rookery-server reload", "OK", after),
    ]
    assert {row["who"] for row in rows} == {f"local:{os.getuid()}"}


async def test_lists_that_can_t_be_written_down_are_not_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of before stay, and it is tried again until it can."""
    monkeypatch.chdir(tmp_path)
    assert main(["keys", "init"]) == 0
    config = replace(Config(), publishers=("ab" * 32,))
    held = Keys(Secrets.read(config), Trusted())
    store = await SqliteStore.open(tmp_path / "log.db")
    log, taken = store.governance, list[str]()
    own = ServiceKeys(
        held, Config(), lambda: config, None, log=log, taken=lambda: taken.append("taken")
    )
    await store.close()
    telemetry = Telemetry(configure("error", "json"))
    keeper = Reloader(own.take, own.watched, telemetry, CallMetrics())
    assert not await keeper.reload()
    assert (held.trusted, taken) == (Trusted(), [])
    again = await SqliteStore.open(tmp_path / "log.db")
    own._log = again.governance
    watching = asyncio.create_task(keeper.watch())
    try:
        while not taken:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    finally:
        watching.cancel()
    assert held.trusted == Trusted.of(config)
    outcomes = [
        Record.decode(row.body).outcome for row in await again.governance.read_audit(0, rows_max=9)
    ]
    assert outcomes[0] == "BEGUN"
    await again.close()


def test_the_commands_say_what_they_did_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From nothing to a rotated and retired pepper and an identity key without overlap."""
    monkeypatch.chdir(tmp_path)
    for arguments, code in (
        ("make identity", 0),
        ("make identity", 1),
        ("make pepper", 0),
        ("rotate identity --overlap-days 0", 0),
        ("rotate identity --overlap-days -1", 1),
        ("rotate pepper", 0),
        ("list", 0),
        ("retire pepper abc", 1),
    ):
        assert main(["keys", *arguments.split()]) == code, arguments
    said = "".join(capsys.readouterr())
    for row in tmp_path.iterdir():
        if not row.name.endswith(ring.SUCCESSIONS):
            assert keys.read(row).hex() not in said
    [kept] = ring.peppers_before(tmp_path / "rookery-server.pepper")
    assert main(["keys", "retire", "pepper", kept.name.rpartition("-")[2][:8]]) == 0
    key = tmp_path / "rookery-server.key"
    [(_, step)] = ring.read_successions(key, audience="rookery.localhost")
    assert step.until_ms <= time.time_ns() // 1_000_000
    assert main(["keys", "retire", "identity", step.old.hex()]) == 0
    assert not ring.read_successions(key, audience="rookery.localhost")
    assert main(["keys", "list", "--json"]) == 0
    shown_rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row["state"] for row in shown_rows] == ["signs receipts", "in force"]
