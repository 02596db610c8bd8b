"""An in-memory model of the service, and phones that talk to it: for tests of the core.

The model follows the contract of the API (proto/rookery/v1) and can be told to misbehave.
A `Phone` is a device with its stored rows: it can crash between any two steps.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from client.device import Device
from client.pairing import Inviter, Joiner
from client.steps import (
    AppendLink,
    ChainItem,
    CreateAccount,
    GetChain,
    GetReceipt,
    Pull,
    Push,
    Step,
)
from crypto import grant, heads, link, op
from crypto.chain import EMPTY, Chain
from crypto.errors import CryptoError
from crypto.heads import Head
from crypto.ids import DeviceId, OpHash, Tag
from crypto.op import Order, SealedOp
from crypto.receipt import Receipt, ServerKey
from tests.judge_worlds import NOW_MS, SeededRand, seeded


class Refused(Exception):
    """A call's ErrorInfo."""

    def __init__(self, reason: str, **metadata: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.metadata = metadata


@dataclass
class Row:
    """One committed op, whole or as a stub."""

    position: int
    sealed: SealedOp
    links: int
    """How many links the chain had when it was committed."""
    stub_since: int | None = None

    @property
    def raw(self) -> bytes:
        return self.sealed.raw if self.stub_since is None else self.sealed.stub


@dataclass
class Service:
    """What a service holds of one account."""

    seed: str = "service"
    chain: Chain = EMPTY
    items: list[ChainItem] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    heads: dict[DeviceId, tuple[int, OpHash]] = field(default_factory=dict)
    winners: dict[tuple[int, Tag], Row] = field(default_factory=dict)
    lamport_max: int = 0
    position: int = 0
    generation: int = 1
    grace: bool = True
    pinned: set[OpHash] = field(default_factory=set)
    """Checkpoints, as the pushes that carried them said."""
    hide: Callable[[SealedOp], bool] = lambda _: False
    """A fault: ops that are not delivered."""
    now_ms: int = NOW_MS
    """Its clock."""

    def __post_init__(self) -> None:
        self.key = ServerKey(seeded(self.seed))

    # -- calls --------------------------------------------------------------------------

    def append(self, item: ChainItem) -> None:
        parsed = link.parse(item.link.raw)
        if parsed.seq <= self.chain.seq:
            if self.chain.hashes[parsed.seq] == parsed.link_hash:
                return
            raise Refused("CHAIN_CONFLICT")
        if parsed.seq > self.chain.seq + 1:
            raise Refused("CHAIN_GAP")
        try:
            after = self.chain.apply(item.link)
            grant.check_complete(parsed, after, item.grants)
        except CryptoError as error:
            raise Refused("LINK_INVALID", rule=error.rule) from None
        self.chain = after
        self.items.append(item)

    def check(self, caller: DeviceId) -> None:
        """Unknown and revoked devices get one answer."""
        device = self.chain.find(caller)
        if device is None or not device.active:
            raise Refused("UNAUTHENTICATED")

    def push(self, ops: tuple[bytes, ...], caller: DeviceId) -> None:
        rows = [op.parse_any(raw) for raw in ops]
        heads_, lamport, new = dict(self.heads), self.lamport_max, []
        held = {(row.sealed.header.device_id, row.sealed.header.dev_seq): row.sealed.op_hash
                for row in self.rows}  # fmt: skip
        for sealed in rows:
            header = sealed.header
            device = self.chain.find(header.device_id)
            assert device is not None
            op.verify(sealed, device.ik_pk)
            seq, head = heads_.get(
                header.device_id, (0, op.init_hash(self.chain.account, header.device_id))
            )
            if header.dev_seq <= seq:
                if held.get((header.device_id, header.dev_seq), sealed.op_hash) == sealed.op_hash:
                    continue
                raise Refused("DEVICE_FORKED")
            if header.dev_seq != seq + 1 or header.prev != head:
                raise Refused("CHAIN_GAP", dev_seq=str(seq))
            if device.cut is not None and header.dev_seq > device.cut.seq:
                raise Refused("DEVICE_CUT")
            if header.epoch > self.chain.epoch:
                raise Refused("EPOCH_UNKNOWN")
            whole = sealed.ct is not None
            if whole and header.epoch < self.chain.epoch - (1 if self.grace else 0):
                raise Refused("EPOCH_STALE", epoch=str(self.chain.epoch))
            if header.lamport > lamport + 4096:
                raise Refused("LAMPORT_AHEAD")
            lamport = max(lamport, header.lamport)
            heads_[header.device_id] = (header.dev_seq, sealed.op_hash)
            new.append(sealed)
        self.heads, self.lamport_max = heads_, lamport
        for sealed in new:
            self._commit(sealed)

    def _commit(self, sealed: SealedOp) -> None:
        self.position += 1
        row = Row(self.position, sealed, len(self.items))
        self.rows.append(row)
        if sealed.op_hash in self.pinned:
            return
        if sealed.ct is None:
            row.stub_since = self.position
            return
        at = (sealed.header.epoch, sealed.header.tag)
        other = self.winners.get(at)
        if other is None or _order(sealed) > _order(other.sealed):
            self.winners[at] = row
            if other is not None:
                other.stub_since = self.position
        else:
            row.stub_since = self.position

    def pull(self, cursor: bytes, limit: int) -> tuple[list[bytes], bytes, bool]:
        after = 0
        if cursor:
            generation, after = (int(part) for part in cursor.split(b"|"))
            if generation != self.generation:
                raise Refused("GENERATION_CHANGED")
        rest = [row for row in self.rows if row.position > after]
        page = rest[:limit]
        end = page[-1].position if page else max(after, self.position)
        ops = [row.raw for row in page if not self.hide(row.sealed)]
        return ops, b"%d|%d" % (self.generation, end), len(rest) > len(page)

    def receipt(self, nonce: bytes) -> tuple[bytes, list[tuple[DeviceId, int, bytes]]]:
        rows = [(device.device_id, *self.heads[device.device_id])
                for device in self.chain.devices if device.device_id in self.heads]  # fmt: skip
        held = []
        for device_id, seq, op_hash in rows:
            device = self.chain.find(device_id)
            assert device is not None
            held.append(Head(device.index, seq, op_hash))
        told = Receipt(self.chain.account, self.chain.seq, self.chain.head, heads.digest(held),
                       self.now_ms, nonce)  # fmt: skip
        return self.key.sign(told), [(a, b, bytes(c)) for a, b, c in rows]

    # -- what may happen to it ----------------------------------------------------------

    def trim(self, covers: bytes) -> None:
        """Drops stubs superseded before a checkpoint that all devices have passed."""
        position = int(covers.split(b"|")[1])
        self.rows = [
            row for row in self.rows if row.stub_since is None or row.stub_since > position
        ]

    def drop_epoch(self, epoch: int) -> None:
        """Deletes an old epoch's data."""
        self.rows = [row for row in self.rows if row.sealed.header.epoch != epoch]

    def restore(self, position: int) -> None:
        """A backup comes back: what was committed later is lost, links and ops alike."""
        lost = [row for row in self.rows if row.position > position]
        rows = [row for row in self.rows if row.position <= position]
        items = self.items[: lost[0].links] if lost else self.items
        self.generation += 1
        self.rows, self.heads, self.winners = [], {}, {}
        self.items, self.chain = [], EMPTY
        self.lamport_max = self.position = 0
        for item in items:
            self.chain = self.chain.apply(item.link)
            self.items.append(item)
        for row in rows:
            header = row.sealed.header
            self.heads[header.device_id] = (header.dev_seq, row.sealed.op_hash)
            self.lamport_max = max(self.lamport_max, header.lamport)
            self._commit(row.sealed)


def _order(sealed: SealedOp) -> Order:
    return sealed.order


class Crash(Exception):
    """The phone went dead here."""


class Phone:
    """A device with its stored rows and its line to the service."""

    def __init__(self, device: Device, service: Service, seed: str) -> None:
        self.device = device
        self.service = service
        self.rand = SeededRand(seed)
        self.rows: dict[str, bytes] = {}
        self.now_ms = NOW_MS
        self.page_limit = 1000
        self.crash_at: Callable[[], bool] = lambda: False
        self.marks: list[bytes] = []
        self.pushes: list[Push] = []
        self.store()

    def store(self) -> None:
        """Takes and keeps the changes."""
        for name, value in self.device.take_changes().items():
            if value is None:
                self.rows.pop(name, None)
            else:
                self.rows[name] = value

    def reload(self) -> None:
        """The phone restarts: only its rows remain."""
        self.device = Device.load(self.rows)

    def _danger(self) -> None:
        if self.crash_at():
            raise Crash

    def sync(self, steps_max: int = 1000) -> None:
        """Does what is due until nothing is; a crash ends it early."""
        try:
            for _ in range(steps_max):
                if not self.step():
                    return
        except Crash:
            self.reload()
            return
        raise AssertionError("the device never comes to rest")

    def poke(self) -> None:
        """A fresh look at the service."""
        self.device.on_chain_seq(self.service.chain.seq)
        self.device.on_poke()
        self.sync()

    def step(self) -> bool:
        """One call of the API. False if none is due."""
        step = self.device.next_step(now_ms=self.now_ms, rand=self.rand)
        self._danger()
        self.store()
        self._danger()
        if step is None:
            return False
        try:
            if not isinstance(step, CreateAccount | GetChain):
                self.service.check(self.device.identity.device_id)
            self._call(step)
        except Refused as refused:
            if refused.reason == "UNAUTHENTICATED":
                return False
            self._refused(step, refused)
        self._danger()
        self.store()
        return True

    def _call(self, step: Step) -> None:
        device, service, now = self.device, self.service, self.now_ms
        match step:
            case CreateAccount():
                for item in (ChainItem(step.genesis), *step.later):
                    service.append(item)
                self._danger()
                device.on_account_created()
            case AppendLink():
                service.append(step.item)
                self._danger()
                device.on_appended(step.item, now_ms=now)
            case GetChain():
                items = service.items[step.after_seq + 1 :]
                device.on_chain(
                    items[:2], lamport_max=service.lamport_max, more=len(items) > 2, now_ms=now
                )
            case GetReceipt():
                nonce = self.rand(16)
                data, rows = service.receipt(nonce)
                device.on_receipt(
                    data, rows, server_key=service.key.public, nonce=nonce, now_ms=now
                )
            case Push():
                if step.mark is not None:
                    service.pinned.add(op.parse(step.ops[step.mark.op_index]).op_hash)
                service.push(step.ops, device.identity.device_id)
                if step.mark is not None:
                    self.marks.append(step.mark.covers)
                self.pushes.append(step)
                self._danger()
                device.on_pushed(step, now_ms=now)
                device.on_chain_seq(service.chain.seq)
            case Pull():
                ops, cursor, more = service.pull(step.cursor, self.page_limit)
                device.on_chain_seq(service.chain.seq)
                device.on_page(ops, cursor, more=more, now_ms=now)

    def _refused(self, step: Step, refused: Refused) -> None:
        reason, metadata, now = refused.reason, refused.metadata, self.now_ms
        if isinstance(step, Push):
            self.device.on_push_refused(step, reason, metadata, now_ms=now)
        elif isinstance(step, AppendLink):
            self.device.on_append_refused(step.item, reason, metadata, now_ms=now)
        elif reason == "GENERATION_CHANGED":
            self.device.on_generation_changed()

    @property
    def alarms(self) -> list[str]:
        """Rules of all alarms."""
        return [row.rule for row in self.device.notices if row.kind.value == "alarm"]


def first_phone(service: Service, *, paper: bytes | None = None, seed: str = "a") -> Phone:
    """A phone that makes the account."""
    rand = SeededRand(f"make {seed}")
    device = Device.create(recovery_secret=paper, now_ms=NOW_MS, rand=rand)
    phone = Phone(device, service, seed)
    phone.sync()
    return phone


def pair(existing: Phone, seed: str, *, sync: bool = True) -> Phone:
    """A new phone, added by an existing one as people do it."""
    now, rand = existing.now_ms, SeededRand(f"pair {seed}")
    inviter = Inviter(existing.device, now_ms=now, rand=rand)
    joiner = Joiner(inviter.invite, now_ms=now, rand=rand)
    m2 = inviter.on_m1(joiner.m1(now_ms=now, rand=rand), now_ms=now, rand=rand)
    inviter.on_m3(joiner.on_m2(m2, now_ms=now, rand=rand), now_ms=now)
    inviter.enter(joiner.code, now_ms=now)
    existing.sync()
    phone = type(existing)(joiner.join(now_ms=now), existing.service, seed)
    phone.now_ms = now
    if sync:
        phone.sync()
    return phone


def settle(*phones: Phone) -> None:
    """Everybody syncs until nobody learns anything new."""
    for _ in range(8):
        before = phones[0].service.position, phones[0].service.chain.seq
        for phone in phones:
            phone.poke()
        if (phones[0].service.position, phones[0].service.chain.seq) == before:
            return
    raise AssertionError("the phones never come to rest")


def shuffled(rng: random.Random, phones: list[Phone]) -> list[Phone]:
    """Another order."""
    return rng.sample(phones, len(phones))
