"""The policy bundle at the service: published, served, and put in force in this process."""
