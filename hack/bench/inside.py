"""Runs a part of a case in the mount namespace of a simulated machine or of containerd.

Plain runsc needs the machine's private /dev, and ctr the private /run, as ours do. The part is a
function of a module that takes what it is given, as JSON, and returns rows.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from hack.bench.effort import Effort
from hack.bench.row import Rows
from shim.host import prctl
from shim.simgpu.remote import Remote
from shim.simgpu.waiting import environment, wait_until

Given = Mapping[str, Any]
_LIMIT_S = 900.0
_numbers = itertools.count()


def run(
    remote: Remote,
    folder: Path,
    part: Callable[[Given, Effort], Rows],
    effort: Effort,
    given: Given,
) -> Rows:
    """Run a part in the namespace of `remote`, and print what it prints.

    Raises:
        RuntimeError: it failed.
    """
    number = next(_numbers)
    output, answer = folder / f"bench-{number}.out", folder / f"bench-{number}.json"
    output.touch()
    argv = [sys.executable, "-m", __name__, f"{part.__module__}:{part.__qualname__}"]
    argv += [str(answer), msgspec.json.encode(effort).decode(), msgspec.json.encode(given).decode()]
    pid = remote.spawn(argv, output=output, env=environment(), cwd=str(folder))
    with output.open(encoding="utf-8") as file:

        def ended() -> bool:
            done = remote.wait(pid, 0) is not None
            sys.stdout.write(file.read())
            sys.stdout.flush()
            return done

        wait_until(ended, "the end of the measurement", _LIMIT_S)
    status = remote.wait(pid, 1.0)
    if status:
        message = f"{part.__module__} failed in its namespace: {output.read_text('utf-8')[-4000:]}"
        raise RuntimeError(message)
    return msgspec.json.decode(answer.read_bytes(), type=Rows)


def main() -> None:
    """Run the named part, and write its rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", type=lambda text: text.split(":"))
    parser.add_argument("answer", type=Path)
    parser.add_argument("effort", type=lambda text: msgspec.json.decode(text, type=Effort))
    parser.add_argument("given", type=msgspec.json.decode)
    asked = parser.parse_args()
    # Sandboxes whose parent has exited become children of this process.
    prctl.become_subreaper()
    module, name = asked.part
    rows: Rows = getattr(importlib.import_module(module), name)(asked.given, asked.effort)
    asked.answer.write_bytes(msgspec.json.encode(rows))


if __name__ == "__main__":
    main()
