"""Signed calls that our processes make of one another, by keys without an account."""

from __future__ import annotations

import os

import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from crypto import request
from crypto.request import METADATA_KEY, NO_ACCOUNT, NONCE_BYTES, Caller, CallKind
from services.errors import DETAILS_KEY


def signed_metadata(
    key: Caller, *, kind: CallKind, method: str, audience: str, payload: bytes, now_ms: int
) -> tuple[tuple[str, bytes]]:
    """What makes a call this key's, once."""
    signed = request.sign(
        key,
        kind=kind,
        method=method,
        audience=audience,
        account_id=NO_ACCOUNT,
        ts_ms=now_ms,
        nonce=os.urandom(NONCE_BYTES),
        payload=payload,
    )
    return ((METADATA_KEY, signed),)


def told(error: grpc.aio.AioRpcError) -> tuple[str, int]:
    """The reason of the ErrorInfo that a failed call carries, and when to try again in ms; empty
    and 0 without them."""
    status = status_pb2.Status()
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    reason, retry_ms = "", 0
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                status.ParseFromString(value)
            except DecodeError:
                return "", 0
            for detail in status.details:
                if detail.Unpack(info):
                    reason = str(info.reason)
                elif detail.Unpack(retry):
                    retry_ms = retry.retry_delay.ToMilliseconds()
    return reason, retry_ms
