"""Taking programs out of Debian's packages, without installing them."""

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


REAL = ".real"
LAUNCHER = f"""#!/bin/sh
self=$(readlink -f "$0")
export LD_LIBRARY_PATH="${{self%/*}}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
exec "$self{REAL}" "$@"
"""


@dataclass(frozen=True)
class Packages:
    """Packages of one suite; the first one's version must begin with `version`.

    `pins` maps each package to the checksum of its amd64 file when this was written. Other builds
    and architectures of the same version are accepted on the word of apt's signed index.

    `libraries` are what a host may lack; the programs then get launchers that find them.
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
        """Return whether this is a version of the line that is wanted; its epoch is ignored."""
        return version.rpartition(":")[2].startswith(self.version)


def from_own_apt(packages: Packages) -> Callable[[Tool, Path], Choice]:
    """Return the source that takes the machine's own candidate when it is of this version."""

    def look(tool: Tool, cache: Path) -> Choice:
        need("apt-cache", "apt-get", "dpkg-deb")
        first = packages.names[0]
        policy = run(["apt-cache", "policy", *packages.names], timeout_s=APT_S)
        candidates = re.findall(r"Candidate: (\S+)", policy)
        if len(candidates) < len(packages.names) or "(none)" in candidates:
            message = f"this machine's apt: it has not all of {', '.join(packages.names)}"
            raise NotHere(message)
        if not packages.accept(candidates[0]):
            message = f"this machine's apt: its {first} is {candidates[0]}, not {packages.version}"
            raise NotHere(message)
        return unpack(tool, cache, packages, [])

    return look


def from_suite(packages: Packages) -> Callable[[Tool, Path], Choice]:
    """Return the source that asks Debian, without touching the machine's own lists."""

    def look(tool: Tool, cache: Path) -> Choice:
        need("apt-get", "dpkg-deb")
        return unpack(tool, cache, packages, own_apt(cache, packages.suite))

    return look


def mirror() -> str:
    """Return the Debian mirror that this machine already uses, or the configured one."""
    if given := os.environ.get("CRYO_DEBIAN_MIRROR"):
        return given
    targets = run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        timeout_s=APT_S,
    )
    for uri in targets.split():
        if uri.rstrip("/").endswith("/debian"):
            return uri
    message = "Debian: apt here uses no Debian mirror; name one in CRYO_DEBIAN_MIRROR"
    raise NotHere(message)


def keyring() -> str:
    """Return the keyring that vouches for Debian's index."""
    for path in KEYRINGS:
        if Path(path).exists():
            return path
    message = "Debian: no archive keyring; install the package debian-archive-keyring"
    raise NotHere(message)


def own_apt(cache: Path, suite: str) -> list[str]:
    """Return the options of an apt of our own for one suite, whose lists a run fetches once."""
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
    """Fetch one suite's lists."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    line = f"deb [signed-by={keyring()}] {mirror()} {suite} main\n"
    (folder / "sources.list").write_text(line, "utf-8")
    # By default apt-get only warns about an index that it could not fetch.
    any_error = ["-o", "APT::Update::Error-Mode=any"]
    run(["apt-get", "update", *options, *any_error], timeout_s=APT_S)
    (folder / "updated").touch()


def unpack(tool: Tool, cache: Path, packages: Packages, options: Sequence[str]) -> Choice:
    """Download the packages, check who vouches for them, and keep their programs."""
    # Without the sandbox user apt can write into a folder that only we may enter. A package that
    # the signed index does not vouch for is an error, whatever the machine's own settings say.
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
    """Say on whose word the packages are taken."""
    pinned = all(sha256_of(file) == packages.pins[file.name.partition("_")[0]] for file in files)
    return "pinned checksum" if pinned else "apt's signed index"


def collect(root: Path, programs: Sequence[str], into: Path) -> None:
    """Move the programs out of an unpacked tree.

    Raises:
        NotHere: the packages have no such program.
    """
    into.mkdir()
    for name in programs:
        # A package may have links beside the program, to where it would be installed.
        found = [path for path in root.rglob(name) if path.is_file() and not path.is_symlink()]
        found = [path for path in found if path.parent.name in {"bin", "sbin"}]
        if not found:
            message = f"the packages have no program {name}"
            raise NotHere(message)
        found[0].rename(into / name)


def companions(programs: Sequence[str], libraries: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the files that lie beside programs that bring their libraries."""
    return (*(f"{name}{REAL}" for name in programs if libraries), *libraries)


def is_real(name: str) -> bool:
    """Return whether this is a program behind a launcher."""
    return name.endswith(REAL)


def add_libraries(
    root: Path, programs: Sequence[str], libraries: Sequence[str], into: Path
) -> None:
    """Put libraries beside the programs, and launchers in the place of these.

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
