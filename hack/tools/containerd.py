"""Four lines of containerd, and other programs for tests and benchmarks of the shim."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from hack.tools.debian import Packages, companions, from_own_apt, from_suite
from hack.tools.golang import HERE, Module, from_go
from hack.tools.kept import from_cache
from hack.tools.running import PROBE_S, NotHere, run
from hack.tools.runsc import GVISOR
from hack.tools.tool import Choice, Tool

CONTAINERD = ("containerd", "ctr", "containerd-shim-runc-v2")
MODULE_PATH = "github.com/containerd/containerd/v2"


def line_module(version: str, pins: Path) -> Module:
    """Return the Go module of one containerd 2.x."""
    return Module(
        path=MODULE_PATH,
        version=version,
        pins=pins,
        packages={name: f"{MODULE_PATH}/cmd/{name}" for name in CONTAINERD},
        flags=("-tags", "no_btrfs no_devmapper no_zfs no_aufs"),
        ldflags=f"-s -w -X {MODULE_PATH}/version.Version={version}",
    )


# Debian's unstable suite will replace this version, which can then still be built.
OF_2_1 = line_module("v2.1.9", HERE / "containerd" / "2.1")
OF_2_4 = line_module("v2.4.2", HERE / "containerd")

GVISOR_SHIM_MANAGER = "pkg/shim/v1/manager.go"
GVISOR_SHIM_OOM = "oomScoreMax = -999"


def debian_line(suite: str, line: str, checksum: str, module: Module | None = None) -> Tool:
    """Return the containerd of one Debian suite, with its ctr and its shim for runc."""
    packages = Packages(suite=suite, version=f"{line}.", pins={"containerd": checksum})
    built = (from_go(module),) if module else ()
    sources = (on_path, from_cache, from_own_apt(packages), from_suite(packages), *built)
    return Tool(f"containerd-{line}", line, CONTAINERD, sources)


def packaged(name: str, programs: tuple[str, ...], packages: Packages) -> Tool:
    """Return a tool that only Debian's packages provide."""
    sources = (from_cache, from_own_apt(packages), from_suite(packages))
    files = (*programs, *companions(programs, packages.libraries))
    return Tool(name, packages.version.rstrip("."), files, sources)


def on_path(tool: Tool, _cache: Path) -> Choice:
    """Use the containerd on PATH if it is of this line and its other programs are beside it."""
    found = shutil.which("containerd")
    if not found:
        message = "PATH: containerd not found"
        raise NotHere(message)
    path = Path(found).resolve()
    version = containerd_version(path)
    if not f"{version}.".startswith(f"{tool.version.removeprefix('v')}."):
        message = f"PATH: {found} is {version or 'of no known version'}"
        raise NotHere(message)
    missing = [name for name in tool.programs if not (path.parent / name).exists()]
    if missing:
        message = f"PATH: {found} has no {missing[0]} beside it"
        raise NotHere(message)
    return tool.choice(path, "PATH")


def containerd_version(path: Path) -> str:
    """Return the version that `containerd --version` prints, such as 1.7.24."""
    found = re.search(r" v?(\d+\.\d+\.\d+)", run([path, "--version"], timeout_s=PROBE_S))
    return found[1] if found else ""


def allow_oom_score(source: str) -> str:
    """Let gVisor's shim start without CAP_SYS_RESOURCE.

    It sets an OOM score of -999, which fails without that capability, and then `start` fails.
    Nothing else is changed.

    Raises:
        NotHere: the source is not as expected.
    """
    if source.count(GVISOR_SHIM_OOM) != 1:
        message = f"gVisor's {GVISOR_SHIM_MANAGER} no longer has {GVISOR_SHIM_OOM!r}"
        raise NotHere(message)
    return source.replace(GVISOR_SHIM_OOM, "oomScoreMax = 0")


GVISOR_SHIM = Module(
    path=GVISOR.path,
    version=GVISOR.version,
    pins=HERE / "gvisor" / "shim",
    packages={"containerd-shim-runsc-v1": f"{GVISOR.path}/shim"},
    changes={GVISOR_SHIM_MANAGER: allow_oom_score},
)

