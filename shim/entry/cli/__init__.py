"""The command line, `cryo`. gRPC is loaded by the commands that talk, when they do."""

from shim.entry.cli.app import main

__all__ = ["main"]
