"""The command line, `cryo`. Only commands that call the sidecar load gRPC, and not before."""

from shim.entry.cli.app import main

__all__ = ["main"]
