"""The device's half of joint aggregates (docs/aggregation.md, 6): a core without I/O that decides
what this device answers to and remembers what it answered, and the shell that asks the relay.

Nothing is imported here: a command that only sets what a device trusts needs no arithmetic.
"""
