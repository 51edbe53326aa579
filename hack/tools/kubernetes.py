"""Programs of Kubernetes, built from its module.

The module is written for its own repository, where it replaces each `k8s.io/*` by a folder. So the
go.mod here replaces them by the published modules of the same release.
"""

from __future__ import annotations

from hack.tools.golang import HERE, Module, from_go
from hack.tools.kept import from_cache
from hack.tools.tool import Tool

VERSION = "v1.37.2"
_MAJOR, _MINOR, _ = VERSION.removeprefix("v").split(".")
_PATH = "k8s.io/kubernetes"
_VARIABLES = {
    "gitVersion": VERSION,
    "gitMajor": _MAJOR,
    "gitMinor": _MINOR,
    "gitTreeState": "clean",
    "gitCommit": "unknown",
    "buildDate": "1970-01-01T00:00:00Z",
}
_PACKAGE = "k8s.io/component-base/version"
_SET = " ".join(f"-X {_PACKAGE}.{name}={text}" for name, text in _VARIABLES.items())
_NAMES = ("kubelet", "kube-apiserver")
MODULE = Module(
    path=_PATH,
    version=VERSION,
    pins=HERE / "kubernetes" / "programs",
    packages={name: f"{_PATH}/cmd/{name}" for name in _NAMES},
    ldflags=f"-s -w {_SET}",
    minutes=8,
)
KUBELET, API_SERVER = (
    Tool(name, VERSION, (name,), (from_cache, from_go(MODULE))) for name in _NAMES
)
