"""runsc's `--overlay2`: where a container's changes to its root filesystem are kept. Pure.

runsc's default is `root:self`: a sparse file of 1 GiB in the root filesystem itself. Clients that
read the filesystem see it, such as containerd when it makes a layer of it; a restore over such a
layer fails, and so does a root filesystem that is mounted read-only. With `root:dir=FOLDER` the
file is elsewhere, without a name. For the sentry the two are equivalent: an image saved with one
can be restored with the other. `memory` and `none` are not equivalent to these.
"""

from __future__ import annotations

from collections.abc import Mapping

FLAG = "overlay2"
DEFAULT = "root:self"
NONE = "none"
_OLD_FLAG = "overlay"  # before 2022-11: the same as all:memory
# Separators in the flag's value, which a folder's path therefore cannot contain.
_SEPARATORS = ":,"


def is_set(flags: Mapping[str, str]) -> bool:
    """Whether the operator has chosen a medium."""
    return FLAG in flags or _OLD_FLAG in flags


def with_medium(flags: Mapping[str, str], value: str) -> dict[str, str]:
    """Return the flags, with `value` as the medium unless it is empty or the operator set one."""
    return dict(flags) if is_set(flags) or not value else {**flags, FLAG: value}


def fitting(saved: str, folder: str) -> str:
    """Return the value of the flag for a container whose overlay files may be in `folder`.

    `saved` is the image's value, empty for a new container; the result is of the same kind. It is
    empty, meaning runsc's default, if the folder's path cannot be expressed in the flag.
    """
    mounts, _, rest = (saved or DEFAULT).partition(":")
    medium, comma, size = rest.partition(",")
    if saved == NONE or medium == "memory":
        return saved
    if not folder or any(separator in folder for separator in _SEPARATORS):
        return ""
    return f"{mounts}:dir={folder}{comma}{size}"


def folder(value: str) -> str:
    """Return the folder in a value; empty if it has none."""
    medium = value.partition(":")[2].partition(",")[0]
    return medium.removeprefix("dir=") if medium.startswith("dir=") else ""
