"""Everything that there is of a person, in one readable object. Secrets are left out: keys, salts,
and what only proves something to the service. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from client import resetting, snapshot
from client.consent import taken
from client.consent.records import Recorded
from client.intelligence import exposures
from client.intelligence.exposures import Exposure
from client.measure.consent import ConsentSettings
from client.measure.core import Measuring
from client.snapshot import Item, Kind
from client.sync import SyncedDevice
from crypto.cert import Role
from crypto.policy import Bundle


def export(synced: SyncedDevice, measuring: Measuring) -> dict[str, Any]:
    """As JSON takes it, but for bytes."""
    core, now_ms = synced.core, synced.now_ms()
    items = list(snapshot.take(core, now_ms=now_ms, undeclared=True).values())
    return {
        "account": core.account_id.hex(),
        "exported_ms": now_ms,
        "settings": {row.name: row.value for row in items if row.kind is Kind.SETTING},
        "scores": {row.name: row.value for row in items if row.kind is Kind.SCORE},
        "experiments": [_trial(key, one) for key, one in exposures.records(core)],
        "details": [_detail(synced, row) for row in items],
        "consent": _consent(synced),
        "receipts": [_receipt(one) for one in synced.ledger.records.chain()],
        "policy": None if synced.policy is None else _policy(synced.policy),
        "contributions": taken.contributions(measuring),
        "spent": taken.spent(measuring),
        "devices": list(_devices(synced)),
        "paused": synced.ledger.paused,
        "undo_until_ms": resetting.undo_until_ms(synced.kept),
    }


def _detail(synced: SyncedDevice, item: Item) -> dict[str, Any]:
    """Where a value came from, and what the policy says of it."""
    core, policy = synced.core, synced.policy
    signal = None if policy is None else policy.signal_at(item.collection, item.key)
    here = core.is_here(item.collection, item.key)
    said: dict[str, Any] = {"name": item.name, "kind": item.kind.value, "only_here": here}
    if item.kind is Kind.SCORE:
        shares = core.shares(item.collection, item.key).items()
        said["shares"] = [
            {"device": index, "total": part.total, "changed_ms": part.changed_ms}
            for index, part in shares
        ]
        said["only_here"] = here or all(index is None for index, _ in shares)
    else:
        said["written_ms"] = core.written_ms(item.collection, item.key)
    if signal is not None:
        said |= {
            "signal": signal.name,
            "purposes": list(signal.purposes),
            "reach": str(signal.reach),
            "retention_days": signal.retention_days,
        }
    return said


def _trial(key: str, one: Exposure) -> dict[str, Any]:
    """What one device keeps of an experiment."""
    return {
        "experiment": exposures.experiment_of(key),
        "device": exposures.device_of(key),
        "variant": one.variant,
        "shown_ms": one.shown_ms,
        "outcome": one.outcome,
    }


def _consent(synced: SyncedDevice) -> list[dict[str, Any]]:
    if not synced.governed:
        allowed = ConsentSettings(synced.core).allowed
        return [{"purpose": name, "standing": "allowed"} for name in allowed]
    return [state.as_map() for state in synced.ledger.states()]


def _receipt(one: Recorded) -> dict[str, Any]:
    said = one.receipt
    return {
        "seq": one.entry.seq,
        "purpose": said.purpose,
        "granted": said.granted,
        "at_ms": said.at_ms,
        "policy_sequence": said.policy_sequence,
        "text": one.words[0],
        "benefit": one.words[1],
        "text_hash": said.text_hash.hex(),
        "device": one.device_id.hex(),
        "receipt": said.encode(),
        "entry": one.entry.encode(),
        "signature": one.sig,
    }


def _policy(bundle: Bundle) -> dict[str, Any]:
    return {
        "sequence": bundle.sequence,
        "title": bundle.title,
        "issued_ms": bundle.issued_ms,
        "hash": bundle.hash.hex(),
        "purposes": [one.as_map() for one in bundle.purposes],
        "signals": [one.as_map() for one in bundle.signals],
        "tasks": [one.as_map() for one in bundle.tasks],
    }


def _devices(synced: SyncedDevice) -> Iterator[dict[str, Any]]:
    for row in synced.core.devices:
        listed = synced.core.chain.find(row.device_id)
        yield {
            "device": row.device_id.hex(),
            # What receipts are signed with; the id is its hash.
            "key": None if listed is None else listed.ik_pk.hex(),
            "number": row.index,
            "role": "recovery" if row.role is Role.RECOVERY else "full",
            "active": row.active,
            "this_device": row.this_device,
            "last_seen_ms": row.last_seen_ms,
        }
