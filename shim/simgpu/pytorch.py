"""Finds a Python of this host that has PyTorch, for the workload that uses it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_ASK_S = 60
# Located, not imported: an import takes seconds.
_ASK = """
import importlib.metadata, importlib.util, json, sys
found = importlib.util.find_spec("torch")
places = [found.origin, sys.prefix, sys.base_prefix, sys.executable]
print(json.dumps([importlib.metadata.version("torch"), places]))
"""


@dataclass(frozen=True)
class PyTorch:
    """A Python that can import PyTorch; `places` are the host directories that it needs."""

    python: Path
    version: str
    places: tuple[str, ...]


def find() -> PyTorch | None:
    """Return the first of our own Python and those on PATH that has PyTorch, or None."""
    candidates = (sys.executable, *map(shutil.which, ("python3", "python")))
    for python in dict.fromkeys(filter(None, candidates)):
        found = _ask(python)
        if found is not None:
            return found
    return None


def _ask(python: str) -> PyTorch | None:
    # No -S, which would hide the packages of a virtual environment.
    argv = [python, "-IBc", _ASK]
    try:
        ran = subprocess.run(argv, capture_output=True, text=True, timeout=_ASK_S, check=False)
        if ran.returncode:
            return None
        version, places = json.loads(ran.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    real = {os.path.realpath(place) for place in places}
    folders = sorted({str(Path(place).parent) for place in (*places, *real)})
    return PyTorch(Path(python), str(version), tuple(folders))
