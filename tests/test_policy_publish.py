"""`rookery policy publish` against a real service: number after number, and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from client.endpoint import Endpoint
from client.policykit import bundlefile
from client.policykit.publish import publish
from client.transport import Transport
from crypto.policy import open_
from mpc.keys import PublisherKey
from tests.cli_process import Done
from tests.governed_service import Governed
from tests.policy_folders import Folder, Run, rookery, rookery_process
from tests.served import AUDIENCE, SECRETS, serving


async def run(*arguments: str | Path) -> Run:
    """`rookery policy`, beside the loop of this process."""
    return await asyncio.to_thread(rookery, *arguments)


@dataclass(frozen=True, slots=True)
class Office:
    """Who writes policies: a folder, a key, and a service that lists the key."""

    governed: Governed
    folder: Folder
    key: Path
    work: Path

    @property
    def public(self) -> bytes:
        """The key's public half."""
        return PublisherKey(bytes.fromhex(self.key.read_text())).public

    async def built(self, name: str, previous: Path | None = None, key: Path | None = None) -> Path:
        """The folder, compiled."""
        out = self.work / name
        after = () if previous is None else ("--previous", previous)
        done = await run("build", self.folder.path, *after, "--key", key or self.key, "-o", out)
        assert done.code == 0, done
        return out

    async def publish(self, file: Path, code: int = 0, key: Path | None = None) -> Done:
        """As a process of its own; the service lives in this one."""
        service = ("--server", self.governed.service.server.address, "--audience", AUDIENCE)
        server_key = SECRETS.server_key.public.hex()
        done = await asyncio.to_thread(
            rookery_process, "publish", file, "--key", key or self.key, *service,
            "--server-key", server_key, "--json",
        )  # fmt: skip
        assert done.code == code, done
        return Done(done.code, done.out, done.err)

    async def put(self, file: Path) -> None:
        """The same without a process."""
        endpoint = Endpoint.parse(
            self.governed.service.server.address, AUDIENCE, SECRETS.server_key.public.hex()
        )
        transport = Transport(endpoint)
        key = PublisherKey(bytes.fromhex(self.key.read_text()))
        try:
            await publish(transport, key, bundlefile.read(file))
        finally:
            await transport.close()

    async def in_force(self) -> tuple[int, bytes]:
        """Number and hash of what anybody is given."""
        answer = await self.governed.get()
        if not answer.HasField("policy"):
            return 0, b""
        shown = answer.policy
        bundle = open_(shown.bundle, shown.sig, self.public)
        return bundle.sequence, bundle.hash


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    """The shipped policy, to be published for the first time."""
    key = tmp_path / "policy.key"
    public = (await run("keygen", "--out", key, "--json")).json["public_key"]
    (tmp_path / "service").mkdir()
    folder = Folder.copied(tmp_path / "policy")
    async with serving(tmp_path / "service", policy_keys=(public,)) as service:
        yield Office(Governed(service), folder, key, tmp_path)


async def test_a_policy_is_published_and_is_the_one_in_force(office: Office) -> None:
    """Anybody gets it, signed; to publish it again is fine."""
    file = await office.built("1.policy")
    assert await office.in_force() == (0, b"")
    done = await office.publish(file)
    assert (done.json["published"], done.json["sequence"]) == (True, 1)
    assert await office.in_force() == (1, bundlefile.read(file).bundle.hash)
    await office.put(file)
    assert (await office.in_force())[0] == 1


async def test_going_back_is_the_earlier_values_under_a_new_number(office: Office) -> None:
    """What was narrowed is wider again: it is answered, and then published as the third."""
    first = await office.built("1.policy")
    await office.put(first)
    was = office.folder.text("signals")
    office.folder.edit("signals", "rating", retention_days=30)
    second = await office.built("2.policy", first)
    await office.put(second)
    office.folder.write("signals", was)
    refused = await run(
        "build", office.folder.path, "--previous", second, "--unsigned", "-o", office.work / "no"
    )
    assert refused.code == 7
    assert "longer-retention:rating:400" in refused.out
    office.folder.answer("longer-retention:rating:400")
    third = await office.built("3.policy", second)
    await office.put(third)
    now, then = bundlefile.read(third).bundle, bundlefile.read(first).bundle
    assert await office.in_force() == (3, now.hash)
    assert (now.signals, now.tasks, now.access) == (then.signals, then.tasks, then.access)
    assert (await office.publish(first, code=1)).json["error"] == "UserError"
    assert (await office.in_force())[0] == 3


async def test_a_kill_goes_out_without_any_answer(office: Office) -> None:
    """Stopping a use makes nothing wider."""
    first = await office.built("1.policy")
    await office.put(first)
    office.folder.edit("flags", "stop-learning", on=True)
    second = await office.built("2.policy", first)
    await office.put(second)
    assert bundlefile.read(second).bundle.killed("purpose", "learning")
    assert (await office.in_force())[0] == 2


async def test_two_who_publish_at_once_do_not_overwrite_each_other(office: Office) -> None:
    """The second hears which number is in force, and to build on it."""
    first = await office.built("1.policy")
    await office.put(first)
    office.folder.edit("flags", "stop-learning", on=True)
    mine = await office.built("mine.policy", first)
    office.folder.edit("flags", "stop-region", on=True)
    theirs = await office.built("theirs.policy", first)
    await office.put(theirs)
    refused = await office.publish(mine, code=1)
    assert "the newest policy there is number 2, and this one is number 2" in refused.err
    assert await office.in_force() == (2, bundlefile.read(theirs).bundle.hash)


async def test_a_key_that_the_service_does_not_list_learns_what_to_set(office: Office) -> None:
    """And a file is published by the key that signed it only."""
    other = office.work / "other.key"
    public = (await run("keygen", "--out", other, "--json")).json["public_key"]
    file = await office.built("other.policy", key=other)
    refused = await office.publish(file, code=1, key=other)
    assert f"its setting `policy_keys` must have {public}" in refused.err
    refused = await office.publish(file, code=1)
    assert "the file is not signed by this key" in refused.err
    unsigned = office.work / "unsigned.policy"
    assert (await run("build", office.folder.path, "--unsigned", "-o", unsigned)).code == 0
    assert "not signed by this key" in (await office.publish(unsigned, code=1)).err
    assert await office.in_force() == (0, b"")
