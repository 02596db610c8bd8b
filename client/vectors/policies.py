"""Policy bundles: what a device takes, what follows from it, and what nobody may take."""

from __future__ import annotations

from client.vectors.fields import Entry as Row, data, entry, expect, number, text
from client.vectors.world import World
from crypto import canonical
from crypto.policy import Bundle, decode, flags, generalise, open_
from crypto.policy.document import DEPTH
from crypto.policy.flags import Flag
from mpc.keys import PublisherKey


def read(_: World, row: Row) -> Bundle:
    """As whoever holds a pinned key reads one: signature, form, bounds, references."""
    return open_(data(row, "bundle"), data(row, "sig"), data(row, "publisher"))


def check(world: World, row: Row) -> None:
    """What the row says, and the same bytes made again."""
    bundle = read(world, row)
    expect("sequence", bundle.sequence, number(row, "sequence"))
    expect("hash", bundle.hash, data(row, "hash"))
    hashes = {one.name: one.text_hash.hex() for one in bundle.purposes}
    expect("text_hashes", hashes, dict(entry(row["text_hashes"])))
    again = canonical.encode(dict(entry(row["fields"])), depth=DEPTH)
    expect("bundle again", decode(again), bundle)
    expect("bundle's bytes", bundle.encoded, data(row, "bundle"))
    signer = PublisherKey(data(row, "seed"))
    expect("publisher", signer.public, data(row, "publisher"))
    expect("sig again", bundle.sign(signer), data(row, "sig"))


def check_flag(_: World, row: Row) -> None:
    """Whether a feature is on for an account's secret."""
    name = text(row, "name")
    flag = Flag(name, "feature", ("feature", name), True, number(row, "percent"), None)
    expect("on", flags.is_on(flag, data(row, "secret"), {}), bool(row.get("on")))


def check_value(_: World, row: Row) -> None:
    """What a value becomes by one step, and that it stays that."""
    step = generalise.of(dict(entry(row["step"])))
    becomes = number(row, "becomes")
    expect("becomes", step.apply(number(row, "value")), becomes)
    expect("becomes again", step.apply(becomes), becomes)
