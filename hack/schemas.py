"""Write docs/schemas: what each command prints with --output json; with --check, compare it.

A schema is derived from the type of what the command prints. Fields may be added to it later.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from shim.distribution.image_diff import ImageDiff
from shim.distribution.transfer import Transferred
from shim.doctor.report import Report
from shim.image.contents import Secrets
from shim.image.manifest import ImageFile, Manifest
from shim.image.name_view import NameView
from shim.model import (
    CheckpointResult,
    CloneResult,
    EventView,
    Exit,
    GuestProcessView,
    ImageView,
    RestoreResult,
    Speeds,
    Stats,
    TaskView,
    Timeline,
    Value,
)
from shim.oci.host_access import HostAccess
from shim.timeline.bounds import Bound, Shares

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "schemas"
DRAFT = "https://json-schema.org/draft/2020-12/schema"


class Task(Value):
    """The task that was changed."""

    id: str


class Process(Value):
    """The pid on the host of the task's sandbox, 0 before a restore."""

    id: str
    pid: int


class ExecProcess(Value):
    """A process that was added to a task, by its pid in the container."""

    id: str
    exec_id: str
    pid: int


class Signalled(Value):
    """The number of the signal that was sent."""

    id: str
    signal: int


class Deleted(Value):
    """The tasks that were deleted."""

    deleted: list[str]


class ImagesDeleted(Value):
    """Images that were deleted, and names of images that stay under another name."""

    deleted: list[str]
    untagged: list[str]


class Tagged(Value):
    """The path of an image, and its name."""

    image: str
    name: str


class Pinned(Value):
    """Paths of images."""

    pinned: list[str]


class Unpinned(Value):
    """Paths of images."""

    unpinned: list[str]


class Removed(Value):
    """An image that was removed, or would be."""

    path: str
    size_bytes: int
    reason: str


class Kept(Value):
    """An image that has to stay although it is not to be kept."""

    path: str
    reason: str


class Pruned(Value):
    """`missing_bytes` is by how much the images exceed the quota afterwards."""

    removed: list[Removed]
    kept: list[Kept]
    missing_bytes: int


class KeyPair(Value):
    """The file of the private key, and the name and id of the public one."""

    private: str
    public: str
    id: str


class Signed(Value):
    """The id of the key, and how many signatures the image has."""

    image: str
    key: str
    signatures: int


class Dropped(Value):
    """How many images of the name were deleted."""

    name: str
    images: int


class Version(Value):
    """Versions of this program, and of its Python."""

    version: str
    python: str


class Installed(Value):
    """`done` are the changes, one sentence each; `diff` is that of the files."""

    done: list[str]
    diff: str
    restart: str


class Signer(Value):
    """A public key that has signed an image."""

    key: str
    id: str


class Inspected(Manifest):
    """The manifest of an image, and what is known of it beside that."""

    host_access: list[HostAccess] = []
    secrets: list[Secrets] = []
    source: str = ""


class Verified(Inspected):
    """The same, with the keys that have signed it.

    `host_checked` is whether it was checked that this host can run it.
    """

    signed_by: list[Signer] = []
    host_checked: bool = False


class TimelineShown(Timeline, kw_only=True):
    """A timeline, with what bounds its phases, and whose time it was."""

    bounds: list[Bound]
    shares: Shares


class Timelines(Value):
    """Timelines, oldest first, and the speeds of the host."""

    speeds: Speeds | None
    timelines: list[TimelineShown]


# What each command prints. Of several documents, each line is one.
PRINTS: dict[str, Any] = {
    "checkpoints delete": ImagesDeleted,
    "checkpoints diff": ImageDiff,
    "checkpoints export": Transferred,
    "checkpoints import": Transferred,
    "checkpoints inspect": Inspected,
    "checkpoints keygen": KeyPair,
    "checkpoints ls": list[ImageView],
    "checkpoints ls IMAGE": list[ImageFile],
    "checkpoints pin": Pinned,
    "checkpoints prune": Pruned,
    "checkpoints pull": Transferred,
    "checkpoints push": Transferred,
    "checkpoints sign": Signed,
    "checkpoints tag": Tagged,
    "checkpoints unpin": Unpinned,
    "checkpoints verify": Verified,
    "doctor": Report,
    "events": EventView,
    "info": dict[str, str],
    "install containerd": Installed,
    "install docker": Installed,
    "recover": list[str],
    "run": Process,
    "tasks checkpoint": CheckpointResult,
    "tasks create": Process,
    "tasks delete": Deleted,
    "tasks exec": ExecProcess,
    "tasks kill": Signalled,
    "tasks ls": list[TaskView],
    "tasks metrics": Stats,
    "tasks pause": Task,
    "tasks ps": list[GuestProcessView],
    "tasks restore": RestoreResult,
    "tasks restore --count": list[CloneResult],
    "tasks resume": Task,
    "tasks start": Process,
    "tasks wait": Exit,
    "timeline": Timelines,
    "uninstall containerd": Installed,
    "uninstall docker": Installed,
    "version": Version,
    "warm drop": Dropped,
    "warm ls": list[NameView],
    "warm save": CheckpointResult,
    "warm show": NameView,
}
# Commands that print no document, and why.
WITHOUT = {
    "completion": "prints a script for a shell",
    "selftest": "has a report of its own, `cryo selftest --json`, with its number of format",
    "serve": "runs until it is stopped; its log has --log-format json",
}


def main(argv: list[str] | None = None) -> int:
    """Write the schemas, or compare them; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if stale")
    check = parser.parse_args(argv).check
    wanted = {file_of(name): text_of(name) for name in PRINTS}
    there = {path.name: path.read_text("utf-8") for path in FOLDER.glob("*.json")}
    if check:
        if there != wanted:
            print("docs/schemas is stale: run make schemas")
        return int(there != wanted)
    FOLDER.mkdir(exist_ok=True)
    for name in there.keys() - wanted.keys():
        (FOLDER / name).unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, "utf-8")
    return 0


def file_of(command: str) -> str:
    """Return the name of the file of a command."""
    return command.replace(" --", "-").replace(" ", "-").lower() + ".json"


def text_of(command: str) -> str:
    """Return the schema of what a command prints, as the file has it."""
    derived = msgspec.json.schema(PRINTS[command])
    head = {"$schema": DRAFT, "title": f"cryo --output json {command}"}
    return json.dumps({**head, **derived}, indent=2) + "\n"


if __name__ == "__main__":
    sys.exit(main())
