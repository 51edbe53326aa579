"""Probes the capabilities of a runsc binary."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from shim.errors import InvalidArgument, Unavailable
from shim.model import Value
from shim.runsc.argv import Global
from shim.runsc.failure import error_line
from shim.runsc.program import which
from shim.runsc.run import run

_FLAG = re.compile(r"(?:^|\s)-([a-z][a-z0-9-]*)(?:[ =]|$)", re.MULTILINE)
_PROBE_TIMEOUT_S = 20.0
# The version that an unversioned build (go build of the module) prints.
UNVERSIONED = "VERSION_MISSING"


class Capabilities(Value):
    """The flags and subcommands of one runsc build, and the features they imply."""

    binary: str
    identity: tuple[int, ...]
    version: str
    checkpoint_flags: frozenset[str]
    restore_flags: frozenset[str]
    wait_flags: frozenset[str]
    top_flags: frozenset[str]
    commands: frozenset[str]

    @property
    def builtin_cuda(self) -> bool:
        """Whether `runsc checkpoint` can run cuda-checkpoint itself (since 2026-06)."""
        return "cuda-checkpoint-path" in self.checkpoint_flags

    @property
    def direct(self) -> bool:
        """Whether images can be written and read with O_DIRECT."""
        return "direct" in self.checkpoint_flags and "direct" in self.restore_flags

    @property
    def background(self) -> bool:
        """Whether a restore may return before all pages are loaded (since 2024-09)."""
        return "background" in self.restore_flags

    @property
    def wait_restore(self) -> bool:
        """Whether the end of a restore can be waited for (since 2025-04)."""
        return "restore" in self.wait_flags

    @property
    def saves_execs(self) -> bool:
        """Whether an image made with a live exec session restores.

        True since release 20250304 (gvisor#11439); detected by `wait -restore`, which was added one
        release later.
        """
        return self.wait_restore

    @property
    def ends_execs(self) -> bool:
        """Whether a restore kills the descendants of execs (since 20250304)."""
        return self.saves_execs

    @property
    def saves_host_sockets(self) -> bool:
        """Whether a save cuts connections to host sockets; older builds refuse to save."""
        return self.wait_restore

    @property
    def validates_restores(self) -> bool:
        """Whether a restore compares the spec with the saved one (since 2025-01)."""
        return "restore-spec-validation" in self.top_flags

    @property
    def saves_host_network(self) -> bool:
        """Whether a sandbox on the host's network can be saved.

        No release before the built-in CUDA steps could (gvisor#6243), which are used to detect it:
        it was added with them or soon after.
        """
        return self.builtin_cuda

    @property
    def restores_hostname(self) -> bool:
        """Whether a restored sandbox gets the hostname of its spec rather than the saved one.

        20240729 keeps the saved one; builds between that and the built-in CUDA steps, which are
        used to detect it, were not examined.
        """
        return self.builtin_cuda

    @property
    def update(self) -> bool:
        """Whether there is `runsc update` (since 2026-01)."""
        return "update" in self.commands

    @property
    def nvproxy_flag(self) -> bool:
        """Whether there is `--nvproxy` at all (since 2023)."""
        return "nvproxy" in self.top_flags


def parse_flags(help_text: str) -> frozenset[str]:
    """Collect the flag names of a Go help text; for `wait` the first is on the usage line."""
    return frozenset(_FLAG.findall(help_text))


def parse_version(text: str) -> str:
    """Parse the version from `runsc --version`."""
    match = re.search(r"runsc version (\S+)", text)
    return match.group(1) if match else UNVERSIONED


def find_binary(name: str) -> str:
    """Resolve a program name to an absolute real path; see `program.which`.

    Raises:
        Unavailable: it does not exist or is not executable.
    """
    found = which(name)
    if found is None:
        message = f"{name}: no such program"
        raise Unavailable(
            message, remedy="install gVisor's runsc, or set runsc.binary in config.toml"
        )
    return os.path.realpath(found)


def identity(path: str) -> tuple[int, ...]:
    """Return what identifies a binary: device, inode, size and modification time."""
    return identity_of(Path(path).stat())


def identity_of(status: os.stat_result) -> tuple[int, ...]:
    """Return what identifies a binary of this status."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


async def _ask(binary: str, *args: str) -> str:
    done = await run([binary, *args], timeout_s=_PROBE_TIMEOUT_S)
    return (done.stdout + b"\n" + done.stderr).decode("utf-8", "replace")


async def ask_version(binary: str) -> str:
    """Return the version of a runsc.

    Raises:
        CryoError: it cannot be started, or does not end in time.
    """
    return parse_version(await _ask(binary, "--version"))


async def check_flags(binary: str, flags: Mapping[str, str]) -> None:
    """Try the configured top-level flags with a command that does nothing: some 15 ms.

    Raises:
        InvalidArgument: runsc rejects them; the message has its error line.
    """
    with tempfile.TemporaryDirectory(prefix="cryo-") as root:
        whole = Global(binary=binary, root=root, flags=flags).argv("list")
        done = await run(whole, timeout_s=_PROBE_TIMEOUT_S)
    if done.status:
        said = error_line(done.stderr.decode("utf-8", "replace")) or f"exit status {done.status}"
        message = f"runsc rejects the flags under [runsc.flags]: {said}"
        raise InvalidArgument(message, remedy="correct [runsc.flags] in config.toml")


async def probe(name: str) -> Capabilities:
    """Probe the capabilities of a runsc, by six concurrent commands, some 20 ms.

    Raises:
        Unavailable: there is no such program, or its output is not runsc's.
    """
    binary = find_binary(name)
    seen = identity(binary)
    version, top, commands, checkpoint, restore, wait = await asyncio.gather(
        _ask(binary, "--version"),
        _ask(binary, "flags"),
        _ask(binary, "help"),
        _ask(binary, "help", "checkpoint"),
        _ask(binary, "help", "restore"),
        _ask(binary, "help", "wait"),
    )
    if "image-path" not in parse_flags(checkpoint):
        message = f"{binary} is not runsc: its help text has no checkpoint --image-path"
        raise Unavailable(message, remedy="set runsc.binary in config.toml")
    return Capabilities(
        binary=binary,
        identity=seen,
        version=parse_version(version),
        checkpoint_flags=parse_flags(checkpoint),
        restore_flags=parse_flags(restore),
        wait_flags=parse_flags(wait),
        top_flags=parse_flags(top),
        commands=frozenset(re.findall(r"^\t([a-z-]+) ", commands, re.MULTILINE)),
    )
