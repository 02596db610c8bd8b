"""The methods of rookery.v1 that a device calls, with the deadline of each."""

from __future__ import annotations

from typing import Final

from client.transport import Method
from rookery.v1 import accounts_pb2, pairing_pb2, policy_pb2, sync_pb2, wake_pb2

_V1: Final = "/rookery.v1."
FETCH_WAIT_MS: Final = 20_000

CREATE_ACCOUNT: Final = Method(
    _V1 + "Accounts/CreateAccount", accounts_pb2.CreateAccountResponse.FromString
)
APPEND_LINK: Final = Method(_V1 + "Accounts/AppendLink", accounts_pb2.AppendLinkResponse.FromString)
GET_CHAIN: Final = Method(_V1 + "Accounts/GetChain", accounts_pb2.GetChainResponse.FromString)
DELETE_ACCOUNT: Final = Method(
    _V1 + "Accounts/DeleteAccount", accounts_pb2.DeleteAccountResponse.FromString, seconds=60.0
)
GET_SERVER_KEYS: Final = Method(
    _V1 + "Accounts/GetServerKeys", accounts_pb2.GetServerKeysResponse.FromString
)
POST_MESSAGE: Final = Method(
    _V1 + "Pairing/PostMessage", pairing_pb2.PostMessageResponse.FromString
)
FETCH_MESSAGE: Final = Method(
    _V1 + "Pairing/FetchMessage",
    pairing_pb2.FetchMessageResponse.FromString,
    seconds=FETCH_WAIT_MS / 1000 + 10.0,
)
PUSH: Final = Method(_V1 + "Sync/Push", sync_pb2.PushResponse.FromString, seconds=30.0)
PULL: Final = Method(_V1 + "Sync/Pull", sync_pb2.PullResponse.FromString, seconds=30.0)
SUBSCRIBE: Final = Method(_V1 + "Sync/Subscribe", sync_pb2.SubscribeResponse.FromString)
GET_RECEIPT: Final = Method(_V1 + "Sync/GetReceipt", sync_pb2.GetReceiptResponse.FromString)
REGISTER_HANDLE: Final = Method(
    _V1 + "Wake/RegisterHandle", wake_pb2.RegisterHandleResponse.FromString
)
REMOVE_HANDLE: Final = Method(_V1 + "Wake/RemoveHandle", wake_pb2.RemoveHandleResponse.FromString)
GET_HANDLE: Final = Method(_V1 + "Wake/GetHandle", wake_pb2.GetHandleResponse.FromString)
GET_POLICY: Final = Method(_V1 + "Policy/GetPolicy", policy_pb2.GetPolicyResponse.FromString)
WATCH_POLICY: Final = Method(_V1 + "Policy/WatchPolicy", policy_pb2.WatchPolicyResponse.FromString)
