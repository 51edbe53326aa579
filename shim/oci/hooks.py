"""OCI hooks in runsc's private copy of a spec: each gets the caller's id and bundle.

runsc uses its own id and a private bundle for a task, and passes both to the hooks. So each hook is
started through `run_hook`, which replaces them. Only the copy that runsc reads is changed: specs
that are compared, digested or saved in an image have the hooks as the caller wrote them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from shim.model import Value

# The kinds that runsc runs; it ignores `startContainer`, with a warning in its log.
# Source: runsc/container/container.go and runsc/cmd/sandboxsetup/gofer_mount.go.
KINDS = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
_NAME_BYTES = 100
_PROGRAM = Path(__file__).with_name("run_hook.py")
# runsc recognizes these by their paths: they signal a GPU request, and it does not run all of them.
_RUNSC_KNOWS = ("/nvidia-container-runtime-hook", "/nvidia-cdi-hook")


class Names(Value):
    """The caller's id and bundle of a task; `sandbox` is the sandbox in its annotations."""

    task: str
    bundle: str
    sandbox: str = ""


def wrapped(hooks: Any, names: Names, folder: Path) -> tuple[Any, dict[Path, Path]]:
    """Return the hooks for runsc, and the links in `folder` through which it starts them.

    The name of a link identifies the hook, since runsc prints it when the hook fails. An invalid
    hook is left unchanged, for runsc to reject.
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
    # Kept within the length limit of a file name.
    program = os.fsencode(Path(path).name)[:_NAME_BYTES].decode(errors="ignore")
    named = link.with_name(f"{link.name}-{program}")
    links[named] = Path(sys.executable)
    ours = [sys.executable, "-I", "-S", str(_PROGRAM)]
    theirs = [names.task, names.bundle, names.sandbox, path, *arguments]
    return {**hook, "path": str(named), "args": [*ours, *theirs]}


def _is_run(hook: Any) -> bool:
    """Whether runsc would start this hook; it rejects any other with its own error."""
    path = hook.get("path") if isinstance(hook, dict) else None
    if not isinstance(path, str) or not path.startswith("/") or path.endswith(_RUNSC_KNOWS):
        return False
    if "\0" in path:
        return False
    arguments = hook.get("args") or []
    return isinstance(arguments, list) and all(isinstance(one, str) for one in arguments)
