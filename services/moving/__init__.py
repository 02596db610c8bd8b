"""`rookery-server migrate-store`: a store is moved between SQLite and Redis, whole and exact."""
