"""services/party/config.py: what a party is told, and what it refuses to be told."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from services.listed import Listed
from services.party.config import PartyConfig, commented_toml, load, peers, publishers
from services.settings import ConfigError
from tests.mpc_samples import task

KEY = "ab" * 32


def test_file_yields_to_environment_and_both_to_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "party.toml"
    file.write_text(f'listen = "a:1"\nrelay = "b:2"\npeers = ["{KEY}@c:3"]\n')
    config = load(
        file,
        {"ROOKERY_PARTY_LISTEN": "d:4", "ROOKERY_PARTY_RELAY": "e:5", "ROOKERY_LISTEN": "no:1"},
        {"listen": "f:6"},
    )
    assert (config.listen, config.relay) == ("f:6", "e:5")
    assert peers(config) == {bytes.fromhex(KEY): "c:3"}


def test_the_printed_file_says_every_setting_with_its_default(tmp_path: Path) -> None:
    file = tmp_path / "party.toml"
    file.write_text(commented_toml())
    assert load(file, {}) == PartyConfig()
    assert list(tomllib.loads(commented_toml())) == [row.name for row in fields(PartyConfig)]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('peers = ["abc@h:1"]', "64 hex digits"),
        (f'peers = ["{KEY}"]', "host:port"),
        ('publishers = ["xyz"]', "64 hex digits"),
        ('tls_cert_file = "x"', "go together"),
        ('relay_ca_file = "x"', "which is off"),
        ('relay_cert_file = "x"', "go together"),
        ('relay_cert_file = "x"\nrelay_key_file = "y"', "which is off"),
        ('peer_tls = true\npeer_ca_file = "not-there"', "is not there"),
        ("peer_stall_s = 3.0", "two beats"),
        ("peer_payload_bytes_max = 65536", "at least"),
        ('audience = ""', "must not be empty"),
        ("retention_days = 0", "at least"),
        ("patience = 1", "did you mean patience_s"),
        ("jobs_max = true", "whole number"),
    ],
)
def test_what_can_not_work_is_refused_with_what_to_do(
    tmp_path: Path, text: str, why: str
) -> None:  # fmt: skip
    file = tmp_path / "party.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=why):
        load(file, {})


def test_a_task_costs_what_the_narrower_of_two_caps_allows() -> None:
    of = task()
    assert PartyConfig(task_micro_rho_max=1 << 60).cap_of(of) == of.caps.task_micro_rho
    assert PartyConfig(task_micro_rho_max=5).cap_of(of) == 5
    assert publishers(PartyConfig(publishers=(KEY,))) == (Listed(bytes.fromhex(KEY)),)
