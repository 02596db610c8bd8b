"""`rookery vectors FILE`: run a file of pss1 test vectors against this implementation."""

from client.vectors.run import add_parser, run, run_cli, run_file

__all__ = ["add_parser", "run", "run_cli", "run_file"]
