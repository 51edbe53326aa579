"""The runsc builds that tests run against, or the one-line reason why there is none."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from hack.tools.cache import cache_root
from hack.tools.running import NotHere, run

PROBE_S = 30.0


@dataclass(frozen=True)
class RunscBuild:
    """A runsc on this machine; `name` is "new" or "old"."""

    name: str
    path: Path
    has_builtin: bool

    def __str__(self) -> str:
        """Give the name that test ids use."""
        return self.name


def real_is_required() -> bool:
    """Tell whether a missing tool is a failure here, and not a skip."""
    return os.environ.get("CRYO_REQUIRE_REAL") == "1"


def excuse(reason: str) -> NoReturn:
    """Skip the test for this reason, or fail it where everything real must run."""
    if real_is_required():
        pytest.fail(f"CRYO_REQUIRE_REAL=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def find(name: str) -> RunscBuild:
    """Return the build that `make tools` has chosen.

    Raises:
        NotHere: it has not looked, or found none, or what it found is gone.
    """
    try:
        choice = json.loads((cache_root() / f"runsc-{name}.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        message = f"nobody has looked for runsc ({name}) yet: run `make tools`"
        raise NotHere(message) from error
    if choice["reason"]:
        message = f"there is no runsc ({name}): {choice['reason']}"
        raise NotHere(message)
    path = Path(choice["path"])
    if not os.access(path, os.X_OK):
        message = f"{path} is gone: run `make tools`"
        raise NotHere(message)
    return RunscBuild(name, path, choice["has_builtin"])


@functools.cache
def can_run_runsc(path: Path) -> str:
    """Return "" when this runsc can run a container here, or why it cannot in one line."""
    if os.geteuid() != 0:
        return "runsc needs root"
    with tempfile.TemporaryDirectory(prefix="cryo-probe-") as root:
        flags = ["--root", root, "--network", "none", "--ignore-cgroups"]
        try:
            run([path, *flags, "do", "/bin/true"], timeout_s=PROBE_S)
        except NotHere as no:
            return f"runsc cannot run a container here: {no}"
    return ""
