"""Why parties gave a round up, in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from client.analyst.evidence import check_given_up
from client.rounds import GivenUp
from mpc.manifest import Manifest

_WORDS: Final[Mapping[str, str]] = {
    "party_missing": "a party that was needed stayed away until the retention ended",
    "too_few_valid": "fewer valid reports than the task's k_min, so nothing was opened",
    "party_gave_up": "another party had given it up",
    "policy": "the policy in force does not declare the task any more, or has stopped it",
    "set_disagreed": "a party signed another set of reports than it can have",
    "opening_refused": "the shares of an opening do not belong together: a party lied",
    "budget": "the privacy budget of the task or of the party would be passed",
    "retention": "it did not come to an end within its retention",
}
_WORD_CHARS_MAX: Final = 200


def reasons(given_up: Sequence[GivenUp], manifest: Manifest) -> dict[int, str]:
    """The reason of each party that gave up, verified, as it stands in its statement."""
    return {one.party: check_given_up(one, manifest) for one in given_up}


def in_words(reason: str) -> str:
    """A sentence for a reason; one that is not known is shown as it is, cut and cleaned."""
    shown = reason[:_WORD_CHARS_MAX]
    return _WORDS.get(reason) or "".join(c if c.isprintable() else "?" for c in shown)


def sentence(by_party: Mapping[int, str], manifest: Manifest) -> str:
    """Who gave up and why; and whether the others can still end the round."""
    said = "; ".join(
        f"party {party}: {in_words(reason)}" for party, reason in sorted(by_party.items())
    )
    left = "" if is_final(by_party, manifest) else ". The others may still end it"
    return f"given up by {len(by_party)} of {manifest.m} parties ({said}){left}"


def is_final(by_party: Mapping[int, str], manifest: Manifest) -> bool:
    """Too few parties are left for a result."""
    return manifest.m - len(by_party) < manifest.quorum
