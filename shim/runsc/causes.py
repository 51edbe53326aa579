"""Maps runsc's error messages to an error class, a clearer message and a remedy.

The messages are those of the builds of 2024-07-29 and 2026-09-05; `tests/unit/runsc_messages.json`
has each as it was printed, with its one cause.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from shim.errors import (
    CryoError,
    FailedPrecondition,
    HostMismatch,
    ImageCorrupt,
    InvalidArgument,
    InvalidBundle,
    NotFound,
    ResourceExhausted,
    Unavailable,
)


class Cause(NamedTuple):
    """One kind of failure; `said` replaces runsc's own message where that is unclear."""

    pattern: re.Pattern[str]
    kind: type[CryoError]
    remedy: str
    said: str = "{line}"

    def explain(self, line: str) -> tuple[str, str] | None:
        """Return the message and the remedy, or None if the pattern does not match the line."""
        found = self.pattern.search(line)
        if found is None:
            return None
        words = {"line": line, **{key: text or "" for key, text in found.groupdict().items()}}
        return self.said.format_map(words), self.remedy.format_map(words)


_OPEN_FILE = "restore the file that the task had open to its state at the save"
_FLAGS = "under [runsc.flags] as it was at the save"
_INSPECT = "('cryo checkpoints inspect' shows it)"

