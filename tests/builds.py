"""The programs that tests run against, or the one-line reason why there is none."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from hack.tools.cache import cache_root
from hack.tools.cli import remedy
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
    """Whether a missing tool is a failure and not a skip."""
    return os.environ.get("CRYO_REQUIRE_REAL") == "1"


def excuse(reason: str) -> NoReturn:
    """Skip the test for this reason, or fail it if everything real must run."""
    if real_is_required():
        pytest.fail(f"CRYO_REQUIRE_REAL=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def find_program(tool: str, program: str = "") -> Path:
    """Return a program of a tool that `make tools` has chosen; the tool's first without a name.

    Raises:
        NotHere: the tool was not looked for, or there is none, or what was found is gone.
    """
    path = Path(_choice(tool)["path"])
    path = path.with_name(program) if program else path
    if not os.access(path, os.X_OK):
        message = f"{path} is gone: run `{remedy(tool)}`"
        raise NotHere(message)
    return path


def find(name: str) -> RunscBuild:
    """Return the runsc that `make tools` has chosen.

    Raises:
        NotHere: see `find_program`.
    """
    tool = f"runsc-{name}"
    return RunscBuild(name, find_program(tool), _choice(tool)["has_builtin"])


def _choice(tool: str) -> dict[str, Any]:
    try:
        choice: dict[str, Any] = json.loads((cache_root() / f"{tool}.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        message = f"{tool} was not looked for: run `{remedy(tool)}`"
        raise NotHere(message) from error
    if choice["reason"]:
        message = f"there is no {tool}: {choice['reason']}"
        raise NotHere(message)
    return choice


@functools.cache
def can_run_runsc(path: Path) -> str:
    """Return "" if this runsc can run a container here, or in one line why it cannot."""
    if os.geteuid() != 0:
        return "runsc needs root"
    with tempfile.TemporaryDirectory(prefix="cryo-probe-") as root:
        flags = ["--root", root, "--network", "none", "--ignore-cgroups"]
        try:
            run([path, *flags, "do", "/bin/true"], timeout_s=PROBE_S)
        except NotHere as no:
            return f"runsc cannot run a container here: {no}"
    return ""
