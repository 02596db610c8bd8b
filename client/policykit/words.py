"""Parts of a bundle in a few words, for tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from crypto.policy.fields import MICRO
from crypto.policy.flags import Flag
from crypto.policy.generalise import Bucket, Generaliser, Round, TopK
from crypto.policy.values import Choices, Delta, Members, Number, Text, Values, Vector, Whole
from mpc.privacy import RHO_MICRO_MAX, epsilon_of

LISTED_MAX: Final = 6
DELTA: Final = 1e-6


def number(micro: int) -> str:
    """Millionths, as people write the number."""
    whole, rest = divmod(abs(micro), MICRO)
    fraction = f".{rest:06d}".rstrip("0") if rest else ""
    return f"{'-' if micro < 0 else ''}{whole:,}{fraction}"


def some(names: Sequence[str], most: int = LISTED_MAX) -> str:
    """Names; of very many the first ones."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def values(one: Values) -> str:
    """What a signal's values may be."""
    match one:
        case Whole(low=low, high=high):
            return f"{low:,} to {high:,}"
        case Number(low_micro=low, high_micro=high):
            return f"{number(low)} to {number(high)}, any number"
        case Choices(choices=choices):
            return f"one of: {some(choices)}"
        case Text(chars_max=most):
            return f"text, {most:,} characters"
        case Vector(size=size, low_micro=low, high_micro=high):
            return f"{size:,} numbers, {number(low)} to {number(high)}"
        case Delta(low_micro=low, high_micro=high, cap_micro=cap):
            return f"adds {number(low)} to {number(high)}, up to {number(cap)}"
        case Members(members_max=most):
            return f"{most:,} members"
        case _:
            return "true or false"


def generalised(steps: Sequence[Generaliser]) -> str:
    """How it is made coarser."""
    return ", ".join(map(_step, steps)) or "as it is"


def _step(one: Generaliser) -> str:
    match one:
        case Bucket(edges_micro=edges):
            return f"into {len(edges)} buckets"
        case Round(step_micro=step):
            return f"to {number(step)}"
        case TopK(k=k):
            return f"the {k} largest"
        case _:
            return "to the day"


def noise(micro_rho: int) -> str:
    """What a round may cost, as rho and as the epsilon that people compare."""
    if micro_rho > RHO_MICRO_MAX:
        return f"rho {number(micro_rho)} a round, which protects nobody"
    epsilon = epsilon_of(micro_rho, DELTA) / MICRO
    return f"rho {number(micro_rho)} a round (epsilon {epsilon:.2f} at delta {DELTA:g})"


def switch(flag: Flag) -> str:
    """Whether, and for whom, a flag is on."""
    if not flag.on:
        return "off"
    if flag.kind == "kill":
        return "on"
    among = "" if flag.cohort is None else f" of {flag.cohort[0]} {flag.cohort[1]}"
    return f"on for {flag.percent} %{among}"