CAUSES: tuple[Cause, ...] = (
    Cause(
        re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE),
        ResourceExhausted,
        "free space, or choose another image path",
        "the disk is full",
    ),
    Cause(
        re.compile(r"checkpoint not supported when using hostinet"),
        FailedPrecondition,
        'create the task with network = "sandbox" under [runsc.flags], or use a newer runsc',
        "the sandbox uses the host's network, which this runsc cannot save",
    ),
    # -- a restore: the bundle, the flags or the files differ from those at the save
    Cause(
        re.compile(r'"(?P<field>[^"]+)" does not match across checkpoint restore'),
        InvalidArgument,
        f"create the container with the saved value {_INSPECT}",
        "the bundle differs from the one in the image: {field}",
    ),
    Cause(
        re.compile(
            r"no server FD available for filesystem with unique ID (?:[^:\s]*:)?(?P<where>/[^,]*)"
        ),
        InvalidArgument,
        f"create the container with the saved mounts {_INSPECT}",
        "the bundle lacks a mount of the image: {where}",
    ),
    Cause(
        re.compile(r"inconsistent private memory files|not found in CtxMemoryFileMap"),
        HostMismatch,
        f"set overlay2 {_FLAGS}",
        "overlay2 differs: files of the overlay were on disk at the save and are now in memory, "
        "or the other way round",
    ),
    Cause(
        re.compile(
            r"checkpoint created with (?P<saved>\w+) networking cannot be restored with "
            r"(?P<given>\w+) networking"
        ),
        HostMismatch,
        'set network = "{saved}" under [runsc.flags]',
        'the image was saved with network "{saved}", and network is now "{given}"',
    ),
    Cause(
        re.compile(r"interface conversion: .*\*stack\.Stack"),
        HostMismatch,
        f"set network {_FLAGS}",
        'network is "host", and was not at the save',
    ),
    Cause(
        re.compile(
            r'failed to walk "(?P<path>[^"]*)" of type \w+ in mount "(?:[^":]*:)?(?P<where>/[^"]*)"'
            r"(?:: (?P<why>[^:]+))?"
        ),
        FailedPrecondition,
        _OPEN_FILE,
        "a file that the task had open has changed: {path} in the mount at {where}: {why}",
    ),
    Cause(
        re.compile(
            r'(?:restoring container "[^"]*"|starting sub-container): no such file or directory$'
        ),
        FailedPrecondition,
        _OPEN_FILE,
        "a file that the task had open, or its program, does not exist",
    ),
    Cause(
        re.compile(r'no host FD available for "?(?P<name>[^:"\s]*):host:\d'),
        FailedPrecondition,
        "save it again without a terminal in a container of a pod (tty: false), and with no "
        "exec running",
        "a terminal or a stream of an exec cannot be restored: that of container {name}",
    ),
    Cause(
        re.compile(
            r'failed to initialize client and get root in mount "(?:[^":]*:)?(?P<where>/[^"]*)"'
        ),
        FailedPrecondition,
        f"set directfs {_FLAGS}",
        "the filesystem at {where} cannot be reached in the same way as at the save",
    ),
    Cause(
        re.compile(r'restoring container "[^"]*": (?:invalid argument|cannot allocate memory)$'),
        FailedPrecondition,
        f"set directfs {_FLAGS}",
        "a filesystem cannot be reached in the same way as at the save",
    ),
    Cause(
        re.compile(r'urpc method "containerManager\.Restore\w*" failed: '),
        FailedPrecondition,
        "restore the files that the task had open (one that has become a folder ends the "
        "sandbox), and check the image with 'cryo checkpoints verify'",
        "the sandbox exited while it loaded the image, and reported no reason",
    ),
    Cause(
        re.compile(
            r"unexpected EOF|statefile (?:cannot be empty|error: )|header error|bad magic"
            r"|unknown header|error decoding from |mismatched segment|not a checkpoint image"
            r"|error decoding object ID \d+ .*: reflect: "
            r"|container specs not found in metadata"
        ),
        ImageCorrupt,
        "check it with 'cryo checkpoints verify'",
        "the image cannot be read: {line}",
    ),
    Cause(
        re.compile(r"failed to load kernel: (?!vfs\.CompleteRestore|error decoding |error exec)"),
        FailedPrecondition,
        "restore the files that the task had open to their state at the save",
    ),
    # -- a create: the request or the bundle
    Cause(
        re.compile(r"(?:creating process|in sandbox): failed to load |error finding executable "),
        InvalidArgument,
        "name a program that the image has",
    ),
    Cause(
        re.compile(
            r"failed to create process working directory|failed to find initial working directory"
        ),
        InvalidArgument,
        "name a working directory that the image has",
    ),
    Cause(re.compile(r"error unmarshaling spec"), InvalidBundle, "correct config.json"),
    Cause(
        re.compile(r"(?:FetchSpec failed: |^)reading spec: (?!error )"),
        InvalidBundle,
        "correct config.json",
    ),
    Cause(
        re.compile(
            r"Failed to apply OCI spec annotations|^reading spec: error setting flag ",
        ),
        InvalidBundle,
        "correct the annotations dev.gvisor.flag.*",
    ),
    Cause(
        re.compile(r"error setting up FS: |Error setting up root FS: "),
        InvalidBundle,
        "correct the spec's mounts and root.path: each source must exist",
    ),
    Cause(
        re.compile(r'starting sandbox: error opening "(?P<path>[^"]*)": .*no such file'),
        FailedPrecondition,
        "create it, or correct its path in linux.namespaces",
        "the namespace {path} does not exist",
    ),
    Cause(
        re.compile(
            r"^flag provided but not defined|^invalid value .* for flag -(?!user)"
            r"|unknown platform: |^overlay flag is incompatible"
        ),
        InvalidArgument,
        "correct [runsc.flags]",
    ),
    # -- the container or its sandbox is gone
    Cause(re.compile(r": no such process"), NotFound, "it has exited"),
    Cause(
        re.compile(r'loading container: file does not exist|container "[^"]*" does not exist'),
        NotFound,
        "its sandbox is gone: delete the task",
    ),
    Cause(
        re.compile(r"connecting to control server at PID \d+: |connect: connection refused"),
        Unavailable,
        "it has exited; delete the task",
        "the sandbox does not answer: {line}",
    ),
    Cause(
        re.compile(r'urpc method "containerManager\.(?!Restore)(?P<what>\w+)" failed: '),
        Unavailable,
        "it has exited; delete the task",
        "the sandbox exited before it answered {what}",
    ),
)