BOOKWORM = "bookworm"
CRIU = Packages(
    suite=BOOKWORM,
    version="3.17.",
    pins={
        "criu": "1e43b81e85a4a752475276ada28fe2ab11e7dc88a6adfeeb9bca38a693d369d4",
        "libbsd0": "bb31cc8b40f962a85b2cec970f7f79cc704a1ae4bad24257a822055404b2c60b",
        "libjansson4": "3fc9742f9f1a37bcb9931df6074b4d1483419ef832ad5349f47323e75fc27864",
        "libmnl0": "4581f42e3373cb72f9ea4e88163b17873afca614a6c6f54637e95aa75983ea7c",
        "libnet1": "9e0677a92de3df272e3a87a4e1591a71cb8c03fdea2bac68908ac4177066bb7f",
        "libnftables1": "3a8223f9bfba99d97bf25296ac83de307ab036e1df63e5965f88809266851947",
        "libnftnl11": "9e619e1470a1915264e906020f3bfc046fd8458043b1342686d997b5078213af",
        "libnl-3-200": "d1fc3e9eb8e79b4c96b0a64c3d8c9e068ae2f665cab71bd19f417ffd0453a890",
        "libprotobuf-c1": "e99b3091938bfbd55b24e95587b868ba735e38e4adbcb9942c6993f2de3ba1bf",
        "libxtables12": "cb841d66950a43af4a398625313d2f3da9065299c9738538de6c2c3495857040",
    },
    libraries=(
        "libbsd.so.0",
        "libjansson.so.4",
        "libmnl.so.0",
        "libnet.so.1",
        "libnftables.so.1",
        "libnftnl.so.11",
        "libnl-3.so.200",
        "libprotobuf-c.so.1",
        "libxtables.so.12",
    ),
)

LINES = (
    debian_line(
        BOOKWORM, "1.6", "8669d264eeb0fcdb4a0b1ba436ab88ec5dafde4a66e1278ec279d830db4c2216"
    ),
    debian_line(
        "trixie", "1.7", "ed708deb96fe476a3bce4efa5c0538dfbcf717ab9a7c7944ba7260342c25899c"
    ),
    debian_line(
        "sid", "2.1", "2dda86ce7033fd612fc50e136679d8174ccad680eb29cd4611e0d2a1b84cf591", OF_2_1
    ),
    Tool("containerd-2.4", OF_2_4.version, CONTAINERD, (on_path, from_cache, from_go(OF_2_4))),
)
OTHERS = (
    # Debian 12's, because newer builds may need a newer C library than the host has.
    packaged(
        "runc",
        ("runc",),
        Packages(
            suite=BOOKWORM,
            version="1.1.",
            pins={"runc": "a00351f8c0318de0b424ecf5cd0fdb69880a89f3511cae4f6fff7de3e57881c5"},
        ),
    ),
    packaged(
        "busybox",
        ("busybox",),
        Packages(
            suite=BOOKWORM,
            version="1.35.",
            pins={
                "busybox-static": "3d3fdbe91d4660c873e14b092c213fe81c1da6362daa236eb25d0171eb108744"
            },
        ),
    ),
    packaged(
        "docker",
        ("dockerd", "docker", "docker-proxy"),
        Packages(
            suite="trixie",
            version="26.1.",
            pins={
                "docker.io": "53ae1a99f15113f0a0d2226808ec0d24ee31b3b87b87ab8ec35be09a1a2ee13b",
                "docker-cli": "596647bc4ffaaaf2e2321116b8a10f6a6086ada797c17a7117798cb391a72776",
            },
        ),
    ),
    # containerd's CRI plugin requires it for a checkpoint with any runtime.
    packaged("criu", ("criu",), CRIU),
    Tool(
        "gvisor-shim",
        GVISOR_SHIM.version,
        tuple(GVISOR_SHIM.packages),
        (from_cache, from_go(GVISOR_SHIM)),
    ),
)
