"""What makes a result believable, in one file: task, manifest, result, and who signed each.

Whatever comes from the service or from a file is judged by pinned keys: the publisher's, and
those of the parties in their order. Pure.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from client.analyst.errors import NotVerified
from client.errors import UserError
from client.rounds import GivenUp, RelayedResult, RelayedRound, SignedTask
from crypto import canonical, labels
from crypto.errors import CryptoError, FormatError, SignatureError
from crypto.primitives import verify
from mpc import manifest as manifests, result as results, task as tasks
from mpc.manifest import Manifest
from mpc.result import RoundResult
from mpc.task import Task

FORMAT: Final = "rookery-result"
VERSION: Final = 1
FILE_BYTES_MAX: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Pins:
    """Whom the reader trusts. None: whom the evidence itself names, which proves nothing."""

    publishers: frozenset[bytes] | None
    parties: tuple[bytes, ...] | None


@dataclass(frozen=True, slots=True)
class Opened:
    """A round whose task and manifest are verified."""

    publisher: bytes
    task: Task
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Evidence:
    """A result with everything that it takes to check it."""

    task: SignedTask
    manifest: bytes
    """`manifest | m x sig[64]`."""
    result: bytes
    sigs: Mapping[int, bytes]

    @classmethod
    def of(cls, round_: RelayedRound, result: RelayedResult) -> Self:
        """Out of the service's two answers."""
        return cls(round_.task, round_.published, result.result, dict(result.sigs))

    def open(self, pins: Pins) -> tuple[Opened, RoundResult]:
        """Everything verified; NotVerified."""
        opened = open_round(self.task, self.manifest, pins)
        try:
            told = results.open_(self.result, self.sigs, opened.manifest, opened.task)
        except CryptoError as error:
            raise _not_verified("the result", error, self.result) from None
        return opened, told

    def encode(self) -> bytes:
        """One JSON map; bytes are in base64."""
        fields = {
            "format": FORMAT,
            "version": VERSION,
            "publisher": self.task.publisher.hex(),
            "task": _text(self.task.published),
            "manifest": _text(self.manifest),
            "result": _text(self.result),
            "sigs": {str(party): _text(sig) for party, sig in sorted(self.sigs.items())},
        }
        return json.dumps(fields, indent=1).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """UserError for anything but a file that `encode` made; nothing is verified."""
        try:
            fields = json.loads(data)
            if (fields["format"], fields["version"]) != (FORMAT, VERSION):
                raise KeyError
            task = _bytes(fields["task"])
            publisher = bytes.fromhex(fields["publisher"])
            return cls(
                SignedTask(task[:-64], task[-64:], publisher),
                _bytes(fields["manifest"]),
                _bytes(fields["result"]),
                {int(party): _bytes(sig) for party, sig in fields["sigs"].items()},
            )
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
            raise UserError(
                "this is no file that `rookery task result --out` writes in this version"
            ) from None


def open_round(task: SignedTask, published: bytes, pins: Pins) -> Opened:
    """Task and manifest, signed by pinned keys and made for each other; NotVerified."""
    if pins.publishers is not None and task.publisher not in pins.publishers:
        raise NotVerified(
            "publisher",
            f"the task is signed by {task.publisher.hex()}, which is no publisher that is pinned:"
            " give --publisher if you trust it",
            task.publisher,
        )
    try:
        read = tasks.open_(task.published, task.publisher)
    except CryptoError as error:
        raise _not_verified("the task", error, task.published) from None
    try:
        parties = pins.parties if pins.parties is not None else _named(published, read)
        return Opened(task.publisher, read, manifests.open_(published, parties, read))
    except CryptoError as error:
        raise _not_verified("the round's manifest", error, published) from None


def check_id(opened: Opened, round_id: bytes) -> None:
    """NotVerified unless it is the round that was asked for."""
    if opened.manifest.round_id != round_id:
        raise NotVerified(
            "round",
            "the service answers with another round than was asked for",
            opened.manifest.encoded,
        )


def _named(published: bytes, task: Task) -> tuple[bytes, ...]:
    """The parties that a manifest itself names."""
    manifest = manifests.parse(published[: manifests.size_of(task.m)])
    return tuple(party.ik_pk for party in manifest.parties)


def check_given_up(given: GivenUp, manifest: Manifest) -> str:
    """The reason, in the party's own word, if the party signed it for this round; NotVerified."""
    try:
        if not 1 <= given.party <= manifest.m:
            raise SignatureError("party", "it is of no party of the round")
        key = manifest.parties[given.party - 1].ik_pk
        verify(key, labels.ABANDONMENT, manifest.digest + given.statement, given.sig)
        said = canonical.decode(given.statement)
        reason = said.get("reason")
        if said.get("version") != 1 or not isinstance(reason, str):
            raise FormatError("statement", "it is not in a form that is known; update")
    except CryptoError as error:
        raise _not_verified("a party's word that it gave up", error, given.statement) from None
    return reason


def _not_verified(what: str, error: CryptoError, *evidence: bytes) -> NotVerified:
    sentence = f"{what} is not verified: {error.message} (rule {error.rule})"
    return NotVerified(error.rule, sentence, *evidence)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("not base64") from None
