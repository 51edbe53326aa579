"""containerd's command line for shims: Go flags in any order, then the action."""

from __future__ import annotations

_WITH_VALUE = frozenset(
    {"namespace", "address", "publish-binary", "id", "bundle", "socket", "socket-dir"}
)
_SWITCHES = frozenset({"debug", "v", "version", "info"})


class Flags:
    """The parsed command line; `action` is `start`, `delete`, or empty.

    A plain class: `start` runs before every container, and loading typing would slow it down.
    """

    __slots__ = ("action", "address", "bundle", "debug", "id", "info", "namespace", "version")

    def __init__(self, found: dict[str, str], action: str) -> None:
        self.action = action
        self.namespace = found.get("namespace", "")
        self.address = found.get("address", "")
        self.id = found.get("id", "")
        self.bundle = found.get("bundle", "")
        self.debug = "debug" in found
        self.version = "v" in found or "version" in found
        self.info = "info" in found


def parse(argv: list[str]) -> Flags:
    """Parse the arguments; an unknown flag is skipped, with its value.

    Source: containerd pkg/shim/shim.go and util.go; `-name value` and `-name=value` are the same.
    """
    found: dict[str, str] = {}
    todo = list(argv)
    while todo and todo[0].startswith("-"):
        name, equals, value = todo.pop(0).lstrip("-").partition("=")
        if not equals and name not in _SWITCHES:
            value = todo.pop(0) if todo and name in _WITH_VALUE else ""
        found[name] = value
    return Flags(found, todo[0] if todo else "")
