"""What a person agrees to, on a governed device (docs/consent.md): receipts and what follows from
them. The cores do no I/O; `shell` asks the service.

Nothing is imported here: a command that only records something needs little of it.
"""
