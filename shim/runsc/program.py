"""Where runsc is: inside this package, as on Kubernetes nodes, or on PATH.

An installation with a runsc of its own uses that one for all of its sandboxes. Another version may
be installed beside it meanwhile, with another runsc.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

NAME = "runsc"
FOLDER = Path(__file__).parent / "bin"


def which(name: str, search: str | None = None) -> str | None:
    """Return the program that a setting names, as `shutil.which`; `runsc` may be in this package.

    `search` is the PATH to look on, by default that of this process.
    """
    own = str(FOLDER / NAME)
    return own if name == NAME and os.access(own, os.X_OK) else shutil.which(name, path=search)
