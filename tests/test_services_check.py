"""`rookery-server check` and `party --check`: each fault by a line that says what to do."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from mpc.keys import PartyKey
from services import cli, keys
from services.config import ACCEPTED_LOSS
from services.keeping import checks, ring
from services.keeping.findings import Finding, Level
from services.store.redis_lineage import META
from services.store.redis_link import Link, Promise
from services.store.sqlite import SqliteStore
from tests.certificates import certificate
from tests.redis_process import RedisServer
from tests.service_process import ServiceProcess, command
from tests.store_worlds import Client

DAY_MS = 86_400_000


class Checked:
    """A folder with a service in it, and what a check says of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch = monkeypatch
        self._capsys = capsys
        monkeypatch.setenv("ROOKERY_LISTEN", "127.0.0.1:0")
        monkeypatch.setenv("ROOKERY_PARTY_LISTEN", "127.0.0.1:0")

    def set(self, name: str, value: str) -> None:
        """A setting."""
        self.monkeypatch.setenv(f"ROOKERY_{name.upper()}", value)

    def run(self, *arguments: str) -> tuple[int, list[tuple[str, str, str]]]:
        """Exit code, and (level, check, text) of each line."""
        self._capsys.readouterr()
        code = cli.main(list(arguments or ("check",)))
        rows = [line.split(maxsplit=2) for line in self._capsys.readouterr().out.splitlines()]
        return code, [(level, name.rstrip(":"), text) for level, name, text in rows]

    def faults(self, *arguments: str) -> list[str]:
        """Of all but the clock of this machine."""
        _, rows = self.run(*arguments)
        return [
            f"{level} {name}: {text}"
            for level, name, text in rows
            if level != "ok" and "keeps its clock" not in text
        ]


@pytest.fixture
def checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Checked:
    """With keys, without a database."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["keys", "init"]) == cli.OK
    return Checked(monkeypatch, capsys)


async def make_store(folder: Path) -> Path:
    """A database with an account in it."""
    database = folder / "rookery.db"
    store = await SqliteStore.open(database)
    await Client.create(store, "checked")
    await store.close()
    return database


async def test_a_service_in_order_has_no_fault(tmp_path: Path, checked: Checked) -> None:
    """Each line begins with its level; the key to pin is among them; --deep reads all of it."""
    await make_store(tmp_path)
    assert not checked.faults()
    assert not checked.faults("check", "--deep")
    code, rows = checked.run()
    assert code == cli.OK
    assert {"store", "disk", "clock", "identity", "pepper", "tls"} <= {name for _, name, _ in rows}
    public = ring.read_identity(tmp_path / "rookery-server.key", audience="rookery.localhost")
    assert any(public.public.hex() in text for _, _, text in rows)


async def test_it_needs_no_lock_and_finds_the_process_that_serves(tmp_path: Path) -> None:
    """Beside a real service, with another server's clock and key to compare with."""
    with ServiceProcess(tmp_path) as service:
        [listening] = service.endpoint.targets
        ended = await command(
            service, "check", "--json", "--peer", listening, ROOKERY_LISTEN=listening
        )
        assert ended.code == 0, ended.out + ended.err
        rows = [json.loads(line) for line in ended.out.splitlines()]
        told = {(row["check"], row["level"]): row["text"] for row in rows}
        assert "is served" in told["listen", "ok"]
        assert "the same key" in told["peer", "ok"]
        assert "0 accounts" in told["store", "ok"]


async def test_it_says_where_its_settings_came_from(tmp_path: Path, checked: Checked) -> None:
    """The file, variables and options by name; no value of a variable."""
    await make_store(tmp_path)
    checked.set("database", "elsewhere.db")
    assert "elsewhere.db is not there" in checked.faults()[0]
    _, rows = checked.run("check", "--database", "rookery.db")
    [settings] = [text for _, name, text in rows if name == "settings"]
    assert settings.endswith(
        "from no file (--config); ROOKERY_DATABASE, ROOKERY_LISTEN, --database"
    )
    assert "elsewhere" not in settings
    assert any("1 account" in text for _, name, text in rows if name == "store")


