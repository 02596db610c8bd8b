"""Everything that a device can do, once, with marked names and values.

Three people: one with two devices, a paper and a phone that sleeps, and two more, so that a
joint aggregate has company. The first one's account is deleted in the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from client.analyst.panel import PinnedParty
from client.canary import policy, rounds
from client.canary.rounds import Publishing
from client.canary.telling import Overheard, Teller
from client.consent import exporting
from client.device import Device
from client.endpoint import Endpoint
from client.errors import ClientError
from client.measure.participant import Outcome, Participant
from client.measure.values import Measures
from client.operator.calls import Operations
from client.pairflow import Admission, Invitation
from client.policykit.bundlefile import BundleFile
from client.policykit.publish import publish
from client.recoverflow import recover
from client.remoteerrors import RemoteError
from client.sync import SyncedDevice
from client.tracing import Tracing
from client.transport import Signer, Transport
from client.vault import MemoryVault
from client.wake import Waking
from client.watch import Watch
from crypto import recovery
from crypto.wake import Platform, PushToken
from mpc.keys import PublisherKey
from mpc.manifest import Manifest

UPDATE: Final = (1, -2, 3, 0)
T = TypeVar("T")


@dataclass(slots=True)
class Scenario:
    """One run. `told`: addresses and keys, as the stage has them."""

    told: dict[str, Any]
    teller: Teller = field(default_factory=Teller)
    open: list[SyncedDevice] = field(default_factory=list)
    tracing: Tracing = field(init=False)

    def __post_init__(self) -> None:
        self.tracing = Tracing(self.told["traces"])

    async def run(self) -> None:
        """The whole story."""
        await self._publish_policy()
        paper = secrets.token_bytes(20)
        self._hide_paper(paper)
        laptop = await self._enrol(paper)
        phone = await self._pair(laptop)
        others = [await self._enrol(None, own=False) for _ in range(2)]
        await self._agree(laptop, phone, *others)
        self._record(laptop, phone, *others)
        await self._sleep_and_wake(phone, laptop)
        await self._measure(laptop, *others)
        await self._tell_all("met")
        await self._lose(laptop, phone)
        back = await self._recover(laptop, paper)
        await self._change_mind(laptop, back)
        await self._look_as_operator()
        await self._tell_all("lived")
        await laptop.remote.delete_account(Signer(laptop.core.identity, laptop.core.account_id))
        await self.teller.moment("deleted")
        for one in self.open:
            await one.close()
        await asyncio.to_thread(self.tracing.close)

    # -- who is there -------------------------------------------------------------------

    @property
    def _endpoint(self) -> Endpoint:
        told = self.told
        return Endpoint.parse(told["service"], told["audience"], told["server_key"])

    @property
    def _policy_key(self) -> PublisherKey:
        return PublisherKey(bytes.fromhex(self.told["policy"]))

    @property
    def _publishing(self) -> Publishing:
        parties = tuple(
            PinnedParty(bytes.fromhex(one["key"]), one["address"]) for one in self.told["parties"]
        )
        key = PublisherKey(bytes.fromhex(self.told["publisher"]))
        return Publishing(self._endpoint, key, parties)

    def _way(self, *, own: bool) -> Overheard:
        return Overheard(self.teller, self._endpoint, own=own, tracing=self.tracing)

    def _adopt(self, core: Device, transport: Transport) -> SyncedDevice:
        synced = SyncedDevice(core, MemoryVault(), transport)
        synced.pin_policy(self._policy_key.public)
        self.open.append(synced)
        return synced

    def _tell(self, synced: SyncedDevice) -> None:
        own = synced.core.account_id == self.open[0].core.account_id
        self.teller.device(synced.core, own=own)
        for one in synced.ledger.records.chain():
            self.teller.mark("receipt", one.receipt.blind)

    async def _tell_all(self, moment: str) -> None:
        for one in self.open:
            self._tell(one)
        await self.teller.moment(moment)

    def _hide_paper(self, paper: bytes) -> None:
        written = recovery.to_paper(paper)
        self.teller.mark("secret key", paper, written.encode(), written.replace("-", "").encode())
        self.teller.identity(recovery.identity(paper), own=True)

    async def _publish_policy(self) -> None:
        operator = PublisherKey(bytes.fromhex(self.told["operator"]))
        bundle = policy.bundle(now_ms=time.time_ns() // 1_000_000, operator=operator.public)
        file = BundleFile.signed(bundle, self._policy_key)
        await publish(Transport(self._endpoint), self._policy_key, file)

    async def _enrol(self, paper: bytes | None, *, own: bool = True) -> SyncedDevice:
        transport = self._way(own=own)
        core = Device.create(
            recovery_secret=paper, now_ms=transport.clock.wall_ms(), rand=secrets.token_bytes
        )
        synced = self._adopt(core, transport)
        with self.tracing.whole("device:sync"):
            await synced.sync_once()
        return synced

    async def _pair(self, existing: SyncedDevice) -> SyncedDevice:
        transport = self._way(own=True)
        invitation = Invitation(existing)
        await invitation.show()
        admission = Admission(transport, invitation.invite)
        made: list[SyncedDevice] = []
        digits, _ = await asyncio.gather(
            admission.ask(lambda core: made.append(self._adopt(core, transport))),
            invitation.wait_for_reader(),
        )
        await invitation.enter(digits)
        await admission.wait()
        await made[0].sync_once()
        return made[0]

    # -- what they do -------------------------------------------------------------------

    async def _agree(self, *devices: SyncedDevice) -> None:
        for synced in devices:
            await synced.sync_once()
            for purpose in (policy.ADVICE, policy.COUNTING, policy.LEARNING):
                await synced.consenting.grant(purpose)

    def _record(self, *devices: SyncedDevice) -> None:
        """Every kind of signal, with names and values of its own on each device."""
        word = self.teller.word
        for at, synced in enumerate(devices):
            note, draft, remark = word("name"), word("name"), word("name")
            said, kept, told = word("value"), word("value"), word("value")
            liked, saved = word("name"), word("value")
            cuisine = policy.CUISINES[at % len(policy.CUISINES)]

            def change(
                core: Device,
                now_ms: int,
                settings: Any = (
                    ("notes", note, said), ("drafts", draft, kept), ("remarks", remark, told),
                    ("food", "cuisine", cuisine),
                ),
                liked: str = liked,
                saved: str = saved,
            ) -> None:  # fmt: skip
                for collection, key, value in settings:
                    core.put(collection, key, value, now_ms=now_ms)
                core.add_score("liked", liked, 1.5, now_ms=now_ms)
                core.add_member("saved", saved, now_ms=now_ms)

            synced.edit(change)

    async def _sleep_and_wake(self, phone: SyncedDevice, laptop: SyncedDevice) -> None:
        token = secrets.token_hex(24)
        self.teller.mark("push token", token.encode(), bytes.fromhex(token))
        await phone.sync_once()
        await Waking(phone).register(
            bytes.fromhex(self.told["gateway_key"]), PushToken(Platform.LOOPBACK, token.encode())
        )
        await laptop.sync_once()
        live = asyncio.Event()
        async with watching(Watch(phone, on_live=lambda _: live.set())):
            await live.wait()
            key, value = self.teller.word("name"), self.teller.word("value")
            laptop.edit(lambda core, now_ms: core.put("notes", key, value, now_ms=now_ms))
            await laptop.sync_once()
            await until(lambda: phone.core.get("notes", key) == value)

    async def _measure(self, *devices: SyncedDevice) -> None:
        """A histogram and a step of a federated model with results, and a round that is still
        open when the account goes."""
        publishing, title = self._publishing, self.teller.word
        tasks = [
            rounds.favourites(policy.FAVOURITE, title("task")),
            rounds.learning(title("task")),
            rounds.favourites(policy.LATER, title("task"), window_ms=rounds.LONG_MS),
        ]
        manifests = await asyncio.gather(*(publishing.open(one) for one in tasks))
        for task, manifest in zip(tasks, manifests, strict=True):
            self.teller.mark("task", task.spec_hash)
            self._tell_round(manifest)
        await asyncio.gather(*(self._contribute(one, len(tasks)) for one in devices))
        await publishing.results(manifests[:2])

    def _tell_round(self, manifest: Manifest) -> None:
        self.teller.mark("round id", manifest.round_id)
        for party in manifest.parties:
            self.teller.mark("round key", party.box_pk)

    async def _contribute(self, synced: SyncedDevice, count: int) -> None:
        measures = Measures()
        measures.register(policy.LEARN, lambda task, device, *, now_ms: list(UPDATE))
        measures.register(
            policy.LATER, lambda task, device, *, now_ms: device.get("food", "cuisine")
        )
        participant = Participant(synced, measures=measures)
        participant.core.set_policy(self._publishing.trusted)
        participant.save()
        said = await participant.contribute_once()
        done = [one for one in said if one.outcome is Outcome.CONTRIBUTED]
        if len(done) != count:
            raise ClientError(f"contributed to {len(done)} rounds of {count}: {said}")

    async def _lose(self, laptop: SyncedDevice, phone: SyncedDevice) -> None:
        """Revoked, with a new epoch; what it still tries is refused."""
        laptop.edit(lambda core, _: core.rotate([phone.core.identity.device_id]))
        await laptop.sync_once()
        with contextlib.suppress(RemoteError, ClientError):
            await phone.sync_once()

    async def _recover(self, laptop: SyncedDevice, paper: bytes) -> SyncedDevice:
        transport = self._way(own=True)
        made: list[Device] = []
        await recover(transport, paper, laptop.core.account_id, made.append)
        synced = self._adopt(made[-1], transport)
        await synced.sync_once()
        await laptop.sync_once()
        await synced.sync_once()
        return synced

    async def _change_mind(self, laptop: SyncedDevice, back: SyncedDevice) -> None:
        """A withdrawal, a pause, a reset that is undone, a whole look at the profile."""
        await laptop.consenting.withdraw(policy.COUNTING)
        laptop.consenting.pause(True)
        await laptop.sync_once()
        laptop.consenting.pause(False)
        laptop.consenting.reset()
        await laptop.sync_once()
        await back.sync_once()
        laptop.consenting.undo()
        await laptop.sync_once()
        await back.sync_once()
        if not exporting.export(laptop, Participant(laptop).core)["settings"]:
            raise ClientError("nothing came back")

    async def _look_as_operator(self) -> None:
        key = PublisherKey(bytes.fromhex(self.told["operator"]))
        office = Operations(Transport(self._endpoint), Signer(key))
        await office.health()
        await office.exposure()
        await office.audit()
        await office.overview()


@contextlib.asynccontextmanager
async def watching(watch: Watch) -> Any:
    """A device that listens, for the time of the block."""
    task = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    """Of what a stream brings."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - a device tells nobody
            await asyncio.sleep(0.02)
