"""The gRPC services. They see ciphertext, hashes and sizes; they can't read a record."""
