"""The command line `rookery`: one file per noun, nothing decided here that the library decides."""
