"""The runtime as containerd's CRI plugin describes it, and whether a table has what it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shim.errors import AlreadyExists

HANDLER = "cryo"
TYPE = "io.containerd.cryo.v1"
_ANNOTATIONS = ["io.cryo.*"]


@dataclass(frozen=True)
class Runtime:
    """How containerd shall run containers of the runtime.

    `shim` is the path of the program, where containerd does not find it on its PATH; `settings`
    the config.toml of the shim, if it is not that of the host.
    """

    shim: str = ""
    settings: str = ""

    def keys(self) -> dict[str, Any]:
        """Return what the table of the runtime must have."""
        return {
            "runtime_type": TYPE,
            **({"runtime_path": self.shim} if self.shim else {}),
            "pod_annotations": _ANNOTATIONS,
            "container_annotations": _ANNOTATIONS,
            **({"options": {"ConfigPath": self.settings}} if self.settings else {}),
        }

    def check(self, found: Mapping[str, Any], file: Path) -> None:
        """Check that a table of this name does what is wanted; it may have more keys.

        Raises:
            AlreadyExists: it does not.
        """
        wanted = self.keys()
        if differing := sorted(key for key, value in wanted.items() if found.get(key) != value):
            message = f"{file} has a runtime {HANDLER} with other values of {', '.join(differing)}"
            remedy = "remove it: `cryo uninstall containerd`, or with an editor"
            raise AlreadyExists(message, remedy=remedy)
