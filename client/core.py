"""What the parts of a device share: its state, where it is stored, and how alarms are raised.

`Core` decides nothing about the protocol; `client.intake`, `client.sending`,
`client.membership`, `client.healing`, `client.upkeep` and `client.bootstrap` do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from client.chainview import ChainView, Pin
from client.errors import PeerError, RowsError
from client.gate import Gate, Ungoverned
from client.held import State
from client.holds import Holds
from client.local import Local
from client.notices import Notices
from client.oplog import Kept, OpLog, Place
from client.outbox import Doubt, Outbox
from client.past import Past
from client.profile import Entry, Name, Order, Profile, part_of
from client.rows import Journal, Rows, pack, unpack
from client.steps import NoticeKind
from client.values import Part
from crypto import names, op
from crypto.cert import Role
from crypto.chain import Device as Member
from crypto.errors import CryptoError, FormatError
from crypto.ids import AccountId, DeviceId, LinkHash, OpHash
from crypto.keys import Identity
from crypto.op import Payload, SealedOp, Verb

_SERVER_MS = slice(112, 120)
"""Where a receipt says when it was signed (`crypto.receipt`)."""


class Owed:
    """What the service's newest signed statement names and it has not delivered."""

    def __init__(self) -> None:
        self.receipt = b""
        self.seqs: dict[int, int] = {}
        """Device index to dev_seq."""
        self.rounds = 0
        """How often everything was fetched since, and it was not among it."""
        self.told: dict[int, int] = {}
        """What the person was told of: it is not looked for from the start again."""


