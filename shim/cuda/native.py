"""Where our own cryo-cuda is on this host, if it was built."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

NAME = "cryo-cuda"


def path() -> str:
    """Return the program's path, empty where the package was built without a C compiler."""
    found = Path(str(resources.files("shim.cuda"))) / "bin" / NAME
    return str(found) if os.access(found, os.X_OK) else ""
