"""What the demo shows of its last act."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from client.demo.governance import SWITCH, Governance


def table(console: Console, seen: Governance) -> None:
    """What was stopped, and after how many seconds."""
    shown = Table(
        title="Governance: from the act until it is obeyed",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    shown.add_column("")
    shown.add_column("seconds", justify="right", no_wrap=True)
    for text, seconds in _rows(seen):
        shown.add_row(text, "[bold red]never[/bold red]" if seconds is None else f"{seconds:.2f}")
    console.print(shown)
    for sentence in _sentences(seen):
        console.print(sentence)
    console.print()


def _rows(seen: Governance) -> list[tuple[str, float | None]]:
    switched, forgotten = seen.switched, seen.left.forgotten
    count, left = switched.clients, forgotten.service_rows_after + forgotten.party_rows_after
    killed = f"{len(switched.obeyed_s)} of {count} connected devices refuse to record a region"
    again = f"{len(switched.again_s)} of {count} record one again"
    other = "the other one has deleted all and records nothing"
    rows = f"{forgotten.service_rows} at the service, {forgotten.party_rows} at parties"
    return [
        (f"kill switch {SWITCH}: {killed}", _last(switched.obeyed_s)),
        (f"what was before, published anew: {again}", _last(switched.again_s)),
        (f"all purposes off on one device: {other}", seen.left.withdrawal.other_s),
        ("the service refuses that account's contribution", seen.left.withdrawal.relay_s),
        (f"forget me: of its rows ({rows}) {left} are left", forgotten.seconds),
    ]


def _last(seconds: list[float]) -> float | None:
    return seconds[-1] if seconds else None


def _sentences(seen: Governance) -> list[str]:
    left, round_ = seen.left, seen.left.round.data()
    deleted = ", ".join(f"{count} {name}" for name, count in left.withdrawal.deleted.items())
    replayed = seen.replayed
    return [
        f"deleted by withdrawing, on both devices: {deleted}",
        (
            f"the next round ({left.round.task.title.lower()}): {round_['valid']} reports, of"
            f" {left.people} people: without who withdrew and who was forgotten"
        ),
        f"tried on a device: {_tried(seen.rules)}",
        (
            f"a copy of the service that shows policy {replayed.shown} to a device with policy"
            f" {replayed.held}: {'refused, with an alarm' if replayed.refused else 'TAKEN'}"
        ),
    ]


def _tried(rules: Mapping[str, str]) -> str:
    """What was recorded against the policy, or by which of its rules it was refused."""
    return ", ".join(
        f"{what} (refused, rule {rule!r})" if rule else f"{what} (RECORDED)"
        for what, rule in rules.items()
    )


def summary_rows(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Lines of the demo's last table."""
    obeyed, clients = data["clients_that_obeyed_the_kill_switch"], data["clients"]
    older = "yes" if data["older_policy_refused"] else "NO"
    return [
        ("tried, and not in the policy", _tried(data["refused_by_rule"])),
        (
            "connected devices that obeyed the kill switch",
            f"{obeyed} of {clients}, the last after {data['kill_switch_seconds_last']} s",
        ),
        ("an older policy is refused, with an alarm", older),
        ("rows left of a forgotten account", str(data["forgotten_rows_after"])),
        ("kept for too long, by the metrics", str(data["retention_overdue"])),
        ("entries of the audit log, verified", str(data["audit_entries_verified"])),
    ]
