"""Which keys the store has in Redis. Every script's keys lie in one slot, and are all named.

Of an account, behind its hash tag `{account id, base64}`:

| key | what | holds |
|---|---|---|
| s | hash | its state: `services.store.redis_state` |
| c | string | its chain: `services.store.snapshot` |
| l | hash | seq u32 -> a link with its grants |
| o | hash | position u32 -> an op or stub, behind what is known of it: `redis_ops` |
| b | hash | position >> 6, u32 -> how many of these 64 positions are held |
| w<epoch> | hash | tag -> position u32 of its winner |
| x | sorted set | position u32 of what was superseded, by the end of the push that did it |
| r | sorted set | runs, in the order of their bytes: device index u8, dev_seq u64, position u32 |
| g | hash | device id, dev_seq >> 6 -> 64 x 8 bytes of the hashes of ops that were trimmed |
| k | sorted set | rounds that it gave to, and `k<incarnation>`: `services.store.redis_rounds` |
| a | hash | device id -> whether it is to be poked, and when: `redis_wake` |
| h | hash | device id -> its wake handle |
| e | hash | its chain of consent: `services.store.redis_governance` |
| y | hash | what counts of it, by tag |
| n<window> | set | nonces of signed requests, for some fifteen minutes |

Channel of an account's pokes: the tag, and `p`. Of the store: `{mail}e` and `{mail}b`, mailboxes
by their end and their messages; `{subject row, base64}u`, accounts of a subject;
`due{0}` to `due{15}`, accounts to look at, by when; `wake{0}` to `wake{15}`, accounts with devices
to poke, by when; `gone{0}` to `gone{15}`, deletions under way.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode

from crypto.ids import AccountId, DeviceId

SHARDS = 16
WINDOW_MS = 300_000
MAIL_ENDS = b"{mail}e"
MAIL_BODIES = b"{mail}b"


def tag(raw: bytes) -> bytes:
    """A hash tag of any bytes."""
    return b"{" + urlsafe_b64encode(raw).rstrip(b"=") + b"}"


def untag(key: bytes) -> bytes:
    """What a key's hash tag was made of."""
    text = key[key.index(b"{") + 1 : key.index(b"}")]
    return urlsafe_b64decode(text + b"=" * (-len(text) % 4))


def nonces(owner: bytes, now_ms: int) -> tuple[bytes, bytes, bytes]:
    """The windows before, of, and after a moment: clocks of replicas differ a little."""
    window = now_ms // WINDOW_MS
    return tuple(owner + b"n%d" % n for n in (window - 1, window, window + 1))  # type: ignore[return-value]


def nonces_of_key(caller: DeviceId, now_ms: int) -> tuple[bytes, bytes, bytes]:
    """The windows of a key without an account."""
    return nonces(tag(caller), now_ms)


def subject(row: bytes) -> bytes:
    """The accounts of a subject."""
    return tag(row) + b"u"


def shard(account_id: AccountId) -> int:
    """Which of the lists an account is in."""
    return account_id[-1] % SHARDS


def due(number: int) -> bytes:
    """Accounts that are to be looked at."""
    return b"due{%d}" % number


def to_wake(number: int) -> bytes:
    """Accounts with devices that are to be poked."""
    return b"wake{%d}" % number


def gone(number: int) -> bytes:
    """Deletions that may not be finished."""
    return b"gone{%d}" % number


class AccountKeys:
    """The keys of one account."""

    __slots__ = (
        "blocks", "chain", "channel", "consent_tags", "consents", "given", "handles", "links",
        "ops", "runs", "state", "superseded", "tag", "trimmed", "waking",
    )  # fmt: skip

    def __init__(self, account_id: AccountId) -> None:
        self.tag = own = tag(account_id)
        self.state = own + b"s"
        self.chain = own + b"c"
        self.links = own + b"l"
        self.ops = own + b"o"
        self.blocks = own + b"b"
        self.superseded = own + b"x"
        self.runs = own + b"r"
        self.trimmed = own + b"g"
        self.channel = own + b"p"
        self.given = own + b"k"
        self.waking = own + b"a"
        self.handles = own + b"h"
        self.consents = own + b"e"
        self.consent_tags = own + b"y"

    def winners(self, epoch: int) -> bytes:
        """The winners of an epoch."""
        return self.tag + b"w%d" % epoch

    def given_by_deleted(self, incarnation: bytes) -> bytes:
        """What `given` is called until a deletion is finished."""
        return self.given + incarnation

    def nonces(self, now_ms: int) -> tuple[bytes, bytes, bytes]:
        """The windows of nonces around a moment."""
        return nonces(self.tag, now_ms)

    def everything(self, epoch: int) -> list[bytes]:
        """All that an account in this epoch may have, but for its nonces, which end by
        themselves: a deletion that is sent once more must not delete the account made anew."""
        own = (
            self.state, self.chain, self.links, self.ops, self.blocks, self.superseded,
            self.runs, self.trimmed, self.waking, self.handles, self.consents,
            self.consent_tags,
        )  # fmt: skip
        return [*own, *map(self.winners, range(1, epoch + 1))]
