"""One round as this party took it on: what of it never changes, and what it signs with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from crypto.contribution import PartyBox, Shape
from crypto.errors import SignatureError
from crypto.primitives import verify
from mpc import manifest as manifests, task as tasks
from mpc.keys import PartyKey
from mpc.manifest import Manifest
from mpc.task import Task
from services.party.agreement import REPORTS_MAX
from services.party.records import Round
from services.party.states import Terms


@dataclass(frozen=True, slots=True)
class Assignment:
    """What was agreed before the window. repr shows no key."""

    manifest: Manifest
    task: Task
    terms: Terms
    box: PartyBox | None
    """None once the round has ended."""
    _key: PartyKey

    @classmethod
    def of(cls, stored: Round, key: PartyKey, *, patience_ms: int) -> Self:
        """From a round whose manifest this party signed."""
        assert stored.manifest is not None
        manifest = manifests.parse(stored.manifest)
        task = tasks.decode(stored.window.task)
        me = [party.ik_pk for party in manifest.parties].index(key.public) + 1
        terms = Terms(
            m=manifest.m,
            t=manifest.t,
            me=me,
            until_ms=manifest.close_ms + task.grace_ms,
            retain_until_ms=stored.window.retain_until_ms,
            k_min=manifest.k_min,
            patience_ms=patience_ms,
        )
        box = None if stored.box_sk is None else PartyBox(me, stored.box_sk)
        return cls(manifest, task, terms, box, key)

    @property
    def round_id(self) -> bytes:
        """16 bytes."""
        return self.manifest.round_id

    @property
    def digest(self) -> bytes:
        """What signatures are bound to."""
        return self.manifest.digest

    @property
    def shape(self) -> Shape:
        """What contributions look like."""
        return self.manifest.shape(self.task)

    @property
    def reports_max(self) -> int:
        """How many reports are taken in."""
        return min(self.task.reports_max, REPORTS_MAX)

    @property
    def others(self) -> dict[int, bytes]:
        """The other parties' identity keys by number."""
        numbered = enumerate(self.manifest.parties, 1)
        return {number: party.ik_pk for number, party in numbered if number != self.terms.me}

    def sign(self, label: bytes, said: bytes) -> bytes:
        """This party's signature, bound to the round."""
        return self._key.sign(label, self.digest + said)

    def check(self, party: int, label: bytes, said: bytes, sig: bytes) -> None:
        """SignatureError unless that party of the round signed it."""
        if not 1 <= party <= self.terms.m:
            raise SignatureError("party", "a signature is of no party of the round")
        verify(self.manifest.parties[party - 1].ik_pk, label, self.digest + said, sig)
