"""`rookery policy build`."""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import NamedTuple

from client.cli import policypage, policysession
from client.cli.output import OK, UNMET, Output
from client.errors import UserError
from client.policykit import bundlefile, verdict
from client.policykit.bundlefile import BundleFile
from crypto.policy import FIRST, Bundle

_HASH = re.compile(r"[0-9a-fA-F]{64}")


class _Past(NamedTuple):
    """What the new one comes after."""

    sequence: int
    previous: bytes
    bundle: Bundle | None
    """None: there is none, or only its hash is known."""


async def build(arguments: argparse.Namespace, out: Output) -> int:
    """Compiles and signs; not while something that is new or wider is unanswered."""
    key = None if arguments.unsigned else policysession.load_key(arguments.key)
    draft = policysession.draft(arguments.folder)
    past = _past(arguments.previous, arguments.sequence)
    issued_ms = time.time_ns() // 1_000_000 if arguments.issued_ms is None else arguments.issued_ms
    bundle = draft.bundle(sequence=past.sequence, previous=past.previous, issued_ms=issued_ms)
    if past.bundle is not None:
        found = verdict.judge(past.bundle, bundle, draft.assessment)
        if found.unmet:
            out.result(policypage.verdict_data(found), policypage.verdict_text(found))
            out.note(f"rookery: {arguments.out} is not written")
            return UNMET
    elif past.sequence > 1:
        out.note("rookery: built on a hash alone: what is new or wider was not judged")
    else:
        out.note(
            "rookery: built as the first one: nothing was compared; if another is in force, name"
            " it by --previous"
        )
    file = BundleFile.signed(bundle, key)
    bundlefile.write(arguments.out, file, force=arguments.force)
    out.result(
        {
            "file": str(arguments.out),
            "sequence": bundle.sequence,
            "hash": bundle.hash.hex(),
            "publisher": None if key is None else key.public.hex(),
            "bytes": len(bundle.encoded),
        },
        f"{arguments.out}: number {bundle.sequence}, {len(bundle.encoded):,} bytes\n"
        f"hash       {bundle.hash.hex()}\n"
        f"signed by  {'nobody' if key is None else key.public.hex()}",
    )
    return OK


def _past(previous: str | None, sequence: int | None) -> _Past:
    if previous is None:
        if sequence not in (None, 1):
            raise UserError("--previous says what comes before: only the first has nothing")
        return _Past(1, FIRST, None)
    if _HASH.fullmatch(previous) and not Path(previous).exists():
        if sequence is None:
            raise UserError("--previous is a hash: --sequence says which number this one has")
        return _Past(sequence, bytes.fromhex(previous), None)
    before = bundlefile.read(Path(previous)).bundle
    if sequence not in (None, before.sequence + 1):
        raise UserError(
            f"--previous is number {before.sequence}: this one is number {before.sequence + 1}"
        )
    return _Past(before.sequence + 1, before.hash, before)
