"""The leak canary: a whole scenario with marked secrets, and the search for them."""
