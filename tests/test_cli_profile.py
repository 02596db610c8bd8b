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


def test_a_setting_and_a_score_of_one_name_are_told_apart(calm: Home) -> None:
    """`list` says what each is; `get` shows the setting, says that there is a score, and
    `--kind` chooses."""
    calm.run("set", "taste/thai", "yes please", "--offline")
    calm.run("like", "taste/thai", "2", "--offline")
    listed = calm.run("list", "taste/", "--offline")
    assert listed.out == "score    taste/thai = 2.0\nsetting  taste/thai = yes please\n"
    got = calm.run("get", "taste/thai", "--offline")
    assert got.out == "yes please\n"
    assert "--kind score" in got.err
    for kind, value in (("setting", "yes please"), ("score", 2)):
        row = calm.run("get", "taste/thai", "--kind", kind, "--json", "--offline").json
        assert (row["kind"], row["value"]) == (kind, value)
    calm.run("unset", "taste/thai", "--offline")
    calm.run("get", "taste/thai", "--kind", "setting", "--offline", code=3)


def test_members_are_named_in_one_word_or_two(calm: Home) -> None:
    """`add languages de` is `add languages/de`."""
    calm.run("add", "languages", "de", "--offline")
    calm.run("add", "languages/fr", "--offline")
    calm.run("remove", "languages", "fr", "--offline")
    rows = calm.run("list", "languages/", "--json", "--offline").json["items"]
    assert [row["name"] for row in rows] == ["languages/de"]
    done = calm.run("add", "languages", "--offline", code=1)
    assert "languages/MEMBER" in done.err


def test_a_watch_without_a_service_says_offline_first(
    tmp_path: Path, own_server: ServiceProcess
) -> None:
    """Silence would look like nothing to tell."""
    home = Home(tmp_path, "a", own_server)
    home.run("init", "--no-recovery", service=True)
    own_server.stop()
    with home.start("watch") as watch:
        assert watch.next() == {"event": "offline"}
        own_server.start()
        assert watch.next() == {"event": "live"}


@pytest.mark.parametrize("end", ["revoke", "delete-account"])
def test_edits_of_a_device_that_is_out_are_said_to_stay(
    first: Home, second: Home, end: str
) -> None:
    """A device that was removed and one whose account was deleted hear the same from the
    service: what they set is kept, is not sent, and the exit code says so."""
    device = second.run("status", "--json").json["device"]
    first.run(*(["revoke", device] if end == "revoke" else ["delete-account", "--yes"]))
    for _ in range(2):
        done = second.run("set", "ui/theme", "dark", code=6)
        assert "no longer takes this device" in done.err
        assert "not sent" in done.err
        assert "next sync" not in done.out + done.err
    assert second.run("set", "ui/theme", "dark", "--json", code=6).json["error"] == "ACCOUNT_GONE"
    shown = second.run("get", "ui/theme")
    assert shown.out == "dark\n"
    assert "no longer takes this device" in shown.err


def test_a_list_rounds_a_score_for_people_and_not_for_programs(calm: Home) -> None:
    """Six digits in the list; `--json` has all of them."""
    calm.run("like", "mood/thai", "0.123456789", "--offline")
    assert calm.run("list", "mood/", "--offline").out == "score    mood/thai = 0.123457\n"
    (item,) = calm.run("list", "mood/", "--json", "--offline").json["items"]
    assert item["value"] == pytest.approx(0.123456789, abs=1e-12)
