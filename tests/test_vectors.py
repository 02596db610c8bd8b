"""The vector files, and the program that runs them."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.vectors import run_file
from client.vectors.aggregates import PARTS, REFUSALS
from client.vectors.run import SECTIONS as SECTIONS_RUN, judge
from client.vectors.world import World
from crypto.errors import CryptoError
from crypto.field import FIELD31
from crypto.primitives import keystream
from mpc.kinds import KINDS
from tests.vectors import generate
from tests.vectors.aggregates import SKIPS

ROOT = Path(__file__).resolve().parent.parent
OWN = ROOT / "tests" / "vectors" / "pss1.json"
EXAMPLES = ROOT.parent / "shared" / "vectors" / "pss1-examples.json"
MODULES = Path(os.environ.get("NODE_PATH", ROOT / ".cache" / "node_modules"))


def own() -> Any:
    """The project's own vectors."""
    return json.loads(OWN.read_text())


def ran(path: Path) -> tuple[int, str]:
    """Exit code and output of `rookery vectors`."""
    out = io.StringIO()
    return run_file(path, out), out.getvalue()


def written(folder: Path, content: object) -> Path:
    """A vector file with this content."""
    path = folder / "vectors.json"
    path.write_text(json.dumps(content))
    return path


def verified(path: Path) -> subprocess.CompletedProcess[str]:
    """A run of the JavaScript verifier; without Node there is nothing to run it with."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not on PATH: the JavaScript verifier did NOT check the vectors")
    if not (MODULES / "libsodium-wrappers").is_dir():
        pytest.fail(f"node is here, but libsodium-wrappers is not in {MODULES}: run `make node`")
    return subprocess.run(
        [node, str(ROOT / "tests" / "vectors" / "verify.mjs"), str(path)],
        env={**os.environ, "NODE_PATH": str(MODULES)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_generator_writes_the_committed_file_again() -> None:
    """pss1.json is byte for byte what generate.py writes from its seeds."""
    assert OWN.read_text() == generate.text()


def test_the_own_vectors_pass() -> None:
    """Every positive comes out, every negative is refused, every verdict agrees."""
    code, out = ran(OWN)
    assert code == 0, out
    assert out.endswith(" passed, 0 failed\n")


def test_the_shared_examples_pass() -> None:
    """The worked examples that came with the design line up with this implementation."""
    if not EXAMPLES.is_file():
        pytest.skip("pss1-examples.json is not beside the project: the examples were NOT run")
    code, out = ran(EXAMPLES)
    assert code == 0, out


def test_an_independent_verifier_agrees() -> None:
    """Code in another language, on another binding of libsodium, finds the same bytes."""
    result = verified(OWN)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith(" passed, 0 failed\n")


TAILS = {"none", "threshold", "top", "quantile", "welch"}
OUTCOMES = {"sums", "bins", "quantiles", "comparisons", "undecided"}


def test_every_kind_of_statement_is_in_the_file() -> None:
    """The own file has all link types, verbs, buckets, kinds of negatives and verdicts."""
    file = own()
    assert {row["type"] for row in file["links"]} == {"GENESIS", "ADD", "ROTATE", "REBOX"}
    assert {row["verb"] for row in file["ops"]} == {1, 2, 3, 4}
    assert {len(row["ct"]) // 2 - 16 for row in file["ops"]} == {2**bits for bits in range(8, 16)}
    kinds = {row["kind"] for row in file["negatives"]}
    assert kinds >= {"op-server", "op-client", "op-bitflip", "chain", "grant", "request"}
    assert kinds >= REFUSALS.keys()
    more = file["more"]
    assert {row["of"]["name"] for row in more["encodings"]} == KINDS.keys()
    assert {row["fields"]["tail"]["name"] for row in more["tasks"]} == TAILS
    assert {name for row in more["results"] for name in row["fields"]} >= OUTCOMES
    verdicts = {verdict.partition(":")[0] for row in file["scenarios"] for verdict in row["expect"]}
    assert verdicts == {"OK", "DUP", "HOLD", "FORK", "REJECT"}


def test_what_is_refused_of_aggregates_is_refused_by_its_rule() -> None:
    """Not by another that happens to come first: `why` names it."""
    file = own()
    world = World(file)
    rows = [row for row in file["negatives"] if row["kind"] in REFUSALS]
    for row in rows:
        with pytest.raises(CryptoError) as refused:
            REFUSALS[row["kind"]](world, row)
        assert refused.value.rule == row["why"], row["name"]
    assert len(rows) > 250


def test_a_skipped_word_is_among_the_streams() -> None:
    """A word equal to the modulus: one in 2^31, so a verifier that keeps it would be found."""
    [row] = [row for row in own()["more"]["prg"] if row["seed"] == SKIPS.hex()]
    masked = np.frombuffer(keystream(SKIPS, 4 * row["count"]), "<u4") & FIELD31.p
    assert np.flatnonzero(masked == FIELD31.p).tolist() == [29]


def test_names_of_negatives_tell_them_apart() -> None:
    """No two negatives have one name."""
    names = [row["name"] for row in own()["negatives"]]
    assert len(set(names)) == len(names)


SECTIONS = (
    ("primitives", 0, "out"),
    ("devices", "A", "device_id"),
    ("links", 3, "sig"),
    ("grants", 2, "sealed"),
    ("ops", 4, "ct"),
    ("requests", 1, "sig"),
    ("tags", 3, "tag"),
    ("ek_commit", "2"),
    ("epoch_keys", "3", "nonce"),
    ("padding", 1, "padded"),
    ("more", "pairing", 0, "m2"),
    ("more", "receipts", 1, "receipt"),
    ("more", "checkpoints", 0, "value"),
    ("more", "tokens", 0, "token"),
    ("more", "recovery", 0, "bk_pk"),
    ("more", "successions", 0, "succession"),
    ("more", "wake_handles", 1, "handle"),
    ("more", "prg", 2, "elements"),
    ("more", "sharings", 5, "seeds", 1),
    ("more", "sharings", 4, "shares", 2, "payload"),
    ("more", "encodings", 6, "vector"),
    ("more", "checks", 8, "D", 1),
    ("more", "checks", 11, "Q", 2),
    ("more", "tasks", 1, "spec_hash"),
    ("more", "tasks", 2, "published"),
    ("more", "rounds", 0, "round_digest"),
    ("more", "rounds", 1, "parties", 4, "box_sk"),
    ("more", "contributions", 0, "boxes", 1),
    ("more", "contributions", 3, "nullifier"),
    ("more", "contributions", 5, "seeds", 0),
    ("more", "results", 1, "sigs", "2"),
)


def altered(file: Any, path: tuple[str | int, ...]) -> Any:
    """The file with the first hex digit of one value changed."""
    changed = copy.deepcopy(file)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    value = inner[path[-1]]
    inner[path[-1]] = ("1" if value[0] != "1" else "2") + value[1:]
    return changed


@pytest.mark.parametrize("path", SECTIONS, ids=lambda path: ".".join(map(str, path)))
def test_one_wrong_digit_is_found(path: tuple[str | int, ...]) -> None:
    """A file that states a wrong value fails."""
    small = own()
    small["negatives"] = []
    assert judge(altered(small, path)).exit_code == 1


def test_the_verifier_finds_wrong_digits_too(tmp_path: Path) -> None:
    """The JavaScript verifier doesn't just nod: wrong values in all sections are named."""
    file = own()
    file["negatives"] = []
    for path in SECTIONS:
        file = altered(file, path)
    result = verified(written(tmp_path, file))
    assert result.returncode == 1
    for section, *_ in SECTIONS:
        assert f"FAILED {section}" in result.stdout, section


