"""Waking phones that hold no stream: the service's part, and the reference gateway."""
