"""What `rookery policy` commands work with: a key from its file, a policy from file or folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from client import keyfile
from client.backoff import Backoff
from client.errors import UserError
from client.keyfile import KeyFileError
from client.policykit import assessment, bundlefile, folder, methods
from client.policykit.assessment import Assessment
from client.policykit.errors import PolicyFileError
from client.policykit.folder import Draft
from crypto.policy import FIRST, Bundle
from mpc.keys import PublisherKey

# Somebody waits in front of it.
PATIENCE = Backoff(first_ms=150, longest_ms=1_500, tries_max=4)
COMPARED_MS = 1
"""When a folder that is only compared was issued: nothing that is compared has a time."""


@dataclass(frozen=True, slots=True)
class Read:
    """A policy, and what is written about it; None: a compiled one, which holds no more of that
    than a hash."""

    bundle: Bundle
    written: Assessment | None


def load_key(path: Path | None) -> PublisherKey:
    """The key of a file; UserError."""
    if path is None:
        raise UserError(
            "--key says which key signs; who has none makes one by `rookery policy keygen`"
        )
    try:
        return PublisherKey(keyfile.read(path))
    except KeyFileError as error:
        raise UserError(f"{error}: `rookery policy keygen` makes key files") from None


def draft(path: Path) -> Draft:
    """The folder's policy, judged by itself; UserError, PolicyFileError."""
    if path.is_file():
        raise UserError(f"{path} is a file: name the folder with the policy's YAML")
    read = folder.read(path)
    bundle = compared(read)
    for at in methods.unknown(bundle):
        place = read.places["grants"][at]
        method = bundle.access.grants[at].method
        raise PolicyFileError(*place, f"{method} is no method of the API; see proto/rookery/v1")
    return read


def policy(path: Path) -> Read:
    """A policy out of a compiled file, or a folder; UserError."""
    if path.is_file():
        return Read(bundlefile.read(path).bundle, None)
    read = draft(path)
    return Read(compared(read), read.assessment)


def compared(read: Draft) -> Bundle:
    """The folder's policy as it is compared, whatever number it will have."""
    return read.bundle(sequence=1, previous=FIRST, issued_ms=COMPARED_MS)


def assessed(bundle: Bundle, path: Path | None) -> Assessment:
    """What is written about a compiled policy, if its file is named: it must be the one that it
    was built with."""
    if path is None:
        return assessment.NONE
    written = assessment.read(path)
    if written.hash != bundle.assessment:
        raise UserError(f"{path} is not the assessment that this policy was built with")
    return written
