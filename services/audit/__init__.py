"""The audit log: an append-only chain of what callers without an account, and who runs the
service, did."""
