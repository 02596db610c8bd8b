"""Keeping a service: backups, keys that are replaced while it runs, and what is wrong with it."""