async def test_faults_of_the_store(tmp_path: Path, checked: Checked) -> None:
    """None there, open to others, put back from a copy, of a newer version, damaged, another
    program's; a time to come in it."""
    assert "is not there: the service makes it" in checked.faults()[0]
    database = await make_store(tmp_path)
    database.chmod(0o644)
    assert "chmod 600" in checked.faults()[0]
    database.chmod(0o600)
    mark = tmp_path / "rookery.db.mark"
    kept = mark.read_bytes()
    mark.unlink()
    assert "new generation" in checked.faults()[0]
    mark.write_bytes(kept)
    assert not checked.faults()
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        ahead_ms = time.time_ns() // 1_000_000 + DAY_MS
        connection.execute("INSERT INTO epoch_end VALUES (1, ?)", (ahead_ms,))
        assert "in the future of this clock" in checked.faults()[0]
        connection.execute("DELETE FROM epoch_end")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version = {version + 1}")
        assert checked.run()[0] == cli.FAILED
        assert "use the version that wrote it" in checked.faults()[0]
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("INSERT INTO meta VALUES ('moving', ?)", (b"gone",))
        assert checked.faults()[0].startswith("failed store: this store was moved elsewhere")
        connection.execute("DELETE FROM meta WHERE name = 'moving'")
        connection.execute("PRAGMA application_id = 7")
    assert "not the database of a service" in checked.faults()[0]
    database.write_bytes(b"no database" * 1000)
    assert "SQLite says" in checked.faults()[0]


def test_a_check_changes_nothing_in_redis(tmp_path: Path, checked: Checked) -> None:
    """No lease, no renewal, also where whoever serves it next renews; the clocks are compared;
    a store that is moved is a fault."""
    with RedisServer(tmp_path / "redis", fsync="everysec") as server:
        checked.set("redis_url", server.url)
        assert any("accept" in fault for fault in checked.faults())
        checked.set("redis_accept_loss", ACCEPTED_LOSS)
        empty = "warning store: Redis is empty: the service makes its store when it starts"
        assert checked.faults() == [empty]
        with server.client() as client:
            assert not client.keys()
            client.set("foreign", "1")
            foreign = "failed store: redis_url: what is there holds another program's data"
            assert checked.faults() == [foreign]
            client.delete("foreign")
        asyncio.run(_opened(server.url))
        _, rows = checked.run()
        assert [text for _, name, text in rows if name == "clock" and "Redis at" in text]
        with server.client() as client:
            client.save()
        server.kill()
        server.start()
        with server.client() as client:
            names = sorted(client.keys())
            before = [client.dump(name) for name in names]
            assert client.execute_command("CONFIG", "RESETSTAT")
            (fault,) = checked.faults()
            assert fault.startswith("warning store: Redis may have lost writes")
            assert sorted(client.keys()) == names
            assert [client.dump(name) for name in names] == before
            written = {"cmdstat_eval", "cmdstat_evalsha", "cmdstat_hset", "cmdstat_zadd"}
            assert written.isdisjoint(client.info("commandstats"))
            client.hset(META, "moving", b"gone")
        (fault,) = checked.faults()
        assert fault.startswith("failed store: this store was moved elsewhere")


def test_redis_s_password_is_for_its_owner_alone(tmp_path: Path, checked: Checked) -> None:
    """As key files are."""
    password = tmp_path / "password"
    password.write_text("hush")
    password.chmod(0o644)
    with RedisServer(tmp_path / "redis", "--requirepass", "hush") as server:
        checked.set("redis_url", server.url)
        checked.set("redis_password_file", str(password))
        assert any("others may read Redis's password: chmod 600" in row for row in checked.faults())
        password.chmod(0o600)
        assert not any("password" in row for row in checked.faults())


