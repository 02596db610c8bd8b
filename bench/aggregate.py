"""`python -m bench.aggregate`: what a joint aggregate costs, each figure beside its floor.

Contributions are made ahead. Floors and ours take turns in the same run, and each figure is
the best of its turns: the others were disturbed. `--json` prints one object.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nacl.bindings as sodium
import numpy as np

from bench import joint, processes
from bench.party import PARTY, fill, party
from bench.report import Part, Report, run
from bench.rounds import Box, World, devices, task_of
from crypto.contribution import Contribution
from mpc import batch
from mpc.batch import Challenge
from rookery.v1 import rounds_pb2

BINS = (16, 64, 256, 1024)
PROTOTYPE_PER_S = {16: 24_000, 256: 22_000, 1024: 16_600}
"""Ingest, check and sum in memory, as measured before this was built, on another machine."""
BARE_BINS_MAX = 256
"""Up to here, half of bare opening is to be reached."""
UPLOAD_BYTES = {16: 530, 64: 914, 1024: 8_594}


class Turns:
    """What each thing took that takes turns: seconds, and seconds of CPU, which neighbours and
    disks disturb less."""

    def __init__(self) -> None:
        self._taken: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def take(self, name: str, action: Callable[[], object]) -> None:
        """One turn."""
        wall, cpu = time.perf_counter(), time.process_time()
        action()
        taken = time.perf_counter() - wall, time.process_time() - cpu
        self._taken[name].append(taken)

    def best(self, *names: str) -> float:
        """Seconds of these together, of each the turn that was disturbed least."""
        return sum(min(wall for wall, _ in self._taken[name]) for name in names)

    def best_cpu(self, *names: str) -> float:
        """The same of CPU."""
        return sum(min(cpu for _, cpu in self._taken[name]) for name in names)

    def total(self, *names: str) -> float:
        """Seconds of all turns of these."""
        return sum(wall for name in names for wall, _ in self._taken[name])

    def total_cpu(self, *names: str) -> float:
        """The same of CPU."""
        return sum(cpu for name in names for _, cpu in self._taken[name])

    def row(self, report: Report, name: str, count: int, *parts: str) -> float:
        """A row of so many reports in these parts, beside bare opening; the ratio."""
        ratio = self.best("bare") / self.best(*parts)
        report.row(
            name,
            reports_per_s=count / self.best(*parts),
            of_bare=ratio,
            of_bare_cpu=self.best_cpu("bare") / self.best_cpu(*parts),
            bare_per_s=count / self.best("bare"),
            **{f"{part}_us": self.best(part) / count * 1e6 for part in parts},
        )
        return ratio


def bare_open(world: World, boxes: list[Box]) -> None:
    """The floor: `crypto_box_seal_open` on the same boxes and nothing else."""
    secret, public = world.box_keys[PARTY - 1], world.box(PARTY).public
    for _, sealed in boxes:
        sodium.crypto_box_seal_open(sealed, public, secret)


class InMemory:
    """One party's own work over some boxes, with nothing kept: open, check, add."""

    def __init__(self, world: World, boxes: list[Box]) -> None:
        self._world, self._boxes = world, boxes
        self._box, self._shape = world.box(PARTY), world.shape
        kind = world.task.kind
        self._challenge = Challenge.of(
            kind.field,
            bytes(32),
            length=kind.length,
            equations=kind.equations,
            kappa=world.task.kappa,
        )

    def open(self) -> None:
        """Boxes to rows."""
        self._rows = batch.open_boxes(self._box, self._shape, self._boxes).rows

    def check(self) -> None:
        """D and Q of each report."""
        self._challenge.check(self._rows)

    def add(self) -> None:
        """The sum of all rows."""
        every = np.ones(len(self._rows), np.bool_)
        nothing = np.zeros(self._shape.length, np.uint64)
        batch.add_valid(self._shape.field, nothing, self._rows, every)


def ingest(report: Report) -> None:
    """One party's opening, checking and adding up, beside bare opening of the same boxes: with
    nothing kept, and as the daemon does it, with all of it kept."""
    count, rounds = (1_000, 2) if report.quick else (4_096, 7)
    with devices() as making:
        for bins in BINS:
            world, turns = World.make(task_of(bins)), Turns()
            boxes = making.boxes(world, PARTY, count)
            work = InMemory(world, boxes)
            for _ in range(rounds):
                turns.take("bare", partial(bare_open, world, boxes))
                turns.take("open", work.open)
                turns.take("check", work.check)
                turns.take("add", work.add)
                with tempfile.TemporaryDirectory() as folder, party(world, Path(folder)) as own:
                    turns.take("take", partial(own.take, boxes))
                    turns.take("verify", own.verify)
                    turns.take("sum", own.add)
            turns.row(report, f"in memory, d = {bins}", count, "open", "check", "add")
            ratio = turns.row(report, f"kept, d = {bins}", count, "take", "verify", "sum")
            if bins <= BARE_BINS_MAX:
                report.goal(f"kept, of bare opening, d = {bins}", ratio, 0.5)
            if bins in PROTOTYPE_PER_S:
                per_s, wanted = count / turns.best("take", "verify", "sum"), PROTOTYPE_PER_S[bins]
                report.goal(f"kept, reports/s, d = {bins}", per_s, wanted / 2)


