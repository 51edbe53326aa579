"""What both versions print of themselves, shortened, and a program that prints it."""

from __future__ import annotations

from pathlib import Path

from tests.unit.fakes_runsc import Script

CHECKPOINT_OLD = """\
checkpoint [flags] <container id> - save current state of container.
  -compression value
    \tcompress checkpoint image on disk. Values: none|flate-best-speed. (default flate-best-speed)
  -direct
    \tuse O_DIRECT for writing checkpoint pages file
  -exclude-committed-zero-pages
    \texclude committed zero-filled pages from checkpoint
  -image-path string
    \tdirectory path to saved container image
  -leave-running
    \trestart the container after checkpointing
  -work-path string
    \tignored
"""
CHECKPOINT_NEW = (
    CHECKPOINT_OLD
    + """\
  -cuda-checkpoint-path string
    \tpath to the cuda-checkpoint binary in the container
  -cuda-checkpoint-sequential
    \trun cuda-checkpoint sequentially in the container
  -h\tequivalent to the 'help' flag
  -help
    \tshow this message and exit
  -save-restore-exec-timeout duration
    \ttimeout for the binary pointed to by save-restore-exec-argv. (default 10m0s)
"""
)
RESTORE_OLD = """\
restore [flags] <container id> - restore saved state of container.
  -bundle string
    \tpath to the root of the bundle directory, defaults to the current directory
  -detach
    \tdetach from the container's process
  -direct
    \tuse O_DIRECT for reading checkpoint pages file
  -image-path string
    \tdirectory path to saved container image
"""
RESTORE_NEW = (
    RESTORE_OLD
    + """\
  -background
    \tallow image loading to continue after restore exits (requires uncompressed checkpoint)
"""
)
WAIT_OLD = (
    "wait [flags] <container id>  -checkpoint uint\n"
    "    \twait for (n-1)th checkpoint to complete successfully, then waits for the next\n"
    "  -pid int\n"
    "    \tselect a PID in the container's PID namespace to wait on (default -1)\n"
    "  -rootpid int\n"
    "    \tselect a PID in the sandbox root PID namespace to wait on (default -1)\n"
)
WAIT_NEW = """\
wait [flags] <container id>
  -checkpoint
    \twait for the next checkpoint to complete
  -fsrestore
    \twait for the filesystem restore to complete
  -pid int
    \tselect a PID in the container's PID namespace to wait on (default -1)
  -restore
    \twait for the restore to complete
"""
TOP_OLD = "  -network value\n    \tspecifies a network (default sandbox)\n  -nvproxy\n    \tGPUs\n"
COMMANDS_OLD = (
    "Usage: runsc <flags> <subcommand> <subcommand args>\n\nSubcommands:\n"
    "\tcheckpoint       checkpoint current state of container (experimental)\n"
    "\tport-forward     port forward to a secure container\n"
)
COMMANDS_NEW = COMMANDS_OLD + "\tupdate           update container resource constraints\n"
VERSION_OLD = "runsc version 0.0~20240729.0\nspec: 1.2.0\n"
VERSION_NEW = "runsc version VERSION_MISSING\nspec: 1.2.1\n"


def answering(folder: Path, *, new: bool = True) -> Script:
    """Make a program that answers as one of the two versions; `flags` speaks on stderr."""
    made = Script(folder)
    made.prints("--version", VERSION_NEW if new else VERSION_OLD)
    made.prints("flags", err=TOP_OLD)
    checkpoint = CHECKPOINT_NEW if new else CHECKPOINT_OLD
    restore, wait = (RESTORE_NEW, WAIT_NEW) if new else (RESTORE_OLD, WAIT_OLD)
    topics = {
        "checkpoint": checkpoint,
        "restore": restore,
        "wait": wait,
        "": (COMMANDS_NEW if new else COMMANDS_OLD),
    }
    for name, text in topics.items():
        (folder / f"topic-{name}").write_text(text)
    made.on("help", f'cat "{folder}/topic-$2"; exit 0')
    return made
