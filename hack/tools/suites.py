"""Trees of Debian's suites, made by debootstrap, for tests that install on a clean machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hack.tools.cache import say, scratch
from hack.tools.debian import keyring, mirror
from hack.tools.kept import from_cache, keep
from hack.tools.running import need, run
from hack.tools.tool import Choice, Tool

ARCHIVE = "root.tar"
_BOOTSTRAP_S = 900.0
# debootstrap mounts /proc in the tree: in a mount namespace, so that no failure leaves it mounted.
_APART = ("unshare", "--mount", "--pid", "--fork")


@dataclass(frozen=True)
class Suite:
    """A suite of Debian with these packages, and those that its minimal variant has."""

    name: str
    packages: tuple[str, ...]

    @property
    def version(self) -> str:
        """Return what stands for the content: the suite and the packages."""
        return f"{self.name}-{hashlib.sha256(' '.join(self.packages).encode()).hexdigest()[:12]}"


def from_debootstrap(suite: Suite) -> Callable[[Tool, Path], Choice]:
    """Return the source that makes the tree, and keeps it as an archive."""

    def make(tool: Tool, cache: Path) -> Choice:
        need("debootstrap", "unshare", "tar")
        say(f"{tool.name}: debootstrap {suite.name} with {', '.join(suite.packages)}")
        with scratch(cache) as work:
            root, made = work / "root", work / "made"
            made.mkdir()
            options = [f"--include={','.join(suite.packages)}", f"--keyring={keyring()}"]
            argv: list[str | Path] = [
                *_APART,
                "debootstrap",
                "--variant=minbase",
                *options,
                suite.name,
                root,
            ]
            run([*argv, mirror()], timeout_s=_BOOTSTRAP_S)
            # Downloaded packages, and a device that the kernel may refuse to make again.
            left_out = ["--exclude=./var/cache/apt/archives/*", "--exclude=./dev/*"]
            pack: list[str | Path] = [
                "tar",
                "--create",
                "--file",
                made / ARCHIVE,
                *left_out,
                "--directory",
                root,
            ]
            run([*pack, "."], timeout_s=_BOOTSTRAP_S)
            return keep(tool, cache, made, f"debootstrap of Debian's {suite.name}")

    return make


def tool_of(name: str, suite: Suite) -> Tool:
    """Return the tool of a suite; its only file is an archive."""
    return Tool(name, suite.version, (ARCHIVE,), (from_cache, from_debootstrap(suite)))


# Debian 12 as a server has it, and 13 as one has it who builds from a clone.
OLD = tool_of("debian-12", Suite("bookworm", ("python3",)))
NEW = tool_of("debian-13", Suite("trixie", ("ca-certificates", "git", "make", "python3-venv")))
SUITES = (OLD, NEW)
# Debian 12 as one boots it: its systemd runs with cgroups of both versions.
BOOTED = tool_of("debian-12-systemd", Suite("bookworm", ("python3", "systemd", "systemd-sysv")))
