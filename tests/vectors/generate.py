"""Writes `pss1.json`, the project's own test vectors: `generate.py [--check]`.

Everything follows from fixed seeds. `verify.mjs` beside it checks the file with other code
in another language; `rookery vectors` runs it as a foreign file would be run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from crypto import names, padding
from crypto.primitives import hash_, prf, sign, sign_keypair
from crypto.request import CallKind
from tests.vectors import (
    aggregates,
    badlinks,
    badops,
    badreports,
    badrest,
    badtasks,
    consents,
    ondevice,
    policies,
    rest,
    scenes,
    successions,
    wake,
)
from tests.vectors.story import Row, Story, seeded, tell

TARGET = Path(__file__).with_name("pss1.json")
NOTES = (
    "Test vectors of the pss1 formats (docs/protocol.md, docs/aggregation.md), written by "
    "generate.py from fixed seeds. Integers are big-endian, elements of a field are not; values "
    "are hex unless they are numbers, names or texts."
)
SCHEMA = {
    "primitives": "fn H, PRF or SIG with label and msg (SIG: seed and pk), and the expected out",
    "devices": "secret and public halves; bk_sk_genN is the box key after REBOX to generation N",
    "tags": "of collection and key, or of a device's control ops",
    "links": "apply in order from an empty chain; link_hash, active and epoch must match",
    "grants": "the recipient, with the box key it had at links[link_seq], opens `sealed` and "
    "finds ek; sealing `plain` with the ephemeral key esk gives `sealed` again",
    "ops": "verify, open and seal again with the same inputs, rnd and bucket: byte for byte. "
    "vec rows are [device index, seq, op_hash]",
    "requests": "the header follows from the fields, the signature from the device's key",
    "more": "formats without a section of their own; each row holds what it takes to redo it. "
    "Of joint aggregates: `seeds` are those of the parties that get one, ascending; `of_task` "
    "and `of_round` are places in `tasks` and `rounds`; `esks` are the boxes' ephemeral keys",
    "negatives": "each must be refused. op-server: form, author, signature and place in the "
    "chain; op-client: also opened, and judged by what the op and the file's other ops show; "
    "op-bitflip: every single bit flipped in turn; chain: after the first `prefix` links; "
    "grant: opened with the recipient's newest box key; grant-set: all grants that came with a "
    "link; request: against the fields of `request`, or its own; upload: what a relay sees of a "
    "contribution; box: opened by its party; result: with its signatures; consent: behind "
    "`before`; others as in `more`",
    "scenarios": "a fresh client holds chain_links links and every epoch key; a verdict an item, "
    "of which the part before ':' counts: OK, DUP, HOLD, FORK, REJECT. A HOLD leaves no trace",
}


def build() -> Row:
    """The whole file."""
    story = tell()
    more = {
        **rest.positives(story),
        **aggregates.positives(),
        **wake.positives(),
        **successions.positives(),
        **consents.positives(),
        **policies.positives(),
        **ondevice.positives(),
    }
    request = badrest.request_row(story, "A", CallKind.UNARY, b"\n\3abc")
    return {
        "notes": NOTES,
        "schema": SCHEMA,
        "primitives": list(_primitives()),
        "devices": story.devices,
        "account_id": story.chain.account.hex(),
        "epoch_key": {str(epoch): keys.secret.hex() for epoch, keys in story.keys.items()},
        "ek_commit": {str(epoch): keys.commitment.hex() for epoch, keys in story.keys.items()},
        "epoch_keys": {
            str(epoch): {
                "rec": keys.record.hex(),
                "tag": keys.tag.hex(),
                "nonce": keys.nonce.hex(),
            }
            for epoch, keys in story.keys.items()
        },
        "tags": list(_tags(story)),
        "links": story.links,
        "grants": story.grants,
        "ops": story.op_rows,
        "padding": list(_padding()),
        "request": request,
        "requests": [
            request,
            badrest.request_row(story, "B", CallKind.STREAM, b""),
            badrest.request_row(story, "D", CallKind.UNARY, seeded("payload", 700)),
        ],
        "more": more,
        "negatives": [
            *badops.negatives(story),
            *badlinks.negatives(story),
            *badrest.negatives(story, {**more}),
            *badtasks.negatives(),
            *badreports.negatives(more),
            *wake.negatives(more["wake_handles"][1]),
            *successions.negatives(more["successions"][0]),
            *consents.negatives(),
            *policies.negatives(),
        ],
        "scenarios": scenes.scenarios(story),
    }


def _primitives() -> Iterator[Row]:
    messages = (b"", b"abc", seeded("message", 300))
    for label in ("pss1/test", "pss1/op-hash"):
        for message in messages:
            for size in (16, 24, 32, 64):
                got = hash_(label.encode(), message, size)
                yield _primitive("H", label, message, size, got)
                key = seeded(f"key/{size}")
                got = prf(key, label.encode(), message, size)
                yield _primitive("PRF", label, message, size, got) | {"key": key.hex()}
            seed = seeded("signer")
            public, secret = sign_keypair(seed)
            sig = sign(secret, label.encode(), message)
            row = _primitive("SIG", label, message, 64, sig)
            yield row | {"seed": seed.hex(), "pk": public.hex()}


def _primitive(fn: str, label: str, message: bytes, size: int, out: bytes) -> Row:
    return {"fn": fn, "label": label, "msg": message.hex(), "n": size, "out": out.hex()}


def _tags(story: Story) -> Iterator[Row]:
    records = (("ui", "theme"), ("ui", ""), ("", ""), ("u", "itheme"), ("a" * 128, "0/-_." * 25))
    for epoch, keys in story.keys.items():
        for collection, key in records:
            tag = names.tag(keys, collection.encode(), key.encode())
            yield {"epoch": epoch, "collection": collection, "key": key, "tag": tag.hex()}
        for name in ("A", "B"):
            tag = names.control_tag(keys, story.people[name].device_id)
            yield {"epoch": epoch, "device": name, "tag": tag.hex()}


def _padding() -> Iterator[Row]:
    for size in (0, 1, 251, 252, 253, 508, 509, 1020, 2044, 4092, 8188, 16380, 16381, 32764):
        padded = padding.pad(b"p" * size).hex() if size <= 253 else None
        yield {"len": size, "bucket": padding.bucket(size), "padded": padded}
    yield {"len": 32765, "bucket": None, "padded": None}


def text() -> str:
    """The file's content."""
    return json.dumps(build(), indent=1, ensure_ascii=True) + "\n"


def main() -> int:
    """Writes the file, or with `--check` compares it: 1 if it is not what would be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    if not parser.parse_args().check:
        TARGET.write_text(text())
        return 0
    if TARGET.is_file() and TARGET.read_text() == text():
        return 0
    print(f"{TARGET.name} is not what generate.py writes", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
