"""One device: composition of chain view, judge, profile and outbox. No I/O, clock or chance.

The contract with the shell, whatever it calls:
1. call a method; 2. store `take_changes()` atomically; 3. only then send what it returned.
`next_step` says which call of the API is due; `on_...` takes the outcome. A device that is
loaded again from its stored rows goes on where it was, at any point between these steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from client import (
    healing,
    intake,
    membership,
    remake,
    reserved,
    resetting,
    sending,
    upkeep,
    views,
    writing,
)
from client.chainview import Pin
from client.core import Core
from client.errors import NotAllowed
from client.gate import Gate, SignalRefused
from client.governed import expiry
from client.membership import Membership
from client.origins import Origins
from client.profile import Name
from client.rows import Changes, Rows
from client.steps import (
    ChainItem,
    DeviceInfo,
    GetChain,
    GetReceipt,
    Notice,
    Pull,
    Push,
    Rand,
    Status,
    Step,
)
from client.values import Part, Value
from crypto import epoch as epochs, link, names, recovery
from crypto.cert import DeviceCert, Role
from crypto.chain import Chain
from crypto.epoch import EpochKeys
from crypto.errors import CryptoError
from crypto.ids import AccountId, DeviceId, LinkHash, Tag
from crypto.keys import Identity
from crypto.link import Genesis, SignedLink
from crypto.policy.document import Bundle


class Device:
    """A device of one account."""

    def __init__(self, core: Core, wish: Membership) -> None:
        """Use `create`, `join` or `load`."""
        self._core = core
        self._wish = wish

    # -- making one ---------------------------------------------------------------------

    @classmethod
    def create(cls, *, recovery_secret: bytes | None, now_ms: int, rand: Rand) -> Device:
        """A new account with this device as its first one.

        `recovery_secret` (20 random bytes, `crypto.recovery.to_paper` shows them) becomes a
        role 2 device at once; None only if the person declined.
        """
        identity = Identity(rand(32), rand(32))
        ek = epochs.generate(rand(32), identity.ik_seed)
        genesis = link.build(identity, Genesis(DeviceCert.of(identity), epochs.commitment(1, ek)))
        account = link.account_id(genesis.raw)
        core = Core(identity, Pin(account))
        core.now_ms, core.fresh, core.chain_due = now_ms, False, False
        core.save_identity()
        device = cls(core, Membership())
        membership.take_chain(core, device._wish, [ChainItem(genesis)])
        core.view.add_key(EpochKeys(account, 1, ek), core.journal)
        views.put(core, views.AGGREGATION_KEY, rand(32), now_ms)
        if recovery_secret is not None:
            paper = recovery.identity(recovery_secret)
            draft, grants = membership.draft_add(core, DeviceCert.of(paper, Role.RECOVERY))
            signed = SignedLink(draft.raw, draft.sig, link.prove_possession(paper, draft.raw))
            membership.set_pending(core, device._wish, ChainItem(signed, grants))
        return device

    @classmethod
    def join(
        cls,
        identity: Identity,
        *,
        account_id: AccountId,
        pin_seq: int,
        pin_head: LinkHash,
        also: tuple[tuple[int, LinkHash], ...] = (),
        policy: Mapping[str, bytes] | None = None,
        now_ms: int,
    ) -> Device:
        """A device that an existing one has just added (see `client.pairing`). It reads the
        chain from genesis and trusts it only if `pin_head` stands at `pin_seq`. `policy`: rows
        by which it is governed, stored with its own (`client.governed.holding`)."""
        core = Core(identity, Pin(account_id, tuple({(pin_seq, pin_head), *also})))
        core.now_ms, core.made = now_ms, True
        core.save_identity()
        for name, row in (policy or {}).items():
            core.journal.set(name, row)
        return cls(core, Membership())

    @classmethod
    def load(cls, rows: Rows) -> Device:
        """The device that wrote these rows. RowsError if they don't fit together."""
        return cls(Core.load(rows), Membership.load(rows))

    def govern(self, gate: Gate) -> None:
        """Every write of the app passes this gate from now on. Not stored: whoever loads the
        device sets it again."""
        self._core.gate = gate

    def take_changes(self) -> Changes:
        """Rows to store, atomically, before anything is sent. Empty: nothing changed."""
        self._core.save_self()
        return self._core.journal.take()

    # -- what it knows ------------------------------------------------------------------

    @property
    def account_id(self) -> AccountId:
        return self._core.view.pin.account_id

    @property
    def identity(self) -> Identity:
        """Signs this device's requests."""
        return self._core.identity

    @property
    def chain(self) -> Chain:
        """The verified chain."""
        return self._core.view.chain

    @property
    def cursor(self) -> bytes:
        """Where to pull or subscribe from."""
        return self._core.cursor

    @property
    def status(self) -> Status:
        core = self._core
        me = core.me
        return Status(
            epoch=core.view.chain.epoch,
            chain_seq=core.view.chain.seq,
            edits_waiting=len(core.outbox.edits),
            ops_in_flight=len(core.outbox.flying),
            ops_on_hold=len(core.holds),
            revoked=me is not None and not me.active,
            cloned=core.cloned,
            rotation_due=upkeep.rotation_due(core),
            key_since_ms=core.epoch_seen_ms or None,
            account_made=core.made,
        )

    @property
    def devices(self) -> tuple[DeviceInfo, ...]:
        """All devices ever, in order of appearance."""
        core = self._core
        return tuple(
            DeviceInfo(
                device_id=row.device_id,
                index=row.index,
                role=row.role,
                active=row.active,
                this_device=row.device_id == core.identity.device_id,
                added_seq=row.added_seq,
                added_by=row.added_by,
                last_seen_ms=core.last_seen.get(row.index),
                set_aside=core.ready and core.state.logs[row.index].fork_seq is not None,
            )
            for row in core.view.chain.devices
        )

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What the person should know and has not dismissed, oldest first."""
        return self._core.notices.all

    def alarm(self, rule: str, sentence: str, *evidence: bytes, about: bytes, now_ms: int) -> None:
        """Tells the person, once for each (rule, about), that somebody did what can't be right."""
        self._core.now_ms = now_ms
        self._core.alarm(rule, sentence, *evidence, about=about)

    def dismiss(self, number: int) -> None:
        """The person has read this notice. Its evidence is kept no longer."""
        self._core.notices.dismiss(number, self._core.journal)

    # -- the profile (queued edits show at once) ----------------------------------------

    # An app of a governed device reads what the policy declares: all else, which another device
    # or an earlier policy left behind, is as if absent. `undeclared`: it is shown all the same, to
    # the person whose it is.

    def get(self, collection: str, key: str, *, undeclared: bool = False) -> Value:
        """A setting's value; None if there is none. SignalRefused while `reading` excludes it."""
        self._check_open(collection, key)
        is_shown = self._shows(collection, key, undeclared=undeclared)
        return views.value(self._core, Name(collection, key)) if is_shown else None

    def list(self, collection: str, *, undeclared: bool = False) -> dict[str, Value]:
        """All settings of a collection, by key."""
        keys = self._keys(collection, undeclared=undeclared)
        return {key: views.value(self._core, Name(collection, key)) for key in keys}

    def stored(self, collection: str) -> tuple[tuple[str, bytes | None], ...]:
        """All keys of a collection with their encoded values: equal as long as nothing changed."""
        core = self._core
        keys = () if _is_secret(collection) else views.names_in(core, collection)
        return tuple((key, views.shown(core, Name(collection, key))) for key in keys)

    def collections(self, *, undeclared: bool = False) -> tuple[str, ...]:
        """Collections that hold something, sorted; the protocol's own are left out."""
        return tuple(
            one
            for one in views.collections(self._core)
            if undeclared
            or any(True for _ in self._keys(one))
            or any(self._shows(one, key) for key in views.scores(self._core, one))
        )

    def members(self, collection: str) -> frozenset[str]:
        """The members of a set."""
        return frozenset(self._keys(collection))

    def score(
        self, collection: str, key: str, *, now_ms: int, half_life_ms: int | None = None
    ) -> float:
        """A score: the sum of all devices' parts, decayed to now. SignalRefused while `reading`
        excludes it."""
        self._check_open(collection, key)
        if not self._shows(collection, key):
            return 0
        return views.score(self._core, collection, key, now_ms, half_life_ms)

    def scores(
        self,
        collection: str,
        *,
        now_ms: int,
        half_life_ms: int | None = None,
        undeclared: bool = False,
    ) -> dict[str, float]:
        """All scores of a collection, by key."""
        return {
            key: views.score(self._core, collection, key, now_ms, half_life_ms)
            for key in views.scores(self._core, collection, now_ms)
            if self._shows(collection, key, undeclared=undeclared)
        }

    def _keys(self, collection: str, *, undeclared: bool = False) -> Iterator[str]:
        """Of settings and members."""
        for key in views.names_in(self._core, collection):
            if "#" not in key and self._shows(collection, key, undeclared=undeclared):
                yield key

    def _shows(self, collection: str, key: str, *, undeclared: bool = False) -> bool:
        if _is_secret(collection):
            return False
        return undeclared or collection.startswith(".") or self._core.gate.shows(collection, key)

    @property
    def origins(self) -> Origins:
        """Which of the account's devices wrote what is shown, and when."""
        return Origins(self._core)

    @contextmanager
    def reading(self, only: Callable[[str, str], bool]) -> Iterator[None]:
        """Until it ends, of the app's names just those (collection, key) can be read that `only`
        is true of: others are left out of lists, and asking for one is refused. For calls that
        don't wait: whatever else reads meanwhile is limited too."""
        before, self._core.only = self._core.only, only
        try:
            yield
        finally:
            self._core.only = before

    def _check_open(self, collection: str, key: str) -> None:
        if views.hidden(self._core, Name(collection, key)):
            raise SignalRefused(
                "task-signal",
                "the policy does not let this task read this signal: add the signal to the task in"
                " tasks.yaml and publish the policy (rule task-signal)",
            )

    def is_here(self, collection: str, key: str) -> bool:
        """Whether a setting, or a member, stays on this device."""
        return views.local_value(self._core, Name(collection, key)) is not None

    def written_ms(self, collection: str, key: str) -> int:
        """When a setting or a member was last written, by its device's clock; 0: never."""
        return views.written_ms(self._core, Name(collection, key))

    def shares(self, collection: str, key: str) -> dict[int | None, Part]:
        """What a score is the sum of, by the index of the device that added it. None: what stays
        on this device."""
        return views.shares(self._core, collection, key)

    def put(self, collection: str, key: str, value: Value, *, now_ms: int) -> None:
        """Sets a setting. BadName, BadValue, ValueTooLong, SignalRefused."""
        writing.put(self._core, "setting", collection, key, value, now_ms)

    def put_reserved(self, name: Name, value: Value, *, now_ms: int) -> None:
        """Sets a setting of the library's own, in one of its collections (`client.reserved`).
        None removes it. BadName for any other: what is recorded there passes the gate, and what
        begins with a dot is no way around it. ValueTooLong."""
        reserved.check(name)
        if value is None:
            views.edit(self._core, name, None, now_ms)
        else:
            views.put(self._core, name, value, now_ms)

    def remove(self, collection: str, key: str, *, now_ms: int) -> None:
        """Removes a setting (a tombstone)."""
        writing.remove(self._core, views.app_name(collection, key), now_ms)

    def add_member(self, collection: str, member: str, *, now_ms: int) -> None:
        """Puts a member into a set. BadName, SignalRefused."""
        writing.put(self._core, "set", collection, member, True, now_ms)

    def remove_member(self, collection: str, member: str, *, now_ms: int) -> None:
        """Takes a member out of a set."""
        writing.remove(self._core, views.app_name(collection, member), now_ms)

    def add_score(
        self,
        collection: str,
        key: str,
        delta: float,
        *,
        now_ms: int,
        half_life_ms: int | None = None,
    ) -> None:
        """Adds to a score. Never lost to another device's adding at the same time. BadName,
        BadValue, SignalRefused."""
        writing.add_score(self._core, collection, key, delta, now_ms, half_life_ms)

    def remove_score(self, collection: str, key: str, *, now_ms: int) -> None:
        """Removes this device's share of a score. What others added is theirs to remove."""
        writing.remove_score(self._core, views.app_name(collection, key), now_ms)

    def expire(self, bundle: Bundle, *, now_ms: int) -> None:
        """Removes what the policy says is over, and what is too many. After a catch-up."""
        expiry.expire(self._core, bundle, now_ms=now_ms)

    def reset(self, *, id_: bytes, now_ms: int) -> tuple[int, Changes]:
        """Removes everything that apps recorded, on all devices (`client.resetting`)."""
        return resetting.reset(self._core, id_=id_, now_ms=now_ms)

    def follow_reset(self, rows: Rows, *, now_ms: int) -> tuple[int, Changes]:
        """Another device's reset, if there is one that this device has yet to follow."""
        return resetting.follow(self._core, rows, now_ms=now_ms)

    def undo_reset(self, rows: Rows, *, now_ms: int) -> tuple[resetting.Undone, Changes]:
        """Puts back what this device's last reset removed, and passes the gate. NothingThere,
        SignalRefused."""
        return resetting.undo(self._core, rows, now_ms=now_ms)

    @property
    def aggregation_key(self) -> bytes | None:
        """K_agg, the account's 32-byte secret for nullifiers; None until it has arrived."""
        value = views.value(self._core, views.AGGREGATION_KEY)
        return value if isinstance(value, bytes) and len(value) == 32 else None

    def tag(self, collection: str, key: str) -> Tag | None:
        """All that the service sees of this name in the current epoch; None without its key."""
        keys = self._core.view.keys.get(self._core.state.chain.epoch)
        return names.tag(keys, collection.encode(), key.encode()) if keys else None

    # -- what to do next ----------------------------------------------------------------

    def next_step(self, *, now_ms: int, rand: Rand) -> Step | None:
        """The call that is due now; None: all is sent and the last page was the newest."""
        core = self._core
        core.now_ms = now_ms
        if core.gone:
            return None
        if not core.made:
            return remake.next_call(core)
        if core.chain_due:
            missing = core.view.missing_key_after() if core.view.trusted else None
            return GetChain(core.view.chain.seq if missing is None else missing)
        me = core.me
        if not core.ready or (me is not None and not me.active):
            return None
        if core.receipt_due:
            return GetReceipt()
        lost = healing.next_link(core)
        if lost is not None:
            return lost
        if healing.busy(core):
            return sending.next_push(core, rand)
        pull = self._pull()
        if pull is not None:
            return pull
        step = membership.next_link(core, self._wish, rand) or sending.next_push(core, rand)
        return step or self._pull()

    def _pull(self) -> Pull | None:
        return Pull(self._core.cursor) if self._core.behind else None

    def next_push(self, *, now_ms: int, rand: Rand) -> Push | None:
        """What to push now: lost ops again, the batch in flight byte for byte, or a new one."""
        self._core.now_ms = now_ms
        return sending.next_push(self._core, rand)

    # -- outcomes -----------------------------------------------------------------------

    def on_account_created(self) -> None:
        """The service has the links of our call."""
        remake.created(self._core)

    def on_create_refused(self) -> None:
        """It refused them for good."""
        remake.refused(self._core)

    def on_chain(
        self, items: Sequence[ChainItem], *, lamport_max: int, more: bool, now_ms: int
    ) -> None:
        """An answer of GetChain. Never raises: what can't be right becomes a notice."""
        core = self._core
        core.now_ms = now_ms
        healthy = membership.take_chain(core, self._wish, items, lamport_max=lamport_max)
        core.chain_due = more and healthy
        if not core.chain_due:
            membership.weigh_claim(core)

    def on_chain_seq(self, chain_seq: int) -> None:
        """ServerInfo.chain_seq of any answer: larger than ours makes GetChain due."""
        membership.claimed(self._core, chain_seq)

    def on_appended(self, item: ChainItem, *, now_ms: int) -> None:
        """The service took the link."""
        core = self._core
        core.now_ms = now_ms
        if healing.appended(core, item.link.raw):
            return
        membership.take_chain(core, self._wish, [item])

    def on_append_refused(
        self, item: ChainItem, reason: str, metadata: Mapping[str, str], *, now_ms: int
    ) -> None:
        """The service refused it with this ErrorInfo. Transport failures are not reported:
        the same step comes again."""
        self._core.now_ms = now_ms
        del metadata
        membership.refused(self._core, self._wish, item.link.raw, reason)

    def on_page(self, ops: Sequence[bytes], cursor: bytes, *, more: bool, now_ms: int) -> None:
        """A page of Pull or a frame of Subscribe (`more` false from EVENT_CAUGHT_UP on).
        Never raises: bad ops are set aside with their evidence."""
        self._core.now_ms = now_ms
        intake.page(self._core, ops, cursor, more=more)

    def on_pushed(self, push: Push, *, now_ms: int) -> None:
        """The service has committed this push."""
        self._core.now_ms = now_ms
        sending.pushed(self._core, push)

    def on_push_refused(
        self, push: Push, reason: str, metadata: Mapping[str, str], *, now_ms: int
    ) -> None:
        """The service refused the push with this ErrorInfo."""
        self._core.now_ms = now_ms
        sending.refused(self._core, push, reason, metadata)

    def on_generation_changed(self) -> None:
        """GENERATION_CHANGED or CURSOR_INVALID: compares heads, pushes again what is missing
        and pulls from the start."""
        healing.generation_changed(self._core)

    def on_receipt(
        self,
        data: bytes,
        heads: Sequence[tuple[DeviceId, int, bytes]],
        *,
        server_key: bytes,
        nonce: bytes,
        now_ms: int,
    ) -> None:
        """An answer of GetReceipt; `nonce` is that of our request's signature (C15)."""
        self._core.now_ms = now_ms
        healing.on_receipt(self._core, data, heads, server_key, nonce)

    def on_server_key(self, server_key: bytes, *, now_ms: int) -> None:
        """The service has another key, and the one that was pinned vouches for it."""
        self._core.now_ms = now_ms
        healing.server_key(self._core, server_key)

    def on_server_key_refused(self, rule: str, data: bytes, *, now_ms: int) -> None:
        """A receipt is not by the pinned key, and what is said to lead on from it is not right."""
        self._core.now_ms = now_ms
        healing.server_key_refused(self._core, rule, data)

    def on_policy_alarm(
        self, rule: str, sentence: str, *evidence: bytes, about: bytes, now_ms: int
    ) -> None:
        """What the service shows as policy is not what it may be (`client.governed.holding`)."""
        self._core.now_ms = now_ms
        self._core.alarm(rule, sentence, *evidence, about=about)

    def on_account_gone(self, *, now_ms: int) -> None:
        """UNAUTHENTICATED although we are active: keeps everything and asks the person."""
        core = self._core
        core.now_ms, core.gone = now_ms, True
        core.alarm(
            "account-gone",
            "The service does not know your account any more. Everything stays on this device; "
            "nothing was removed.",
        )

    # -- membership ---------------------------------------------------------------------

    def build_add(self, cert: DeviceCert) -> SignedLink:
        """The ADD link for a new device, still without its proof of possession."""
        core = self._core
        if not core.writes or core.state.chain.epoch not in core.view.keys:
            raise NotAllowed("This device can't add another one right now.")
        draft, grants = membership.draft_add(core, cert)
        self._wish.drafts[draft.raw] = grants
        return draft

    def submit_add(self, signed: SignedLink) -> None:
        """Queues an ADD that carries its proof. NotAllowed if the chain moved on."""
        core, wish = self._core, self._wish
        grants = wish.drafts.pop(signed.raw, None)
        if grants is None or wish.pending is not None:
            raise NotAllowed("Another change of the device list is under way; try again.")
        item = ChainItem(signed, grants)
        try:
            core.view.chain.apply(signed)
        except CryptoError:
            raise NotAllowed("The device list changed meanwhile; pair the device again.") from None
        membership.set_pending(core, wish, item)

    def rotate(self, revoke: Sequence[DeviceId] = ()) -> None:
        """Starts a new epoch without these devices (section 2, rotation)."""
        membership.want_rotation(self._core, self._wish, revoke)

    def on_poke(self) -> None:
        """Something may have changed at the service: a pull is due."""
        self._core.behind, self._core.gone, self._core.chain_tries = True, False, 0

    def check_in(self) -> None:
        """Compares our state with a receipt at the next occasion."""
        self._core.receipt_due = True

    def reidentify(self, *, now_ms: int, rand: Rand) -> None:
        """A new identity, added by the old one; edits are kept."""
        self._core.now_ms = now_ms
        membership.want_identity(self._core, rand)

    def make_again(self) -> None:
        """Brings the account back to a service that lost all of it, once a person asks for that:
        it may have been deleted on purpose. NotAllowed if this device can't."""
        remake.begin(self._core)


def _is_secret(collection: str) -> bool:
    """Whether it holds the account's secret, which is read by `aggregation_key` alone."""
    return collection == views.AGGREGATION_KEY.collection
