"""The check that every call passes after its signature and before its handler.

Knows the matrix in force and whoever is inside for long: a stream that a new bundle no longer
allows is ended, not left to run for hours under the rules of before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from crypto.ids import DeviceId
from crypto.policy.access import Access
from services.access.matrix import ANYONE, DEVICE, EVERY, Matrix, Purposes, Standing
from services.call import Call, KeyCall, KeyRole, KnownKey, SignedCall
from services.errors import AccessDenied

_KNOWN_MAX = 16_384
"""Cells that are looked up by one look; devices are a few, keys and workloads are few."""
_GIVEN = frozenset((KeyRole.OPERATOR,))
_DEVICE = frozenset((DEVICE,))
_ANYONE = frozenset((ANYONE,))


class Guard:
    """Ungoverned, it lets everything pass that the routes declare."""

    def __init__(self, governed: Callable[[], bool] = lambda: False) -> None:
        """`governed` is asked at each call: lists of keys are taken up while a service runs."""
        self._governed = governed
        self._matrix = Matrix.before_the_first()
        self.sequence = 0
        """Of the bundle in force; 0: none."""
        self._methods: frozenset[str] = frozenset()
        self._known: dict[tuple[Standing, str], Purposes] = {}
        self._inside: dict[asyncio.Task[object], tuple[Standing, str]] = {}
        self._ended: set[asyncio.Task[object]] = set()

    @property
    def matrix(self) -> Matrix | None:
        """The rules in force; None: the service is not governed."""
        return self._matrix if self._governed() else None

    def serve(self, methods: Iterable[str]) -> None:
        """These methods are served: what a grant's `/*` stands for."""
        self._methods = self._methods.union(methods)

    def take(self, access: Access, sequence: int) -> None:
        """Puts a bundle's rules in force, for streams that are open, too."""
        self._matrix = Matrix.compile(access, self._methods)
        self._known.clear()
        self.sequence = sequence
        self.look_again()

    def look_again(self) -> None:
        """Ends what is open and no longer allowed: other rules are in force, or rules at all."""
        matrix = self.matrix
        if matrix is None:
            return
        for task, (standing, method) in self._inside.items():
            if task not in self._ended and not matrix.purposes(standing, method):
                self._ended.add(task)
                task.cancel()

    def admit(self, call: Call) -> None:
        """AccessDenied unless the caller may make this call. What it is allowed for is the
        call's `purposes` from now on."""
        call.purposes = self._purposes(call)

    @contextmanager
    def staying(self, call: Call) -> Iterator[None]:
        """For the time of a stream that was admitted: AccessDenied out of the block as soon as
        a bundle no longer allows it."""
        standing, method = standing_of(call), call.method
        # An idle stream keeps nothing of its opening.
        del call
        task, matrix = asyncio.current_task(), self.matrix
        if matrix is not None and not matrix.purposes(standing, method):
            # A bundle came while the opening was written down.
            raise AccessDenied(_named(standing), method)
        if task is None:
            yield
            return
        # Ungoverned as well: the first policy keys, or the first bundle, may come while it is open.
        self._inside[task] = standing, method
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._ended:
                raise
            task.uncancel()
            raise AccessDenied(_named(standing), method) from None
        finally:
            self._ended.discard(task)
            del self._inside[task]

    def key_of(self, key_id: DeviceId) -> bytes | None:
        """The key with this id, if the bundle in force lists it for any role that is had by a
        key alone."""
        matrix = self.matrix
        return None if matrix is None else matrix.by_id.get(key_id)

    def knows(self, key: bytes) -> frozenset[str]:
        """Roles by which the bundle in force lists this key."""
        matrix = self.matrix
        return frozenset() if matrix is None else matrix.keys.get(key, frozenset())

    def as_workload(self, call: Call, role: KeyRole) -> KeyCall | None:
        """The call as one of a workload that has this role without any key; None: it has not."""
        matrix = self.matrix
        if matrix is None or not matrix.gives(role.value, call.workload):
            return None
        return KeyCall(
            call.method, call.ip, call.now_ms, call.clock, call.expires_s,
            key=KnownKey(b"", frozenset((role,))), nonce=b"", ts_ms=call.now_ms,
            workload=call.workload,
        )  # fmt: skip

    def _purposes(self, call: Call) -> Purposes:
        matrix = self.matrix
        if matrix is None:
            return EVERY
        standing = standing_of(call)
        cell = standing, call.method
        found = self._known.get(cell)
        if found is None:
            found = matrix.purposes(*cell)
            if len(self._known) < _KNOWN_MAX:
                self._known[cell] = found
        if not found:
            raise AccessDenied(_named(standing), call.method)
        return found


def standing_of(call: Call) -> Standing:
    """What is proven of who makes a call."""
    if isinstance(call, KeyCall):
        # Whether it still is an operator's, the bundle in force says.
        roles = frozenset(role.value for role in call.key.roles - _GIVEN)
        return Standing(roles, call.key.ik_pk, call.workload)
    proven = _DEVICE if isinstance(call, SignedCall) else _ANYONE
    return Standing(proven, b"", call.workload)


def _named(standing: Standing) -> str:
    """The caller's roles as a refusal tells them: those that it has anyhow."""
    return ",".join(sorted(standing.proven)) or ANYONE