def test_a_signature_may_name_its_key_in_any_usual_way() -> None:
    """Seed, secret key, public key or device: the schema leaves the field open."""
    file = own()
    row = next(row for row in file["primitives"] if row["fn"] == "SIG")
    seed, pk = row.pop("seed"), row.pop("pk")
    device = {"devices": {"S": {"ik_seed": seed}}}
    for key in (
        {"seed": seed},
        {"ik_seed": seed},
        {"key": seed},
        {"sk": seed + pk},
        {"pk": pk},
        {"seed": seed, "pk": pk},
        {"device": "S"},
        {"key": "S"},
    ):
        assert judge(device | {"primitives": [row | key]}).lines[-1] == "2 passed, 0 failed", key
        wrong = row | key | {"msg": "00"}
        assert judge({**device, "primitives": [wrong]}).exit_code == 1, key
    assert judge({"primitives": [row]}).exit_code == 1


def as_negative(file: Any, row: dict[str, Any], kind: str) -> Any:
    """The file with one true thing passed off as a negative."""
    return {**file, "negatives": [{"name": "true", "kind": kind, "expect": "reject", **row}]}


def test_a_negative_that_is_accepted_fails() -> None:
    """True ops, links, grants and requests in the place of negatives are not refused."""
    file = own()
    op = {**file["ops"][0], "epoch": 1}
    for kind in ("op-server", "op-client"):
        report = judge(as_negative(file, op | {"kind": kind}, kind))
        assert [line for line in report.failures if "accepted" in line], kind
    link = {name: file["links"][2][name] for name in ("link", "sig", "pop")}
    assert judge(as_negative(file, link | {"prefix": 2}, "chain")).exit_code == 1
    assert judge(as_negative(file, file["grants"][-1], "grant")).exit_code == 1
    request = {name: file["request"][name] for name in ("header", "sig", "device")}
    assert judge(as_negative(file, request, "request")).exit_code == 1


