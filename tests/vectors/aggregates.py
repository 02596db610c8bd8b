"""Positives of joint aggregates: fields, shares, kinds, tasks, rounds, contributions, results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from client.vectors.sealed import seal_with
from crypto import canonical, contribution, labels
from crypto.contribution import Shape, encode_header, encode_share, parse_header
from crypto.field import FIELD31, FIELD61, Array, Field
from crypto.ids import ReportId
from crypto.primitives import box_public
from crypto.shares import SEED, split
from mpc import result as results
from mpc.batch import Challenge
from mpc.keys import PartyKey, PublisherKey
from mpc.kinds import Count, Experiment, Histogram, Kind, Mean, Multihot, Quantile, Sum, Vector
from mpc.manifest import Manifest, Party
from mpc.noise import Law, Mechanism
from mpc.result import Counted
from mpc.tail_params import AsTheyAre, AtQuantiles, Threshold, Top, Welch
from mpc.task import Caps, Task
from tests.vectors.story import START_MS, Row, seeded

DAY_MS = 86_400_000
SKIPS = (2_963_417).to_bytes(32, "big")
"""A seed whose keystream has a word that is equal to p in field 31: number 29 is left out."""
PUBLISHER_SEED = seeded("publisher")


def positives() -> dict[str, list[Row]]:
    """All parts."""
    return {
        "prg": list(_prg()),
        "sharings": list(_sharings()),
        "encodings": list(_encodings()),
        "checks": list(_checks()),
        "tasks": [task_row(task) for task in tasks()],
        "rounds": [one.row for one in rounds()],
        "contributions": list(_contributions()),
        "results": list(_results()),
    }


def _prg() -> Iterator[Row]:
    cases = [
        (FIELD31, seeded("prg/31"), 9), (FIELD31, seeded("prg/one"), 1), (FIELD31, SKIPS, 40),
        (FIELD61, seeded("prg/61"), 9),
    ]  # fmt: skip
    for field, seed, count in cases:
        elements = field.to_bytes(field.prg(seed, count)).hex()
        yield {"field": field.bits, "seed": seed.hex(), "count": count, "elements": elements}


def given(*seeds: bytes) -> Callable[[int], bytes]:
    """Randomness that is these seeds, one after the other."""
    left = iter(seeds)
    return lambda _: next(left)


def _sharings() -> Iterator[Row]:
    for m, t in ((3, 1), (4, 1), (5, 2), (16, 7)):
        for field in (FIELD31, FIELD61):
            name = f"sharing/{m}/{t}/{field.bits}"
            report_id = seeded(f"{name}/id", 16)
            values = field.prg(seeded(name), 3)
            seeds = [seeded(f"{name}/{at}") for at in range(t)]
            offset = int.from_bytes(report_id, "big") % m
            yield {
                "field": field.bits,
                "m": m,
                "t": t,
                "report_id": report_id.hex(),
                "values": field.to_bytes(values).hex(),
                "seeds": [seed.hex() for seed in seeds],
                "shares": [
                    {"party": share.party, "form": share.form, "payload": share.payload.hex()}
                    for share in split(field, values, m, t, given(*seeds), offset)
                ],
            }


KINDS: list[tuple[Kind, list[Any]]] = [
    (Count(FIELD31), [True, False]),
    (Histogram(FIELD31, 5, ()), [0, 4]),
    (Histogram(FIELD61, 3, ("thaï", "italian", "other")), [1]),
    (Multihot(FIELD31, 6, 3, ()), [[], [5], [2, 0, 4]]),
    (Sum(FIELD31, -3, 6), [-3, 4, 5, 6]),
    (Sum(FIELD61, 0, 1 << 53), [0, 1 << 52, (1 << 53) - 1]),
    (Sum(FIELD31, 7, 8), [7, 8]),
    (Mean(FIELD31, 1, 5, False), [3]),
    (Mean(FIELD31, 1, 5, True), [1, 4, 5]),
    (Vector(FIELD31, 3, 4, 90), [[0, 0, 0], [-8, 5, 1], [7, -6, 2]]),
    (Vector(FIELD61, 2, 24, 1 << 44), [[-(1 << 21), 12345]]),
    (Experiment(FIELD31, 3, (), -10, 100), [[0, -10], [2, 45], [1, 100]]),
    (Quantile(FIELD31, (-5, 0, 10, 1000)), [-5, 0, 9, 999]),
]
"""Every kind, in either field, with values at the edges of what it takes."""


def _encodings() -> Iterator[Row]:
    for kind, values in KINDS:
        for value in values:
            yield {
                "of": kind.params(),
                "field": kind.field.bits,
                "value": value,
                "bits": kind.equations.bits,
                "vector": kind.field.to_bytes(kind.encode(value)).hex(),
            }


def _checks() -> Iterator[Row]:
    """Rows that are encodings, rows that are shares, and rows that are neither."""
    for at, (kind, values) in enumerate(KINDS):
        field, length = kind.field, kind.length
        coin, kappa = seeded(f"coin/{at}"), 2 if field.bits == 31 else 1
        rows = np.stack(
            [
                kind.encode(values[-1]),
                field.prg(seeded(f"row/{at}"), length),
                np.full(length, field.p - 1, np.uint64),
            ]
        )
        challenge = Challenge.of(field, coin, length=length, equations=kind.equations, kappa=kappa)
        d, q = challenge.check(rows.astype(field.word))
        yield {
            "of": kind.params(),
            "field": field.bits,
            "kappa": kappa,
            "coin": coin.hex(),
            "rows": _hexes(field, rows),
            "D": _hexes(field, d),
            "Q": _hexes(field, q),
        }


def _hexes(field: Field, rows: Array) -> list[str]:
    return [field.to_bytes(row).hex() for row in rows]


# Tasks


def tasks() -> list[Task]:
    """One of every tail and mechanism, in either field."""
    plain: dict[str, Any] = {
        "task_id": "food/favourite-cuisine",
        "title": "Favourite cuisine — Küche",
        "purpose": "statistics",
        "kind": Histogram(FIELD31, 3, ("thai", "italian", "other")),
        "kappa": 2,
        "window_ms": 7 * DAY_MS,
        "grace_ms": DAY_MS,
        "reports_max": 100_000,
        "k_min": 100,
        "noise": Law(Mechanism.GAUSSIAN, 20_000),
        "caps": Caps(50_000, 7 * DAY_MS, 500_000),
        "m": 3,
        "t": 1,
        "tail": AsTheyAre(),
        "expires_ms": 2_000_000_000_000,
    }
    wide = Caps(1_000_000, 7 * DAY_MS, 1 << 53)
    edges = (-5, 0, 10, 1000)
    others: list[dict[str, Any]] = [
        {"task_id": "threshold", "tail": Threshold(5), "m": 5, "t": 2},
        {
            "task_id": "top", "kind": Multihot(FIELD61, 6, 3, ()), "kappa": 1, "tail": Top(2),
            "noise": Law(Mechanism.LAPLACE, 30_500), "caps": wide, "m": 4,
            "reports_max": (1 << 32) - 1,
        },
        {
            "task_id": "quantile", "kind": Quantile(FIELD31, edges),
            "tail": AtQuantiles((250_000, 500_000, 750_000)), "kappa": 4,
        },
        {
            "task_id": "welch", "kind": Experiment(FIELD61, 3, ("a", "b", "c"), -10, 100),
            "kappa": 2, "tail": Welch(50_000), "noise": Law(Mechanism.GAUSSIAN, 90_000_000),
            "caps": wide,
        },
        {
            "task_id": "mean", "kind": Mean(FIELD31, 1, 5, True), "k_min": 2,
            "noise": Law(Mechanism.GAUSSIAN, 200_000), "caps": wide,
        },
    ]  # fmt: skip
    return [Task(**plain), *(Task(**plain | other) for other in others)]


def published(task: Task, seed: bytes = PUBLISHER_SEED) -> bytes:
    """The task with its publisher's signature."""
    return task.sign(PublisherKey(seed))