def test_a_peer_without_a_port_is_told(
    checked: Checked, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or it would be asked at a port that nobody named."""
    for name in ("peer.test", ":1", "peer.test:"):
        assert checked.run("check", "--peer", name)[0] == cli.FAILED
    cli.main(["check", "--peer", "peer.test"])
    assert "--peer: wants HOST:PORT" in capsys.readouterr().err


async def _opened(url: str) -> None:
    link = await Link.open(url, Promise(accepts_loss=True))
    await link.close()


def test_faults_of_keys(tmp_path: Path, checked: Checked) -> None:
    """Missing, open, damaged; a rotation that was cut off, an old copy, a pepper of before."""
    identity, pepper = tmp_path / "rookery-server.key", tmp_path / "rookery-server.pepper"

    def faults() -> list[str]:
        return [row for row in checked.faults() if " store" not in row]

    identity.chmod(0o644)
    assert "chmod 600" in faults()[0]
    identity.chmod(0o600)
    kept = identity.read_bytes()
    keys.create(tmp_path / "rookery-server.key.next", b"\x01" * 32)
    assert "cut off" in faults()[0]
    assert cli.main(["keys", "rotate", "identity"]) == cli.OK
    assert cli.main(["keys", "rotate", "pepper"]) == cli.OK
    [before] = faults()
    assert "1 before still count" in before
    identity.write_bytes(kept)
    assert "old copy" in faults()[0]
    identity.write_bytes(b"half")
    pepper.unlink()
    first, second = faults()
    assert "64 hex digits" in first
    assert "is not there" in second


def test_faults_of_lists_and_enrolment(checked: Checked) -> None:
    """Keys that ended or end soon, nobody left who signs tokens, accounts for nothing."""
    key = "ab" * 32
    soon = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 3 * 86400))
    checked.set("publishers", f"{key},{key} until 2020-01-01")
    checked.set("analysts", f"{key} until {soon}")
    checked.set("pow_bits", "0")
    faults = "\n".join(checked.faults())
    assert "publishers: abababababababab… has ended" in faults
    assert "list its successor" in faults
    assert "set pow_bits" in faults
    checked.set("enrolment", "token")
    checked.set("token_issuers", f"{key} until 2020-01-01")
    code, rows = checked.run()
    assert code == cli.FAILED
    assert any("nobody can make an account" in text for _, _, text in rows)


def test_faults_of_the_address_and_the_name(checked: Checked) -> None:
    """Something else listens there; a public address under the default name, without TLS."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        checked.set("listen", f"127.0.0.1:{other.getsockname()[1]}")
        assert "in use by something else" in checked.faults()[-1]
    checked.set("listen", "0.0.0.0:0")
    faults = "\n".join(checked.faults())
    assert "audience is the default" in faults
    assert "client_ip_header" in faults


def test_faults_of_the_certificate(tmp_path: Path, checked: Checked) -> None:
    """No PEM, another one's key, one that ends soon."""
    (cert, key), (_, stranger) = certificate(tmp_path, "ours"), certificate(tmp_path, "other")
    checked.set("tls_cert_file", str(cert))
    checked.set("tls_key_file", str(key))
    assert "ends in 1 days: renew it" in checked.faults()[-1]
    checked.set("tls_key_file", str(stranger))
    assert "no PEM certificate with its unencrypted key" in checked.faults()[-1]
    cert.write_text("no PEM")
    code, _ = checked.run()
    assert code == cli.FAILED


def test_a_certificate_is_read_by_its_dates(tmp_path: Path) -> None:
    """How long it lasts, that it has ended, that it has not begun."""
    cert, key = certificate(tmp_path, "long", days=400)

    class Here:
        listen = ""
        tls_cert_file = str(cert)
        tls_key_file = str(key)

    now_ms = checks.wall_ms()
    for at_ms, word in ((0, "lasts 399 days"), (401, "has ended"), (-1, "not valid yet")):
        [found] = checks.certificate(Here(), now_ms + at_ms * DAY_MS)
        assert word in found.text


def test_a_clock_is_compared_in_the_middle_of_the_call() -> None:
    """Within 5 s all is well; beyond 120 s no signed call is taken."""
    levels = [checks.skew("peer", 10_000 + off, 9_000, 11_000).level for off in (0, 6_000, 121_000)]
    assert levels == [Level.OK, Level.WARNING, Level.FAILED]
    assert "1.0 s behind" in checks.skew("peer", 9_000, 9_000, 11_000).text


def test_a_finding_is_one_line() -> None:
    """For people and for programs."""
    row = Finding(Level.WARNING, "disk", "is full")
    assert row.line(as_json=False) == "warning  disk: is full"
    assert json.loads(row.line(as_json=True))["level"] == "warning"


def test_faults_of_a_party(tmp_path: Path, checked: Checked) -> None:
    """No key, its own key among its peers, a database of something else."""
    assert "party.key: is not there" in "\n".join(checked.faults("party", "--check"))
    assert cli.main(["party", "--init"]) == cli.OK
    own = PartyKey(keys.read(tmp_path / "party.key")).public.hex()
    faults = checked.faults("party", "--check")
    assert any("0 pinned" in row for row in faults)
    checked.set("party_peers", f"{own}@127.0.0.1:1")
    with closing(sqlite3.connect(tmp_path / "party.db")) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    faults = checked.faults("party", "--check")
    assert any("own key is among its peers" in row for row in faults)
    assert any("not the database of a party" in row for row in faults)