class Core:
    """One device's whole state. Everything that must survive is in rows."""

    def __init__(self, identity: Identity, pin: Pin) -> None:
        self.journal = Journal()
        self.identity = identity
        self.next_identity: Identity | None = None
        self.view = ChainView(pin)
        self._state: State | None = None
        self.oplog = OpLog()
        self.profile = Profile()
        self.outbox = Outbox()
        self.past = Past()
        self.holds = Holds()
        self.notices = Notices()
        self.local = Local()
        # stored in the row `self`
        self.cursor = b""
        self.made = False
        self.fresh = True
        self.cloned = False
        self.receipt_due = False
        self.overflow = False
        self.lamport_hint = 0
        self.epoch_seen_ms = 0
        self.checkpoint_epoch = 0
        self.ops_at_checkpoint = 0
        self.last_receipt = b""
        # stored in the row `remade`
        self.remade_epoch = 0
        """The epoch in which this device made the account again; 0: it never did."""
        # stored in the row `heads`
        self.last_heads = b""
        # in memory only: what is lost with it is found out again
        self.gate: Gate = Ungoverned()
        """What every write of the app passes. The shell sets it anew after each loading."""
        self.only: Callable[[str, str], bool] | None = None
        """While an app answers a task: which (collection, key) it may read of the app's names."""
        self.now_ms = 0
        self.behind = True
        self.unpulled = False
        self.chain_due = True
        self.chain_claimed = 0
        """The longest chain that the service spoke of, unsigned."""
        self.chain_tries = 0
        """How often it was asked for and did not come."""
        self.gone = False
        self.blocked = False
        self.held_back: dict[Name, int] = {}
        """Names that the service refused to take, and when they are tried again."""
        self.doubt: Doubt | None = None
        self.claim: bytes | None = None
        """A receipt that came after the service said that our identity is in use elsewhere."""
        self.push_after_ms = 0
        self.created_to = 0
        """seq of the last link that CreateAccount has brought to the service."""
        self.new_names_max: int | None = None
        """How many names that the service does not have go into a batch; None: as many as fit."""
        self.refusals = 0
        self.link_refusals = 0
        self.receipt_tries = 0
        self.owed = Owed()
        self.disputed: dict[Name, None] = {}
        """Parts of scores that somebody else wrote: their own device writes them again."""
        self.rebox_refused = False
        self.progress = False
        self.last_seen: dict[int, int] = {}
        self.again: list[tuple[int, int, Place]] = []
        self.relink_at: int | None = None
        self.grace_over = False
        """The service takes back no whole ops of the epoch before."""
        self._self_row = b""

    # -- rows ---------------------------------------------------------------------------

    def save_identity(self) -> None:
        """Stores this device's own secrets, and the pin that its trust began with."""
        new, pin = self.next_identity, self.view.pin
        self.journal.set(
            "id",
            pack(
                self.identity.ik_seed,
                self.identity.box_sk,
                new.ik_seed if new else b"",
                new.box_sk if new else b"",
                bytes(pin.account_id),
                [[seq, bytes(head)] for seq, head in pin.links],
            ),
        )

    def save_self(self) -> None:
        """Stores the row `self` if it changed. While fresh, the cursor is not stored: the
        first catch-up starts again after a crash."""
        row = pack(
            b"" if self.fresh else self.cursor,
            self.made,
            self.fresh,
            self.cloned,
            self.receipt_due,
            self.overflow,
            self.lamport_hint,
            self.epoch_seen_ms,
            self.checkpoint_epoch,
            self.ops_at_checkpoint,
            self.last_receipt,
        )
        if row != self._self_row:
            self._self_row = row
            self.journal.set("self", row)

    @classmethod
    def load(cls, rows: Rows) -> Core:
        """The device that wrote these rows; RowsError if they don't fit together."""
        if "id" not in rows or "self" not in rows:
            raise RowsError("the stored rows are incomplete")
        try:
            return cls._load(rows)
        except (CryptoError, ValueError, TypeError, KeyError, AssertionError):
            raise RowsError from None

    @classmethod
    def _load(cls, rows: Rows) -> Core:
        ik, bk, new_ik, new_bk, account, pinned = unpack(rows["id"], 6)
        pin = Pin(AccountId(account), tuple((seq, LinkHash(head)) for seq, head in pinned))
        core = cls(Identity(ik, bk), pin)
        core.next_identity = Identity(new_ik, new_bk) if new_ik else None
        core._self_row = rows["self"]
        (
            core.cursor, core.made, core.fresh, core.cloned, core.receipt_due, core.overflow,
            core.lamport_hint, core.epoch_seen_ms, core.checkpoint_epoch,
            core.ops_at_checkpoint, core.last_receipt,
        ) = unpack(rows["self"], 11)  # fmt: skip
        core.view = ChainView.load(pin, rows)
        core.oplog = OpLog.load(rows)
        core.outbox = Outbox.load(rows)
        core.past = Past.load(rows)
        core.holds = Holds.load(rows)
        core.notices = Notices.load(rows)
        core.local = Local.load(rows)
        core.last_heads = rows.get("heads", b"")
        core.remade_epoch = int.from_bytes(rows.get("remade", b""), "big")
        if core.view.chain.hashes:
            core._load_state(rows)
        return core

    def _load_state(self, rows: Rows) -> None:
        state = self.open_state()
        for name, row in rows.items():
            if name.startswith("base:"):
                seq, op_hash = unpack(row, 2)
                state.logs[int(name[5:])].start_at(seq, OpHash(op_hash))
        for index, seq in sorted(self.oplog.ops):
            log, kept = state.logs[index], self.oplog.ops[index, seq]
            if seq <= log.base:
                log.hashes[seq] = kept.op_hash
            else:
                log.append(seq, kept.op_hash)
        for name, row in rows.items():
            if name.startswith("aside:"):
                _, at_index, at_seq = name.split(":")
                state.logs[int(at_index)].aside[int(at_seq)] = row.decode()
            elif name.startswith("fork:"):
                log = state.logs[int(name[5:])]
                log.fork_seq, stopped = unpack(row, 2)
                log.stopped = set(map(OpHash, stopped))
        for (index, seq), kept in self.oplog.ops.items():
            if seq not in state.logs[index].aside:
                state.lamport_max = max(state.lamport_max, kept.order.lamport)
        self.profile.set_epoch(state.chain.epoch)
        self.rebuild()
        self._load_last_seen()

    def _load_last_seen(self) -> None:
        for index, log in enumerate(self.state.logs):
            kept = self.oplog.ops.get((index, log.seq))
            payload = self.open_kept(kept) if kept is not None else None
            if payload is not None:
                self.last_seen[index] = payload.wall_ms

    # -- state --------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The judge's memory; only once the chain is known."""
        assert self._state is not None
        return self._state

    @property
    def ready(self) -> bool:
        """The chain is known, so ops can be judged."""
        return self._state is not None and self.view.trusted

    def open_state(self) -> State:
        """Begins to judge under the chain that is known by now."""
        if self._state is None:
            self._state = State(self.view.chain)
            self._state.keys = self.view.keys
            self._state.lamport_hint = self.lamport_hint
        return self._state

    @property
    def me(self) -> Member | None:
        """This device in the chain."""
        return self._state.find(self.identity.device_id) if self._state else None

    @property
    def writes(self) -> bool:
        """This device may write ops."""
        me = self.me
        return (
            me is not None
            and me.active
            and me.role is Role.FULL
            and self.view.trusted
            and not self.cloned
        )

    @property
    def leader(self) -> DeviceId:
        """Who publishes again after a rotation: its initiator, or the first active device."""
        chain = self.state.chain
        signer = chain.find(self.view.epoch_starts[chain.epoch][1])
        if signer is None or not signer.active or signer.role is not Role.FULL:
            signer = next(row for row in chain.active if row.role is Role.FULL)
        return signer.device_id

    def sure_ms(self, now_ms: int) -> int:
        """A time that neither this device's clock nor the service has yet to reach: what is past
        its time by it is so for good. 0 if the service was never heard."""
        told_ms = int.from_bytes(self.last_receipt[_SERVER_MS], "big")
        return min(now_ms, told_ms)

    @property
    def stale(self) -> Collection[Name]:
        """Names to be published again in this epoch. A share of a score whose device was removed,
        and with it whoever could remove the share, is not once it is past its time: it ends with
        the epochs that it stands in."""
        names = self.profile.stale
        if not names or not self.last_receipt:
            return names
        return [name for name in names if not self._is_left_over(name)]

    def _is_left_over(self, name: Name) -> bool:
        part = part_of(name.key)
        if part is None or self.state.chain.devices[part[1]].active:
            return False
        kept_ms = self.gate.retention_ms(name.collection, part[0])
        entry = self.profile.find(name)
        if kept_ms is None or entry is None:
            return False
        held = None if entry.value is None else Part.decode(entry.value)
        written_ms = entry.wall_ms if held is None else held.changed_ms
        return self.sure_ms(self.now_ms) >= written_ms + kept_ms

    # -- content ------------------------------------------------------------------------

    def open_kept(self, kept: Kept) -> Payload | None:
        """The plaintext of a kept op; None if it can't be had any more."""
        keys = self.view.keys.get(kept.epoch)
        if kept.stub or keys is None:
            return None
        try:
            return op.open_(op.parse(kept.raw), keys)
        except CryptoError:
            return None

    def merge(self, index: int, sealed: SealedOp, payload: Payload) -> None:
        """Puts an op's content into the profile; sets it aside if its name is none."""
        header = sealed.header
        try:
            names.check_name(payload.collection)
            names.split_part(payload.key)
        except FormatError:
            self.put_aside(index, header.dev_seq, "REJECT:name")
            return
        entry = Entry(
            Order(header.lamport, header.epoch, header.device_id),
            index,
            payload.value if payload.verb is Verb.PUT else None,
            payload.wall_ms,
        )
        name = Name(payload.collection.decode("ascii"), payload.key.decode("ascii"))
        if self._usurps(name, index, sealed) or not self.profile.merge(name, entry):
            self.put_aside(index, header.dev_seq, "REJECT:part")
            self.disputed[name] = None
            part = part_of(name.key)
            if part is not None and self._is_cut_short(part[1]):
                return  # it may be a copy of what counts no more: nobody is to blame
            self.alarm(
                "part",
                "One of your devices wrote another one's share of a score; it was set aside.",
                sealed.raw,
                about=bytes(sealed.op_hash) + sealed.raw[-64:],
                device_id=DeviceId(header.device_id),
            )

    def _is_cut_short(self, index: int) -> bool:
        """Some of what this device wrote was held and counts no more."""
        devices, logs = self.state.chain.devices, self.state.logs
        if index >= len(devices):
            return False
        return devices[index].cut is not None or logs[index].fork_seq is not None

    def _usurps(self, name: Name, index: int, sealed: SealedOp) -> bool:
        """Whether an op overrides what a part's own device wrote in the same epoch: a copy
        carries a lamport of an older epoch. Headers show it, also where only a stub is left."""
        part = part_of(name.key)
        if part is None or part[1] == index:
            return False
        header = sealed.header
        lowest = self.oplog.lowest.get((header.epoch, header.tag, part[1]))
        return lowest is not None and header.lamport > lowest

    def look_again(self, index: int, sealed: SealedOp) -> None:
        """After an op came: does it show that the record which beats it was none of its
        author's to write?"""
        at = (sealed.header.epoch, sealed.header.tag)
        place = self.oplog.winners.get(at)
        if place is None or place[0] == index or place[1] in self.state.logs[place[0]].aside:
            return
        payload = self.open_kept(self.oplog.ops[place])
        part = part_of(payload.key.decode("ascii", "replace")) if payload is not None else None
        if part is not None and part[1] == index:
            self.rebuild()

    def put_aside(self, index: int, seq: int, verdict: str) -> None:
        """The op counts as held, its content does not."""
        self.state.logs[index].aside[seq] = verdict
        self.journal.set(f"aside:{index:03d}:{seq:015d}", verdict.encode())

    def take_back_aside(self, index: int, seq: int) -> None:
        """The op's content counts after all, or the op is gone."""
        self.state.logs[index].aside.pop(seq, None)
        self.journal.drop(f"aside:{index:03d}:{seq:015d}")

    def rebuild(self) -> None:
        """Works out all winners anew from the kept ops. O(n), on loading and after a fork or
        a cut."""
        while not self._rebuilt():
            pass

    def _rebuilt(self) -> bool:
        """False if an op was set aside meanwhile: what it had beaten counts after all."""
        self.profile.clear()
        aside = {(i, seq) for i, log in enumerate(self.state.logs) for seq in log.aside}
        for (index, _), kept in self.oplog.best_readable(aside, self.view.keys):
            sealed = op.parse(kept.raw)
            try:
                payload = op.open_(sealed, self.view.keys[kept.epoch])
            except CryptoError:
                continue
            self.merge(index, sealed, payload)
        return len(aside) == sum(len(log.aside) for log in self.state.logs)

    def drop_ops(self, index: int, after_seq: int) -> list[Kept]:
        """Takes back a device's ops beyond a seq, and works out the winners anew."""
        dropped = self.oplog.drop(index, after_seq, self.journal)
        # The largest lamport of the ops that remain may be smaller; ours must not go back.
        self.lamport_hint = max(self.lamport_hint, self.state.lamport_max)
        self.state.lamport_hint = self.lamport_hint
        for seq in [
            place_seq for place_seq in self.state.logs[index].aside if place_seq > after_seq
        ]:
            self.take_back_aside(index, seq)
        self.rebuild()
        return dropped

    # -- notices ------------------------------------------------------------------------

    def alarm(
        self,
        rule: str,
        sentence: str,
        *evidence: bytes,
        about: bytes = b"",
        device_id: DeviceId | None = None,
    ) -> None:
        """Something is wrong, and somebody is to blame."""
        self.notices.add(
            self.journal, NoticeKind.ALARM, rule, sentence,
            at_ms=self.now_ms, evidence=evidence, about=about, device_id=device_id,
        )  # fmt: skip

    def tell(
        self, rule: str, sentence: str, *, about: bytes = b"", device_id: DeviceId | None = None
    ) -> None:
        """Something that the person should know."""
        self.notices.add(
            self.journal, NoticeKind.INFO, rule, sentence,
            at_ms=self.now_ms, about=about, device_id=device_id,
        )  # fmt: skip

    def accuse(self, error: PeerError) -> None:
        """An alarm with the evidence of an error."""
        about = error.evidence[-1][:200] if error.evidence else b""
        self.alarm(error.rule, str(error), *error.evidence, about=about)

    def set_cloned(self, *evidence: bytes) -> None:
        """Our identity writes elsewhere too: nothing is sent under it any more."""
        if not self.cloned:
            self.cloned = True
            self.alarm(
                "cloned",
                "This device's identity is in use elsewhere too: it was copied, or restored from "
                "a backup. Give it a new identity; your changes are kept.",
                *evidence,
                about=self.identity.device_id,
            )
