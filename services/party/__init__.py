"""One party of joint aggregates: its store, its states, its peers, its jobs."""
