"""A bundle, and an assessment, as people and programs read them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from client.cli.output import table
from client.policykit import words
from client.policykit.bundlefile import BundleFile
from client.policykit.verdict import Finding, Verdict
from crypto import canonical
from crypto.policy import Bundle
from crypto.policy.document import DEPTH, UNASSESSED


def as_data(file: BundleFile) -> dict[str, Any]:
    """The whole document, with what follows from it."""
    said = canonical.decode(file.bundle.encoded, depth=DEPTH)
    for purpose, shown in zip(file.bundle.purposes, said["purposes"], strict=True):
        shown["text_hash"] = purpose.text_hash.hex()
    return {
        "hash": file.bundle.hash.hex(),
        "publisher": None if file.publisher is None else file.publisher.hex(),
        "policy": said,
    }


def as_text(file: BundleFile) -> str:
    """A page of tables."""
    return "\n\n".join(part for part in _parts(file) if part)


def _parts(file: BundleFile) -> Iterator[str]:
    bundle = file.bundle
    issued = datetime.fromtimestamp(bundle.issued_ms / 1000, tz=UTC)
    signed = "nobody: it can be compared, and is nothing that anybody obeys"
    yield "\n".join(
        [
            bundle.title,
            f"number {bundle.sequence}, issued {issued:%Y-%m-%d %H:%M} UTC",
            f"hash       {bundle.hash.hex()}",
            f"signed by  {signed if file.publisher is None else file.publisher.hex()}",
            f"assessment {'none' if bundle.assessment == UNASSESSED else bundle.assessment.hex()}",
        ]
    )
    yield "purposes, each off until a person switches it on"
    for purpose in bundle.purposes:
        intrusive = " (intrusive: asked for by itself)" if purpose.intrusive else ""
        yield f"  {purpose.name}{intrusive}\n    {purpose.text}\n    For you: {purpose.benefit}"
    yield table(
        ("signal", "where", "values", "made coarser", "for", "reach", "kept"), _signals(bundle)
    )
    yield table(
        ("task", "reads", "for", "kind", "people", "rho a round", "kept"),
        _tasks(bundle), right=(4, 5, 6),
    )  # fmt: skip
    yield table(
        ("switch", "kind", "about", "is"),
        [(one.name, one.kind, " ".join(one.about), words.switch(one)) for one in bundle.flags],
    )
    yield table(
        ("cohort", "version", "labels"),
        [(one.name, str(one.version), ", ".join(one.labels)) for one in bundle.cohorts],
    )
    yield table(
        ("role", "may call", "for"),
        [
            (one.role, one.method.removeprefix("/rookery.v1."), ", ".join(one.purposes))
            for one in bundle.access.grants
        ],
    )
    yield table(
        ("kept by service and parties", "days"),
        [
            (what.removesuffix("_days"), str(days))
            for what, days in bundle.retention.as_map().items()
        ],
        right=(1,),
    )


def _signals(bundle: Bundle) -> Iterator[tuple[str, ...]]:
    for one in bundle.signals:
        yield (
            one.name,
            words.some([f"{one.collection}/{key}" for key in one.keys], 1),
            words.values(one.values),
            words.generalised(one.generalise),
            ", ".join(one.purposes),
            str(one.reach),
            f"{one.retention_days} days",
        )


def _tasks(bundle: Bundle) -> Iterator[tuple[str, ...]]:
    for one in bundle.tasks:
        yield (
            one.source,
            ", ".join([*one.signals, *([] if one.cohort is None else [f"cohort {one.cohort}"])]),
            one.purpose,
            one.kind,
            f"{one.k_min_at_least:,}+",
            words.number(one.micro_rho_at_most),
            f"{one.result_days} days",
        )


def verdict_data(verdict: Verdict) -> dict[str, Any]:
    """An assessment, for programs."""
    return {
        "changes": [_finding(one) for one in verdict.findings],
        "unmet": [one.change.id for one in verdict.unmet],
        "harmless": list(verdict.harmless),
    }


def _finding(one: Finding) -> dict[str, Any]:
    written = one.mitigation
    return {
        "id": one.change.id,
        "rule": one.change.rule.name,
        "level": one.change.rule.level,
        "was": one.change.was,
        "now": one.change.now,
        "risk": one.change.rule.risk,
        "needs": one.change.rule.needs,
        "met": written is not None,
        "mitigation": None if written is None else written.mitigation,
        "approved_by": None if written is None else written.approved_by,
        "date": None if written is None else written.date,
    }


def verdict_text(verdict: Verdict) -> str:
    """An assessment, for people: what is unmet last, where it is seen."""
    met = [one for one in verdict.findings if one.mitigation is not None]
    parts = ["\n".join(_lines(one)) for one in (*met, *verdict.unmet)]
    if verdict.harmless:
        parts.append("needs nothing\n" + "\n".join(f"  {one}" for one in verdict.harmless))
    return "\n\n".join([*parts, _sum(verdict)])


def _lines(one: Finding) -> Iterator[str]:
    change = one.change
    yield f"{change.id}  ({change.rule.level})"
    yield f"  was    {change.was}"
    yield f"  now    {change.now}"
    yield f"  risk   {change.rule.risk}"
    if one.mitigation is None:
        yield f"  needs  {change.rule.needs}"
        yield "  NOT MET: write it in assessment.yaml under this id"
    else:
        written = one.mitigation
        yield f"  met    {written.mitigation} ({written.approved_by}, {written.date})"


def _sum(verdict: Verdict) -> str:
    if not verdict.findings:
        return "Nothing is new or wider."
    count, unmet = len(verdict.findings), len(verdict.unmet)
    each = "use is" if count == 1 else "uses are"
    if not unmet:
        return f"{count} {each} new or wider; what each needs is written and approved."
    return f"{count} {each} new or wider; for {unmet} of them what it needs is not met."
