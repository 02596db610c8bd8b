"""Manifests: one round of one task, as all its parties signed it (docs/aggregation.md, 3).

Decides whether a manifest may be used; whether a device's other devices saw the same one
(`Manifest.digest`) is the caller's to compare.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from crypto import labels
from crypto.contribution import Shape
from crypto.errors import FormatError, SignatureError
from crypto.primitives import KEY_BYTES, SIG_BYTES, hash_, need, pack, refuse_low_order, verify
from crypto.shares import check_parties
from mpc.keys import PartyKey
from mpc.task import Task

ROUND_ID_BYTES = 16
_HEAD = struct.Struct(">4sBBBB16s32sQQI")
_PARTY = struct.Struct(">32s32s")
_MAGIC, _SUITE = b"PSM1", 1


def quorum(m: int, t: int) -> int:
    """How many parties an opening and a result need: enough to interpolate, and a majority, so
    that no two groups without a party in common can each end the round."""
    return max(t + 1, m // 2 + 1)


@dataclass(frozen=True, slots=True)
class Party:
    """A party in a round: its identity key, and the key that shares are sealed to."""

    ik_pk: bytes
    box_pk: bytes


@dataclass(frozen=True)
class Manifest:
    """A window of a task, and who computes it. Party i has the share at x = i, from 1."""

    round_id: bytes
    spec_hash: bytes
    t: int
    open_ms: int
    close_ms: int
    k_min: int
    parties: tuple[Party, ...]

    def __post_init__(self) -> None:
        check_parties(self.m, self.t)
        if self.open_ms >= self.close_ms:
            raise FormatError("window", "the window must open before it closes")
        keys = [key for party in self.parties for key in (party.ik_pk, party.box_pk)]
        if len(set(keys)) != len(keys):
            raise FormatError("party-keys", "two keys of the round are the same; make new ones")
        for party in self.parties:
            need("party key", party.ik_pk, KEY_BYTES)
            refuse_low_order(party.box_pk)

    @property
    def m(self) -> int:
        """How many parties there are."""
        return len(self.parties)

    @property
    def quorum(self) -> int:
        """How many of them a result needs; see `quorum`."""
        return quorum(self.m, self.t)

    @cached_property
    def encoded(self) -> bytes:
        """The 76 + 64m bytes that are signed."""
        head = pack(
            _HEAD,
            _MAGIC,
            _SUITE,
            self.m,
            self.t,
            0,
            need("round id", self.round_id, ROUND_ID_BYTES),
            need("spec hash", self.spec_hash, 32),
            self.open_ms,
            self.close_ms,
            self.k_min,
        )
        return head + b"".join(pack(_PARTY, one.ik_pk, one.box_pk) for one in self.parties)

    @cached_property
    def digest(self) -> bytes:
        """`round_digest = H("pss1/round", manifest)`, 32 bytes."""
        return hash_(labels.ROUND, self.encoded)

    def sign(self, party: PartyKey) -> bytes:
        """A party's signature; FormatError if it is none of the round's."""
        if party.public not in [one.ik_pk for one in self.parties]:
            raise FormatError("party-set", "the key is none of the round's parties")
        return party.sign(labels.ROUND_SIG, self.encoded)

    def signed(self, sigs: Sequence[bytes]) -> bytes:
        """`manifest | m x sig[64]`, by the parties' order, as it is published. Checks them."""
        if len(sigs) != self.m:
            raise FormatError("signatures", f"the manifest needs all {self.m} signatures")
        for party, sig in zip(self.parties, sigs, strict=True):
            verify(party.ik_pk, labels.ROUND_SIG, self.encoded, sig)
        return self.encoded + b"".join(sigs)

    def box_keys(self) -> tuple[bytes, ...]:
        """What shares are sealed to: party i's key at i - 1."""
        return tuple(party.box_pk for party in self.parties)

    def shape(self, task: Task) -> Shape:
        """What every contribution to this round has to be like."""
        return Shape(
            round_digest=self.digest,
            m=self.m,
            t=self.t,
            field=task.field,
            length=task.kind.length,
        )

    def conflicts(self, other: Manifest) -> bool:
        """Whether two manifests are for one window of a task: they overlap and differ.

        A party refuses the second, and a device that sees both has been shown two rounds.
        """
        overlap = self.open_ms < other.close_ms and other.open_ms < self.close_ms
        return self.spec_hash == other.spec_hash and overlap and self.digest != other.digest

    def check_task(self, task: Task) -> None:
        """FormatError unless this is a round of the task, by the task's own numbers."""
        if self.spec_hash != task.spec_hash:
            raise FormatError("round-task", "the round is one of another task")
        if (self.m, self.t) != (task.m, task.t):
            raise FormatError("round-parties", f"the task wants m = {task.m} and t = {task.t}")
        if self.close_ms - self.open_ms != task.window_ms:
            raise FormatError("round-window", f"the task wants windows of {task.window_ms} ms")
        if self.k_min != task.k_min:
            raise FormatError("round-k-min", f"the task wants k_min = {task.k_min}")
        if self.close_ms > task.expires_ms:
            raise FormatError("task-expired", "the task expires before the round closes")


def size_of(m: int) -> int:
    """Bytes of the manifest of m parties, without signatures."""
    return _HEAD.size + m * _PARTY.size


def parse(data: bytes) -> Manifest:
    """The signed bytes alone, strict. Nothing is verified. FormatError."""
    if len(data) < _HEAD.size:
        raise FormatError("length", f"a manifest has {_HEAD.size} bytes at least")
    magic, suite, m, t, zero, round_id, spec, open_ms, close_ms, k_min = _HEAD.unpack_from(data)
    if (magic, suite, zero) != (_MAGIC, _SUITE, 0):
        raise FormatError("manifest", "not a manifest of this suite")
    need("manifest", data, size_of(m))
    parties = tuple(Party(*keys) for keys in _PARTY.iter_unpack(data[_HEAD.size :]))
    return Manifest(round_id, spec, t, open_ms, close_ms, k_min, parties)


def split(data: bytes) -> tuple[Manifest, tuple[bytes, ...]]:
    """A published manifest and its m signatures, strict. Nothing is verified. FormatError."""
    m = max(0, len(data) - _HEAD.size) // (_PARTY.size + SIG_BYTES)
    size = size_of(m)
    need("signed manifest", data, size + m * SIG_BYTES)
    sigs = tuple(data[at : at + SIG_BYTES] for at in range(size, len(data), SIG_BYTES))
    return parse(data[:size]), sigs


def open_(data: bytes, pinned: Sequence[bytes], task: Task) -> Manifest:
    """A published manifest, if exactly the pinned parties all signed it for this task.

    `pinned` are the parties' identity keys in their order. FormatError, SignatureError.
    """
    m = len(pinned)
    need("signed manifest", data, size_of(m) + m * SIG_BYTES)
    manifest, sigs = split(data)
    if [party.ik_pk for party in manifest.parties] != list(pinned):
        raise SignatureError("party-set", "the round's parties are not those that are pinned")
    manifest.signed(sigs)
    manifest.check_task(task)
    return manifest


def check_time(manifest: Manifest, now_ms: int) -> None:
    """FormatError unless the window is open now: what a device checks before it contributes."""
    if now_ms < manifest.open_ms:
        raise FormatError("window-early", "the round is not open yet; wait")
    if now_ms >= manifest.close_ms:
        raise FormatError("window-closed", "the round has closed; wait for the next one")
