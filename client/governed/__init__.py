"""A device under a policy: what it may record, for how long, and where the policy comes from."""
