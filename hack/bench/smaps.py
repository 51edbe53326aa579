"""What the memory of processes is used for, from /proc/PID/smaps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_HEAD = re.compile(r"^[0-9a-f]+-[0-9a-f]+ (?P<mode>\S+) \S+ \S+ \S+ *(?P<name>.*)$")
_INTERPRETER = re.compile(r"/(libpython|python)[^/]*$")
_KINDS = {"": "objects", "[heap]": "heap", "[stack]": "stack"}


@dataclass
class Use:
    """Memory in KiB: pages that only this process has, and its part of those that others share."""

    private: int = 0
    share: int = 0

    @property
    def pss(self) -> int:
        """Return the proportional memory, as the kernel counts it."""
        return self.private + self.share


def account(pids: Iterable[int]) -> dict[str, Use]:
    """Sum up the memory of processes by what it is used for.

    `objects` is anonymous memory, which has the objects of Python and the stacks of threads; `heap`
    that of the C library; `interpreter` and `libraries` the writable data of their files, `files`
    code and constants.
    """
    found: dict[str, Use] = {}
    for pid in pids:
        for kind, name, kib in _lines(pid):
            use = found.setdefault(kind, Use())
            if name in ("Private_Dirty", "Private_Clean"):
                use.private += kib
                use.share -= kib
            elif name == "Pss":
                use.share += kib
    return found


def total(uses: Iterable[Use]) -> Use:
    """Return the sum."""
    listed = list(uses)
    return Use(sum(use.private for use in listed), sum(use.share for use in listed))


def _lines(pid: int) -> Iterator[tuple[str, str, int]]:
    kind = ""
    for line in Path(f"/proc/{pid}/smaps").read_text("utf-8").splitlines():
        if head := _HEAD.match(line):
            kind = _kind(head["name"], head["mode"])
        else:
            name, _, value = line.partition(":")
            if value.endswith("kB"):
                yield kind, name, int(value.split()[0])


def _kind(name: str, mode: str) -> str:
    if not name.startswith("/"):
        return _KINDS.get(name, "other")
    if "w" not in mode:
        return "files"
    return "interpreter" if _INTERPRETER.search(name) else "libraries"
