"""Registries to push images to: Debian's of the 2.8 line, and one built from its Go module."""

from __future__ import annotations

from hack.tools.containerd import BOOKWORM, packaged
from hack.tools.debian import Packages
from hack.tools.golang import HERE, Module, from_go
from hack.tools.kept import from_cache
from hack.tools.tool import Tool

_PATH = "github.com/distribution/distribution/v3"
OF_3 = Module(
    path=_PATH,
    version="v3.1.2",
    pins=HERE / "distribution" / "registry-3",
    packages={"registry": f"{_PATH}/cmd/registry"},
    ldflags=f"-s -w -X {_PATH}/version.version=v3.1.2",
)
REGISTRIES = (
    packaged(
        "registry-2.8",
        ("docker-registry",),
        Packages(
            suite=BOOKWORM,
            version="2.8.",
            pins={
                "docker-registry": (
                    "a9bd06c0e006854608f8469b4371743f40604ad90975532bb3b7ceeb72fe2913"
                )
            },
        ),
    ),
    Tool("registry-3", OF_3.version, tuple(OF_3.packages), (from_cache, from_go(OF_3))),
)
