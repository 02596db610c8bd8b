"""Reports that no honest device sends. The demo sends them to show what becomes of them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from crypto import contribution
from crypto.contribution import Contribution
from crypto.field import Array
from crypto.primitives import seal
from crypto.shares import ELEMENTS, Share
from mpc.manifest import Manifest
from mpc.task import Task


def _weight_five(honest: Array, task: Task) -> Array:
    """One report that would count five times."""
    return task.field.mul(honest, np.full_like(honest, 5))


def _everything(honest: Array, _: Task) -> Array:
    """A vote for everything at once."""
    return np.ones_like(honest)


def _noise(honest: Array, task: Task) -> Array:
    """Anything at all, to spoil the sums."""
    return task.field.random(honest.size, secrets.token_bytes)


_VECTORS: Final[Mapping[str, Callable[[Array, Task], Array]]] = MappingProxyType(
    {"weight five": _weight_five, "all bins at once": _everything, "random numbers": _noise}
)
NAMES: Final = (*_VECTORS, "shares that don't fit")


def report(name: str, task: Task, manifest: Manifest, honest: Array) -> Contribution:
    """A crafted report, in the right form, for one round; from a key of its own."""
    shape = manifest.shape(task)
    key = secrets.token_bytes(32)
    if name in _VECTORS:
        return contribution.make(
            shape, _VECTORS[name](honest, task), box_keys=manifest.box_keys(),
            aggregation_key=key, rand=secrets.token_bytes,
        )  # fmt: skip
    made = contribution.make(
        shape, honest, box_keys=manifest.box_keys(), aggregation_key=key, rand=secrets.token_bytes
    )
    parsed = contribution.parse_header(made.header)
    # One party gets a share of something else: nothing that any party sees alone.
    party = next(
        number
        for number in range(1, task.m + 1)
        if shape.form(parsed.report_id, number) == ELEMENTS
    )
    elements = task.field.random(task.kind.length, secrets.token_bytes)
    other = Share(party, ELEMENTS, task.field.to_bytes(elements))
    boxes = list(made.boxes)
    boxes[party - 1] = seal(
        manifest.box_keys()[party - 1], contribution.encode_share(shape, parsed, other)
    )
    return Contribution(made.header, tuple(boxes))
