"""A policy's folder: what is wrong is said with file, line, entry and what to do."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st

from client.errors import UserError
from client.policykit import bundlefile, folder as folders, yamlfile
from client.policykit.errors import PolicyFileError
from crypto.policy import FIRST, decode, open_
from crypto.policy.access import Grant, Role
from crypto.policy.generalise import Bucket, Day, Round, TopK
from crypto.policy.signals import Signal
from crypto.policy.values import Choices, Delta, Number, Text
from tests.policy_folders import SHIPPED, Folder, rookery
from tests.service_process import environment

Edit = Callable[[Folder], object]
ONE_SIGNAL = """
one:
  kind: {kind}
  collection: app
  keys: {keys}
  values: {values}
  generalise: {generalise}
  purposes: ranking
  reach: sync
  retention_days: 1_0
  text: >-
    One signal,
    in two lines.
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """The shipped policy, to be edited."""
    return Folder.copied(tmp_path / "policy")


def refused(folder: Folder) -> str:
    """The one sentence."""
    with pytest.raises(UserError) as caught:
        folders.read(folder.path).bundle(sequence=1, previous=FIRST, issued_ms=1)
    return str(caught.value)


BROKEN: dict[str, tuple[Edit, str]] = {
    "an unknown key": (
        lambda f: f.replace("signals", "  collection: about\n", "  colection: about\n"),
        "signals.yaml, line 8: region: collection is missing; add it",
    ),
    "one key too many": (
        lambda f: f.replace(
            "signals", "  collection: about\n", "  collection: about\n  color: x\n"
        ),
        "signals.yaml, line 11: region.color: is unknown (known here: collection, generalise,",
    ),
    "a key that is nearly one": (
        lambda f: f.replace("tasks", "  cohort: palate\n", "  cohrt: palate\n"),
        "did you mean cohort?",
    ),
    "a key twice": (
        lambda f: f.replace("signals", "  keys: region\n", "  keys: region\n  kind: score\n"),
        "signals.yaml, line 12: region.kind: is there twice, first in line 9",
    ),
    "an entry twice": (
        lambda f: f.write("flags", f.text("flags") + "\nstop-learning: {}\n"),
        "stop-learning: is there twice, first in line",
    ),
    "a value of a wrong type": (
        lambda f: f.edit("signals", "region", retention_days="long"),
        "region.retention_days: must be a number, as 5 or 0.5",
    ),
    "a fraction": (
        lambda f: f.edit("signals", "region", retention_days=1.5),
        "region.retention_days: must be a whole number",
    ),
    "a map for a text": (
        lambda f: f.edit("purposes", "ranking", text={"a": "b"}),
        "ranking.text: must be a text",
    ),
    "a text for a map": (
        lambda f: f.write("retention", "forever\n"),
        "retention.yaml, line 1: must be a map",
    ),
    "no value": (
        lambda f: f.replace("cohorts", "  otherwise: homely", "  otherwise:"),
        "palate.otherwise: has no value; write one, or remove it",
    ),
    "YAML 1.1's truths": (
        lambda f: f.write("flags", f.text("flags").replace("on: false", "on: no")),
        "stop-learning.on: must be true or false",
    ),
    "a tag": (
        lambda f: f.write("policy", "title: !!python/object:os.system x\n"),
        "tags (`!…`) are not read; remove it",
    ),
    "an anchor": (
        lambda f: f.write("policy", "title: &a x\nother: *a\n"),
        "anchors and aliases are not read; write it out",
    ),
    "no YAML": (
        lambda f: f.write("policy", "title: [\n"),
        "policy.yaml, line 2: is not YAML:",
    ),
    "an empty file": (
        lambda f: f.write("flags", "# nothing\n"),
        "flags.yaml: is empty; write `{}` if there is nothing to say",
    ),
    "not UTF-8": (
        lambda f: (f.path / "policy.yaml").write_bytes(b"title: \xff\n"),
        "policy.yaml: is not in UTF-8",
    ),
    "levels without end": (
        lambda f: f.write("policy", "[" * 5_000),
        "policy.yaml",
    ),
    "a missing file": (
        lambda f: (f.path / "tasks.yaml").unlink(),
        "tasks.yaml: is missing in",
    ),
    "a file that is none of a policy": (
        lambda f: f.write("singals", "{}"),
        "singals.yaml: is no file of a policy; did you mean signals.yaml?",
    ),
    "out of bounds": (
        lambda f: f.edit("signals", "region", retention_days=4_000),
        "region: retention_days must be a whole number from 1 to 3660",
    ),
    "a purpose that is not declared": (
        lambda f: f.replace("signals", "purposes: [ranking, statistics]", "purposes: [rankin]"),
        "line 8: region: there is no such purpose; declare it (rankin; did you mean ranking?)",
    ),
    "a task over what may not be aggregated": (
        lambda f: f.edit("tasks", "demo/mean-rating", signals=["rating", "hidden"]),
        "demo/mean-rating: it reads a signal for a purpose that the signal is not for",
    ),
    "a switch about nothing": (
        lambda f: f.replace("flags", "{signal: region}", "{signal: regio}"),
        "stop-region: there is no such signal; declare it (regio; did you mean region?)",
    ),
    "a role that nobody declared": (
        lambda f: f.replace("access", "  analyst:\n", "  analist:\n"),
        "analist: there is no such role; declare it in roles",
    ),
    "a grant for an unknown purpose": (
        lambda f: f.replace("access", "Contribute: [statistics,", "Contribute: [statistic,"),
        "Contribute: there is no such purpose; declare it (statistic; did you mean statistics?)",
    ),
    "two signals of one name": (
        lambda f: f.edit("signals", "evening", collection="rating.at.weekend"),
        "weekend: and evening (line",
    ),
    "a cohort of a signal that is not there": (
        lambda f: f.write("cohorts", f.text("cohorts").replace("signal: rating", "signal: ratin")),
        "palate: there is no such signal; declare it (ratin; did you mean rating?)",
    ),
    "a generaliser of no kind": (
        lambda f: f.edit("signals", "rating", generalise=[{"blur": 2}]),
        "rating.generalise.1: must be day, bucket: [EDGES], round: STEP or top_k: K",
    ),
    "a switch of both kinds": (
        lambda f: f.edit("flags", "stop-learning", feature="x"),
        "stop-learning: must have one of: kill, feature",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_wrong_is_said_where_it_stands(what: str, folder: Folder) -> None:
    """One sentence, and it is about this entry."""
    edit, expected = BROKEN[what]
    edit(folder)
    assert expected in refused(folder), refused(folder)


def test_the_loader_in_python_says_the_same(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where libyaml is not, what is read and where it stands is the same."""
    fast = folders.read(folder.path)
    monkeypatch.setattr(yamlfile, "_LOADER", yaml.BaseLoader)
    slow = folders.read(folder.path)
    assert slow == fast
    assert slow.places == fast.places


def signal_of(folder: Folder, **parts: str) -> Signal:
    """A signal with these parts; the rest of it is sound."""
    given = {"kind": "setting", "keys": "one", "values": "boolean", "generalise": "[]"} | parts
    path = folder.path / "signals.yaml"
    path.write_text(ONE_SIGNAL.format(**given))
    for name in ("tasks", "flags", "cohorts", "experiments"):
        folder.write(name, "{}")
    return folders.read(folder.path).bundle(sequence=1, previous=FIRST, issued_ms=1).signals[0]


def test_numbers_are_written_in_their_own_unit(folder: Folder) -> None:
    """Millionths are the document's, not the author's."""
    made = signal_of(
        folder, values="{type: number, low: -0.5, high: 1.25}", generalise="[round: 0.25]"
    )
    assert made.values == Number(-500_000, 1_250_000)
    assert made.generalise == (Round(250_000),)
    made = signal_of(
        folder, kind="score", values="{type: delta, low: 0, high: 1, cap: 9.5}",
        generalise="[bucket: [0, 0.5], top_k: 3]",
    )  # fmt: skip
    assert made.values == Delta(0, 1_000_000, 9_500_000)
    assert made.generalise == (Bucket((0, 500_000)), TopK(3))
    made = signal_of(folder, values="{type: whole, low: 0, high: 9}", generalise="day")
    assert made.generalise == (Day(),)


def test_texts_are_joined_and_quotes_make_texts(folder: Folder) -> None:
    """Folded lines become one; `'1'` is a text where choices are texts anyhow."""
    made = signal_of(folder, values="{type: choices, choices: ['1', true, two words]}")
    assert made.values == Choices(("1", "true", "two words"))
    assert made.text == "One signal, in two lines."
    assert made.retention_days == 10
    assert made.purposes == ("ranking",)
    made = signal_of(folder, values="{type: text, chars_max: 9}", keys='"*"')
    assert (made.values, made.keys) == (Text(9), ("*",))


@pytest.mark.parametrize("number", ["1e3", "0x10", "010", "1:30", ".5", "5.", "+", "1_", "'5'"])
def test_other_forms_of_numbers_are_not_guessed(number: str, folder: Folder) -> None:
    """What YAML 1.1 and 1.2 read differently is refused."""
    with pytest.raises(PolicyFileError, match=r"signals\.yaml, line 6: one\.values\.high: must be"):
        signal_of(folder, values=f"{{type: whole, low: 0, high: {number}}}")


def test_grants_have_three_forms(folder: Folder) -> None:
    """All of a service, some methods, some methods for some purposes."""
    folder.write(
        "access",
        "roles:\n  auditor: {identities: spiffe://example.org/audit/*}\n"
        "grants:\n  auditor:\n    Sync: '*'\n    Wake: [GetHandle]\n"
        "    Rounds: {GetResult: [statistics], ListTasks: '*'}\n",
    )
    access = folders.read(folder.path).access
    assert access.roles == (Role("auditor", ("spiffe://example.org/audit/*",), ()),)
    assert access.grants == (
        Grant("auditor", "/rookery.v1.Sync/*", ("*",)),
        Grant("auditor", "/rookery.v1.Wake/GetHandle", ("*",)),
        Grant("auditor", "/rookery.v1.Rounds/GetResult", ("statistics",)),
        Grant("auditor", "/rookery.v1.Rounds/ListTasks", ("*",)),
    )


def test_a_policy_that_is_too_large_is_one_sentence(folder: Folder) -> None:
    """Each part is within its bounds, and the whole is not."""
    signals = folder.said("signals")
    long = {f"long-{at}": {**signals["region"], "collection": f"long/{at}", "text": "x" * 900}
            for at in range(300)}  # fmt: skip
    folder.say("signals", signals | long)
    assert "262144 bytes at most" in refused(folder)


PIECES = (
    "-", ": ", "[", "]", "{", "}", "'", '"', "|", "*", "#", "&a", "!t", "\n", "  ", "0", "1e9",
    "true", "null", "rating", "statistics", "\t", "ü", "\u2028", "- - -", "? ", ",",
)  # fmt: skip


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_whatever_is_typed_is_a_policy_or_one_sentence(folder: Folder, data: st.DataObject) -> None:
    """Lines taken out, doubled or moved, and pieces of YAML anywhere: never another error."""
    name = data.draw(st.sampled_from(sorted(path.stem for path in SHIPPED.glob("*.yaml"))))
    lines = (SHIPPED / f"{name}.yaml").read_text().splitlines(keepends=True)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        match data.draw(st.sampled_from(("out", "twice", "moved", "piece"))):
            case "out" if len(lines) > 1:
                del lines[at]
            case "twice":
                lines.insert(at, lines[at])
            case "moved":
                lines.insert(data.draw(st.integers(0, len(lines) - 1)), lines.pop(at))
            case _:
                where = data.draw(st.integers(0, len(lines[at])))
                piece = data.draw(st.sampled_from(PIECES))
                lines[at] = lines[at][:where] + piece + lines[at][where:]
    try:
        folder.write(name, "".join(lines))
        made = folders.read(folder.path).bundle(sequence=1, previous=FIRST, issued_ms=1)
    except UserError:
        return
    else:
        assert decode(made.encoded) == made
    finally:
        folder.write(name, (SHIPPED / f"{name}.yaml").read_text())


# --- the command ---


def test_a_method_that_is_not_there_is_refused(folder: Folder) -> None:
    """A typing error in the matrix would deny in silence."""
    folder.replace("access", "[PublishPolicy]", "[PublishPolcy]")
    done = rookery("check", folder.path)
    assert done.code == 1
    assert "/rookery.v1.Policy/PublishPolcy is no method of the API" in done.err
    assert "access.yaml, line" in done.err


def test_what_nobody_may_call_is_said(folder: Folder) -> None:
    """It is no error: perhaps it is meant."""
    folder.edit("access", "grants", policy=None)
    done = rookery("check", folder.path)
    assert done.code == 0
    assert "nobody may call: Policy/PublishPolicy" in done.out


def test_a_policy_is_built_signed_and_numbered(folder: Folder, tmp_path: Path) -> None:
    """The next one names the one before; what comes out opens under the publisher's key."""
    key, first, second = (tmp_path / name for name in ("p.key", "1.policy", "2.policy"))
    made = rookery("keygen", "--out", key, "--json").json
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert rookery("key", key).out.strip() == made["public_key"]
    done = rookery("build", folder.path, "--key", key, "--issued-ms", "7", "-o", first, "--json")
    built = bundlefile.read(first)
    assert (built.bundle.sequence, built.bundle.issued_ms) == (1, 7)
    assert built.bundle.hash.hex() == done.json["hash"]
    publisher = bytes.fromhex(made["public_key"])
    assert open_(built.bundle.encoded, built.sig, publisher) == built.bundle
    again = tmp_path / "again.policy"
    rookery("build", folder.path, "--key", key, "--issued-ms", "7", "-o", again)
    assert again.read_bytes() == first.read_bytes()
    folder.write("policy", "title: The second\n")
    done = rookery("build", folder.path, "--key", key, "--previous", first, "-o", second)
    assert (done.code, done.err) == (0, "")
    after = bundlefile.read(second).bundle
    assert (after.sequence, after.previous) == (2, built.bundle.hash)


def test_what_is_there_is_overwritten_only_by_force(folder: Folder, tmp_path: Path) -> None:
    """The same again is no error; and a first one says that nothing was compared."""
    out = tmp_path / "1.policy"
    build = ("build", folder.path, "--unsigned", "-o", out, "--issued-ms")
    first = rookery(*build, "7")
    assert first.code == 0
    assert "nothing was compared" in first.err
    kept = out.read_bytes()
    assert rookery(*build, "7").code == 0
    refused = rookery(*build, "8")
    assert refused.code == 1
    assert "--previous" in refused.err
    assert "--force" in refused.err
    assert out.read_bytes() == kept
    assert rookery(*build, "8", "--force").code == 0
    assert bundlefile.read(out).bundle.issued_ms == 8


def test_a_past_that_contradicts_the_number_is_refused(folder: Folder, tmp_path: Path) -> None:
    """And a hash by itself needs a number, and says that nothing was judged."""
    out, first = tmp_path / "x.policy", tmp_path / "1.policy"
    build = ("build", folder.path, "--unsigned", "-o")
    assert rookery(*build, first).code == 0
    assert "--previous says what comes before" in rookery(*build, out, "--sequence", "2").err
    done = rookery(*build, out, "--previous", first, "--sequence", "7")
    assert "this one is number 2" in done.err
    assert "--sequence says which number" in rookery(*build, out, "--previous", "ab" * 32).err
    assert not out.exists()
    done = rookery(*build, out, "--previous", "ab" * 32, "--sequence", "7")
    assert done.code == 0
    assert "was not judged" in done.err
    assert bundlefile.read(out).bundle.previous == b"\xab" * 32


def test_a_compiled_file_that_was_changed_is_no_policy(folder: Folder, tmp_path: Path) -> None:
    """Whichever bit: head, key, signature or document."""
    key, path = tmp_path / "p.key", tmp_path / "1.policy"
    rookery("keygen", "--out", key)
    rookery("build", folder.path, "--key", key, "-o", path)
    whole = path.read_bytes()
    for at in (0, 5, 40, 120, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert rookery("show", path).code == 1, at
    path.write_bytes(whole[:-1])
    assert "build it again" in rookery("show", path).err
    path.write_bytes(b"title: x")
    assert "no compiled policy" in rookery("show", path).err
    assert "can't be read" in rookery("show", tmp_path / "nothing").err


def test_a_policy_is_shown_to_people_and_programs(tmp_path: Path) -> None:
    """All purposes in words, all signals, tasks and grants; the same in JSON."""
    path = tmp_path / "1.policy"
    rookery("build", SHIPPED, "--unsigned", "-o", path)
    shown = rookery("show", path).out
    bundle = bundlefile.read(path).bundle
    for purpose in bundle.purposes:
        assert purpose.text in shown
        assert purpose.benefit in shown
    for name in [one.name for one in bundle.signals] + [one.source for one in bundle.tasks]:
        assert name in shown
    said = rookery("show", path, "--json").json
    assert said["hash"] == bundle.hash.hex()
    assert said["publisher"] is None
    assert said["policy"]["signals"] == [one.as_map() for one in bundle.signals]
    assert said["policy"]["purposes"][0]["text_hash"] == bundle.purposes[0].text_hash.hex()
    assert rookery("show", path, "--mermaid").out.startswith("flowchart LR\n")


def test_errors_are_told_to_programs_too(folder: Folder) -> None:
    """One JSON object with the sentence, and exit code 1."""
    folder.edit("signals", "region", retention_days=0)
    done = rookery("check", folder.path, "--json")
    assert done.code == 1
    said = json.loads(done.out)
    assert said["error"] == "PolicyFileError"
    assert "region" in said["message"]


def test_the_key_is_asked_for_in_words(folder: Folder, tmp_path: Path) -> None:
    """A missing key file names what makes one."""
    out = tmp_path / "x.policy"
    done = rookery("build", folder.path, "--key", tmp_path / "no.key", "-o", out)
    assert done.code == 1
    assert "`rookery policy keygen` makes key files" in done.err


def test_other_commands_load_nothing_of_it() -> None:
    """A device's commands start without YAML, and without what judges policies."""
    code = (
        "import sys; from client.cli.parser import parser, command;"
        "parser('device'); command('profile:get');"
        "print(*[name for name in sys.modules if name.split('.')[0] == 'yaml'"
        " or name.startswith(('client.policykit', 'client.cli.policy'))])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == []
