"""The client's part of the leak canary (`rookery-server audit --canary`)."""
