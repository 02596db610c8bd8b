"""Options that the device commands share: where the state is and which service is meant."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from dataclasses import replace
from pathlib import Path

from client import vault
from client.endpoint import ClientCertificate, Endpoint, EndpointError, Superseded
from client.errors import UserError
from client.localkey import KeyFile, Passphrase, Unlock


def device_options() -> argparse.ArgumentParser:
    """A parent parser. Everything but --state and --json is stored when a device is set up."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="this device's encrypted state (ROOKERY_STATE; default: "
        "$XDG_DATA_HOME/rookery/device.db)",
    )
    parser.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="key of the state, mode 0600 (default: FILE.key beside it, which protects copies "
        "and backups of the state alone, not against who reads your home folder)",
    )
    add_service_options(parser, "the service (given once, at init, join or recover)")
    return parser


def add_service_options(parser: argparse.ArgumentParser, title: str) -> None:
    """Which service is meant; `endpoint` reads them."""
    group = parser.add_argument_group(title)
    group.add_argument("--server", metavar="HOST:PORT,…", help="ROOKERY_SERVER")
    group.add_argument("--audience", metavar="NAME", help="ROOKERY_AUDIENCE")
    group.add_argument("--server-key", metavar="HEX", help="ROOKERY_SERVER_KEY")
    group.add_argument(
        "--tls-ca",
        type=Path,
        metavar="FILE",
        help="PEM, instead of the system's (ROOKERY_SERVER_CA)",
    )
    group.add_argument(
        "--client-cert",
        type=Path,
        metavar="FILE",
        help="PEM, for a proxy that asks for a certificate (ROOKERY_CLIENT_CERT); read anew "
        "for each connection",
    )
    group.add_argument(
        "--client-key", type=Path, metavar="FILE", help="its private key (ROOKERY_CLIENT_KEY)"
    )
    group.add_argument(
        "--insecure", action="store_true", help="no TLS, also where the service is elsewhere"
    )


def new_state_options() -> argparse.ArgumentParser:
    """A parent parser of the commands that make a state."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--passphrase",
        action="store_true",
        help="protect the state by a passphrase (asked for, or ROOKERY_PASSPHRASE) and no key file",
    )
    return parser


def state_path(arguments: argparse.Namespace) -> Path:
    """--state, ROOKERY_STATE or the XDG data folder."""
    if arguments.state is not None:
        return Path(arguments.state)
    if named := os.environ.get("ROOKERY_STATE"):
        return Path(named)
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "rookery" / "device.db"


def new_unlock(arguments: argparse.Namespace) -> Unlock:
    """How a state that is made now will be opened."""
    if not arguments.passphrase:
        return KeyFile(arguments.key_file)
    text = os.environ.get("ROOKERY_PASSPHRASE")
    if text is None:
        text = _ask("passphrase for this device's state: ")
        if _ask("again: ") != text:
            raise UserError("the two passphrases differ; start again")
    if not text:
        raise UserError("an empty passphrase protects nothing; choose another")
    return Passphrase(text)


def _ask(prompt: str) -> str:
    """A passphrase from the terminal, which need not be standard input."""
    try:
        if not sys.stdin.isatty():
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        return getpass.getpass(prompt)
    except (EOFError, OSError):
        raise UserError(
            "a passphrase is needed and there is no terminal to ask at: set ROOKERY_PASSPHRASE"
        ) from None


def unlock_for(arguments: argparse.Namespace, path: Path) -> Unlock:
    """How the state at `path` is opened."""
    if not vault.needs_passphrase(path):
        return KeyFile(arguments.key_file)
    text = os.environ.get("ROOKERY_PASSPHRASE")
    return Passphrase(_ask("passphrase: ") if text is None else text)


def endpoint(arguments: argparse.Namespace, stored: Endpoint | None) -> Endpoint:
    """What is given on the command line or in the environment, over what was stored."""
    ca = read_ca(arguments.tls_ca or os.environ.get("ROOKERY_SERVER_CA"))
    server = arguments.server or os.environ.get("ROOKERY_SERVER")
    audience = arguments.audience or os.environ.get("ROOKERY_AUDIENCE")
    server_key = arguments.server_key or os.environ.get("ROOKERY_SERVER_KEY")
    before: tuple[Superseded, ...] = ()
    if stored is not None:
        known = {row.key for row in (*stored.before, Superseded(stored.server_key, 0))}
        if server_key is None or server_key.lower() in {key.hex() for key in known}:
            # A key that was given once and was followed since: this device does not go back.
            server_key, before = None, stored.before
        server = server or ",".join(stored.targets)
        audience = audience or stored.audience
        server_key = server_key or stored.server_key.hex()
        ca = ca or stored.tls_ca
    if not (server and audience and server_key):
        raise EndpointError(
            "--server, --audience and --server-key say which service to use:"
            " `rookery-server serve` prints all three"
        )
    insecure = arguments.insecure or (stored is not None and stored.insecure)
    shown = client_certificate(arguments)
    if shown is None and stored is not None:
        shown = stored.client_certificate
    if shown is not None:
        shown.read()
    parsed = Endpoint.parse(
        server, audience, server_key, tls_ca=ca, insecure=insecure, client_certificate=shown
    )
    return replace(parsed, before=before)


def client_certificate(arguments: argparse.Namespace) -> ClientCertificate | None:
    """The files that are named, if any are; EndpointError."""
    chain = arguments.client_cert or os.environ.get("ROOKERY_CLIENT_CERT")
    key = arguments.client_key or os.environ.get("ROOKERY_CLIENT_KEY")
    if not chain and not key:
        return None
    if not chain or not key:
        raise EndpointError("--client-cert and --client-key go together")
    return ClientCertificate(Path(chain).absolute(), Path(key).absolute())


def read_ca(path: str | Path | None) -> bytes | None:
    """The PEM certificates of a file, if one is named; EndpointError."""
    try:
        return Path(path).read_bytes() if path else None
    except OSError as error:
        raise EndpointError(f"the CA file {path} can't be read ({error.strerror})") from None


def add_page_options(command: argparse.ArgumentParser) -> None:
    """Of every command that serves pages."""
    command.add_argument("--open", action="store_true", help="open the browser, too")
    command.add_argument(
        "--port", type=int, default=0, metavar="N", help="on 127.0.0.1 (default: any that is free)"
    )
