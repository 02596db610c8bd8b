"""An enrolment token from the app's backend, for services that don't enrol everybody.

A token is bound to one genesis link, so it is asked for while the account is made: the
command gets the link's hash (hexadecimal) as its last argument, and prints the token.
"""

from __future__ import annotations

import asyncio
import shlex

from client.device import Device
from client.errors import UserError

SECONDS_MAX = 60.0


async def token_for(command: str | None, core: Device) -> bytes | None:
    """The token that `command` prints; None without a command. UserError."""
    if command is None:
        return None
    genesis = core.chain.hashes[0].hex()
    try:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(command), genesis, stdout=asyncio.subprocess.PIPE
        )
    except (OSError, ValueError) as error:
        raise UserError(f"the token command can't be run: {error}") from None
    try:
        async with asyncio.timeout(SECONDS_MAX):
            printed, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        raise UserError("the token command took too long") from None
    if process.returncode:
        raise UserError(f"the token command failed with exit code {process.returncode}")
    try:
        return bytes.fromhex(printed.decode("ascii").strip())
    except ValueError:
        raise UserError("the token command must print the token in hexadecimal") from None
