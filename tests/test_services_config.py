"""Settings, key files and the command line of rookery-server."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from services import cli, keys
from services.config import Config, ConfigError, commented_toml, load
from services.keys import KeyFileError, open_to_others

# --- settings ---


def test_the_printed_file_sets_every_setting_to_its_default(tmp_path: Path) -> None:
    """`rookery-server config` prints a file that loads, changes nothing and omits nothing."""
    file = tmp_path / "rookery.toml"
    file.write_text(commented_toml())
    assert load(file, {}) == Config() == load(None, {})
    for row in fields(Config):
        assert f"\n{row.name} = " in commented_toml()
        assert row.metadata["doc"].endswith((".", "below.", "rates."))


def test_the_environment_wins_over_the_file_and_the_command_line_over_both(
    tmp_path: Path,
) -> None:
    """Defaults < file < environment < command line."""
    file = tmp_path / "rookery.toml"
    file.write_text('audience = "file"\npow_bits = 3\nheartbeat_s = 30\n')
    environ = {"ROOKERY_AUDIENCE": "environ", "ROOKERY_DATABASE": "e.db", "HOME": "/"}
    config = load(file, environ, {"database": "c.db"})
    assert (config.audience, config.pow_bits, config.database) == ("environ", 3, "c.db")
    assert config.heartbeat_s == 30.0


def test_every_kind_of_value_comes_from_the_environment() -> None:
    """Numbers, flags and lists are read from text."""
    key = "ab" * 32
    config = load(
        None,
        {
            "ROOKERY_REFLECTION": "true",
            "ROOKERY_TOKEN_ISSUERS": f"{key}, {key}",
            "ROOKERY_ACCESS_LOG_SHARE": "0.5",
            "ROOKERY_PUSHES_MAX": "7",
        },
    )
    assert (config.reflection, config.token_issuers) == (True, (key, key))
    assert (config.access_log_share, config.pushes_max) == (0.5, 7)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pow_bit = 3", "did you mean pow_bits?"),
        ("Listen = ':1'", "did you mean listen?"),
        ("[limits]\nrecords_max = 1", "there is no such setting"),
        ("pow_bits = '3'", "pow_bits must be a whole number"),
        ("pow_bits = true", "pow_bits must be a whole number"),
        ("pow_bits = 3.5", "pow_bits must be a whole number"),
        ("reflection = 1", "reflection must be true or false"),
        ("listen = 7443", "listen must be text"),
        ("token_issuers = [1]", "token_issuers must be a list of texts"),
        ("redis_accept_loss = 'yes'", "acknowledged writes may be lost"),
        ("redis_persistence = 'fine'", "redis_persistence: must be one of ask, synced, lossy"),
        ("redis_url = 'localhost:6379'", "redis_url: must begin with redis://"),
        ("redis_url = 'redis://:hush@h'", "a password does not belong here: redis_password_file"),
        ("redis_url = 'redis://a:1,b:2'", "several servers are a redis"),
        ("redis_url = 'redis://a:99999'", "wants HOST:PORT"),
        ("redis_url = 'redis+sentinel://a:1,b:2'", "the master's name comes behind"),
        ("redis_url = 'redis+cluster://a:1/main'", "nothing comes behind the hosts"),
        ("redis_url = 'redis+cluster://a:1?db=3'", "0 in a cluster"),
        ("redis_url = 'redis://a?name=x'", "only ?db=N is known"),
        ("pow_bits = 41", "pow_bits: must be at most 40"),
        ("heartbeat_s = nan", "heartbeat_s: must be at least"),
        ("heartbeat_s = 61", "heartbeat_s: must be at most 60"),
        ("enrolment = 'closed'", "enrolment: must be one of open, token, both"),
        ("enrolment = 'token'", "token_issuers: enrolment by token wants"),
        ("token_issuers = ['abc']", "token_issuers: a public key has 64 hex digits"),
        ("tls_cert_file = 'x'", "tls_cert_file and tls_key_file go together"),
        ("audience = ''", "audience: must not be empty"),
        ("nonsense", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(tmp_path: Path, text: str, says: str) -> None:
    """The message names the setting and what it should be."""
    file = tmp_path / "rookery.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        load(file, {})


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"ROOKERY_POWBITS": "1"}, "did you mean ROOKERY_POW_BITS?"),
        ({"ROOKERY_POW_BITS": "many"}, "ROOKERY_POW_BITS: must be a whole number"),
        ({"ROOKERY_REFLECTION": "perhaps"}, "ROOKERY_REFLECTION: must be true or false"),
        ({"ROOKERY_HEARTBEAT_S": "inf"}, "heartbeat_s: must be at most 60"),
    ],
)
def test_a_wrong_environment_is_refused(environ: Mapping[str, str], says: str) -> None:
    """A variable that is misspelt and ignored would be a hole."""
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        load(None, environ)


def test_variables_of_devices_do_not_disturb_the_service() -> None:
    """A client's settings in the same shell are none of the server's."""
    environ = {"ROOKERY_SERVER": "h:1", "ROOKERY_SERVER_KEY": "ab", "ROOKERY_PARTY_X": "1"}
    assert load(None, environ) == Config()


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """Not silently replaced by defaults."""
    with pytest.raises(ConfigError, match="can't be read"):
        load(tmp_path / "none.toml", {})


# --- key files ---


def test_a_key_file_is_private_and_never_overwritten(tmp_path: Path) -> None:
    """Mode 0600, read back as written, made once."""
    path = tmp_path / "key"
    keys.create(path, b"\x01" * 32)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.read(path) == b"\x01" * 32
    with pytest.raises(KeyFileError, match="not overwritten"):
        keys.create(path, b"\x02" * 32)
    assert keys.read(path) == b"\x01" * 32


@pytest.mark.parametrize("content", ["", "zz" * 32, "01" * 31, "01" * 33, "é" * 64, "\0" * 64])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: str) -> None:
    """Without showing what is in it."""
    path = tmp_path / "key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError) as refused:
        keys.read(path)
    assert not content or content not in str(refused.value)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """A secret that was open is no secret."""
    path = tmp_path / "key"
    keys.create(path, b"\x01" * 32)
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        keys.read(path)
    with pytest.raises(KeyFileError, match="keys init"):
        keys.read(tmp_path / "none")


# --- the command line ---


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_keys_are_made_once_and_check_finds_them(
    house: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`keys init` prints the key to pin; again it refuses; `check` says the same key."""
    monkeypatch.setenv("ROOKERY_LISTEN", "127.0.0.1:0")
    assert cli.main(["check"]) == cli.FAILED
    assert cli.main(["keys", "init"]) == cli.OK
    printed = capsys.readouterr().out.split()[1]
    assert cli.main(["keys", "init"]) == cli.FAILED
    assert cli.main(["check"]) == cli.OK
    assert printed in capsys.readouterr().out
    secret = keys.read(house / "rookery-server.key").hex()
    assert secret != printed


