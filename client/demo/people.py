"""People of the demo: real devices, paired and synced through the real service."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from client import remoteerrors as reasons
from client.demo.ratings import Person
from client.device import Device
from client.endpoint import Endpoint
from client.errors import ClientError
from client.pairflow import Admission, Invitation
from client.remote import Remote
from client.remoteerrors import RemoteError
from client.steps import Push
from client.sync import SyncedDevice
from client.transport import Signer, Transport
from client.vault import MemoryVault
from client.watch import Watch

RATINGS = "rating"
ABOUT = "about"
REGION = "region"
TASTE = "taste"
RATED = "dishes-rated"
ROUNDS_MAX = 6


@dataclass(slots=True)
class Household:
    """One person's devices, and what their profile must come to."""

    person: Person
    devices: list[SyncedDevice]
    ops: int = 0
    converged: bool = False

    @property
    def first(self) -> SyncedDevice:
        """The device that made the account."""
        return self.devices[0]

    def agrees(self, devices: Iterable[SyncedDevice] | None = None) -> bool:
        """Whether each device shows every rating, the region, and a score to which all
        devices added at the same time."""
        return all(
            device.core.list(RATINGS) == self.person.ratings
            and device.core.get(ABOUT, REGION) == self.person.region
            and device.core.score(TASTE, RATED, now_ms=device.now_ms())
            == float(len(self.person.ratings))
            for device in (self.devices if devices is None else devices)
        )

    async def keep_one(self) -> None:
        """Lets go of all devices but the first."""
        while len(self.devices) > 1:
            await self.devices.pop().close()

    async def close(self) -> None:
        """Lets go of all devices."""
        for device in self.devices:
            await device.close()


@dataclass(slots=True)
class Town:
    """Makes households at one service."""

    endpoint: Endpoint
    seed: int
    policy: bytes | None = None
    """The key of the policy's publisher, which every device pins; None: none does."""
    purposes: tuple[str, ...] = ()
    """What every account says yes to."""
    on_op: Callable[[int], None] = field(default=lambda count: None)

    def transport(self) -> Transport:
        """A way to the service; connections to one address are shared underneath."""
        return Transport(self.endpoint)

    async def settle(self, person: Person) -> Household:
        """An account with two or three devices, each with its share of the ratings, entered
        while none of them could reach the service; then all sync."""
        rng = random.Random(f"{self.seed} {person.number}")  # noqa: S311 - who rates on what
        first = await self.enrol()
        household = Household(person, [first])
        for _ in range(rng.choice((1, 1, 2))):
            household.devices.append(await self.pair(first))
        self._enter(household, rng)
        for _ in range(ROUNDS_MAX):
            await asyncio.gather(*(device.sync_once() for device in household.devices))
            household.converged = household.agrees()
            if household.converged:
                break
        receipt = await first.remote.get_receipt()
        household.ops = sum(seq for _, seq, _ in receipt.heads)
        self.on_op(household.ops)
        return household

    async def enrol(self) -> SyncedDevice:
        """A new account and its first device, whose person has said yes to the purposes."""
        transport = self.transport()
        core = Device.create(
            recovery_secret=secrets.token_bytes(20),
            now_ms=transport.clock.wall_ms(),
            rand=secrets.token_bytes,
        )
        device = SyncedDevice(core, MemoryVault(), transport)
        self._govern(device)
        await device.sync_once()
        for purpose in self.purposes:
            await device.consenting.grant(purpose)
        return device

    def _govern(self, device: SyncedDevice) -> None:
        if self.policy is not None:
            device.pin_policy(self.policy)

    async def pair(self, existing: SyncedDevice) -> SyncedDevice:
        """One more device: the invitation, the six digits, the ADD link, the first pull."""
        transport = self.transport()
        invitation = Invitation(existing)
        admission = Admission(transport, invitation.invite)
        made: list[SyncedDevice] = []
        digits, _ = await asyncio.gather(
            admission.ask(lambda core: made.append(SyncedDevice(core, MemoryVault(), transport))),
            invitation.wait_for_reader(),
        )
        await invitation.enter(digits)
        await admission.wait()
        self._govern(made[0])
        await made[0].sync_once()
        return made[0]

    def _enter(self, household: Household, rng: random.Random) -> None:
        region = household.person.region
        household.first.edit(lambda core, now: core.put(ABOUT, REGION, region, now_ms=now))
        for item, rating in household.person.ratings.items():
            rng.choice(household.devices).edit(_rate(item, rating))


def _rate(item: str, rating: int) -> Callable[[Device, int], None]:
    def change(core: Device, now_ms: int) -> None:
        core.put(RATINGS, item, rating, now_ms=now_ms)
        core.add_score(TASTE, RATED, 1, now_ms=now_ms)

    return change


async def refused_after_revocation(owner: SyncedDevice, lost: SyncedDevice) -> bool:
    """Revokes a device while its stream is open. The stream must end at once, and the lost
    device, which ignores what it was told and goes on calling, must get nothing and place
    nothing."""
    live = asyncio.Event()
    watching = asyncio.create_task(Watch(lost, on_live=lambda _: live.set()).run())
    await live.wait()
    identity, account = lost.core.identity, lost.core.account_id
    owner.edit(lambda core, _: core.rotate([identity.device_id]))
    await owner.sync_once()
    try:
        async with asyncio.timeout(30):
            await watching
    except (ClientError, RemoteError):
        ended = True
    except TimeoutError:
        ended = False
    else:
        ended = False
    stubborn = Remote(lost.transport, Signer(identity, account))
    step = Push(ops=(b"",))
    refusals = [
        await _is_refused(stubborn.pull(b"")),
        await _is_refused(stubborn.push(step)),
        await _is_refused(stubborn.get_chain(0, all_grants=False)),
    ]
    return ended and all(refusals)


async def _is_refused(call: Awaitable[object]) -> bool:
    try:
        await call
    except RemoteError as error:
        return error.reason == reasons.UNAUTHENTICATED
    return False
