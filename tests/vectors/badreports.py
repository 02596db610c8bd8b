"""Contributions and results that must be refused, each named; `why` is the rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from client.vectors.sealed import seal_with
from crypto import canonical, labels
from crypto.contribution import HEADER_BYTES, SHARE_HEAD_BYTES
from crypto.keys import Identity
from tests.vectors.aggregates import RoundOf, rounds
from tests.vectors.badtasks import row
from tests.vectors.story import Row, seeded

P31, P61 = ((1 << 31) - 1).to_bytes(4, "little"), ((1 << 61) - 1).to_bytes(8, "little")


def negatives(more: Mapping[str, list[Row]]) -> Iterator[Row]:
    """All of them; `more` has the positives that they come from."""
    whole = rounds()
    for right in (more["contributions"][0], more["contributions"][4]):
        yield from _uploads(right)
        yield from _boxes(whole[right["of_round"]], right)
    yield from _elsewhere(whole[0], more["contributions"])
    yield from _signatures(whole[0], more["results"][0])
    yield from _results(whole, more["results"])


# What a relay can see


def _put(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


HEADERS: list[tuple[str, str, int, bytes]] = [
    ("other magic", "header", 0, b"PSA2"),
    ("magic of a share", "header", 0, b"PSS1"),
    ("unknown suite", "header", 4, b"\2"),
    ("mode 0", "mode", 5, b"\0"),
    ("mode 2", "mode", 5, b"\2"),
    ("two parties", "parties", 6, b"\2"),
    ("one party more", "parties", 6, b"\7"),
    ("seventeen parties", "parties", 6, b"\x11"),
    ("reserved byte set", "header", 7, b"\1"),
    ("another round", "round", 8, bytes(32)),
]
"""(name, rule, place, bytes that stand there)"""


def _uploads(right: Row) -> Iterator[Row]:
    at = right["of_round"]
    header, boxes = bytes.fromhex(right["header"]), [bytes.fromhex(one) for one in right["boxes"]]
    seed = right["seeded"][0] - 1
    other = (seed + 1) % len(boxes)
    swapped = list(boxes)
    swapped[seed], swapped[other] = boxes[other], boxes[seed]
    # The next id moves the seeds on by one party, and the boxes then have other sizes.
    report_id = int.from_bytes(header[40:56], "big") + 1
    moved = _put(header, 40, report_id.to_bytes(16, "big"))
    cases: list[tuple[str, str, bytes, list[bytes]]] = [
        *((name, why, _put(header, at, value), boxes) for name, why, at, value in HEADERS),
        ("header cut off", "length", header[:-1], boxes),
        ("header prolonged", "length", header + b"\0", boxes),
        ("no header", "length", b"", boxes),
        ("another report id", "length", moved, boxes),
        ("a box missing", "parties", header, boxes[:-1]),
        ("a box too many", "parties", header, [*boxes, boxes[0]]),
        ("no box", "parties", header, []),
        ("a box cut off", "length", header, [*boxes[:-1], boxes[-1][:-1]]),
        ("a box prolonged", "length", header, [*boxes[:-1], boxes[-1] + b"\0"]),
        ("an empty box", "length", header, [b"", *boxes[1:]]),
        ("a seed's box in the place of elements'", "length", header, swapped),
    ]
    for name, why, bad, sealed in cases:
        yield row(
            "upload", f"{name}, of round {at}", why,
            of_round=at, header=bad.hex(), boxes=[box.hex() for box in sealed],
        )  # fmt: skip


# What its party finds


def _boxes(round_: RoundOf, right: Row) -> Iterator[Row]:
    """Well sealed to a party, and not the share that it must have."""
    header, plains = bytes.fromhex(right["header"]), [bytes.fromhex(s) for s in right["shares"]]
    seed = right["seeded"][0]
    elements = next(at for at in range(1, len(plains) + 1) if at not in right["seeded"])
    wide = round_.task.field.bits == 61
    p, too_large = (P61, b"\xff" * 8) if wide else (P31, b"\0\0\0\x80")
    first = SHARE_HEAD_BYTES
    length = round_.task.kind.length
    cases: list[tuple[str, str, int, int, bytes]] = [
        ("other magic", "share", elements, 0, b"PSS2"),
        ("magic of a header", "share", seed, 0, b"PSA1"),
        ("unknown suite", "share", elements, 4, b"\2"),
        ("another party", "party", elements, 5, bytes((seed,))),
        ("party 0", "party", seed, 5, b"\0"),
        ("another m", "parties", elements, 6, bytes((round_.task.m + 1,))),
        ("another t", "parties", seed, 7, bytes((round_.task.t + 1,))),
        ("another report", "report", elements, 8, bytes(32)),
        ("a seed said to be elements", "form", seed, 40, b"\0"),
        ("elements said to be a seed", "form", elements, 40, b"\1"),
        ("an unknown form", "form", elements, 40, b"\2"),
        ("another field", "field", elements, 41, b"\x1f" if wide else b"\x3d"),
        ("a seed for another field", "field", seed, 41, b"\x1f" if wide else b"\x3d"),
        ("an unknown field", "field", seed, 41, b"\x20"),
        ("an element more", "elements", elements, 42, (length + 1).to_bytes(4, "big")),
        ("a seed of an element less", "elements", seed, 42, (length - 1).to_bytes(4, "big")),
        ("an element that is p", "range", elements, first, p),
        ("an element with a bit too many", "range", elements, first, too_large),
        ("the last element is p", "range", elements, len(plains[elements - 1]) - len(p), p),
    ]
    for name, why, party, at, value in cases:
        plain = _put(plains[party - 1], at, value)
        yield _box_row(round_, f"{name}, of round {round_.at}", why, party, header, plain)
    for name, why, party, plain in (
        ("share cut off", "length", elements, plains[elements - 1][:-1]),
        ("share prolonged", "length", elements, plains[elements - 1] + b"\0"),
        ("seed prolonged", "length", seed, plains[seed - 1] + b"\0"),
        ("empty share", "length", seed, b""),
        ("another party's share", "party", seed, plains[seed - 1][:5]
         + bytes((elements,)) + plains[seed - 1][6:]),
    ):  # fmt: skip
        yield _box_row(round_, f"{name}, of round {round_.at}", why, party, header, plain)


def _box_row(
    round_: RoundOf, name: str, why: str, party: int, header: bytes, plain: bytes
) -> Row:  # fmt: skip
    key = round_.manifest.parties[party - 1].box_pk
    return _sealed_row(
        round_, name, why, party, header, seal_with(seeded(f"esk/{name}"), key, plain)
    )  # fmt: skip


def _sealed_row(
    round_: RoundOf, name: str, why: str, party: int, header: bytes, box: bytes
) -> Row:  # fmt: skip
    return row(
        "box", name, why,
        of_round=round_.at, party=party, header=header.hex(), box=box.hex(),
    )  # fmt: skip


def _elsewhere(round_: RoundOf, contributions: list[Row]) -> Iterator[Row]:
    """Boxes that are right for another party, round or report."""
    right, same_round, other_round = contributions[0], contributions[1], contributions[6]
    header = bytes.fromhex(right["header"])
    plains = [bytes.fromhex(one) for one in right["shares"]]
    boxes = [bytes.fromhex(one) for one in right["boxes"]]
    assert len(header) == HEADER_BYTES
    elements = [at for at in (1, 2, 3) if at not in right["seeded"]]
    here, there = elements
    keys = [party.box_pk for party in round_.manifest.parties]
    box = boxes[here - 1]
    for name, why, sealed in (
        ("sealed to another party", "open", boxes[there - 1]),
        ("sealed to an identity key of nobody", "open",
         seal_with(seeded("esk/nobody"), Identity(bytes(32), seeded("nobody")).box_pk,
                   plains[here - 1])),
        ("of zeros", "open", bytes(len(box))),
        ("first bit flipped", "open", bytes((box[0] ^ 0x80,)) + box[1:]),
        ("bit of the tag flipped", "open", box[:32] + bytes((box[32] ^ 1,)) + box[33:]),
        ("last bit flipped", "open", box[:-1] + bytes((box[-1] ^ 1,))),
        ("resealed from another party", "party",
         seal_with(seeded("esk/resealed"), keys[here - 1], plains[there - 1])),
        ("cut off", "length", box[:-1]),
        ("empty", "length", b""),
    ):  # fmt: skip
        yield _sealed_row(round_, name, why, here, header, sealed)
    assert same_round["seeded"] == right["seeded"]
    mixed = bytes.fromhex(same_round["boxes"][here - 1])
    yield _sealed_row(round_, "of another report", "report", here, header, mixed)
    foreign = bytes.fromhex(other_round["header"])
    yield _sealed_row(round_, "with a header of another round", "round", here, foreign, box)
    # Whoever copies boxes under a header with an id or nullifier of their own is found out.
    for name, at, size in (("report id", 40, 16), ("nullifier", 56, 32)):
        first = header[at : at + size]
        # Adding m keeps the seeds where they are.
        new = (int.from_bytes(first, "big") + 3 & (1 << 8 * size) - 1).to_bytes(size, "big")
        copied = _put(header, at, new)
        yield _sealed_row(round_, f"copied under another {name}", "report", here, copied, box)


# Results


def _result_row(
    round_: RoundOf, name: str, why: str, data: bytes, sigs: Mapping[int, bytes]
) -> Row:  # fmt: skip
    return row(
        "result", name, why,
        of_round=round_.at, result=data.hex(),
        sigs={str(party): sig.hex() for party, sig in sigs.items()},
    )  # fmt: skip


def _signed(round_: RoundOf, data: bytes, label: bytes = labels.RESULT) -> dict[int, bytes]:
    said = round_.manifest.digest + data
    return {party: round_.sign(party, label, said) for party in range(1, round_.manifest.m + 1)}


def _signatures(round_: RoundOf, right: Row) -> Iterator[Row]:
    data = bytes.fromhex(right["result"])
    good = _signed(round_, data)
    other = RoundOf.make(0, round_.task, round_id=seeded("another round", 16))
    cases: list[tuple[str, str, dict[int, bytes]]] = [
        ("one signature of three parties", "signatures", {1: good[1]}),
        ("no signature", "signatures", {}),
        ("a party that there is not", "party", good | {4: good[1]}),
        ("party 0", "party", {0: good[1], 2: good[2]}),
        ("one party's signature twice", "signature", {1: good[1], 2: good[1]}),
        ("a signature of zeros", "signature", good | {3: bytes(64)}),
        ("a signature cut off", "signature", good | {3: good[3][:-1]}),
        ("signed for another round", "signature", _signed(other, data)),
        ("signed without the round", "signature",
         {at: round_.sign(at, labels.RESULT, data) for at in (1, 2, 3)}),
        ("signed as an abandonment", "signature", _signed(round_, data, labels.ABANDONMENT)),
    ]  # fmt: skip
    for name, why, sigs in cases:
        yield _result_row(round_, name, why, data, sigs)
    yield _result_row(round_, "a bit flipped", "signature", data[:-1] + b"\xff", good)


def _results(whole: list[RoundOf], results: list[Row]) -> Iterator[Row]:
    """Signed by all parties, and yet no result of the task."""
    cases: list[tuple[int, str, str, dict[str, Any]]] = [
        (0, "version 2", "result-version", {"version": 2}),
        (0, "a field unknown", "result-task", {"comment": "hello"}),
        (0, "a field missing", "result", {"checked": ...}),
        (0, "more valid than there are", "result-task", {"valid": 5_001}),
        (0, "more invalid than there are", "result", {"invalid": 5_004, "valid": -1}),
        (0, "fewer valid than k_min", "result", {"reports": 109, "valid": 99}),
        (0, "more reports than the task allows", "result",
         {"reports": 100_001, "valid": 99_991}),
        (0, "inconsistent below 0", "result", {"inconsistent": -1, "valid": 5_008}),
        (0, "refusals of two parties", "result", {"refused": [{}, {}]}),
        (0, "a rule without a name", "result", {"refused": [{}, {}, {"": 1}]}),
        (0, "a rule refused never", "result", {"refused": [{}, {}, {"open": 0}]}),
        (0, "noise of one party", "result", {"noise_of": [2]}),
        (0, "noise of a party twice", "result", {"noise_of": [1, 1, 2]}),
        (0, "noise of party 4", "result", {"noise_of": [1, 2, 4]}),
        (0, "checked, in a number", "result", {"checked": 1}),
        (0, "another sigma", "result-task", {"sigma_milli": 19_999}),
        (0, "another cost", "result-task", {"micro_rho": 2_500}),
        (0, "another tail", "result-task", {"tail": "threshold"}),
        (0, "a sum missing", "result", {"sums": [61, 40]}),
        (0, "a sum too many", "result", {"sums": [61, 40, -3, 0]}),
        (0, "a sum beyond the field", "result", {"sums": [61, 40, 1 << 30]}),
        (0, "a sum that is a text", "result", {"sums": [61, 40, "3"]}),
        (0, "sums with bins", "result-task", {"bins": [[0, 61]]}),
        (0, "undecided without a tail", "result", {"sums": ..., "undecided": True}),
        (1, "a bin twice", "result", {"bins": [[0, 400], [0, 400]]}),
        (1, "a bin that there is not", "result", {"bins": [[3, 400]]}),
        (1, "a count without its bin", "result", {"bins": [[400]]}),
        (2, "more of the top than asked for", "result", {"bins": [[5, 900], [0, 70], [1, 70]]}),
        (3, "a quantile missing", "result", {"quantiles": [[1, 1, 1], [1, 1, 1]]}),
        (4, "a verdict that there is not", "result",
         {"comparisons": [["better", 1, 1, 1, 1], ["lower", 1, 1, 1, 1]]}),
        (4, "a comparison missing", "result", {"comparisons": [["lower", 1, 1, 1, 1]]}),
    ]  # fmt: skip
    for at, name, why, changes in cases:
        fields = {**results[at]["fields"], **changes}
        data = canonical.encode({key: val for key, val in fields.items() if val is not ...})
        yield _result_row(whole[at], name, why, data, _signed(whole[at], data))
    first = bytes.fromhex(results[0]["result"])
    for name, why, data in (
        ("cut off", "cbor", first[:-1]),
        ("prolonged", "cbor-form", first + b"\0"),
        ("nothing", "cbor", b""),
        ("of another task", "result", bytes.fromhex(results[5]["result"])),
    ):
        yield _result_row(whole[0], name, why, data, _signed(whole[0], data))
