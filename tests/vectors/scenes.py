"""Scenarios: what a fresh client says to each thing that it is given, in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from crypto import op
from crypto.heads import Head
from crypto.ids import AccountId, LinkHash, OpHash
from crypto.keys import Identity
from crypto.op import Payload, SealedOp, Vector, Verb
from tests.vectors.story import Row, Story, inline, seeded

Step = tuple[Row, str]


class Stage:
    """Writes ops that are not part of the story."""

    def __init__(self, story: Story) -> None:
        self.story = story

    def true(self, name: str) -> Row:
        """An op of the story."""
        return inline(self.story.ops[name])

    def version(
        self, name: str, payload: Payload | None = None, **changes: int | bytes
    ) -> SealedOp:
        """Another version of an op of the story, by the same author in the same place."""
        known = self.story.ops[name].header
        author = next(own for own in self.story.people.values() if own.device_id == known.device_id)
        payload = payload or replace(self.story.payloads[name], value=b"another version")
        prev = changes.get("prev", known.prev)
        assert isinstance(prev, bytes)
        return op.seal(
            author,
            self.story.keys[known.epoch],
            payload,
            dev_seq=int(changes.get("dev_seq", known.dev_seq)),
            prev=OpHash.of(bytes(prev)),
            lamport=int(changes.get("lamport", known.lamport)),
            rand=seeded(f"scene/{name}/{sorted(changes)}"),
        )

    def heads(self, *names: str) -> Row:
        """A receipt with these ops as heads."""
        rows = []
        for name in names:
            sealed = self.story.ops[name]
            index = self.story.index(name[0])
            rows.append([index, sealed.header.dev_seq, sealed.op_hash.hex()])
        return {"receipt": rows}


def scenarios(story: Story) -> list[Row]:
    """All of them."""
    stage = Stage(story)
    return [
        {
            "name": name,
            "chain_links": links,
            "deliver": [item for item, _ in steps],
            "expect": [verdict for _, verdict in steps],
        }
        for part in (_order, _receipts, _forks, _members, _contents)
        for name, links, steps in part(stage)
    ]


def _all(stage: Stage, *names: str) -> list[Step]:
    return [(stage.true(name), "OK") for name in names]


EPOCH_ONE = ("A1", "B1", "A2", "B2", "A3")


def _order(stage: Stage) -> Iterator[tuple[str, int, list[Step]]]:
    true = stage.true
    yield "in order", 4, _all(stage, *EPOCH_ONE)
    yield (
        "everything that the longest chain counts",
        10,
        _all(stage, *EPOCH_ONE, "A4", "C1", "B3", "A5", "C2", "B4", "A6", "D1", "D2", "A7"),
    )
    yield "delivered twice", 4, [*_all(stage, "A1", "B1"), (true("A1"), "DUP"), (true("B1"), "DUP")]
    yield (
        "a gap is held and leaves no trace",
        4,
        [
            (true("A2"), "HOLD: gap"),
            *_all(stage, "A1", "B1", "A2"),
            (true("A2"), "DUP"),
        ],
    )
    yield (
        "an op before what its author had seen",
        4,
        [
            (true("B1"), "HOLD: vector"),
            *_all(stage, "A1", "B1"),
        ],
    )
    yield (
        "an op of an epoch that the chain here doesn't know",
        4,
        [
            *_all(stage, *EPOCH_ONE),
            (true("A4"), "HOLD: chain"),
        ],
    )
    yield (
        "an op of a device that the chain here doesn't know",
        5,
        [
            *_all(stage, *EPOCH_ONE),
            (true("C1"), "HOLD: chain"),
        ],
    )
    yield "backwards", 4, [(true(name), "HOLD") for name in ("A3", "B2", "A2", "B1")]


def _receipts(stage: Stage) -> Iterator[tuple[str, int, list[Step]]]:
    known = _all(stage, "A1", "B1", "A2")
    wrong = {
        "receipt": [[0, 2, seeded("no such op").hex()], [1, 1, stage.story.ops["B1"].op_hash.hex()]]
    }
    yield "a receipt of nothing", 4, [({"receipt": []}, "OK")]
    yield "a receipt equal to what is held", 4, [*known, (stage.heads("A2", "B1"), "OK")]
    yield (
        "a receipt that is ahead",
        4,
        [
            *known,
            (stage.heads("A2", "B2"), "HOLD"),
            *_all(stage, "B2"),
            (stage.heads("A2", "B2"), "OK"),
        ],
    )
    yield "a receipt that rolls back", 4, [*known, (stage.heads("A1", "B1"), "FORK: rollback")]
    yield "a receipt that lost a device", 4, [*known, (stage.heads("A2"), "FORK: rollback")]
    yield "a receipt of nothing any more", 4, [*known, ({"receipt": []}, "FORK: rollback")]
    yield "a receipt with another op", 4, [*known, (wrong, "FORK: another hash")]
    yield (
        "a receipt that is rolled back after what a longer one said",
        4,
        [
            *_all(stage, *EPOCH_ONE),
            (stage.heads("A3", "B2"), "OK"),
            (stage.heads("A3", "B1"), "FORK: rollback"),
            (stage.true("A1"), "DUP"),
        ],
    )


def _forks(stage: Stage) -> Iterator[tuple[str, int, list[Step]]]:
    true = stage.true
    other = inline(stage.version("B1"))
    yield (
        "one dev_seq, two ops",
        4,
        [
            *_all(stage, "A1", "B1"),
            (other, "FORK"),
        ],
    )
    yield (
        "the other version comes first",
        4,
        [
            *_all(stage, "A1"),
            (other, "OK"),
            (true("B1"), "FORK"),
        ],
    )
    yield (
        "another device's ops go on after a fork",
        4,
        [
            *_all(stage, "A1", "B1", "A2"),
            (other, "FORK"),
            (inline(_alone(stage)), "OK"),
        ],
    )
    yield (
        "an op follows one that was never shown",
        4,
        [
            *_all(stage, "A1", "B1"),
            (inline(stage.version("A2", prev=seeded("hidden op"))), "FORK"),
        ],
    )
    yield (
        "an op says that its author saw another chain",
        4,
        [
            (inline(stage.version("A1", _head(stage, "A1", bytes(32)))), "FORK"),
        ],
    )
    digest = replace(
        stage.story.payloads["B1"],
        vector=Vector(((0, 1),), seeded("another digest")),
    )
    yield (
        "an op says that its author saw another op",
        4,
        [
            *_all(stage, "A1"),
            (inline(stage.version("B1", digest)), "FORK"),
        ],
    )


def _head(stage: Stage, name: str, head: bytes) -> Payload:
    return replace(stage.story.payloads[name], chain_head=LinkHash(head))


def _alone(stage: Stage) -> SealedOp:
    """A's third op, by an A that never saw an op of B."""
    story = stage.story
    a2 = story.ops["A2"].op_hash
    payload = replace(story.payloads["A2"], vector=Vector.of((Head(0, 2, a2),)), verb=Verb.PUT)
    return stage.version("A3", payload, prev=bytes(a2))


