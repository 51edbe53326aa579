"""Root filesystems with servers, as archives: Debian's packages with all that they depend on.

The packages are unpacked, not installed: no script of a package is run. busybox has the shell and
the small programs. `hack/servers` has the programs and settings of the servers.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from hack.tools.cache import say, scratch
from hack.tools.containerd import BOOKWORM
from hack.tools.debian import APT_S, own_apt
from hack.tools.golang import HERE, Go, Module
from hack.tools.kept import from_cache, keep
from hack.tools.running import NotHere, need, run
from hack.tools.tool import Choice, Tool

ARCHIVE = "rootfs.tar"
FILES = HERE / "servers"
BUSYBOX = "busybox-static"
APPLETS = ("sh", "cat", "ls", "mkdir", "sleep", "test", "touch")
USERS = "root:x:0:0:root:/root:/bin/sh\nserver:x:70:70:server:/tmp:/bin/sh\n"
GROUPS = "root:x:0:\nserver:x:70:\n"
# Documentation, and parts of the JDK that only build others.
LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/locale", "jmods", "src.zip")
FOLDERS = ("bin", "dev", "etc", "proc", "root", "run", "srv", "sys", "tmp", "usr/bin", "var")

OF_GO = Module(
    path="cryoshim.example/server", version="1", pins=FILES, packages={"server": "server.go"}
)


def packed(name: str, version: str, packages: Sequence[str], file: str = "") -> Tool:
    """Return a root filesystem of packages; the first one's version begins with `version`."""
    sources = (from_cache, from_packages(version, packages, file))
    return Tool(f"server-{name}", f"{version}-{digest_of(file)}", (ARCHIVE,), sources)


def digest_of(file: str) -> str:
    """Return a short digest of what is added to the packages."""
    added = (USERS, GROUPS, *LEFT_OUT, *APPLETS, *FOLDERS)
    content = (FILES / file).read_bytes() if file else b""
    return hashlib.sha256("\0".join(added).encode() + content).hexdigest()[:8]


def from_packages(
    version: str, packages: Sequence[str], file: str
) -> Callable[[Tool, Path], Choice]:
    """Return the source that makes a root filesystem from the packages of one suite."""

    def make(tool: Tool, cache: Path) -> Choice:
        need("apt-get", "dpkg-deb")
        with scratch(cache) as work:
            say(f"{tool.name}: downloading {packages[0]} with its dependencies")
            downloaded = download(cache, work, (*packages, BUSYBOX))
            first = next(each for each in downloaded if each.name.startswith(f"{packages[0]}_"))
            found = first.name.split("_")[1].rpartition("%3a")[2]
            if not found.startswith(version):
                message = f"Debian {BOOKWORM}: its {packages[0]} is {found}, not {version}"
                raise NotHere(message)
            for each in downloaded:
                run(["dpkg-deb", "-x", each, work / "root"], timeout_s=APT_S)
            if file:
                add(work / "root", FILES / file)
            source = f"Debian {packages[0]} {found} (apt's signed index)"
            return pack(tool, cache, work, source)

    return make


def from_source(tool: Tool, cache: Path) -> Choice:
    """Make a root filesystem with the server in Go, which needs nothing else."""
    need("apt-get", "dpkg-deb")
    with scratch(cache) as work:
        toolchain = Go(cache)
        for path in (FILES / "go.mod", FILES / "go.sum", FILES / "server.go"):
            shutil.copy(path, work)
        toolchain.build(OF_GO, "server", work)
        for each in download(cache, work, (BUSYBOX,)):
            run(["dpkg-deb", "-x", each, work / "root"], timeout_s=APT_S)
        add(work / "root", work / "made" / "server")
        return pack(tool, cache, work, "Go build of hack/servers/server.go")


def download(cache: Path, work: Path, packages: Sequence[str]) -> list[Path]:
    """Download packages and all that they depend on, as for a machine without any package.

    Raises:
        NotHere: a package does not exist, or could not be downloaded.
    """
    installed, folder = work / "status", work / "packages"
    installed.touch()
    (folder / "partial").mkdir(parents=True)
    settings = {
        "Dir::State::status": installed,
        "Dir::Cache::archives": folder,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "APT::Get::AllowUnauthenticated": "false",
        "Debug::NoLocking": "true",
    }
    options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
    command = ["apt-get", "install", "--download-only", "--yes", *own_apt(cache, BOOKWORM)]
    run([*command, *options, *packages], timeout_s=APT_S)
    return sorted(folder.glob("*.deb"))


def add(root: Path, file: Path) -> None:
    """Put a file into /srv, executable."""
    (root / "srv").mkdir(parents=True, exist_ok=True)
    shutil.copy(file, root / "srv")
    (root / "srv" / file.name).chmod(0o755)


def pack(tool: Tool, cache: Path, work: Path, source: str) -> Choice:
    """Complete a root filesystem, and write its archive into the cache."""
    root = work / "root"
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text(USERS, "utf-8")
    (root / "etc/group").write_text(GROUPS, "utf-8")
    for name in APPLETS:
        link = root / "bin" / name
        if not link.exists() and not link.is_symlink():
            link.symlink_to("busybox")
    (work / "archive").mkdir()
    with tarfile.open(work / "archive" / ARCHIVE, "w") as archive:
        archive.add(root, ".", filter=kept)
    return keep(tool, cache, work / "archive", source)


def kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Return an entry of the archive, which root owns; None if it is left out."""
    path = entry.name.removeprefix("./")
    if any(path == name or path.endswith(f"/{name}") for name in LEFT_OUT):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


SERVERS = (
    packed("nginx", "1.22.", ("nginx",), "nginx.conf"),
    Tool("server-go", f"1-{digest_of('server.go')}", (ARCHIVE,), (from_cache, from_source)),
)
# Only `make test-all` and `make test-containerd` run these.
MORE = (
    packed("redis", "7.0.", ("redis-server",)),
    packed("postgres", "15.", ("postgresql-15",), "postgres.sh"),
    packed("python", "3.11.", ("python3.11",), "server.py"),
    packed("node", "18.", ("nodejs",), "server.js"),
    packed("java", "17.", ("openjdk-17-jdk-headless",), "Server.java"),
)
