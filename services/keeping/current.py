"""The keys that are in force in this process: replaced as a whole, while calls are under way.

Handlers ask for them at each call and never keep them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crypto.receipt import ServerKey
from services import listed
from services.config import Config
from services.keeping import ring
from services.listed import Listed


class Secrets:
    """The service's own keys. repr shows the public half."""

    __slots__ = ("pepper", "peppers_before", "server_key", "successions")

    def __init__(
        self,
        identity: bytes,
        pepper: bytes,
        *,
        peppers_before: Sequence[bytes] = (),
        successions: Sequence[bytes] = (),
    ) -> None:
        self.server_key = ServerKey(identity)
        self.pepper = pepper
        self.peppers_before = tuple(peppers_before)
        self.successions = tuple(successions)

    def __repr__(self) -> str:
        return f"Secrets({self.server_key!r})"

    @classmethod
    def read(cls, config: Config) -> Secrets:
        """From the files that the configuration names; KeyFileError."""
        identity = ring.read_identity(Path(config.identity_key_file), audience=config.audience)
        pepper = ring.read_pepper(Path(config.pepper_file))
        return cls(
            identity.seed,
            pepper.secret,
            peppers_before=pepper.before,
            successions=identity.successions,
        )


@dataclass(frozen=True, slots=True)
class Trusted:
    """Public keys of others that the settings list."""

    issuers: tuple[Listed, ...] = ()
    publishers: tuple[Listed, ...] = ()
    analysts: tuple[Listed, ...] = ()
    policy: tuple[Listed, ...] = ()

    @classmethod
    def of(cls, config: Config) -> Trusted:
        """What the configuration lists."""
        return cls(*(listed.parse(name, rows) for name, rows in lists_of(config).items()))


def lists_of(config: Config) -> dict[str, tuple[str, ...]]:
    """The settings that say whose keys are trusted, by name, as they are written."""
    return {
        "token_issuers": config.token_issuers,
        "publishers": config.publishers,
        "analysts": config.analysts,
        "policy_keys": config.policy_keys,
    }


class Keys:
    """What is in force. Each half is one object, so that a call sees all of it or none."""

    __slots__ = ("secrets", "trusted")

    def __init__(self, secrets: Secrets, trusted: Trusted) -> None:
        self.secrets = secrets
        self.trusted = trusted
