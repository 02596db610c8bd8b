"""For those who publish tasks and read results: no account, a key of their own."""
