"""Clients of containerd: crictl, and nerdctl if it is available."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hack.tools.golang import HERE, Module, from_go
from hack.tools.kept import from_cache
from hack.tools.running import NotHere
from hack.tools.tool import Choice, Tool

VARIABLE = "CRYO_NERDCTL"

_CRICTL = "sigs.k8s.io/cri-tools"
OF_CRICTL = Module(
    path=_CRICTL,
    version="v1.37.0",
    pins=HERE / "clients" / "crictl",
    packages={"crictl": f"{_CRICTL}/cmd/crictl"},
    ldflags=f"-s -w -X {_CRICTL}/pkg/version.Version=v1.37.0",
)


def without_tests(_source: str) -> str:
    """Remove the helpers of nerdctl's tests, which need a module that is only in its repository."""
    return "package helpers\n"


_NERDCTL = "github.com/containerd/nerdctl/v2"
OF_NERDCTL = Module(
    path=_NERDCTL,
    version="v2.3.5",
    pins=HERE / "clients" / "nerdctl",
    packages={"nerdctl": f"{_NERDCTL}/cmd/nerdctl"},
    ldflags=f"-s -w -X {_NERDCTL}/pkg/version.Version=v2.3.5",
    changes={"cmd/nerdctl/helpers/testing_linux.go": without_tests},
)


def named(tool: Tool, _cache: Path) -> Choice:
    """Take the nerdctl that the environment names, or the one on PATH."""
    found = os.environ.get(VARIABLE) or shutil.which("nerdctl")
    if not found:
        message = f"{VARIABLE} is not set, and PATH has no nerdctl"
        raise NotHere(message)
    path = Path(found).absolute()
    if not os.access(path, os.X_OK):
        message = f"{VARIABLE}: {path} is not executable"
        raise NotHere(message)
    return tool.choice(path, VARIABLE if os.environ.get(VARIABLE) else "PATH")


CRICTL = Tool("crictl", OF_CRICTL.version, ("crictl",), (from_cache, from_go(OF_CRICTL)))
NERDCTL = Tool(
    "nerdctl",
    OF_NERDCTL.version,
    ("nerdctl",),
    (named, from_cache, from_go(OF_NERDCTL)),
    optional=True,
)
