"""OCI hooks in runsc's private copy of a spec: each gets the caller's id and bundle.

runsc knows a task by an id of its own and by a private bundle, and gives both to the hooks. So each
hook is started through `run_hook`, which replaces them. Only the copy that runsc reads is changed:
what is compared, digested or saved in an image has the hooks as the caller wrote them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from shim.model import Value

# runsc runs these; `startContainer` it passes over, with a warning in its log.
# Source: runsc/container/container.go and runsc/cmd/sandboxsetup/gofer_mount.go.
KINDS = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
_NAME_BYTES = 100
_PROGRAM = Path(__file__).with_name("run_hook.py")
# runsc knows these by their paths: it finds the GPU request by them, and runs some of them not.
_RUNSC_KNOWS = ("/nvidia-container-runtime-hook", "/nvidia-cdi-hook")


class Names(Value):
    """What the caller calls a task; `sandbox` is the sandbox that its annotations name."""

    task: str
    bundle: str
    sandbox: str = ""


def wrapped(hooks: Any, names: Names, folder: Path) -> tuple[Any, dict[Path, Path]]:
    """Return the hooks as runsc gets them, and the links in `folder` by which it starts them.

    The name of a link identifies the hook, since runsc prints it when the hook fails. What is not
    a hook that runsc would run is left for runsc to refuse.
    """
    if not isinstance(hooks, dict):
        return hooks, {}
    links: dict[Path, Path] = {}
    changed = dict(hooks)
    for kind in KINDS:
        if isinstance(hooks.get(kind), list):
            changed[kind] = [
                _wrapped(hook, names, folder / f"{kind}-{number}", links)
                for number, hook in enumerate(hooks[kind])
            ]
    return changed, links


def _wrapped(hook: Any, names: Names, link: Path, links: dict[Path, Path]) -> Any:
    if not _is_run(hook):
        return hook
    path, arguments = hook["path"], hook.get("args") or []
    # As long as a name may be, and a little less.
    program = os.fsencode(Path(path).name)[:_NAME_BYTES].decode(errors="ignore")
    named = link.with_name(f"{link.name}-{program}")
    links[named] = Path(sys.executable)
    ours = [sys.executable, "-I", "-S", str(_PROGRAM)]
    theirs = [names.task, names.bundle, names.sandbox, path, *arguments]
    return {**hook, "path": str(named), "args": [*ours, *theirs]}


def _is_run(hook: Any) -> bool:
    """Whether runsc would start this hook; anything else it refuses, in its own words."""
    path = hook.get("path") if isinstance(hook, dict) else None
    if not isinstance(path, str) or not path.startswith("/") or path.endswith(_RUNSC_KNOWS):
        return False
    if "\0" in path:
        return False
    arguments = hook.get("args") or []
    return isinstance(arguments, list) and all(isinstance(one, str) for one in arguments)
