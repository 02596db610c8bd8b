"""The agreement of all parties on the reports of a round (docs/aggregation.md, 9). No I/O.

Each says how many reports it can use, a digest of their list, and what it left out. Where the
digests differ, the lists themselves follow. What all hold, in the order in which party 1 took it
in, is the set; every party signs its digest, and one that signs another ends the round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import cbor2

from crypto import labels
from crypto.errors import FormatError
from crypto.primitives import hash_
from mpc.result import check_refused
from services.party.messages import Agreed, Have, Listed

REPORTS_MAX: Final = 1 << 23
"""That a party takes in of one round, whatever its task allows: lists are kept in memory."""
HASH_BYTES: Final = 32
RUN_HASHES: Final = 1 << 16
"""In one message: 2 MiB."""
ELSEWHERE: Final = "elsewhere"
"""The rule of reports that this party could use, and another could not."""
RULES_MAX: Final = 31
"""That a party may give; `elsewhere` is added to them."""

Hashes = Sequence[bytes]


@dataclass(frozen=True, slots=True)
class ReportSet:
    """What all parties agree on before anything of a report is known."""

    hashes: tuple[bytes, ...] = field(repr=False)
    refused: tuple[Mapping[str, int], ...]
    """What each party left out, from the first."""
    digest: bytes
    """What every party signs."""


def digest_of(round_digest: bytes, hashes: Hashes) -> bytes:
    """Of one party's list."""
    return hash_(labels.PARTY_LIST, round_digest + b"".join(hashes))


def joined(
    round_digest: bytes, lists: Mapping[int, Hashes], refused: Mapping[int, Mapping[str, int]]
) -> ReportSet:
    """What is on every list, by the order of party 1's."""
    common = set(lists[1]).intersection(*lists.values())
    hashes = tuple(one for one in lists[1] if one in common)
    counts = []
    for party in sorted(lists):
        left = {ELSEWHERE: len(lists[party]) - len(hashes)}
        counts.append({**refused[party], **(left if left[ELSEWHERE] else {})})
    said = round_digest + encode_refused(counts) + b"".join(hashes)
    return ReportSet(hashes, tuple(counts), hash_(labels.PARTY_SET, said))


def encode_refused(refused: Sequence[Mapping[str, int]]) -> bytes:
    """As it is signed and stored."""
    return cbor2.dumps([dict(one) for one in refused], canonical=True)


def decode_refused(data: bytes) -> tuple[Mapping[str, int], ...]:
    """What `encode_refused` wrote."""
    return tuple(cbor2.loads(data))


def split(data: bytes) -> tuple[bytes, ...]:
    """A list of hashes out of its bytes."""
    return tuple(data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES))


@dataclass(slots=True)
class _Heard:
    have: Have | None = None
    runs: list[bytes] = field(default_factory=list)
    listed: int = 0
    hashes: tuple[bytes, ...] | None = None
    agreed: Agreed | None = None


class Agreement:
    """One party's side. `hear` what the others say, then look at `common` and `signed`."""

    def __init__(
        self,
        round_digest: bytes,
        *,
        me: int,
        m: int,
        reports_max: int,
        hashes: Hashes,
        refused: Mapping[str, int],
    ) -> None:
        self._round_digest = round_digest
        self._me = me
        self._reports_max = reports_max
        self._hashes = tuple(hashes)
        self._have = Have(len(hashes), digest_of(round_digest, hashes), dict(refused), 0)
        self._heard = {party: _Heard() for party in range(1, m + 1) if party != me}
        self._common: ReportSet | None = None

    def forget(self, party: int) -> None:
        """It may have begun anew."""
        self._heard[party] = _Heard()

    def hear(self, party: int, message: Have | Listed | Agreed) -> None:
        """FormatError for what no honest party says. Signatures are the caller's to check."""
        heard = self._heard[party]
        match message:
            case Have():
                self._check(message)
                heard.have = message
            case Listed():
                self._take(heard, message)
            case Agreed():
                heard.agreed = message

    def _check(self, have: Have) -> None:
        if not 0 <= have.count <= self._reports_max or len(have.refused) > RULES_MAX:
            raise FormatError("have", "more reports or rules than the round can have")
        if have.heard < 0 or ELSEWHERE in have.refused:
            raise FormatError("have", "what others lack is not the sender's to say")
        check_refused(have.refused)

    def _take(self, heard: _Heard, run: Listed) -> None:
        have = heard.have
        if len(run.hashes) % HASH_BYTES or not run.hashes:
            raise FormatError("listed", "no run of hashes")
        if have is None or heard.hashes is not None or run.start != heard.listed:
            return  # not the one that is due: it is asked for again
        heard.runs.append(run.hashes)
        heard.listed += len(run.hashes) // HASH_BYTES
        if heard.listed < have.count:
            return
        hashes = split(b"".join(heard.runs))
        unique = len(set(hashes)) == len(hashes) == have.count
        if not unique or have.digest != digest_of(self._round_digest, hashes):
            raise FormatError("listed", "not the list that was announced")
        heard.hashes, heard.runs = hashes, []

    @property
    def wanting(self) -> frozenset[int]:
        """Parties that have not said what they have."""
        return frozenset(party for party, one in self._heard.items() if one.have is None)

    def have_for(self, party: int) -> Have:
        """What this party says to another."""
        return replace(self._have, heard=self._heard[party].listed)

    def run_for(self, party: int) -> Listed | None:
        """The hashes that another party has yet to hear, if lists are needed: where anybody has
        others than this one."""
        have = self._heard[party].have
        if have is None or all(self._same(one.have) for one in self._heard.values()):
            return None
        run = self._hashes[have.heard : have.heard + RUN_HASHES]
        return Listed(have.heard, b"".join(run)) if run else None

    def _same(self, have: Have | None) -> bool:
        mine = (self._have.count, self._have.digest)
        return have is None or (have.count, have.digest) == mine

    def common(self) -> ReportSet | None:
        """The set, once it follows from what all said."""
        if self._common is None and not self.wanting:
            lists = {party: self._list_of(one) for party, one in self._heard.items()}
            if all(hashes is not None for hashes in lists.values()):
                refused = {
                    party: one.have.refused for party, one in self._heard.items() if one.have
                }
                self._common = joined(
                    self._round_digest,
                    {self._me: self._hashes}
                    | {party: hashes for party, hashes in lists.items() if hashes is not None},
                    {self._me: self._have.refused} | refused,
                )
        return self._common

    def _list_of(self, heard: _Heard) -> Hashes | None:
        have = heard.have
        if have is None or self._same(have):
            return self._hashes
        return heard.hashes if have.count else ()

    @property
    def signed(self) -> dict[int, Agreed]:
        """What each party signed, so far."""
        return {party: one.agreed for party, one in self._heard.items() if one.agreed is not None}
