"""Checkpoint and restore for GPU containers under gVisor."""

__version__ = "0.1.0"
