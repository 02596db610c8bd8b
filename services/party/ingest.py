"""From boxes to share rows: opens what the relay sends and counts what is refused, by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from crypto.contribution import Header, PartyBox, Shape
from crypto.errors import CryptoError
from crypto.shares import Share
from mpc.batch import expand
from services.party.reports import Report


@dataclass(frozen=True, slots=True)
class Opened:
    """What came of some boxes."""

    reports: list[Report]
    refused: Counter[str]


def open_boxes(box: PartyBox, shape: Shape, boxes: Iterable[tuple[bytes, bytes]]) -> Opened:
    """Each (header, sealed) becomes a row, or a reason. Nothing a device sends raises."""
    opened: list[tuple[Header, Share]] = []
    refused: Counter[str] = Counter()
    for header, sealed in boxes:
        try:
            opened.append(box.open(shape, header, sealed))
        except CryptoError as error:
            refused[error.rule] += 1
    rows = expand(shape.field, shape.length, [share for _, share in opened])
    reports = [
        Report(bytes(parsed.report_id), bytes(parsed.nullifier), parsed.hash, row.tobytes())
        for (parsed, _), row in zip(opened, rows, strict=True)
    ]
    return Opened(reports, refused)