def client(report: Report) -> None:
    """What a device does for one report, beside three bare `crypto_box_seal` of its sizes."""
    count = 200 if report.quick else 1_000
    for bins in BINS:
        world, turns = World.make(task_of(bins)), Turns()
        keys = world.manifest.box_keys()
        plains = [bytes(len(box) - sodium.crypto_box_SEALBYTES) for box in world.vote(0).boxes]

        def bare() -> None:
            for _ in range(count):
                for key, plain in zip(keys, plains, strict=True):  # noqa: B023 - called here
                    sodium.crypto_box_seal(plain, key)

        def ours() -> None:
            for at in range(count):
                world.vote(at % bins)  # noqa: B023 - called here

        for _ in range(2 if report.quick else 5):
            turns.take("bare", bare)
            turns.take("ours", ours)
        took_ms = turns.best("ours") / count * 1e3
        report.row(
            f"client, d = {bins}",
            ms=took_ms,
            bare_ms=turns.best("bare") / count * 1e3,
            of_bare=turns.best("bare") / turns.best("ours"),
        )
        if bins == 1024:
            report.goal("client at d = 1024, ms", took_ms, 0.5, at_most=True)


def growth(report: Report) -> None:
    """What a report costs one party as there are more of them, and as they get longer: in CPU,
    and in the time that it takes with its disk."""
    sizes = (1_000, 10_000) if report.quick else (1_000, 10_000, 100_000)
    with devices() as making:
        for bins in BINS:
            for count in sizes:
                world, turns = World.make(task_of(bins)), Turns()
                with tempfile.TemporaryDirectory() as folder, party(world, Path(folder)) as own:
                    for boxes in fill(world, making, count):
                        turns.take("take", partial(own.take, boxes))
                    turns.take("verify", own.verify)
                    turns.take("sum", own.add)
                steps = ("take", "verify", "sum")
                report.row(
                    f"growth, d = {bins}, n = {count:,}",
                    us_a_report=turns.total(*steps) / count * 1e6,
                    cpu_us=turns.total_cpu(*steps) / count * 1e6,
                    **{f"{step}_cpu_us": turns.total_cpu(step) / count * 1e6 for step in steps},
                )


def memory(report: Report) -> None:
    """The largest resident set of a party over a round, in a process of its own."""
    count = 10_000 if report.quick else 100_000
    with processes.Child([sys.executable, "-m", "bench.party", "256", str(count)]) as child:
        peak_gib = child.ready["peak_bytes"] / (1 << 30)
    report.row(f"memory, d = 256, n = {count:,}", peak_gib=peak_gib)
    report.goal("memory of a party, GiB", peak_gib, 2.0, at_most=True)


async def round_(report: Report) -> None:
    """10,000 reports of 64 bins, three parties and a relay: from the close to the result.

    The parties look for boxes after the close only, so that all of their work is timed.
    """
    count, window_s = (1_000, 15) if report.quick else (10_000, 60)
    task = task_of(64, window_ms=window_s * 1_000)
    with devices() as making, tempfile.TemporaryDirectory() as folder:
        took = await joint.whole(Path(folder), making, task, count, ROOKERY_PARTY_POLL_S="86400")
    report.row(
        f"round, d = 64, n = {count:,}",
        close_to_result_s=took.close_to_result_s,
        contributions_per_s=count / took.load_s,
        party_cpu_s=took.cpu_s / 3,
        party_peak_mib=took.peak_bytes / (1 << 20),
        job_peak_mib=took.job_peak_bytes / (1 << 20),
        error_max=took.error_max,
        **{f"{state.lower()}_s": at_s for state, at_s in took.states_s.items()},
    )
    report.goal("round of 10,000 reports, s", took.close_to_result_s, 10.0, at_most=True)


def _request_bytes(world: World, made: Contribution) -> int:
    request = rounds_pb2.ContributeRequest(
        round_id=world.manifest.round_id, header=made.header, boxes=made.boxes
    )
    return request.ByteSize()


def upload(report: Report) -> None:
    """Bytes of an upload, as the formats give them, and with what the call adds."""
    for bins, stated in UPLOAD_BYTES.items():
        world = World.make(task_of(bins))
        made = world.vote(0)
        report.row(
            f"upload, d = {bins}",
            bytes=made.upload_bytes,
            request_bytes=_request_bytes(world, made),
        )
        if made.upload_bytes != stated:
            raise RuntimeError(f"an upload of {bins} bins has {made.upload_bytes} bytes")


PARTS: dict[str, Part] = {
    "ingest": ingest,
    "client": client,
    "upload": upload,
    "growth": growth,
    "memory": memory,
    "round": round_,
}

if __name__ == "__main__":
    sys.exit(run("python -m bench.aggregate", __doc__, PARTS, None))
