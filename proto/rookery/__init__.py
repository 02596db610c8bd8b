"""Protobuf packages of Rookery's API. Generated code, except for this line."""
