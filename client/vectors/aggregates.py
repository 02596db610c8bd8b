"""Joint aggregates in the section `more`: from the field's words to a round's signed result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from client.vectors.fields import Entry, Malformed, data, entry, expect, items, number, unhex
from client.vectors.sealed import seal_with
from client.vectors.world import World
from crypto import canonical, contribution, labels
from crypto.contribution import (
    LENGTH_MAX,
    PartyBox,
    check_upload,
    encode_header,
    encode_share,
    parse_header,
)
from crypto.field import Field
from crypto.ids import ReportId
from crypto.primitives import box_public
from crypto.shares import Share, check_parties, reconstruct, split
from mpc import kinds, manifest as manifests, result as results, task as tasks
from mpc.batch import Challenge
from mpc.keys import PartyKey, PublisherKey
from mpc.kinds import Kind
from mpc.manifest import Manifest, Party
from mpc.result import Counted
from mpc.task import Task

Check: TypeAlias = Callable[[World, Entry], object]
KAPPA_MAX = 4


def _field(row: Entry) -> Field:
    return Field.of(number(row, "field"))


def _count(row: Entry, name: str, most: int) -> int:
    """A number that memory is taken for."""
    count = number(row, name)
    if not 1 <= count <= most:
        raise Malformed(f"malformed: {name} is 1 to {most}")
    return count


def _many(row: Entry, name: str) -> list[bytes]:
    return [unhex(item, name) for item in items(row, name)]


def _given(seeds: list[bytes]) -> Callable[[int], bytes]:
    """Randomness that is these seeds, one after the other."""
    left = iter(seeds)

    def next_(size: int) -> bytes:
        seed = next(left, None)
        if seed is None or len(seed) != size:
            raise Malformed("malformed: one seed of 32 bytes for each of t parties")
        return seed

    return next_


# Fields and shares


def _prg(_: World, row: Entry) -> None:
    field = _field(row)
    got = field.to_bytes(field.prg(data(row, "seed"), _count(row, "count", LENGTH_MAX)))
    expect("elements", got, data(row, "elements"))


def _sharing(_: World, row: Entry) -> None:
    field, m, t = _field(row), number(row, "m"), number(row, "t")
    check_parties(m, t)
    values = data(row, "values")
    vector = field.from_bytes(values, len(values) // field.element_bytes)
    offset = int.from_bytes(data(row, "report_id"), "big") % m
    shares = split(field, vector, m, t, _given(_many(row, "seeds")), offset)
    stated = [_share(entry(item)) for item in items(row, "shares")]
    expect("shares", shares, stated)
    opened = {share.party: share.elements(field, vector.size) for share in stated}
    expect("values again", field.to_bytes(reconstruct(field, opened, t)), values)


def _share(row: Entry) -> Share:
    return Share(number(row, "party"), number(row, "form"), data(row, "payload"))


# Kinds


def kind_of(row: Entry) -> Kind:
    """The kind that a row's `of` and `field` say."""
    return kinds.make(entry(row.get("of")), _field(row))


def _encode(_: World, row: Entry) -> tuple[Kind, bytes]:
    kind = kind_of(row)
    return kind, kind.field.to_bytes(kind.encode(row.get("value")))


def _encoding(world: World, row: Entry) -> None:
    kind, vector = _encode(world, row)
    expect("vector", vector, data(row, "vector"))
    expect("bits", kind.equations.bits, number(row, "bits"))
    elements = kind.field.from_bytes(vector, kind.length)
    if kind.equations.residues(elements[None]).any():
        raise Malformed("the vector breaks an equation of its kind")


def _checks(_: World, row: Entry) -> None:
    kind = kind_of(row)
    field, equations = kind.field, kind.equations
    rows = np.stack([field.from_bytes(one, kind.length) for one in _many(row, "rows")])
    challenge = Challenge.of(
        field,
        data(row, "coin"),
        length=kind.length,
        equations=equations,
        kappa=_count(row, "kappa", KAPPA_MAX),
    )
    d, q = challenge.check(rows.astype(field.word))
    expect("D", [field.to_bytes(one) for one in d], _many(row, "D"))
    expect("Q", [field.to_bytes(one) for one in q], _many(row, "Q"))


# Tasks and rounds


def _open_task(_: World, row: Entry) -> Task:
    return tasks.open_(data(row, "published"), data(row, "publisher_pk"))


def _task(world: World, row: Entry) -> None:
    task = _open_task(world, row)
    expect("task", task.encoded, data(row, "task"))
    expect("task again", canonical.encode(dict(entry(row.get("fields")))), task.encoded)
    expect("spec_hash", task.spec_hash, data(row, "spec_hash"))
    expect("length", task.kind.length, number(row, "length"))
    expect("outputs", task.kind.d, number(row, "outputs"))
    expect("cost_micro_rho", task.cost_micro_rho, number(row, "cost_micro_rho"))
    publisher = PublisherKey(data(row, "publisher_seed"))
    expect("publisher_pk", publisher.public, data(row, "publisher_pk"))
    expect("published again", task.sign(publisher), data(row, "published"))


def _at(world: World, part: str, row: Entry, name: str) -> Entry:
    """The row of another part that a field points to by its place."""
    place, more = number(row, name), entry(world.file.get("more"))
    found = items(more, part)
    if not 0 <= place < len(found):
        raise Malformed(f"malformed: there is no more.{part}[{place}]")
    return entry(found[place])


def _task_of(world: World, row: Entry) -> Task:
    return tasks.decode(data(_at(world, "tasks", row, "of_task"), "task"))


def _open_round(world: World, row: Entry) -> Manifest:
    """A round as published, for its task, by the parties of the row or those in `pinned`."""
    pinned = _many(row, "pinned") or [
        data(entry(party), "ik_pk") for party in items(row, "parties")
    ]
    return manifests.open_(data(row, "published"), pinned, _task_of(world, row))


