"""runsc's `--overlay2`: where a container's changes to its root filesystem are kept. Pure.

runsc's own default is `root:self`: a sparse file of 1 GiB in the root filesystem itself. Clients
that read the filesystem find it there, such as containerd when it makes a layer of it; a restore
over such a layer fails, and so does a root filesystem that is mounted read-only. With
`root:dir=FOLDER` the file lies elsewhere, without a name. For the sentry the two are the same: an
image that was saved with one is restored with the other. Memory is another kind, and so is none.
"""

from __future__ import annotations

from collections.abc import Mapping

FLAG = "overlay2"
DEFAULT = "root:self"
NONE = "none"
_OLD_FLAG = "overlay"  # before 2022-11: the same as all:memory
# What stands between the parts of the flag's value, and so cannot be in a folder's path.
_SEPARATORS = ":,"


def is_set(flags: Mapping[str, str]) -> bool:
    """Whether the operator has chosen a medium."""
    return FLAG in flags or _OLD_FLAG in flags


def with_medium(flags: Mapping[str, str], value: str) -> dict[str, str]:
    """Return the flags, with a medium where there is one and the operator has chosen none."""
    return dict(flags) if is_set(flags) or not value else {**flags, FLAG: value}


def fitting(saved: str, folder: str) -> str:
    """Return the value of the flag for a container whose files may lie in `folder`.

    `saved` is the value that the image was saved with, and empty for a new container; the medium is
    of the same kind. Empty where the folder's path cannot be said to runsc: then its default holds.
    """
    mounts, _, rest = (saved or DEFAULT).partition(":")
    medium, comma, size = rest.partition(",")
    if saved == NONE or medium == "memory":
        return saved
    if not folder or any(separator in folder for separator in _SEPARATORS):
        return ""
    return f"{mounts}:dir={folder}{comma}{size}"


def folder(value: str) -> str:
    """Return the folder of a value that names one; empty for every other."""
    medium = value.partition(":")[2].partition(",")[0]
    return medium.removeprefix("dir=") if medium.startswith("dir=") else ""
