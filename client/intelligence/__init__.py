"""What a device makes of its own profile, by itself (docs/on-device.md)."""
