"""The policy bundle that a device holds, and whose word it takes for one.

The publisher's keys are this device's own, as all that it trusts (`client.measure.policy`): who
can write to the profile must not be able to govern a device. With a key, a device is governed,
and until there is a bundle nothing is allowed. It never goes back to an older one.

No I/O: the contract with the shell is that of `client.device`. What is wrong is told by an
alarm, with the bytes that prove it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from client.errors import UserError
from client.rows import Changes, Rows, pack, unpack
from crypto.errors import CryptoError, SignatureError
from crypto.policy import Bundle, open_
from crypto.policy.succession import Verdict, judge
from crypto.primitives import KEY_BYTES

ROWS: Final = "shell/policy/"
"""Where all of it stands in the vault."""
KEYS_ROW: Final = ROWS + "keys"
HELD_ROW: Final = ROWS + "held"
KEYS_MAX: Final = 4
PREFIX_BYTES_MIN: Final = 4
_SENTENCES: Final = {
    "policy-rollback": (
        "The service shows this device an older policy than it has had before. The newer one stays"
        " in force here. Either the service was put back to an older state, or somebody wants to"
        " undo a restriction: tell who publishes the policy."
    ),
    "policy-fork": (
        "The service shows this device a policy that does not go with the one it has had before:"
        " another one under the same number, or one that follows on another. What was in force"
        " stays so. Different people may be shown different policies: tell who publishes it."
    ),
    "policy-signature": (
        "The service shows this device a policy that none of the keys has signed which this device"
        " trusts for that. It was not taken. If the publisher has a new key, get it from them:"
        " `rookery device trust --policy KEY`."
    ),
    "policy-form": (
        "The policy's publisher has signed one that this version can't read. What was in force"
        " stays so: update this program."
    ),
}


@dataclass(frozen=True, slots=True)
class SignedPolicy:
    """A bundle as its publisher signed it, not yet verified."""

    data: bytes
    sig: bytes
    publisher: bytes

    @property
    def proof(self) -> tuple[bytes, bytes, bytes]:
        """What somebody else needs to judge it."""
        return self.data, self.sig, self.publisher


@dataclass(frozen=True, slots=True)
class Shown:
    """What the service says: the number and hash of its newest bundle (0 and empty: it has none),
    and the bundle if it is newer than the one that was asked for."""

    sequence: int
    hash: bytes
    policy: SignedPolicy | None


@dataclass(frozen=True, slots=True)
class _Held:
    """`bundle` None: this version can't read what an earlier one held. It is not in force, and
    yet nothing older may take its place."""

    sequence: int
    hash: bytes
    policy: SignedPolicy
    bundle: Bundle | None

    @classmethod
    def of(cls, policy: SignedPolicy, bundle: Bundle) -> _Held:
        return cls(bundle.sequence, bundle.hash, policy, bundle)

    @classmethod
    def decode(cls, row: bytes) -> _Held:
        sequence, digest, *proof = unpack(row, 5)
        try:
            bundle = open_(*proof)
        except CryptoError:
            bundle = None
        return cls(sequence, digest, SignedPolicy(*proof), bundle)

    def encode(self) -> bytes:
        return pack(self.sequence, self.hash, *self.policy.proof)


class Alarm(Protocol):
    """Tells the person (`Device.on_policy_alarm`), once for each `about`."""

    def __call__(self, rule: str, sentence: str, *evidence: bytes, about: bytes) -> None: ...


class Holding:
    """Pinned keys and the newest bundle that one of them signed."""

    def __init__(self, rows: Rows) -> None:
        """From the rows of the vault; RowsError if they can't be read."""
        self._changes: dict[str, bytes | None] = {}
        self._listeners: list[Callable[[], None]] = []
        self._keys: tuple[bytes, ...] = ()
        self._stored: _Held | None = None
        if KEYS_ROW in rows:
            self._keys = tuple(unpack(rows[KEYS_ROW], 1)[0])
        if HELD_ROW in rows:
            self._stored = _Held.decode(rows[HELD_ROW])

    @property
    def governed(self) -> bool:
        """Whether this device is under a policy."""
        return bool(self._keys)

    @property
    def keys(self) -> tuple[bytes, ...]:
        """Whose bundles are taken."""
        return self._keys

    @property
    def bundle(self) -> Bundle | None:
        """The one in force; None: there is none yet, or the device is not governed. One whose
        publisher is not trusted any more is not."""
        held = self._held
        return None if held is None else held.bundle

    @property
    def sequence(self) -> int:
        """Of the one in force; 0: none."""
        bundle = self.bundle
        return 0 if bundle is None else bundle.sequence

    @property
    def _held(self) -> _Held | None:
        held = self._stored
        return held if held is not None and held.policy.publisher in self._keys else None

    def take_changes(self) -> Changes:
        """Rows to store."""
        changes, self._changes = self._changes, {}
        return changes

    def on_changed(self, told: Callable[[], None]) -> None:
        """Registers a listener, called whenever another bundle, or none, is in force."""
        self._listeners.append(told)

    # --- whom to trust ---

    def pin(self, key: bytes) -> None:
        """Takes bundles of this publisher from now on; UserError. The one before is kept as
        well, until it is removed: so a publisher's key is exchanged."""
        if len(key) != KEY_BYTES:
            raise UserError(f"a policy publisher's key is {2 * KEY_BYTES} hexadecimal characters")
        if key in self._keys:
            return
        if len(self._keys) == KEYS_MAX:
            raise UserError(f"{KEYS_MAX} policy publishers are trusted at most: remove one first")
        self._set_keys((*self._keys, key))

    def unpin(self, prefix: bytes) -> bool:
        """Takes none of the keys that begin so. True if there was one. UserError: too short."""
        if len(prefix) < PREFIX_BYTES_MIN:
            raise UserError(f"give {2 * PREFIX_BYTES_MIN} digits of the key at least")
        kept = tuple(key for key in self._keys if not key.startswith(prefix))
        if kept == self._keys:
            return False
        self._set_keys(kept)
        return True

    def _set_keys(self, keys: tuple[bytes, ...]) -> None:
        before, self._keys = self.bundle, keys
        self._changes |= pinned(keys) if keys else {KEYS_ROW: None}
        if self.bundle is not before:
            self._tell()

    # --- what is shown ---

    def wants(self, sequence: int) -> bool:
        """Whether to ask, given the newest number that the service speaks of. Also if it is
        smaller: another replica may be behind, and the service itself may have been put back."""
        return self.governed and sequence != self.sequence

    def take(self, shown: Shown, alarm: Alarm) -> int | None:
        """Takes a newer bundle, or tells what is wrong. From which number on to ask once more,
        for the bundle that proves a fork; None: there is nothing more to ask."""
        if not self.governed:
            return None
        if shown.policy is not None:
            self._judge(shown.policy, alarm)
            return None
        held = self._held
        if held is None:
            return None
        if shown.sequence < held.sequence:
            _accuse(alarm, "policy-rollback", about=b"%d" % shown.sequence)
        elif shown.sequence == held.sequence and shown.hash != held.hash:
            return held.sequence - 1
        return None

    def _judge(self, policy: SignedPolicy, alarm: Alarm) -> None:
        proof = policy.proof
        try:
            bundle = open_(*proof) if policy.publisher in self._keys else None
        except SignatureError:
            bundle = None
        except CryptoError:
            _accuse(alarm, "policy-form", *proof, about=policy.sig)
            return
        if bundle is None:
            _accuse(alarm, "policy-signature", *proof, about=policy.publisher)
            return
        held = self._held
        verdict = Verdict.NEWER if held is None else judge(held.sequence, held.hash, bundle)
        is_readable_now = verdict is Verdict.SAME and self.bundle is None
        if held is None or verdict is Verdict.NEWER or is_readable_now:
            self._stored = _Held.of(policy, bundle)
            self._changes[HELD_ROW] = self._stored.encode()
            self._tell()
        elif verdict is Verdict.ROLLBACK:
            _accuse(alarm, "policy-rollback", *proof, about=bundle.hash)
        elif verdict is Verdict.FORK:
            _accuse(alarm, "policy-fork", *held.policy.proof, *proof, about=bundle.hash)

    def _tell(self) -> None:
        for told in self._listeners:
            told()


def pinned(keys: Sequence[bytes]) -> dict[str, bytes]:
    """The rows of a new device that is to take the bundles of these publishers alone."""
    return {KEYS_ROW: pack(list(keys))}


def _accuse(alarm: Alarm, rule: str, *evidence: bytes, about: bytes) -> None:
    alarm(rule, _SENTENCES[rule], *evidence, about=about)
