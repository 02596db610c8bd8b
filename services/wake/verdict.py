"""What became of a poke, as a gateway says it."""

from __future__ import annotations

from enum import IntEnum

from rookery.v1 import gateway_pb2

GATEWAY_METHOD = "/rookery.v1.Gateway/Wake"
HANDLES_MAX = 100
"""Handles in one call."""


class Verdict(IntEnum):
    """Its numbers are those of the wire."""

    OK = gateway_pb2.WakeResponse.VERDICT_OK
    GONE = gateway_pb2.WakeResponse.VERDICT_GONE
    RETRY = gateway_pb2.WakeResponse.VERDICT_RETRY
