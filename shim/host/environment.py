"""What programs that we start get of our surroundings: little environment, and the usual umask.

Our own environment may hold secrets (a service manager's credentials, tokens of containerd's), and
what runsc is started with can be read by everything that runs as root, a sandbox's gofer included.
"""

from __future__ import annotations

import os

# Where programs, libraries and temporary files are, whose folder, and in what language and time.
_PASSED = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "LD_LIBRARY_PATH",  # nvidia-smi where the driver's libraries have a folder of their own
)
# What we write is for us alone; what we start makes files as it does when anybody starts it.
_OURS = 0o077
CHILD_UMASK = 0o022


def environment() -> dict[str, str]:
    """Return the environment of a program for which the caller names none."""
    return {name: os.environ[name] for name in _PASSED if name in os.environ}


def private_umask() -> None:
    """Let no other user read or write what this process makes and gives no mode of its own."""
    os.umask(_OURS)
