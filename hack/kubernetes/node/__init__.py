"""Installs the runtime on a node: the shim with a Python of its own, and containerd's settings."""
