"""Pages for a person or an operator to look at, served to one browser on this machine."""
