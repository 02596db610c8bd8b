"""`rookery device wake`: being woken in the background by a push."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from client.cli import session
from client.cli.output import OK, Output
from client.cli.times import until
from client.errors import UserError
from client.remoteerrors import RemoteError
from client.sync import SyncedDevice
from client.wake import Waking
from crypto.wake import TOKEN_BYTES_MAX, Platform, PushToken

_NOTHING = "not registered: no push wakes this device"


async def wake(arguments: argparse.Namespace, out: Output) -> int:
    """Registers, removes, or shows what is registered."""
    given = arguments.gateway_key is not None, arguments.token_file is not None
    if arguments.remove and any(given):
        raise UserError("--remove goes with neither --gateway-key nor --token-file")
    if any(given) and not all(given):
        raise UserError("--gateway-key and --token-file go together: the token is sealed to it")
    async with session.opened(arguments, patient=any(given)) as synced:
        if arguments.remove:
            await Waking(synced).remove()
            out.result({"registered": False}, "no push wakes this device any more")
        elif any(given):
            key = _key(arguments.gateway_key)
            token = _token(arguments.token_file, Platform[arguments.platform.upper()])
            await Waking(synced).register(key, token)
            # What came before is no reason to be woken.
            await synced.sync_once()
            await _show(synced, out, offline=False)
        else:
            await _show(synced, out, offline=arguments.offline)
    return OK


async def _show(synced: SyncedDevice, out: Output, *, offline: bool) -> None:
    known = Waking(synced).registered
    held_ms = None
    if not offline:
        try:
            held_ms = await Waking(synced).held_until_ms()
        except RemoteError as error:
            if not error.transient:
                raise
            out.note(f"rookery: not asked: {error}")
    data: dict[str, Any] = {"registered": known is not None, "service_holds_until_ms": held_ms}
    if known is None:
        out.result(data, _NOTHING)
        return
    platform = known.push_token.platform.name.lower()
    data |= {
        "platform": platform,
        "gateway_key": known.gateway_key.hex(),
        "expires_ms": known.expires_ms,
        "renew_ms": known.renew_ms,
    }
    now_ms = synced.transport.server_ms()
    lines = [
        f"a push by {platform} wakes this device, through the gateway {known.gateway_key.hex()}",
        f"to be renewed {until(known.renew_ms, now_ms)}, by any command that syncs",
    ]
    if held_ms == 0:
        lines.append("the service holds no handle of it any more: register it again")
    out.result(data, "\n".join(lines))


def _key(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise UserError(
            "--gateway-key is 64 hexadecimal characters: `rookery-server gateway` prints it."
            " Take it from who runs the gateway, never from the service"
        )
    return key


def _token(file: Path, platform: Platform) -> PushToken:
    """The token as its platform gave it; those of APNs are bytes, written in hexadecimal."""
    raw = sys.stdin.buffer.read(4096) if str(file) == "-" else file.read_bytes()[:4096]
    token = raw.strip()
    if platform is Platform.APNS:
        try:
            token = bytes.fromhex(token.decode("ascii"))
        except ValueError:
            raise UserError("a token of APNs is hexadecimal") from None
    if not 1 <= len(token) <= TOKEN_BYTES_MAX:
        raise UserError(f"a push token has 1 to {TOKEN_BYTES_MAX} bytes")
    return PushToken(platform, token)
