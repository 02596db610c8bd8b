"""What a policy bundle says (docs/policy.md): pure; clients, service and parties share it."""
