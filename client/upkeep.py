"""What a device does by itself over time: publish again, check in, destroy old keys."""

from __future__ import annotations

from client.core import Core
from client.profile import Name
from crypto.cert import Role
from crypto.checkpoint import Checkpoint, state_hash

DAY_MS = 86_400_000
COVER_MS = 7 * DAY_MS
GRACE_MS = 30 * DAY_MS
ROTATION_MS = 30 * DAY_MS
LEADER_MS = 10 * 60_000
"""How long the others leave it to the initiator of a rotation to publish records again."""
CHECKPOINT_OPS = 4096


def run(core: Core) -> None:
    """After a catch-up: destroys what is over."""
    # A clock that was ahead once must not keep old keys for years: grace begins now.
    core.epoch_seen_ms = min(core.epoch_seen_ms, core.now_ms)
    epoch = core.state.chain.epoch
    for old in sorted(core.view.keys):
        if old < epoch and _is_over(core, old):
            core.view.destroy_key(old, core.journal)
            core.oplog.shed(old, core.journal)


def _is_over(core: Core, old: int) -> bool:
    """Checkpoint and own publishing are done, and grace is over or everybody has moved."""
    if core.checkpoint_epoch < core.state.chain.epoch or core.stale:
        return False
    if any(sealed.header.epoch <= old for sealed in core.holds.known(core.state)):
        return False  # the key is still needed to read it
    if any(row.sealed.header.epoch <= old for row in core.outbox.flying.values()):
        return False
    return core.now_ms - core.epoch_seen_ms >= GRACE_MS or all_moved(core)


def all_moved(core: Core) -> bool:
    """Every active device that writes has written in the current epoch."""
    state = core.state
    return all(
        (kept := core.oplog.ops.get((device.index, state.logs[device.index].seq))) is not None
        and kept.epoch == state.chain.epoch
        for device in state.chain.active
        if device.role is Role.FULL
    )


def to_publish_again(core: Core) -> list[Name]:
    """Names whose winner still lives in an older epoch, if it is our turn: the rotation's
    initiator begins; what it missed, everybody publishes once its checkpoint stands."""
    if not core.stale or core.behind or core.fresh:
        return []
    mine = core.leader == core.identity.device_id
    done = core.checkpoint_epoch >= core.state.chain.epoch
    late = core.now_ms - core.epoch_seen_ms >= LEADER_MS
    if not (mine or done or late):
        return []
    return [name for name in core.stale if name not in core.outbox.edits]


def cover_due(core: Core) -> bool:
    """A sign of life: weekly, and once in every epoch."""
    me = core.me
    if me is None or core.behind or core.fresh:
        return False
    kept = core.oplog.ops.get((me.index, core.state.logs[me.index].seq))
    if kept is None or kept.epoch < core.state.chain.epoch:
        return True
    age = core.now_ms - core.last_seen.get(me.index, 0)
    return age >= COVER_MS or age <= -DAY_MS  # the clock was ahead when it wrote last


def checkpoint_due(core: Core) -> bool:
    """The leader of an epoch states the whole state once all of it is published again, and
    now and then later on, so that the service can forget what was superseded."""
    if core.fresh or core.stale or any(core.holds.known(core.state)):
        return False
    if core.leader != core.identity.device_id:
        return False
    first = core.state.chain.epoch > 1 and core.checkpoint_epoch < core.state.chain.epoch
    return first or len(core.oplog.ops) - core.ops_at_checkpoint >= CHECKPOINT_OPS


def checkpoint(core: Core) -> Checkpoint:
    """The statement itself, of everything that is held now."""
    state = core.state
    held = state.heads()
    count, digest = state_hash(core.oplog.state_at(state.chain.epoch, held))
    return Checkpoint(state.chain.epoch, held, count, digest)


def rotation_due(core: Core) -> bool:
    """The epoch key is older than it should become."""
    return bool(core.epoch_seen_ms) and core.now_ms - core.epoch_seen_ms >= ROTATION_MS
