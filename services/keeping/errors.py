"""Why a command that keeps the service did nothing."""

from __future__ import annotations


class KeepingError(Exception):
    """The message says what is in the way and what to do. Never shows a secret."""
