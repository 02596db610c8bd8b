"""docs/governance.md: each row names files and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

from services.canary.rules import ALLOWED, DUE, PLACES, may_stand

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "governance.md"


HEAD = "| sentence | enforced by | the test that tries to get past it |\n|---|---|---|\n"


def quoted(cell: str) -> list[str]:
    """What a cell names."""
    return re.findall(r"`([^`]+)`", cell)


def rows() -> list[tuple[str, list[str], list[str]]]:
    """Sentence, files and tests of each row of the tables of promises."""
    found = []
    head = re.escape(
        "| sentence | enforced by | the test that tries to get past it |\n|---|---|---|\n"
    )
    for table in re.findall(rf"{head}((?:\|.*\n)+)", PAGE.read_text()):
        for line in table.splitlines():
            sentence, files, tests = (cell.strip() for cell in line.strip("|").split(" | "))
            found.append(
                (sentence, re.findall(r"`([^`]+)`", files), re.findall(r"`([^`]+)`", tests))
            )
    return found


def test_every_promise_has_a_file_and_a_test() -> None:
    """That are there: whoever renames one looks at the promise."""
    assert len(rows()) > 60
    for sentence, files, tests in rows():
        assert files, sentence
        assert tests, sentence
        for file in files:
            assert (ROOT / file).is_file(), (sentence, file)
        for test in tests:
            path, _, name = test.partition("::")
            text = (ROOT / path).read_text() if (ROOT / path).is_file() else ""
            assert re.search(rf"^(?:async )?def {name}\(", text, re.MULTILINE), (sentence, test)


def test_the_canary_s_table_lets_nothing_personal_stand_anywhere_else() -> None:
    """Names, values and secrets nowhere; pseudonyms in no log, metric or trace; a sort that
    nobody listed nowhere."""
    told = {place for place in PLACES if place.endswith(("-log", "-metrics")) or place == "traces"}
    for sort in ALLOWED:
        assert not any(may_stand(sort, place) for place in told), sort
    for sort in ("name", "value", "secret key", "push token", "receipt", "anything new"):
        assert not any(may_stand(sort, place) for place in PLACES), sort
    parties = {place for place in PLACES if place.startswith(("party", "relay", "gateway"))}
    for sort in ("account id", "device id", "public key", "consent entry", "tag"):
        assert not any(may_stand(sort, place) for place in parties), sort
    assert all(may_stand(sort, place) for sort, place in DUE)
