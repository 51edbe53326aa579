"""What a result depends on: the machine, its load, and the versions of what is compared."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

_LIMIT_S = 20.0
_NO_VERSION = "VERSION_MISSING"


def machine(runsc: str = "") -> dict[str, str]:
    """Describe this machine in words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    found = {
        "cores": f"{os.cpu_count()} cores",
        "memory": f"{memory} GiB",
        "kernel": f"Linux {platform.release()}",
        "python": f"Python {platform.python_version()}",
        "gpu": "simulated GPU",
        "load": f"load {os.getloadavg()[0]:.1f} before",
    }
    if runsc:
        argv = [runsc, "--version"]
        said = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=_LIMIT_S)
        name = said.stdout.splitlines()[0].removeprefix("runsc version ")
        # A build of the Go module does not know its version, which is the name of its folder.
        found["runsc"] = f"runsc {Path(runsc).parent.name if name == _NO_VERSION else name}"
    return found


def today() -> str:
    """Return the date of a measurement."""
    return f"{datetime.now(UTC):%Y-%m-%d}"


def available_mib() -> int:
    """Return how much memory can be used without swapping."""
    text = Path("/proc/meminfo").read_text("ascii")
    (line,) = (line for line in text.splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) >> 10
