"""What who runs or oversees the service sees of it: privacy health, exposure, audit log, rounds."""
