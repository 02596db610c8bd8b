"""Why a state file can't be had. Each message is the sentence that the person needs."""

from __future__ import annotations

from pathlib import Path


class VaultError(Exception):
    """The state file can't be used. Holds its path, never what is in it."""


class VaultMissing(VaultError):
    """There is no state yet."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"no device is set up at {path}: run `rookery device init` first")


class VaultExists(VaultError):
    """A device lives here already."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"a device is set up at {path} already: choose another --state")


class VaultUnfinished(VaultError):
    """The process that made this state was killed before a device was in it."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"the device at {path} was never finished: run `rookery device init`, `join` or"
            " `recover` again"
        )


class VaultBusy(VaultError):
    """Another process holds the file; two on one state would fork the device's chain."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"another process is using {path}: end it (a running `watch`, perhaps) and try again"
        )


class VaultLocked(VaultError):
    """Wrong key."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{what} does not open {path}: give the one it was made with")


class VaultKeyMissing(VaultError):
    """The key file isn't there, or isn't one."""

    def __init__(self, key_path: Path, why: str) -> None:
        super().__init__(f"{key_path} {why}: without its key file the state can't be opened")


class VaultDamaged(VaultError):
    """Not a state file, or parts of it were changed."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is damaged or no state of rookery: join again from another device, or"
            " use the recovery key"
        )
