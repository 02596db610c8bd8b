"""`rookery`: runs one command and turns every foreseen error into one sentence."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

from client import tracing
from client.cli.output import FAILED, GONE, NOT_FOUND, PAIRING, STOPPED, UNREACHABLE, Output
from client.cli.parser import command, parser
from client.endpoint import EndpointError
from client.errors import AccountGone, ClientError, NothingThere, PairingError, Revoked
from client.remoteerrors import ProtocolBreach, RemoteError
from client.vaulterrors import VaultError

FORESEEN = (ClientError, RemoteError, ProtocolBreach, VaultError, EndpointError, OSError)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    # First, or gRPC reports to standard error what we report ourselves.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser(argv[0] if argv else "").parse_args(argv)
    run, out = command(arguments.run), Output(as_json=arguments.json)
    try:
        with tracing.of_command(arguments.run, os.environ) as arguments.tracing:
            code: int = asyncio.run(run(arguments, out))
    except FORESEEN as error:
        code, reason = _judge(error)
        try:
            out.failure(reason, str(error))
        except BrokenPipeError:
            _stop_writing()
    except KeyboardInterrupt:
        code = STOPPED
    return code


def _judge(error: BaseException) -> tuple[int, str]:
    """(exit code, stable reason)."""
    match error:
        case RemoteError():
            return (UNREACHABLE if error.transient else FAILED), error.reason
        case AccountGone() | Revoked():
            return GONE, "ACCOUNT_GONE"
        case NothingThere():
            return NOT_FOUND, "NOT_FOUND"
        case PairingError():
            return PAIRING, "PAIRING"
        case BrokenPipeError():
            return FAILED, "BROKEN_PIPE"
        case _:
            return FAILED, type(error).__name__


def _stop_writing() -> None:
    """Who read our output is gone; the interpreter must not fail on it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
