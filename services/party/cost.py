"""What a party lets a task cost. Pure."""

from __future__ import annotations

from mpc.task import Task


def task_cap(task: Task, micro_rho_max: int) -> int:
    """Micro-rho of all rounds of a task: its own cap, or this party's if it is lower."""
    return min(task.caps.task_micro_rho, micro_rho_max)