def test_config_prints_what_it_reads(capsys: pytest.CaptureFixture[str]) -> None:
    """`rookery-server config` gives the commented file."""
    assert cli.main(["config"]) == cli.OK
    assert capsys.readouterr().out == commented_toml()


def test_wrong_settings_end_with_a_line_and_no_trace(
    house: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2 and one sentence on standard error."""
    (house / "bad.toml").write_text("pow_bit = 1")
    assert cli.main(["serve", "--config", "bad.toml"]) == cli.USAGE
    monkeypatch.setenv("ROOKERY_LISTENN", "x")
    assert cli.main(["check"]) == cli.USAGE
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("rookery-server: ") for line in lines] == [True, True]
    assert lines[1].endswith("did you mean ROOKERY_LISTEN?")


def test_an_address_in_use_or_unusable_ends_with_a_line(
    house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What can't be listened on is said, and the store is closed again."""
    assert cli.main(["serve", "--dev", "--listen", "192.0.2.1:1"]) == cli.FAILED
    assert capsys.readouterr().err.startswith("rookery-server: ")
    assert cli.main(["serve", "--dev", "--listen", "192.0.2.1:1"]) == cli.FAILED
    assert "192.0.2.1:1" in capsys.readouterr().err


def test_a_new_generation_wants_a_database(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a path where nothing is, nothing is made."""
    assert cli.main(["new-generation"]) == cli.USAGE
    assert not (house / "rookery.db").exists()
    assert "is not there" in capsys.readouterr().err


def test_settings_are_json_ready() -> None:
    """Each default prints as TOML that is JSON too, so that no quoting surprises."""
    for row in fields(Config):
        value = list(row.default) if isinstance(row.default, tuple) else row.default
        assert json.loads(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("mode", "owner", "group", "user", "others"),
    [
        (0o600, 1000, 1000, 1000, False),
        (0o640, 1000, 1000, 1000, True),
        (0o604, 1000, 1000, 1000, True),
        # As Kubernetes mounts a secret for a process that runs as 65532:65532.
        (0o440, 0, 65532, 65532, False),
        (0o460, 0, 65532, 65532, True),
        (0o444, 0, 65532, 65532, True),
        (0o440, 0, 1, 65532, True),
        # root has no need of a group.
        (0o440, 0, 0, 0, True),
    ],
)
def test_a_key_is_its_owner_s_or_root_s_and_of_the_own_group(
    mode: int, owner: int, group: int, user: int, others: bool
) -> None:
    """A secret that root mounts for a group of one is closed to others, too."""
    file = os.stat_result((0o100000 | mode, 0, 0, 1, owner, group, 65, 0, 0, 0))
    assert open_to_others(file, user, user) is others


def test_a_setting_is_no_client_s_by_its_name() -> None:
    """ROOKERY_CLIENT_IP_HEADER is the service's; what is a device's is left alone."""
    told = load(
        None, {"ROOKERY_CLIENT_IP_HEADER": "x-forwarded-for", "ROOKERY_CLIENT_IP_HOPS": "2"}
    )
    assert (told.client_ip_header, told.client_ip_hops) == ("x-forwarded-for", 2)
    assert load(None, {"ROOKERY_CLIENT_CERT": "/a", "ROOKERY_DEVICE_X": "1"}) == Config()
