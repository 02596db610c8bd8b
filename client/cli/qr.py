"""A QR code of half blocks, for terminals."""

from __future__ import annotations

import io

import segno


def terminal_qr(text: str) -> str:
    """Lines to print. `text` is base45, so the alphanumeric mode keeps the code small."""
    code = segno.make_qr(text, error="l", mode="alphanumeric", boost_error=False)
    out = io.StringIO()
    code.terminal(out, compact=True, border=2)
    return out.getvalue().rstrip("\n")
