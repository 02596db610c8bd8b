"""Settings, scores and sets by `rookery device`: real processes and a real service."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli_process import Home, join
from tests.service_process import ServiceProcess


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("text", "dark", "dark"),
        ("text", "7", "7"),
        ("int", "7", 7),
        ("float", "0.5", 0.5),
        ("bool", "yes", True),
        ("json", '["a", {"b": null}]', ["a", {"b": None}]),
        ("bytes", "AAEC", {"base64": "AAEC"}),
    ],
)
def test_values_have_types(calm: Home, kind: str, text: str, value: object) -> None:
    """What was set as a type comes back as that type."""
    calm.run("set", "ui/theme", text, "--type", kind, "--offline")
    assert calm.run("get", "ui/theme", "--json", "--offline").json["value"] == value


def test_a_name_that_is_not_there_has_its_own_exit_code(calm: Home) -> None:
    """Scripts can tell nothing from an error."""
    assert calm.run("get", "ui/none", "--json", code=3).json["error"] == "NOT_FOUND"


def test_a_value_can_come_from_standard_input(calm: Home) -> None:
    """`-` keeps a value out of the process list."""
    calm.run("set", "ui/secret", "-", "--offline", typed="hush\n")
    assert calm.run("get", "ui/secret", "--offline").out == "hush\n"


def test_settings_scores_and_sets_travel(first: Home, second: Home) -> None:
    """Everything that one device sets, the other lists; removed things are gone."""
    first.run("set", "ui/theme", "dark")
    first.run("like", "cuisine/thai", "2")
    second.run("like", "cuisine/thai")
    first.run("add", "allergens/nuts")
    first.run("add", "allergens/milk")
    second.run("sync")
    second.run("remove", "allergens/milk")
    second.run("set", "ui/lang", "fr")
    second.run("unset", "ui/lang")
    wanted = {"allergens/nuts": True, "cuisine/thai": 3, "ui/theme": "dark"}
    for home in (first, second):
        rows = home.run("list", "--json").json
        assert rows["synced"]
        assert {row["name"]: row["value"] for row in rows["items"]} == wanted
    assert "cuisine/thai = 3" in first.run("list", "cui").out
    exported = first.run("export", "--offline").json
    assert exported["settings"] == {"allergens/nuts": True, "ui/theme": "dark"}
    assert exported["scores"] == {"cuisine/thai": 3}


def test_edits_without_a_service_wait_and_are_sent_later(
    tmp_path: Path, own_server: ServiceProcess
) -> None:
    """A set succeeds while the service is away, says that it waits, and arrives later."""
    a, b = Home(tmp_path, "a", own_server), Home(tmp_path, "b", own_server)
    a.run("init", "--no-recovery", service=True)
    assert join(a, b) == (0, 0)
    own_server.stop()
    done = a.run("set", "ui/theme", "dark", "--json")
    assert done.json == {"name": "ui/theme", "synced": False, "waiting": 1}
    assert "not synced" in done.err
    assert a.run("get", "ui/theme").out == "dark\n"
    a.run("sync", code=4)
    own_server.start()
    a.run("sync")
    assert b.run("get", "ui/theme").out == "dark\n"


def test_what_is_not_there_is_not_said_to_be_removed(first: Home) -> None:
    """`unset` and `--dismiss` have the exit code of names that are not there."""
    first.run("unset", "a/zip", "--offline", code=3)
    first.run("status", "--dismiss", "77", "--offline", code=3)
