"""`rookery-server check` and `party --check`: what is printed, and the exit code."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from services.config import of_arguments, sources
from services.keeping import findings
from services.keeping.errors import KeepingError
from services.keeping.findings import Check, Level
from services.keeping.foreseen import FORESEEN
from services.keeping.servicechecks import Peer, of_service

__all__ = ["FORESEEN", "check", "check_party"]


class ChecksFailed(KeepingError):
    """At least one."""


def check(arguments: argparse.Namespace) -> None:
    """Judges a service; serves nothing."""
    config = of_arguments(arguments)
    peer = None
    if arguments.peer:
        host, _, port = arguments.peer.rpartition(":")
        if not host or not port.isdecimal():
            raise KeepingError(f"--peer: wants HOST:PORT, and {arguments.peer} has no port")
        ca = arguments.peer_ca.read_bytes() if arguments.peer_ca else None
        peer = Peer(arguments.peer, ca)
    checks = of_service(config, source=sources(arguments), peer=peer, deep=arguments.deep)
    _print(checks, as_json=arguments.json)


def check_party(arguments: argparse.Namespace) -> None:
    """Judges a party; runs nothing."""
    from services.keeping.partychecks import of_party
    from services.party import config as party_config

    _print(of_party(party_config.of_arguments(arguments)), as_json=False)


def _print(checks: Iterable[tuple[str, Check]], *, as_json: bool) -> None:
    count = 0
    for finding in findings.run(checks):
        print(finding.line(as_json=as_json), flush=True)
        count += finding.level is Level.FAILED
    if count:
        raise ChecksFailed(f"{count} check{'s' * (count > 1)} failed")
