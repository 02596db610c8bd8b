"""One small storage interface in the words of the domain, and its backends."""
