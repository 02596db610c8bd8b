"""One device: composition of chain view, judge, profile and outbox. No I/O, clock or chance.

The contract with the shell, whatever it calls:
1. call a method; 2. store `take_changes()` atomically; 3. only then send what it returned.
`next_step` says which call of the API is due; `on_...` takes the outcome. A device that is
loaded again from its stored rows goes on where it was, at any point between these steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from client.rows import Changes, Rows
from client.steps import (
    ChainItem,
    DeviceInfo,
    Notice,
    Push,
    Rand,
    Status,
    Step,
)
from client.values import Value
from crypto.cert import DeviceCert
from crypto.chain import Chain
from crypto.ids import AccountId, DeviceId, LinkHash
from crypto.keys import Identity
from crypto.link import SignedLink


class Device:
    """A device of one account."""

    # -- making one ---------------------------------------------------------------------

    @classmethod
    def create(cls, *, recovery_secret: bytes | None, now_ms: int, rand: Rand) -> Device:
        """A new account with this device as its first one.

        `recovery_secret` (20 random bytes, `crypto.recovery.to_paper` shows them) becomes a
        role 2 device at once; None only if the person declined.
        """
        raise NotImplementedError

    @classmethod
    def join(
        cls,
        identity: Identity,
        *,
        account_id: AccountId,
        pin_seq: int,
        pin_head: LinkHash,
        now_ms: int,
    ) -> Device:
        """A device that an existing one has just added (see `client.pairing`). It reads the
        chain from genesis and trusts it only if `pin_head` stands at `pin_seq`."""
        raise NotImplementedError

    @classmethod
    def load(cls, rows: Rows) -> Device:
        """The device that wrote these rows. RowsError if they don't fit together."""
        raise NotImplementedError

    def take_changes(self) -> Changes:
        """Rows to store, atomically, before anything is sent. Empty: nothing changed."""
        raise NotImplementedError

    # -- what it knows ------------------------------------------------------------------

    @property
    def account_id(self) -> AccountId:
        raise NotImplementedError

    @property
    def identity(self) -> Identity:
        """Signs this device's requests."""
        raise NotImplementedError

    @property
    def chain(self) -> Chain:
        """The verified chain."""
        raise NotImplementedError

    @property
    def cursor(self) -> bytes:
        """Where to pull or subscribe from."""
        raise NotImplementedError

    @property
    def status(self) -> Status:
        raise NotImplementedError

    @property
    def devices(self) -> tuple[DeviceInfo, ...]:
        """All devices ever, in order of appearance."""
        raise NotImplementedError

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What the person should know and has not dismissed, oldest first."""
        raise NotImplementedError

    def dismiss(self, number: int) -> None:
        """The person has read this notice. Its evidence is kept no longer."""
        raise NotImplementedError

    # -- the profile (queued edits show at once) ----------------------------------------

    def get(self, collection: str, key: str) -> Value:
        """A setting's value; None if there is none."""
        raise NotImplementedError

    def list(self, collection: str) -> dict[str, Value]:
        """All settings of a collection, by key."""
        raise NotImplementedError

    def collections(self) -> tuple[str, ...]:
        """Collections that hold something, sorted; the protocol's own are left out."""
        raise NotImplementedError

    def members(self, collection: str) -> frozenset[str]:
        """The members of a set."""
        raise NotImplementedError

    def score(
        self, collection: str, key: str, *, now_ms: int, half_life_ms: int | None = None
    ) -> float:
        """A score: the sum of all devices' parts, decayed to now."""
        raise NotImplementedError

    def scores(
        self, collection: str, *, now_ms: int, half_life_ms: int | None = None
    ) -> dict[str, float]:
        """All scores of a collection, by key."""
        raise NotImplementedError

    def put(self, collection: str, key: str, value: Value, *, now_ms: int) -> None:
        """Sets a setting. BadName, BadValue, ValueTooLong."""
        raise NotImplementedError

    def remove(self, collection: str, key: str, *, now_ms: int) -> None:
        """Removes a setting (a tombstone)."""
        raise NotImplementedError

    def add_member(self, collection: str, member: str, *, now_ms: int) -> None:
        """Puts a member into a set."""
        raise NotImplementedError

    def remove_member(self, collection: str, member: str, *, now_ms: int) -> None:
        """Takes a member out of a set."""
        raise NotImplementedError

    def add_score(
        self,
        collection: str,
        key: str,
        delta: float,
        *,
        now_ms: int,
        half_life_ms: int | None = None,
    ) -> None:
        """Adds to a score. Never lost to another device's adding at the same time."""
        raise NotImplementedError

    @property
    def aggregation_key(self) -> bytes | None:
        """K_agg, the account's 32-byte secret for nullifiers; None until it has arrived."""
        raise NotImplementedError

    # -- what to do next ----------------------------------------------------------------

    def next_step(self, *, now_ms: int, rand: Rand) -> Step | None:
        """The call that is due now; None: all is sent and the last page was the newest."""
        raise NotImplementedError

    def next_push(self, *, now_ms: int, rand: Rand) -> Push | None:
        """What to push now: lost ops again, the batch in flight byte for byte, or a new one."""
        raise NotImplementedError

    # -- outcomes -----------------------------------------------------------------------

    def on_account_created(self) -> None:
        """The service has our genesis link."""
        raise NotImplementedError

    def on_chain(
        self, items: Sequence[ChainItem], *, lamport_max: int, more: bool, now_ms: int
    ) -> None:
        """An answer of GetChain. Never raises: what can't be right becomes a notice."""
        raise NotImplementedError

    def on_chain_seq(self, chain_seq: int) -> None:
        """ServerInfo.chain_seq of any answer: larger than ours makes GetChain due."""
        raise NotImplementedError

    def on_appended(self, item: ChainItem, *, now_ms: int) -> None:
        """The service took the link."""
        raise NotImplementedError

    def on_append_refused(
        self, item: ChainItem, reason: str, metadata: Mapping[str, str], *, now_ms: int
    ) -> None:
        """The service refused it with this ErrorInfo. Transport failures are not reported:
        the same step comes again."""
        raise NotImplementedError

    def on_page(self, ops: Sequence[bytes], cursor: bytes, *, more: bool, now_ms: int) -> None:
        """A page of Pull or a frame of Subscribe (`more` false from EVENT_CAUGHT_UP on).
        Never raises: bad ops are set aside with their evidence."""
        raise NotImplementedError

    def on_pushed(self, push: Push, *, now_ms: int) -> None:
        """The service has committed this push."""
        raise NotImplementedError

    def on_push_refused(
        self, push: Push, reason: str, metadata: Mapping[str, str], *, now_ms: int
    ) -> None:
        """The service refused the push with this ErrorInfo."""
        raise NotImplementedError

    def on_generation_changed(self) -> None:
        """GENERATION_CHANGED or CURSOR_INVALID: compares heads, pushes again what is missing
        and pulls from the start."""
        raise NotImplementedError

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
        raise NotImplementedError

    def on_account_gone(self, *, now_ms: int) -> None:
        """UNAUTHENTICATED although we are active: keeps everything and asks the person."""
        raise NotImplementedError

    # -- membership ---------------------------------------------------------------------

    def build_add(self, cert: DeviceCert) -> SignedLink:
        """The ADD link for a new device, still without its proof of possession."""
        raise NotImplementedError

    def submit_add(self, link: SignedLink) -> None:
        """Queues an ADD that carries its proof. NotAllowed if the chain moved on."""
        raise NotImplementedError

    def rotate(self, revoke: Sequence[DeviceId] = ()) -> None:
        """Starts a new epoch without these devices (section 2, rotation)."""
        raise NotImplementedError

    def check_in(self) -> None:
        """Compares our state with a receipt at the next occasion."""
        raise NotImplementedError

    def reidentify(self, *, now_ms: int, rand: Rand) -> None:
        """A new identity, added by the old one; edits are kept."""
        raise NotImplementedError
