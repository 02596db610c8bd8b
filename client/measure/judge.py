"""Whether a task and a round are ones that this device answers to. Pure: no state, no I/O.

Each question has a rule; what is refused names the first one that it misses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from client.measure.consent import Consent
from client.measure.errors import Ineligible
from client.measure.policy import Policy
from client.rounds import SignedTask
from crypto.errors import CryptoError
from crypto.policy.document import Bundle
from crypto.policy.tasks import TaskRule
from mpc import manifest as manifests, task as tasks
from mpc.budget import Cap, DeviceCaps
from mpc.manifest import Manifest
from mpc.task import Task

Governed = Callable[[], Bundle | None]
"""Where a governed device asks for its newest policy bundle; None: it has none yet."""
_CAPS: Final = {
    Cap.TASK: "all rounds of this task",
    Cap.TASK_PERIOD: "this task in its present period",
    Cap.PERIOD: "all tasks in the present period",
    Cap.GLOBAL: "all tasks for all time",
}


def open_task(policy: Policy, signed: SignedTask) -> Task:
    """The task, if a pinned publisher signed these bytes and nothing in it is unsound."""
    if signed.publisher not in policy.publishers:
        raise Ineligible(
            "publisher",
            "this device does not trust its publisher: `rookery device trust` says whom it does",
        )
    try:
        return tasks.open_(signed.published, signed.publisher)
    except CryptoError as error:
        raise Ineligible.of(error) from None


def check_task(
    policy: Policy, consent: Consent, task: Task, *, now_ms: int, governed: Governed | None = None
) -> None:
    """Ineligible unless this device answers to it: declared, parties, consent, noise, time.
    `governed`: where the policy bundle is asked for; None for a device under none."""
    if now_ms >= task.expires_ms:
        raise Ineligible("task-expired", "the task has expired: wait for its successor")
    if governed is not None:
        check_declared(governed(), task)
    if not policy.panels_for(task.m, task.t):
        raise Ineligible(
            "panel",
            f"it is for {task.m} parties of which {task.t + 1} together can look, and this device"
            " trusts no such parties: `rookery device trust` says which it does",
        )
    refusal = consent.refusal(task)
    if refusal is not None:
        raise refusal
    if task.cost_micro_rho > policy.limits.round_micro_rho:
        raise Ineligible(
            "noise",
            f"a round costs {task.cost_micro_rho:,} micro-rho of privacy, and this device gives"
            f" {policy.limits.round_micro_rho:,} at most: wait for a task with more noise",
        )


def check_declared(bundle: Bundle | None, task: Task) -> TaskRule:
    """The rule of the policy bundle that a task keeps to; Ineligible: `no-policy`, or as
    `Bundle.check_task` says."""
    if bundle is None:
        raise Ineligible(
            "no-policy", "this device is governed and has no policy yet: sync it, then try again"
        )
    try:
        return bundle.check_task(
            task.task_id,
            purpose=task.purpose,
            kind=task.kind.name,
            k_min=task.k_min,
            micro_rho=task.cost_micro_rho,
        )
    except CryptoError as error:
        raise Ineligible.of(error) from None


def check_round(policy: Policy, task: Task, published: bytes, *, now_ms: int) -> Manifest:
    """The manifest, if all parties of one pinned panel signed it for this task, and it is open."""
    manifest = open_round(policy, task, published)
    check_time(manifest, now_ms=now_ms)
    return manifest


def check_time(manifest: Manifest, *, now_ms: int) -> None:
    """Ineligible unless the window is open by this device's clock."""
    try:
        manifests.check_time(manifest, now_ms)
    except CryptoError as error:
        raise Ineligible.of(error) from None


def open_round(policy: Policy, task: Task, published: bytes) -> Manifest:
    """The same of a round that may be over."""
    refusal: CryptoError | None = None
    for panel in policy.panels_for(task.m, task.t):
        try:
            return manifests.open_(published, panel.parties, task)
        except CryptoError as error:
            # The reason of the panel that these parties are, if they are one.
            if refusal is None or refusal.rule == "party-set":
                refusal = error
    if refusal is None:
        raise Ineligible("panel", "this device trusts no such parties any more")
    raise Ineligible.of(refusal)


def caps(policy: Policy, task: Task) -> DeviceCaps:
    """The narrower of the task's caps and this device's own."""
    limits = policy.limits
    return DeviceCaps(
        task=task.caps.task_micro_rho,
        task_period=task.caps.device_micro_rho,
        period=limits.period_micro_rho,
        all_time=limits.all_time_micro_rho,
        task_period_ms=task.caps.period_ms,
        period_ms=limits.period_ms,
    )


def no_source_room(rule: TaskRule, *, wanted: int, left: int) -> Ineligible:
    """What the policy lets an account give to all versions of a task has too little left."""
    return Ineligible(
        "budget",
        f"a round costs {wanted:,} micro-rho of privacy, and of what the policy lets an account"
        f" give to all versions of this task in {rule.period_days} days {left:,} are left: wait",
    )


def no_room(cap: Cap, *, wanted: int, left: int) -> Ineligible:
    """A cap that has too little left, in words."""
    return Ineligible(
        "budget",
        f"a round costs {wanted:,} micro-rho of privacy, and of what may be spent on {_CAPS[cap]}"
        f" {left:,} are left: wait, or see `rookery device trust`",
    )
