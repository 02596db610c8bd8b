"""`rookery demo`: the whole system at work on one machine, with real processes and real data."""
