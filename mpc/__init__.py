"""Joint aggregates: what is measured, how it is encoded, and how parties compute it.

Clients may import `task`, `manifest`, `kinds`, `budget` and what these need; `runtime` and
`circuit` stay with the party (docs/adr/0014-clients-use-tasks-and-kinds.md).
"""
