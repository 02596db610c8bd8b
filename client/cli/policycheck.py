"""`rookery policy check` and `diff`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from client.cli import policypage, policysession
from client.cli.output import OK, UNMET, Output
from client.errors import UserError
from client.policykit import diagram, methods, verdict
from client.policykit.verdict import Verdict
from crypto.policy import Bundle


async def check(arguments: argparse.Namespace, out: Output) -> int:
    """A folder by itself, and against what is in force."""
    draft = policysession.draft(arguments.folder)
    bundle = policysession.compared(draft)
    if arguments.diagram is not None:
        _write(arguments.diagram, diagram.draw(bundle))
    data = _counts(bundle) | {"denied_to_all": list(methods.denied_to_all(bundle))}
    text = _summary(bundle)
    if arguments.against is None:
        out.result(data, text)
        return OK
    old = policysession.policy(arguments.against).bundle
    found = verdict.judge(old, bundle, draft.assessment)
    out.result(
        data | policypage.verdict_data(found), f"{text}\n\n{policypage.verdict_text(found)}"
    )  # fmt: skip
    return _code(found)


async def diff(arguments: argparse.Namespace, out: Output) -> int:
    """Two policies."""
    old, new = policysession.policy(arguments.old), policysession.policy(arguments.new)
    written = new.written
    if written is None:
        written = policysession.assessed(new.bundle, arguments.assessment)
    elif arguments.assessment is not None:
        raise UserError("--assessment is for a compiled NEW: a folder has its own")
    found = verdict.judge(old.bundle, new.bundle, written)
    out.result(policypage.verdict_data(found), policypage.verdict_text(found))
    return _code(found)


def _code(found: Verdict) -> int:
    return UNMET if found.unmet else OK


def _counts(bundle: Bundle) -> dict[str, Any]:
    return {
        "title": bundle.title,
        "bytes": len(bundle.encoded),
        "purposes": len(bundle.purposes),
        "signals": len(bundle.signals),
        "tasks": len(bundle.tasks),
        "flags": len(bundle.flags),
        "cohorts": len(bundle.cohorts),
        "experiments": len(bundle.experiments),
        "grants": len(bundle.access.grants),
    }


def _summary(bundle: Bundle) -> str:
    sizes = {
        "purposes": bundle.purposes,
        "signals": bundle.signals,
        "tasks": bundle.tasks,
        "switches": bundle.flags,
        "cohort rules": bundle.cohorts,
        "experiments": bundle.experiments,
        "grants": bundle.access.grants,
    }
    counted = ", ".join(f"{what} {len(some)}" for what, some in sizes.items())
    lines = [f"{bundle.title}: sound, {len(bundle.encoded):,} bytes", f"  {counted}"]
    denied = [method.removeprefix("/rookery.v1.") for method in methods.denied_to_all(bundle)]
    if denied:
        lines.append(f"  nobody may call: {', '.join(denied)}")
    return "\n".join(lines)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror})") from None