def test_a_wrong_verdict_fails() -> None:
    """A scenario that expects something else is reported with both verdicts."""
    file = own()
    scenario = {**file["scenarios"][0], "expect": ["DUP", *file["scenarios"][0]["expect"][1:]]}
    report = judge({**file, "negatives": [], "scenarios": [scenario]})
    assert len(report.failures) == 1
    assert "is judged OK, the file says DUP" in report.failures[0]


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The places of all values of a file."""
    items: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, inner in items:
        yield (*path, key)
        yield from leaves(inner, (*path, key))


STRANGE: tuple[Any, ...] = (
    None,
    [],
    {},
    "zz",
    "0",
    "00",
    5,
    -1,
    True,
    "",
    2**70,
    1.5,
    [[]],
    [None],
    {"a": 1},
)


def test_no_file_ends_in_a_traceback() -> None:
    """Whatever stands in the place of a value, the run ends in a count."""
    file = own()
    small = {
        name: value[:2] if isinstance(value, list) else value
        for name, value in file.items()
        if name not in ("schema", "more", "negatives", "epoch_keys", "ek_commit")
    }
    small["negatives"] = [
        next(row for row in file["negatives"] if row["kind"] == kind)
        for kind in ("op-server", "op-client", "chain", "grant", "request", *REFUSALS)
    ]
    small["more"] = {part: file["more"][part][:1] for part in PARTS}
    draws = random.Random(7)
    places = list(leaves(small))
    for place in draws.sample(places, 300):
        changed = copy.deepcopy(small)
        inner: Any = changed
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = draws.choice(STRANGE)
        assert judge(changed).lines[-1].endswith(" failed")


@pytest.mark.parametrize("section", [name for names, _ in SECTIONS_RUN for name in names])
def test_strange_sections_are_failures_or_nothing(section: str) -> None:
    """A section of the wrong kind is reported like any other failure."""
    for strange in STRANGE:
        judge({section: strange})


def test_an_unknown_section_is_named() -> None:
    """What isn't checked is said to be unchecked."""
    report = judge({"zebra": [1], "primitives": own()["primitives"][:1]})
    assert report.lines == ["note: unknown section 'zebra' is not checked", "1 passed, 0 failed"]


def test_a_malformed_entry_fails_and_the_rest_is_run() -> None:
    """One bad row doesn't hide the others."""
    rows = own()["primitives"][:3]
    report = judge({"primitives": [rows[0], {"fn": "H"}, 7, rows[1], {**rows[2], "fn": "MD5"}]})
    assert (report.passed, len(report.failures)) == (2, 3)


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '"text"', "[" * 100_000, "\xff"])
def test_what_cant_be_parsed_is_said_plainly(tmp_path: Path, content: str) -> None:
    """Exit code 2 and one line for a file that is no JSON object."""
    path = tmp_path / "vectors.json"
    path.write_bytes(content.encode("latin-1"))
    code, out = ran(path)
    assert code == 2
    assert out.startswith(f"rookery vectors: {path}: ")
    assert out.count("\n") == 1


def test_what_cant_be_read_is_said_plainly(tmp_path: Path) -> None:
    """Exit code 2 for a file that isn't there or is a folder."""
    assert ran(tmp_path / "absent.json")[0] == 2
    assert ran(tmp_path)[0] == 2


@pytest.mark.parametrize("file", [{}, {"unheard-of": [1]}])
def test_a_file_without_cases_is_a_failure(file: dict[str, object]) -> None:
    """A run that checked nothing must not look like one that went well; sections that are not
    known are named."""
    report = judge(file)
    assert report.exit_code == 1
    assert any("no case" in line for line in report.lines)
    assert [name for name in file if not any(name in note for note in report.notes)] == []