def _members(stage: Stage) -> Iterator[tuple[str, int, list[Step]]]:
    true, story = stage.true, stage.story
    before = _all(stage, *EPOCH_ONE, "A4", "C1", "B3", "A5")
    yield (
        "a revoked device beyond its cut",
        8,
        [
            *before,
            *_all(stage, "C2"),
            (true("C3"), "REJECT: cut"),
            *_all(stage, "B4"),
        ],
    )
    yield (
        "another op at the cut than the one that the chain names",
        8,
        [
            *before,
            (inline(stage.version("C2")), "FORK: cut"),
            *_all(stage, "C2"),
        ],
    )
    ghost = Identity(seeded("ghost/ik"), seeded("ghost/bk"))
    yield (
        "a ghost device",
        4,
        [
            (inline(_first_op(story, ghost)), "REJECT"),
            *_all(stage, "A1"),
        ],
    )
    yield "the recovery key writes", 4, [(inline(_first_op(story, story.people["R"])), "REJECT")]
    elsewhere = bytearray(story.ops["A1"].raw)
    elsewhere[8:40] = AccountId(seeded("another account"))
    yield "another account", 4, [(_cut_up(bytes(elsewhere)), "REJECT"), *_all(stage, "A1")]
    flipped = story.ops["A1"].raw[:-1] + bytes((story.ops["A1"].raw[-1] ^ 1,))
    yield (
        "a bad signature, then the true op",
        4,
        [
            (_cut_up(flipped), "REJECT"),
            *_all(stage, "A1"),
        ],
    )
    yield "out of form", 4, [(_cut_up(story.ops["A1"].raw[:-1]), "REJECT"), *_all(stage, "A1")]


def _cut_up(raw: bytes) -> Row:
    return {"header": raw[:184].hex(), "ct": raw[184:-64].hex(), "sig": raw[-64:].hex()}


def _first_op(story: Story, author: Identity) -> SealedOp:
    return op.seal(
        author,
        story.keys[1],
        story.payloads["A1"],
        dev_seq=1,
        prev=op.init_hash(story.chain.account, author.device_id),
        lamport=1,
        rand=seeded("first op"),
    )


def _contents(stage: Stage) -> Iterator[tuple[str, int, list[Step]]]:
    story = stage.story
    first = story.payloads["A1"]
    # Both cases are the first op: the state of a fresh client is nothing.
    yield "a lamport just near enough", 4, [(inline(stage.version("A1", lamport=4096)), "OK")]
    yield (
        "a lamport too far ahead",
        4,
        [(inline(stage.version("A1", lamport=4097)), "REJECT: lamport")],
    )
    yield (
        "an author that lists itself wrongly",
        4,
        [
            *_all(stage, "A1", "B1"),
            (inline(stage.version("A2", _without_itself(story))), "REJECT"),
        ],
    )
    unknown = Vector(((0, 1), (9, 1)), seeded("digest"))
    yield (
        "a vector with a device that nobody added",
        4,
        [
            *_all(stage, "A1"),
            (inline(stage.version("B1", replace(first, vector=unknown))), "REJECT"),
        ],
    )
    capitals = replace(first, collection=b"UI")
    yield "a name that is not allowed", 4, [(inline(stage.version("A1", capitals)), "REJECT")]


def _without_itself(story: Story) -> Payload:
    vector = Vector.of((Head(1, 1, story.ops["B1"].op_hash),))
    return replace(story.payloads["A2"], vector=vector)
