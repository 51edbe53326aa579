"""Extracts programs from Debian's packages without installing them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.tools.cache import scratch, sha256_of, shared
from hack.tools.kept import keep
from hack.tools.running import PROBE_S, NotHere, need, run
from hack.tools.tool import Choice, Tool

APT_S = 180.0
KEYRINGS = (
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
)
# Where packages have programs; Debian's CNI plugins are in /usr/lib/cni.
_FOLDERS = frozenset({"bin", "sbin", "cni"})

REAL = ".real"
LAUNCHER = f"""#!/bin/sh
self=$(readlink -f "$0")
export LD_LIBRARY_PATH="${{self%/*}}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
exec "$self{REAL}" "$@"
"""


@dataclass(frozen=True)
class Packages:
    """Packages of one suite; the first one's version must begin with `version`.

    `pins` maps each package to the checksum of its amd64 file. For other builds and architectures
    of the same version, apt's signed index is trusted.

    `libraries` are those that a host may lack; launchers make the programs find them.
    """

    suite: str
    version: str
    pins: Mapping[str, str]
    libraries: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Return the packages' names."""
        return list(self.pins)

    def accept(self, version: str) -> bool:
        """Return whether a version, without its epoch, is of this line."""
        return version.rpartition(":")[2].startswith(self.version)


def from_own_apt(packages: Packages) -> Callable[[Tool, Path], Choice]:
    """Return the source that uses the candidate of the host's apt if it is of this version."""

    def look(tool: Tool, cache: Path) -> Choice:
        need("apt-cache", "apt-get", "dpkg-deb")
        first = packages.names[0]
        policy = run(["apt-cache", "policy", *packages.names], timeout_s=APT_S)
        candidates = re.findall(r"Candidate: (\S+)", policy)
        if len(candidates) < len(packages.names) or "(none)" in candidates:
            message = f"this machine's apt: not all available: {', '.join(packages.names)}"
            raise NotHere(message)
        if not packages.accept(candidates[0]):
            message = f"this machine's apt: its {first} is {candidates[0]}, not {packages.version}"
            raise NotHere(message)
        return unpack(tool, cache, packages, [])

    return look


def from_suite(packages: Packages) -> Callable[[Tool, Path], Choice]:
    """Return the source that downloads from Debian, without changing the host's package lists."""

    def look(tool: Tool, cache: Path) -> Choice:
        need("apt-get", "dpkg-deb")
        return unpack(tool, cache, packages, own_apt(cache, packages.suite))

    return look


def mirror() -> str:
    """Return the Debian mirror in CRYO_DEBIAN_MIRROR, or the one that this host uses."""
    if given := os.environ.get("CRYO_DEBIAN_MIRROR"):
        return given
    targets = run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        timeout_s=APT_S,
    )
    for uri in targets.split():
        if uri.rstrip("/").endswith("/debian"):
            return uri
    message = "Debian: apt on this host uses no Debian mirror; set CRYO_DEBIAN_MIRROR"
    raise NotHere(message)


def keyring() -> str:
    """Return the keyring for the signature of Debian's index."""
    for path in KEYRINGS:
        if Path(path).exists():
            return path
    message = "Debian: no archive keyring; install the package debian-archive-keyring"
    raise NotHere(message)


def own_apt(cache: Path, suite: str) -> list[str]:
    """Return apt's options for separate lists of one suite, which are fetched once per run."""
    folder = shared(cache, f"apt-{suite}")
    settings = {
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "Acquire::Languages": "none",
    }
    options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
    if not (folder / "updated").exists():
        update(folder, suite, options)
    return options


def update(folder: Path, suite: str, options: Sequence[str]) -> None:
    """Fetch the package lists of one suite."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    line = f"deb [signed-by={keyring()}] {mirror()} {suite} main\n"
    (folder / "sources.list").write_text(line, "utf-8")
    # By default apt-get only warns about an index that it could not fetch.
    any_error = ["-o", "APT::Update::Error-Mode=any"]
    run(["apt-get", "update", *options, *any_error], timeout_s=APT_S)
    (folder / "updated").touch()


def unpack(tool: Tool, cache: Path, packages: Packages, options: Sequence[str]) -> Choice:
    """Download and verify the packages, and put their programs into the cache."""
    # As root apt can write into a directory with mode 0700. A package that is not in the signed
    # index is an error, whatever the host's settings are.
    strict = ["-o", "APT::Sandbox::User=root", "-o", "APT::Get::AllowUnauthenticated=false"]
    with scratch(cache) as work:
        command = ["apt-get", "download", *options, *strict, *packages.names]
        run(command, timeout_s=APT_S, cwd=work)
        files = [next(work.glob(f"{name}_*.deb")) for name in packages.names]
        version = version_of(files[0])
        if not packages.accept(version):
            found = f"its {packages.names[0]} is {version}, not {packages.version}"
            message = f"Debian {packages.suite}: {found}"
            raise NotHere(message)
        for file in files:
            run(["dpkg-deb", "-x", file, work / "root"], timeout_s=APT_S)
        extra = companions((), packages.libraries)
        given = [name for name in tool.programs if name not in extra and not is_real(name)]
        collect(work / "root", given, work / "made")
        if packages.libraries:
            add_libraries(work / "root", given, packages.libraries, work / "made")
        names = " ".join(packages.names)
        source = f"Debian {names} {version} ({vouched(packages, files)})"
        return keep(tool, cache, work / "made", source)


def version_of(package: Path) -> str:
    """Return a package's version."""
    return run(["dpkg-deb", "-f", package, "Version"], timeout_s=PROBE_S).strip()


def vouched(packages: Packages, files: Sequence[Path]) -> str:
    """Return what the packages were verified with: our pins, or apt's signed index."""
    pinned = all(sha256_of(file) == packages.pins[file.name.partition("_")[0]] for file in files)
    return "pinned checksum" if pinned else "apt's signed index"


def collect(root: Path, programs: Sequence[str], into: Path) -> None:
    """Move the programs out of an unpacked tree.

    Raises:
        NotHere: the packages have no such program.
    """
    into.mkdir()
    for name in programs:
        # A package may also have links with the name of the program.
        found = [path for path in root.rglob(name) if path.is_file() and not path.is_symlink()]
        found = [path for path in found if path.parent.name in _FOLDERS]
        if not found:
            message = f"the packages have no program {name}"
            raise NotHere(message)
        found[0].rename(into / name)


def companions(programs: Sequence[str], libraries: Sequence[str]) -> tuple[str, ...]:
    """Return the files in addition to the programs: those behind launchers, and libraries."""
    return (*(f"{name}{REAL}" for name in programs if libraries), *libraries)


def is_real(name: str) -> bool:
    """Return whether this is the program behind a launcher."""
    return name.endswith(REAL)


def add_libraries(
    root: Path, programs: Sequence[str], libraries: Sequence[str], into: Path
) -> None:
    """Put libraries beside the programs, and replace the programs by launchers.

    Raises:
        NotHere: the packages have no such library.
    """
    for name in libraries:
        found = next(iter(root.rglob(name)), None)
        if found is None:
            message = f"the packages have no library {name}"
            raise NotHere(message)
        found.resolve().rename(into / name)
    for name in programs:
        (into / name).rename(into / f"{name}{REAL}")
        (into / name).write_text(LAUNCHER, "utf-8")
