"""A shared model on this device, for the commands that are given its file."""

from __future__ import annotations

import secrets
from pathlib import Path

from client.cli.output import Output
from client.intelligence import model_file
from client.intelligence.federated_device import Learner, follow
from client.measure.participant import Participant
from client.remoteerrors import RemoteError


async def learner(
    path: Path, participant: Participant, out: Output, *, offline: bool = False
) -> Learner:
    """The model of a file, as new as results make it, or as it was stored if the service can't be
    asked; what it does not follow is said. UserError."""
    rows = participant.synced.vault.load()
    made = Learner(model_file.read(path).spec, rows, rand=secrets.token_bytes)
    made.register(participant.measures)
    if offline:
        return made
    try:
        caught = await follow(made, participant)
    except RemoteError as error:
        out.note(f"rookery: the model's newest results were not asked for: {error}")
        return made
    for task_id, why in caught.refused:
        out.note(f"rookery: {task_id}: not taken: {why}")
    if caught.behind:
        out.note(
            f"rookery: the model here has {caught.step} steps, and its newest is out of reach: an"
            " update of the app brings one that devices can go on from"
        )
    return made
