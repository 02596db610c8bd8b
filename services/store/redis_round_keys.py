"""Keys of joint aggregates in Redis, and how tasks and rounds are written there.

All tasks and rounds, behind the tag `{rounds}`, so that quotas are exact and windows compared:

| key | what | holds |
|---|---|---|
| t | hash | spec_hash -> a task |
| i | hash | task id -> spec_hash |
| l | list | spec_hashes, in the order of publication: a task's position is its place, from 1 |
| r | hash | round id -> what never changes of a round |
| o<spec_hash> | sorted set | round id and close_ms, by open_ms: the windows of a task |
| v<spec_hash> | sorted set | round ids by until_ms |
| b | sorted set | round ids by until_ms: rounds whose boxes may be held |
| u | sorted set | round ids by until_ms: all rounds |
| p, q | hash | id of a party's key -> the key; and in how many rounds |
| f | hash | round id -> how many parties: rounds that are being forgotten |

Of a round, behind its own tag:

| key | what | holds |
|---|---|---|
| s | hash | open, until, sealed, over, position, held; result, z<party> its signatures; a<party>; |
|   |      | w<hash of who>: seq of a withdrawal, behind which nothing of before comes |
| c | hash | account id and incarnation -> digest of the boxes, position u32 |
| g | set | who must not contribute any more: hashes of account id and incarnation |
| b<party> | list | boxes: the one at position n is at n - 1; empty if it was deleted |

Of an account (`redis_keys`), behind its own: `k`, a sorted set of round ids by when their boxes
are gone for sure: rounds to which it may have contributed.
"""

from __future__ import annotations

from hashlib import blake2b

import cbor2

from services.store.redis_keys import tag
from services.store.rounds import RoundRow, TaskRow

TASKS = b"{rounds}t"
TASK_IDS = b"{rounds}i"
TASK_LIST = b"{rounds}l"
ROUNDS = b"{rounds}r"
WITH_BOXES = b"{rounds}b"
ALL_BY_END = b"{rounds}u"
PARTIES = b"{rounds}p"
PARTY_ROUNDS = b"{rounds}q"
FORGOTTEN = b"{rounds}f"


def windows(spec_hash: bytes) -> bytes:
    """The windows of a task."""
    return b"{rounds}o" + spec_hash


def by_end(spec_hash: bytes) -> bytes:
    """The rounds of a task."""
    return b"{rounds}v" + spec_hash


class RoundKeys:
    """The keys of one round."""

    __slots__ = ("barred", "given", "own", "state")

    def __init__(self, round_id: bytes) -> None:
        self.own = tag(round_id)
        self.state = self.own + b"s"
        self.given = self.own + b"c"
        self.barred = self.own + b"g"

    def boxes(self, party: int) -> bytes:
        """Boxes of a party, from 1."""
        return self.own + b"b%d" % party

    def all_boxes(self, parties: int) -> list[bytes]:
        """Of all parties."""
        return [self.boxes(party) for party in range(1, parties + 1)]

    def content(self, parties: int) -> list[bytes]:
        """What goes when the boxes go."""
        return [self.given, self.barred, *self.all_boxes(parties)]


def barred(who: bytes) -> bytes:
    """How a round knows who was deleted, without saying who it was."""
    return blake2b(who, digest_size=16).digest()


def withdrawn(who: bytes) -> bytes:
    """The field of a round's state that says by which entry of consent somebody took back last:
    a contribution that was on its way with an older one is not taken."""
    return b"w" + barred(who)


def pack_task(row: TaskRow) -> bytes:
    """A task as it is stored."""
    raw: bytes = cbor2.dumps([row.task_id, row.spec_hash, row.publisher, row.task, row.sig])
    return raw


def unpack_task(raw: bytes) -> TaskRow:
    """What `pack_task` was given."""
    return TaskRow(*cbor2.loads(raw))


def pack_round(row: RoundRow) -> bytes:
    """What never changes of a round, as it is stored."""
    raw: bytes = cbor2.dumps(
        [
            row.round_id, row.spec_hash, row.manifest, list(row.sigs), list(row.parties),
            row.open_ms, row.close_ms, row.until_ms,
        ]
    )  # fmt: skip
    return raw


def unpack_round(raw: bytes) -> RoundRow:
    """What `pack_round` was given."""
    round_id, spec_hash, manifest, sigs, parties, *times = cbor2.loads(raw)
    return RoundRow(round_id, spec_hash, manifest, tuple(sigs), tuple(parties), *times)
