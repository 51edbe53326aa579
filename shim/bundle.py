"""Files that we put into a bundle of containerd's. `start` loads this: no pathlib."""

from __future__ import annotations

# A link to the folder of the owner's for this task: made before anything else is, removed last.
# Without it there is nothing to clean up.
LINK = "cryo"

# A link of containerd's own, to a folder on disk that it removes with the bundle.
WORK = "work"

# The folder of bundles below containerd's state, in every release since 1.2.
_BUNDLES = "io.containerd.runtime.v2.task"


# The temporary folder into which containerd unpacks a checkpoint for a restore, and which it never
# removes (plugins/services/tasks/local.go, Create).
_UNPACKED = "ctrd-checkpoint"


def is_unpacked(bundle: str, image: str) -> bool:
    """Whether containerd has unpacked this image for the restore of a bundle of its own."""
    name = image.rpartition("/")[2]
    number = name.removeprefix(_UNPACKED)
    return is_containerds(bundle) and name != number and number.isdecimal()


def is_containerds(bundle: str) -> bool:
    """Whether containerd made this bundle."""
    return _BUNDLES in bundle.split("/")