def task_row(task: Task) -> Row:
    """A task with what follows from it."""
    return {
        "fields": canonical.decode(task.encoded),
        "task": task.encoded.hex(),
        "spec_hash": task.spec_hash.hex(),
        "publisher_seed": PUBLISHER_SEED.hex(),
        "publisher_pk": PublisherKey(PUBLISHER_SEED).public.hex(),
        "published": published(task).hex(),
        "length": task.kind.length,
        "outputs": task.kind.d,
        "cost_micro_rho": task.cost_micro_rho,
    }


# Rounds


@dataclass(frozen=True)
class RoundOf:
    """A round of a task with all secret keys."""

    at: int
    """The task's place in the file."""
    task: Task
    seeds: tuple[bytes, ...]
    box_keys: tuple[bytes, ...]
    manifest: Manifest

    @classmethod
    def make(cls, at: int, task: Task, **other: Any) -> RoundOf:
        """A round, or one that differs."""
        names = [f"round/{at}/{party}" for party in range(1, task.m + 1)]
        seeds = tuple(seeded(f"{name}/ik") for name in names)
        box_keys = tuple(seeded(f"{name}/bk") for name in names)
        fields: dict[str, Any] = {
            "round_id": seeded(f"round/{at}", 16),
            "spec_hash": task.spec_hash,
            "t": task.t,
            "open_ms": START_MS,
            "close_ms": START_MS + task.window_ms,
            "k_min": task.k_min,
            "parties": tuple(
                Party(PartyKey(seed).public, box_public(key))
                for seed, key in zip(seeds, box_keys, strict=True)
            ),
            **other,
        }
        return cls(at, task, seeds, box_keys, Manifest(**fields))

    @property
    def shape(self) -> Shape:
        """What contributions to it are like."""
        return self.manifest.shape(self.task)

    def sign(self, party: int, label: bytes, said: bytes) -> bytes:
        """A party's signature."""
        return PartyKey(self.seeds[party - 1]).sign(label, said)

    @property
    def sigs(self) -> list[bytes]:
        """All parties' signatures of the manifest."""
        m = self.manifest
        return [self.sign(at, labels.ROUND_SIG, m.encoded) for at in range(1, m.m + 1)]

    @property
    def row(self) -> Row:
        """With what follows from it."""
        m = self.manifest
        return {
            "of_task": self.at,
            "round_id": m.round_id.hex(),
            "open_ms": m.open_ms,
            "close_ms": m.close_ms,
            "k_min": m.k_min,
            "parties": [
                {
                    "ik_seed": seed.hex(),
                    "ik_pk": party.ik_pk.hex(),
                    "box_sk": key.hex(),
                    "box_pk": party.box_pk.hex(),
                }
                for seed, key, party in zip(self.seeds, self.box_keys, m.parties, strict=True)
            ],
            "manifest": m.encoded.hex(),
            "round_digest": m.digest.hex(),
            "published": m.signed(self.sigs).hex(),
        }