def _round(world: World, row: Entry) -> None:
    opened = _open_round(world, row)
    parties = [entry(party) for party in items(row, "parties")]
    keys = [PartyKey(data(party, "ik_seed")) for party in parties]
    stated = Manifest(
        round_id=data(row, "round_id"),
        spec_hash=_task_of(world, row).spec_hash,
        t=opened.t,
        open_ms=number(row, "open_ms"),
        close_ms=number(row, "close_ms"),
        k_min=number(row, "k_min"),
        parties=tuple(
            Party(key.public, box_public(data(party, "box_sk")))
            for key, party in zip(keys, parties, strict=True)
        ),
    )
    expect("manifest", stated.encoded, data(row, "manifest"))
    expect("manifest opened", opened.encoded, stated.encoded)
    expect("round_digest", stated.digest, data(row, "round_digest"))
    for party, key in zip(parties, stated.parties, strict=True):
        expect("ik_pk", key.ik_pk, data(party, "ik_pk"))
        expect("box_pk", key.box_pk, data(party, "box_pk"))
    again = stated.signed([stated.sign(key) for key in keys])
    expect("published again", again, data(row, "published"))


def _round_of(world: World, row: Entry) -> tuple[Entry, Manifest, Task]:
    found = _at(world, "rounds", row, "of_round")
    return found, manifests.parse(data(found, "manifest")), _task_of(world, found)


# Contributions


def _contribution(world: World, row: Entry) -> None:
    found, manifest, task = _round_of(world, row)
    shape, field = manifest.shape(task), task.field
    report_id, raw = ReportId.of(data(row, "report_id")), data(row, "header")
    mine = contribution.nullifier(data(row, "aggregation_key"), shape.round_digest)
    expect("nullifier", bytes(mine), data(row, "nullifier"))
    expect("header", encode_header(shape.m, shape.round_digest, report_id, mine), raw)
    header = parse_header(raw)
    expect("report_hash", header.hash, data(row, "report_hash"))
    vector = task.kind.encode(row.get("value"))
    offset = int.from_bytes(report_id, "big") % shape.m
    shares = split(field, vector, shape.m, shape.t, _given(_many(row, "seeds")), offset)
    expect("seeded", [one.party for one in shares if one.form], items(row, "seeded"))
    plains = [encode_share(shape, header, share) for share in shares]
    expect("shares", plains, _many(row, "shares"))
    boxes = _many(row, "boxes")
    again = [
        seal_with(esk, party.box_pk, plain)
        for esk, party, plain in zip(_many(row, "esks"), manifest.parties, plains, strict=True)
    ]
    expect("boxes", again, boxes)
    expect("upload_bytes", len(raw) + sum(map(len, boxes)), number(row, "upload_bytes"))
    check_upload(shape, raw, boxes)
    for party, (box, share) in enumerate(zip(boxes, shares, strict=True), 1):
        opened = _party_box(found, party).open(shape, raw, box)
        expect(f"box {party} opened", opened, (header, share))


def _party_box(found: Entry, party: int) -> PartyBox:
    parties = items(found, "parties")
    if not 1 <= party <= len(parties):
        raise Malformed("malformed: the round has no such party")
    return PartyBox(party, data(entry(parties[party - 1]), "box_sk"))


def _upload(world: World, row: Entry) -> None:
    _, manifest, task = _round_of(world, row)
    check_upload(manifest.shape(task), data(row, "header"), _many(row, "boxes"))


def _box(world: World, row: Entry) -> None:
    found, manifest, task = _round_of(world, row)
    box = _party_box(found, number(row, "party"))
    box.open(manifest.shape(task), data(row, "header"), data(row, "box"))


# Results


def _sigs(row: Entry) -> dict[int, bytes]:
    sigs = entry(row.get("sigs"))
    if not all(name.isascii() and name.isdecimal() and len(name) < 4 for name in sigs):
        raise Malformed("malformed: signatures are by party")
    return {int(name): data(sigs, name) for name in sigs}


def _open_result(world: World, row: Entry) -> results.RoundResult:
    _, manifest, task = _round_of(world, row)
    return results.open_(data(row, "result"), _sigs(row), manifest, task)


def _result(world: World, row: Entry) -> None:
    found, manifest, task = _round_of(world, row)
    refused: list[Mapping[str, Any]] = [entry(one) for one in items(row, "refused")]
    counted = Counted(
        number(row, "reports"), number(row, "inconsistent"), number(row, "invalid"), tuple(refused)
    )
    made = results.make(
        task,
        items(row, "sums"),
        counted,
        noise_of=items(row, "noise_of"),
        checked=bool(row.get("checked")),
    )
    encoded = data(row, "result")
    expect("result", made.encode(task), encoded)
    expect("result opened", _open_result(world, row), made)
    expect("result again", canonical.encode(dict(entry(row.get("fields")))), encoded)
    parties = items(found, "parties")
    for party, sig in _sigs(row).items():
        key = PartyKey(data(entry(parties[party - 1]), "ik_seed"))
        expect("signature again", key.sign(labels.RESULT, manifest.digest + encoded), sig)


PARTS: dict[str, Check] = {
    "prg": _prg,
    "sharings": _sharing,
    "encodings": _encoding,
    "checks": _checks,
    "tasks": _task,
    "rounds": _round,
    "contributions": _contribution,
    "results": _result,
}

REFUSALS: dict[str, Check] = {
    "kind": lambda _, row: kind_of(row),
    "value": _encode,
    "task": _open_task,
    "round": _open_round,
    "upload": _upload,
    "box": _box,
    "result": _open_result,
}
