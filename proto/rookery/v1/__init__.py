"""The API `rookery.v1`: see the .proto files beside this one, which document it."""