def rounds() -> list[RoundOf]:
    """One of each task."""
    return [RoundOf.make(at, task) for at, task in enumerate(tasks())]


# Contributions


VALUES: list[Any] = [1, 0, [4, 1], 9, [1, 45], 4]
"""A value for each task."""


def sealed_again(name: str, public: bytes, plain: bytes) -> tuple[bytes, bytes]:
    """(ephemeral key, box): the same in each run."""
    esk = seeded(f"esk/{name}")
    return esk, seal_with(esk, public, plain)


def _contributions() -> Iterator[Row]:
    for round_, value in zip(rounds(), VALUES, strict=True):
        for rotation in range(2):
            yield contribution_row(round_, value, f"contribution/{round_.at}/{rotation}")


def contribution_row(round_: RoundOf, value: Any, name: str) -> Row:
    """One contribution with everything that it is made of."""
    shape, kind = round_.shape, round_.task.kind
    key, report_id = seeded(f"{name}/agg"), ReportId(seeded(f"{name}/id", 16))
    seeds = [seeded(f"{name}/seed/{at}") for at in range(shape.t)]
    mine = contribution.nullifier(key, shape.round_digest)
    raw = encode_header(shape.m, shape.round_digest, report_id, mine)
    header, vector = parse_header(raw), kind.encode(value)
    offset = int.from_bytes(report_id, "big") % shape.m
    shares = split(kind.field, vector, shape.m, shape.t, given(*seeds), offset)
    plains = [encode_share(shape, header, share) for share in shares]
    boxes = [
        sealed_again(f"{name}/{at}", party.box_pk, plain)
        for at, (party, plain) in enumerate(zip(round_.manifest.parties, plains, strict=True), 1)
    ]
    return {
        "of_round": round_.at,
        "value": value,
        "aggregation_key": key.hex(),
        "nullifier": mine.hex(),
        "report_id": report_id.hex(),
        "seeds": [seed.hex() for seed in seeds],
        "seeded": [share.party for share in shares if share.form == SEED],
        "header": raw.hex(),
        "report_hash": header.hash.hex(),
        "shares": [plain.hex() for plain in plains],
        "esks": [esk.hex() for esk, _ in boxes],
        "boxes": [box.hex() for _, box in boxes],
        "upload_bytes": len(raw) + sum(len(box) for _, box in boxes),
    }


# Results


OPENED: list[list[int]] = [
    [61, 40, -3],
    [400, 4, 5],
    [70, 70, 1, -2, 68, 900],
    [10, 3000, 2000],
    [
        12_100_000, 6_050_000, 9_075_000,
        11_495_000, 6_600_000, 9_982_500,
        12_705_000, 5_500_000, 8_712_000,
    ],
    [-310, 450],
]  # fmt: skip
"""Noised sums of each task's round."""


def counted(task: Task, reports: int = 5_010) -> Counted:
    """Some reports, some dropped, some refused before."""
    refused = tuple({"open": at, "range": 1} if at else {} for at in range(task.m))
    return Counted(reports, 7, 3, refused)


def _results() -> Iterator[Row]:
    for round_, sums in zip(rounds(), OPENED, strict=True):
        yield result_row(round_, sums, range(1, round_.task.m + 1), checked=True)
    first = rounds()[0]
    yield result_row(first, [0, -1, 2], (1, 3), checked=False)
    undecided = rounds()[3]
    yield result_row(undecided, [3, -2, 1], (1, 2, 3), checked=True)


def result_row(
    round_: RoundOf, sums: Sequence[int], present: Sequence[int], *, checked: bool
) -> Row:
    """A result that the present parties signed."""
    counts = counted(round_.task)
    made = results.make(round_.task, sums, counts, noise_of=present, checked=checked)
    data = made.encode(round_.task)
    digest = round_.manifest.digest
    return {
        "of_round": round_.at,
        "sums": list(sums),
        "reports": counts.reports,
        "inconsistent": counts.inconsistent,
        "invalid": counts.invalid,
        "refused": [dict(one) for one in counts.refused],
        "noise_of": list(present),
        "checked": checked,
        "fields": canonical.decode(data),
        "result": data.hex(),
        "sigs": {
            str(party): round_.sign(party, labels.RESULT, digest + data).hex() for party in present
        },
    }
