"""The privacy centre: what a device knows of its person, where it goes, and the switches."""
