"""Reports as a hostile device makes them, each of the size that the relay wants. A helper."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from crypto.contribution import (
    Header,
    Shape,
    encode_header,
    encode_share,
    nullifier,
    parse_header,
)
from crypto.field import FIELD31, FIELD61
from crypto.ids import ReportId
from crypto.primitives import seal
from crypto.shares import ELEMENTS, Share, split
from mpc.manifest import Manifest
from mpc.task import Task
from rookery.v1 import rounds_pb2

Seal = Callable[[Shape, Header, Share], bytes]
"""What is sealed to the one party that is lied to, in place of its share."""


def _other(shape: Shape) -> Shape:
    return replace(shape, field=FIELD61 if shape.field is FIELD31 else FIELD31)


def _at_p(shape: Shape, header: Header, share: Share) -> bytes:
    modulus = shape.field.p.to_bytes(shape.field.element_bytes, "little")
    payload = modulus + share.payload[shape.field.element_bytes :]
    return encode_share(shape, header, share._replace(payload=payload))


OUT_OF_FORM: Mapping[str, Seal] = {
    "share": lambda shape, header, share: b"XXXX" + encode_share(shape, header, share)[4:],
    "report": lambda shape, header, share: encode_share(
        shape, header._replace(hash=bytes(32)), share
    ),
    "party": lambda shape, header, share: encode_share(
        shape, header, share._replace(party=share.party % shape.m + 1)
    ),
    "parties": lambda shape, header, share: encode_share(
        replace(shape, m=shape.m + 1), header, share
    ),
    "field": lambda shape, header, share: encode_share(_other(shape), header, share),
    "elements": lambda shape, header, share: encode_share(
        replace(shape, length=shape.length + 1), header, share
    ),
    "form": lambda shape, header, share: encode_share(
        shape, header, share._replace(form=1 - share.form)
    ),
    "range": _at_p,
}
"""By the rule of docs/aggregation.md, 5, under which the party leaves it out. The others (`length`,
`header`, `mode`, `round`) the relay refuses itself."""


@dataclass(slots=True)
class Crafted:
    """Reports to a round, and what its parties must make of them."""

    reports: list[rounds_pb2.ContributeRequest]
    refused: list[Counter[str]]
    """By party, from the first."""
    inconsistent: int
    invalid: int


class Device:
    """Makes reports to a round, in form or not."""

    def __init__(self, task: Task, manifest: Manifest, seed: str = "") -> None:
        self._task, self._manifest = task, manifest
        self._shape = manifest.shape(task)
        self._random = random.Random(f"hostile {task.task_id} {seed}")

    def report(
        self,
        values: Sequence[int],
        *,
        party: int = 0,
        change: Seal = encode_share,
        id_of: rounds_pb2.ContributeRequest | None = None,
        account_of: rounds_pb2.ContributeRequest | None = None,
        elements_at: int = 0,
    ) -> rounds_pb2.ContributeRequest:
        """Shares of any vector. `change`: what `party` gets in place of its share; the report's
        id is such that `elements_at` gets elements. `id_of`, `account_of`: a report whose id or
        nullifier is used again."""
        shape = self._shape
        report_id = ReportId(self._random.randbytes(16))
        while elements_at and shape.form(report_id, elements_at) != ELEMENTS:
            report_id = ReportId(self._random.randbytes(16))
        if id_of is not None:
            report_id = parse_header(id_of.header).report_id
        account = nullifier(self._random.randbytes(32), shape.round_digest)
        if account_of is not None:
            account = parse_header(account_of.header).nullifier
        raw = encode_header(shape.m, shape.round_digest, report_id, account)
        header = parse_header(raw)
        vector = shape.field.encode(np.array(values, np.int64))
        offset = int.from_bytes(report_id, "big") % shape.m
        shares = split(shape.field, vector, shape.m, shape.t, self._random.randbytes, offset)
        boxes = [
            seal(
                key,
                change(shape, header, share)
                if share.party == party
                else encode_share(shape, header, share),
            )
            for key, share in zip(self._manifest.box_keys(), shares, strict=True)
        ]
        return rounds_pb2.ContributeRequest(
            round_id=self._manifest.round_id, header=raw, boxes=boxes
        )

    def inconsistent(self, values: Sequence[int], party: int) -> rounds_pb2.ContributeRequest:
        """One element of that party's share is another, as where a bit is 1 at one party only."""

        def off(shape: Shape, header: Header, share: Share) -> bytes:
            elements = share.elements(shape.field, shape.length)
            elements[0] = (int(elements[0]) + 1) % shape.field.p
            payload = shape.field.to_bytes(elements)
            return encode_share(shape, header, share._replace(payload=payload))

        return self.report(values, party=party, change=off, elements_at=party)

    def unopenable(self, values: Sequence[int], party: int) -> rounds_pb2.ContributeRequest:
        """That party's box is noise of the right size."""
        made = self.report(values)
        made.boxes[party - 1] = os.urandom(len(made.boxes[party - 1]))
        return made


def crafted(
    task: Task, manifest: Manifest, honest: Sequence[int], invalid: Sequence[Sequence[int]]
) -> Crafted:
    """Every way in which a report can be bad behind a relay that checks sizes: for each of them
    one, to one party after the other. `honest`, `invalid`: vectors that are valid, or not."""
    device, m = Device(task, manifest), manifest.m
    refused: list[Counter[str]] = [Counter() for _ in range(m)]
    reports = []

    def lied_to(party: int, rule: str) -> None:
        for number, counts in enumerate(refused, 1):
            counts[rule if number == party else "elsewhere"] += 1

    for at, (rule, change) in enumerate(OUT_OF_FORM.items()):
        party = at % m + 1
        reports.append(device.report(honest, party=party, change=change, elements_at=party))
        lied_to(party, rule)
    reports.append(device.unopenable(honest, 1))
    lied_to(1, "open")
    reports.append(device.inconsistent(honest, 2))
    reports += [device.report(vector) for vector in invalid]
    return Crafted(reports, refused, inconsistent=1, invalid=len(invalid))
