"""Purposes: what values are used for, in words that a person agrees to or not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from crypto import canonical, labels
from crypto.policy import fields
from crypto.policy.fields import Fields
from crypto.primitives import hash_


@dataclass(frozen=True)
class Purpose:
    """One purpose. Off until the person switches it on; there is no other default.

    `text` says what is done and `benefit` what the person has of it. `intrusive`: what is used
    says more of a person than they may expect; it is asked for by itself, never among others.
    """

    name: str
    text: str
    benefit: str
    intrusive: bool

    def __post_init__(self) -> None:
        fields.name("name", self.name)
        fields.text("text", self.text)
        fields.text("benefit", self.benefit)
        fields.truth("intrusive", self.intrusive)

    @cached_property
    def text_hash(self) -> bytes:
        """`H("pss1/purpose-text", cbor)`, 32 bytes: what a receipt of consent is given to. With
        other words it is another one, and consent has to be asked for anew."""
        said = {"name": self.name, "text": self.text, "benefit": self.benefit}
        return hash_(labels.PURPOSE_TEXT, canonical.encode(said))

    def as_map(self) -> dict[str, Any]:
        """As it is signed."""
        return {
            "name": self.name,
            "text": self.text,
            "benefit": self.benefit,
            "intrusive": self.intrusive,
        }

    @classmethod
    def of(cls, value: object) -> Purpose:
        """From its map; FormatError."""
        read = Fields(value)
        made = cls(
            read.take("name"), read.take("text"), read.take("benefit"), read.take("intrusive")
        )
        read.done()
        return made
