"""`rookery task model`: rounds that train a shared model, and how good it is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from client.analyst.collect import AskedParty
from client.analyst.errors import PartiesFailed
from client.analyst.panel import PinnedParty
from client.analyst.publisher import explained
from client.analyst.times import show_instant
from client.cli import taskcollect, tasksession
from client.cli.output import FAILED, OK, UNREACHABLE, Output, table
from client.cli.tasksession import READERS, Line
from client.errors import UserError
from client.intelligence import model_file
from client.intelligence.federated import Part
from client.intelligence.federated_publisher import Judged, ModelPublisher
from client.intelligence.model import Model
from client.intelligence.model_file import ModelFile
from client.intelligence.quantise import Int8Model
from client.measure.policy import Panel, Policy
from crypto.errors import CryptoError

_HEAD = ("", "model", "judges", "AUC", "log loss", "by share alone")


async def model(arguments: argparse.Namespace, out: Output) -> int:
    """Shows a model, opens a round about it, or keeps it as a checkpoint."""
    file = model_file.read(arguments.file)
    pinned = tasksession.panel(arguments).parties
    if not pinned:
        raise UserError(
            "--party HOST:PORT=KEY for each party, or --panel, says whose results count"
        )
    checkpoint = None if arguments.checkpoint is None else _bytes_of(arguments.checkpoint)
    async with tasksession.opened(arguments) as line:
        try:
            if arguments.what in tuple(_PARTS):
                taskcollect.check_addresses(pinned)
                async with taskcollect.lines(arguments, line, pinned) as asked:
                    publisher = _publisher(file, line, pinned, asked)
                    return await _open(arguments, out, file, line, publisher, checkpoint)
            publisher = _publisher(file, line, pinned, ())
            newest = await explained(publisher.newest(checkpoint), line.key.public, READERS)
            if arguments.what == "checkpoint":
                return _keep(arguments.out, out, newest)
            _show(out, newest, await publisher.judged())
        except CryptoError as error:
            raise UserError(error.message) from None
    return OK


_PARTS = {"train": Part.TRAIN, "judge": Part.JUDGE}


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror})") from None


def _publisher(
    file: ModelFile, line: Line, pinned: Sequence[PinnedParty], asked: Sequence[AskedParty]
) -> ModelPublisher:
    panel = Panel(tuple(one.key for one in pinned), file.t)
    policy = Policy().with_publisher(line.key.public).with_panel(panel)
    return ModelPublisher(file.spec, line.publisher, asked, line.rounds, policy)


async def _open(
    arguments: argparse.Namespace,
    out: Output,
    file: ModelFile,
    line: Line,
    publisher: ModelPublisher,
    checkpoint: bytes | None,
) -> int:
    newest = await explained(publisher.newest(checkpoint), line.key.public, READERS)
    now_ms = line.transport.server_ms()
    part = _PARTS[arguments.what]
    try:
        opened = await publisher.open(
            part, file.terms(now_ms=now_ms), now_ms=now_ms, model=newest
        )  # fmt: skip
    except PartiesFailed as error:
        out.failure("PARTIES", str(error))
        return UNREACHABLE if error.transient else FAILED
    task, manifest = opened.task, opened.manifest
    out.result(
        {
            "task": task.task_id,
            "round_id": manifest.round_id.hex(),
            "close_ms": manifest.close_ms,
            "micro_rho": task.cost_micro_rho,
            **_named(newest),
        },
        f"Round {manifest.round_id.hex()} of {task.task_id} collects until"
        f" {show_instant(manifest.close_ms)}, about step {newest.step} of the model. Devices that"
        " follow it answer by themselves.",
    )
    return OK


def _named(newest: Model) -> dict[str, object]:
    return {"step": newest.step, "model": newest.hash.hex()}


def _keep(path: Path | None, out: Output, newest: Model) -> int:
    if path is None:
        raise UserError("--out FILE says where the checkpoint goes")
    try:
        with path.open("xb") as file:
            file.write(newest.encoded)
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror})") from None
    size = len(newest.encoded)
    out.result(
        {**_named(newest), "bytes": size, "file": str(path)},
        f"{path} holds step {newest.step} of the model, {size:,} bytes. Devices take it once a"
        " task about it is published: `rookery task model FILE judge` or `train`.",
    )
    return OK


def _show(out: Output, newest: Model, judged: Sequence[Judged]) -> None:
    small = len(Int8Model.of(newest).encoded)
    data = {
        **_named(newest),
        "parameters": newest.spec.size,
        "int8_bytes": small,
        "judged": [one.data() for one in judged],
    }
    text = (
        f"{newest.spec.title}: step {newest.step}, {newest.spec.size:,} parameters, {small:,}"
        f" bytes in 8 bits.\nmodel {newest.hash.hex()}"
    )
    if judged:
        text += "\n\n" + table(_HEAD, [_row(one) for one in judged], right=frozenset({2, 3, 4, 5}))
    out.result(data, text)


def _row(one: Judged) -> tuple[str, ...]:
    quality = one.quality
    if quality is None:
        return one.task.task_id, one.model[:12], str(one.judges), "lost in noise", "", ""
    return (
        one.task.task_id,
        one.model[:12],
        str(one.judges),
        f"{quality.auc:.3f} ± {1.96 * quality.auc_sigma:.3f}",
        f"{quality.log_loss:.3f} ± {1.96 * quality.log_loss_sigma:.3f}",
        f"{quality.prior_log_loss:.3f}",
    )
