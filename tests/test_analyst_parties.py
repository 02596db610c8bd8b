"""A task from its file to its result: `rookery task`, three real parties, a real relay."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mpc import manifest as manifests, task as tasks
from rookery.v1 import rounds_pb2
from tests.analyst_worlds import Desktop, task_file
from tests.party_process import PUBLISHER, Parties, contribute, contribution
from tests.served import Service, serving
from tests.worlds import World

VALUES = [0, 1, 1, 2, 2, 2]


@pytest.mark.timeout(110)
async def test_what_devices_say_is_read_with_its_noise(tmp_path: Path) -> None:
    """Published, opened at three parties, contributed to, computed, verified and shown."""
    folder = tmp_path / "relay"
    folder.mkdir()
    async with serving(folder, publishers=(PUBLISHER.ik_pk.hex(),)) as service:
        parties = Parties(tmp_path, service)
        try:
            parties.start()
            desktop = Desktop.of(tmp_path, service, PUBLISHER.ik_seed)
            await desktop.run("publish", task_file(tmp_path, window_ms='"8s"'))
            options = [
                part
                for one in parties.all
                for part in ("--party", f"{one.address}={one.ik.hex()}")
            ]  # fmt: skip
            opened = (await desktop.run("collect", "cuisine", *options, "--json")).json
            await _contributed(service, bytes.fromhex(opened["round_id"]))
            shown = await desktop.run("result", opened["round_id"], "--wait", "--json")
        finally:
            parties.end()
    data = shown.json
    assert (data["reports"], data["valid"]) == (6, 6)
    assert data["signed_by"] in ([1, 2], [1, 3], [2, 3], [1, 2, 3])
    for row, truth in zip(data["estimates"], (1, 2, 3), strict=True):
        assert abs(row["value"] - truth) < 8 * row["sigma"]
    assert data["parties"] == [one.ik.hex() for one in parties.all]


async def _contributed(service: Service, round_id: bytes) -> None:
    """One report each of six people."""
    worlds = [World.create(f"person {number}") for number in range(len(VALUES))]
    await asyncio.gather(*(service.create(world) for world in worlds))
    answer = rounds_pb2.GetRoundResponse.FromString(
        await service.signed(
            worlds[0],
            "/rookery.v1.Rounds/GetRound",
            rounds_pb2.GetRoundRequest(round_id=round_id).SerializeToString(),
        )
    )
    made, manifest = tasks.decode(answer.task.task), manifests.parse(answer.manifest)
    for number, (world, value) in enumerate(zip(worlds, VALUES, strict=True)):
        report = contribution(made, manifest, made.kind.encode(value), number)
        await contribute(service, world, report)
