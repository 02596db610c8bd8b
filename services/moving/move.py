"""Moving a store: seized, copied, compared, and only then the one is retired and the other begins.

Killed at any point, it goes on where it was when it is run again: what was copied whole is
known by its last row, and both stores know by a mark which move they belong to. Nobody can
serve either of them meanwhile. The clients notice nothing: the copy has the same secret and
the same generation, so that their cursors stay good. Where a Redis may have lost writes on the
way, on either side, it ends with an error, and all is compared again in another run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from services.moving.rows import Digest, Side, Target
from services.store.errors import StoreUnavailable

Tell = Callable[[str, int, int], None]
"""Of which part how much of how much is done."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What was moved: of each kind how many rows, and the hash over them on both sides."""

    kinds: dict[str, tuple[int, str]]
    generation: str
    ended_before: bool = False
    """There was nothing left to do: the target has been the store since an earlier run."""


async def move(source: Side, target: Target, tell: Tell) -> Moved:
    """Moves everything. StoreUnavailable says what stands in the way, or what differs."""
    own = blake2b(source.secret, digest_size=16).hexdigest().encode()
    to, of = b"to" + own, b"of" + own
    # Without their leading letters: the mark of a store that was moved away says so.
    gone = b"gone" + own
    if target.secret == source.secret and await source.mark() == gone and not await target.mark():
        return Moved({}, target.generation.hex(), ended_before=True)
    await target.check_free(of)
    standing = await source.seize(to)
    if standing not in (to, gone):
        raise StoreUnavailable(f"{source.name} is part of another move")
    if (filling := await target.seize(of)) != of:
        said = "was moved away itself" if filling.startswith(b"gone") else "is part of another move"
        raise StoreUnavailable(f"{target.name} {said}")
    total = await source.count()
    # Also if the source was left already: the target may have lost some of it since.
    await target.put_shared(source.shared())
    done = 0
    async for account_id in source.accounts():
        if not await target.has_account(account_id):
            await target.put_account(source.account(account_id))
        done += 1
        tell("copy", done, total)
    rounds = [row[1] async for row in source.shared() if row[0] == "round"]
    for number, round_id in enumerate(rounds):
        await target.put_content(round_id, source.content(round_id))
        tell("rounds", number + 1, len(rounds))
    there = await _digest(source, "read", total, tell)
    here = await _digest(target, "compare", total, tell)
    if there != here:
        differ = [kind for kind in sorted(there | here) if there.get(kind) != here.get(kind)]
        raise StoreUnavailable(
            f"the copy differs in {', '.join(differ)}: it is not served; empty {target.name}"
            " and move again"
        )
    for side in (source, target):
        await side.check_kept()
    if standing == to:
        await source.retire(to)
    await target.finish(of, source.generation, source.secret)
    return Moved(here, source.generation.hex())


async def _digest(side: Side, part: str, total: int, tell: Tell) -> dict[str, tuple[int, str]]:
    digest = Digest()
    rounds = []
    async for row in side.shared():
        digest.add(row)
        if row[0] == "round":
            rounds.append(row[1])
    done = 0
    async for account_id in side.accounts():
        async for row in side.account(account_id):
            digest.add(row)
        done += 1
        tell(part, done, total)
        if not done % 64:
            await asyncio.sleep(0)  # whoever wants to interrupt it can
    for round_id in rounds:
        async for row in side.content(round_id):
            digest.add(row)
    return digest.table()
