"""Run an OCI hook with the caller's names in the container's state, as `python -I -S`.

    run_hook.py ID BUNDLE SANDBOX PATH [ARGV...]

runsc passes its own id and bundle to hooks. This program replaces both with the caller's, sets the
annotation with the sandbox's id, if present, to SANDBOX, and executes PATH in its place: pid,
environment, output and exit status are the hook's own. It imports little, and none of this
project's modules, because the caller of a create waits for it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

SANDBOX_ID = "io.kubernetes.cri.sandbox-id"
_NOT_RUN = 127


def main(argv: list[str]) -> None:
    """Rewrite the state on stdin and execute the hook."""
    task, bundle, sandbox, path, *arguments = argv
    state = json.loads(sys.stdin.buffer.read())
    _replace_stdin(json.dumps(rewritten(state, task, bundle, sandbox)).encode())
    try:
        os.execve(path, arguments or [path], _environment())
    except OSError as error:
        sys.stderr.write(f"cannot run the hook {path}: {error.strerror}\n")
        raise SystemExit(_NOT_RUN) from None


def rewritten(state: dict[str, Any], task: str, bundle: str, sandbox: str) -> dict[str, Any]:
    """Return the state with the caller's names."""
    changed = {**state, "id": task, "bundle": bundle}
    annotations = state.get("annotations") or {}
    if SANDBOX_ID in annotations:
        changed["annotations"] = {**annotations, SANDBOX_ID: sandbox}
    return changed


def _replace_stdin(data: bytes) -> None:
    """Make `data` the hook's stdin; a memfd holds any amount without a second process."""
    fd = os.memfd_create("state")
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    os.dup2(fd, 0)


def _environment() -> dict[bytes, bytes]:
    """Return the environment as passed by runsc; Python may have added LC_CTYPE to its own."""
    try:
        with open("/proc/self/environ", "rb") as file:  # noqa: PTH123 - pathlib takes longer to load
            given = file.read()
    except OSError:  # a createContainer hook runs where /proc is not mounted
        return dict(os.environb)
    pairs = (line.partition(b"=") for line in given.split(b"\0") if b"=" in line)
    return {name: value for name, _, value in pairs}


if __name__ == "__main__":
    main(sys.argv[1:])
