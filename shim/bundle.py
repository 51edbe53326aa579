"""Files that the shim adds to containerd's bundles. `start` imports this: no pathlib."""

from __future__ import annotations

# A link to the owner's folder for this task: created first, removed last. Without it there is
# nothing to clean up.
LINK = "cryo"

# A link made by containerd, to a folder on disk that it removes with the bundle.
WORK = "work"

# The folder of bundles below containerd's state directory, in every release since 1.2.
_BUNDLES = "io.containerd.runtime.v2.task"


# The temporary folder into which containerd unpacks a checkpoint for a restore, and which it does
# not remove (plugins/services/tasks/local.go, Create).
_UNPACKED = "ctrd-checkpoint"


def is_unpacked(bundle: str, image: str) -> bool:
    """Whether containerd unpacked this image, to restore one of its own bundles."""
    name = image.rpartition("/")[2]
    number = name.removeprefix(_UNPACKED)
    return is_containerds(bundle) and name != number and number.isdecimal()


def is_containerds(bundle: str) -> bool:
    """Whether containerd made this bundle."""
    return _BUNDLES in bundle.split("/")
