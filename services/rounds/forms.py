"""What the relay checks of tasks, manifests and contributions: form, signatures, sizes.

Of a report it sees the header and how long its boxes are; whether it is valid only the
parties can say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crypto import contribution
from crypto.contribution import Shape
from crypto.errors import CryptoError
from crypto.primitives import SIG_BYTES
from mpc import manifest as manifests, task as tasks
from mpc.manifest import ROUND_ID_BYTES, Manifest
from mpc.task import Task
from services.errors import ContributionInvalid, ManifestInvalid, TaskExpired, TaskInvalid
from services.store.rounds import RoundRow, TaskRow

__all__ = [
    "ROUND_ID_BYTES", "Round", "check_contribution", "check_manifest", "parse_manifest",
    "read_round", "read_task", "report_bytes",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Round:
    """What the relay needs to know of a round. Never changes."""

    round_id: bytes
    parties: tuple[bytes, ...]
    until_ms: int
    reports_max: int
    task: Task
    shape: Shape

    @property
    def purpose(self) -> str:
        """What the task says that contributions are used for."""
        return self.task.purpose

    @property
    def digest(self) -> bytes:
        """What contributions and signatures are bound to."""
        return self.shape.round_digest

    @property
    def quorum(self) -> int:
        """How many parties suffice for a result."""
        return manifests.quorum(self.shape.m, self.shape.t)

    def party_of(self, ik_pk: bytes) -> int | None:
        """Which party this key is, from 1."""
        return self.parties.index(ik_pk) + 1 if ik_pk in self.parties else None


def read_task(data: bytes, sig: bytes, publisher: bytes) -> Task:
    """A sound task that this publisher signed; TaskInvalid."""
    if len(sig) != SIG_BYTES:
        raise TaskInvalid("signature")
    try:
        task = tasks.open_(data + sig, publisher)
    except CryptoError as error:
        raise TaskInvalid(error.rule) from None
    if task.encoded != data:
        raise TaskInvalid("cbor-form")
    return task


def report_bytes(task: Task) -> int:
    """What all boxes of one report take together."""
    return _shape(task, bytes(32)).report_bytes


def _shape(task: Task, round_digest: bytes) -> Shape:
    return Shape(
        round_digest=round_digest, m=task.m, t=task.t, field=task.field, length=task.kind.length
    )


def parse_manifest(data: bytes) -> Manifest:
    """In form; ManifestInvalid."""
    try:
        return manifests.parse(data)
    except CryptoError as error:
        raise ManifestInvalid(error.rule) from None


def check_manifest(manifest: Manifest, sigs: Sequence[bytes], row: TaskRow) -> RoundRow:
    """The round, if all parties signed it and it is one of the task. ManifestInvalid,
    TaskExpired."""
    task = tasks.decode(row.task)
    try:
        manifest.check_task(task)
        manifest.signed(sigs)
    except CryptoError as error:
        if error.rule == "task-expired":
            raise TaskExpired from None
        raise ManifestInvalid(error.rule) from None
    return RoundRow(
        round_id=manifest.round_id,
        spec_hash=manifest.spec_hash,
        manifest=manifest.encoded,
        sigs=tuple(sigs),
        parties=tuple(party.ik_pk for party in manifest.parties),
        open_ms=manifest.open_ms,
        close_ms=manifest.close_ms,
        until_ms=manifest.close_ms + task.grace_ms,
    )


def read_round(row: RoundRow, task_row: TaskRow) -> Round:
    """From what the store holds, which was checked when it came."""
    task = tasks.decode(task_row.task)
    manifest = manifests.parse(row.manifest)
    return Round(
        round_id=row.round_id,
        parties=row.parties,
        until_ms=row.until_ms,
        reports_max=task.reports_max,
        task=task,
        shape=_shape(task, manifest.digest),
    )


def check_contribution(round_: Round, header: bytes, boxes: Sequence[bytes]) -> None:
    """ContributionInvalid unless header and sizes are those of a report of this round."""
    try:
        contribution.check_upload(round_.shape, header, boxes)
    except CryptoError as error:
        raise ContributionInvalid(error.rule) from None
