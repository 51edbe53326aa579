"""What started programs inherit: a filtered environment and the usual umask.

This process's environment may hold secrets (a service manager's credentials, containerd's tokens),
and every process that runs as root, including a sandbox's gofer, can read runsc's environment.
"""

from __future__ import annotations

import os

# Paths of programs, libraries, home and temporary files; language and time zone.
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
# Files of this process are private; started programs create files with the usual mode.
_OURS = 0o077
CHILD_UMASK = 0o022


def environment() -> dict[str, str]:
    """Return the environment of a program for which the caller passes none."""
    return {name: os.environ[name] for name in _PASSED if name in os.environ}


def private_umask() -> None:
    """Make files that this process creates without an explicit mode private to its user."""
    os.umask(_OURS)
