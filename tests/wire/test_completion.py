"""Completion in real shells: what Tab writes into the line, with a sidecar and without one."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shim.model import CreateRequest, TaskRef
from tests.builds import excuse
from tests.wire.conftest import Sidecar
from tests.wire.fakes import FakeTask

SHELLS = {
    "bash": (
        ("bash", "--norc", "--noprofile", "-i"),
        "source <(cryo completion bash)",
    ),
    "zsh": (
        ("zsh", "-f", "-i"),
        "autoload -Uz compinit; compinit -u -D; source <(cryo completion zsh)",
    ),
    "fish": (("fish", "--no-config", "-i"), "cryo completion fish | source"),
}
_READY = "is now ready"
_WAIT_S = 60.0


class Terminal:
    """A shell in a pseudo-terminal."""

    def __init__(self, argv: tuple[str, ...], environment: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self._shell = subprocess.Popen(
            ["setsid", "--ctty", *argv],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
        )
        os.close(theirs)

    def send(self, text: str) -> None:
        """Type."""
        os.write(self._ours, text.encode())

    def until(self, wanted: str) -> str:
        """Read until a text was written; return all of it."""
        seen, until_s = "", time.monotonic() + _WAIT_S
        while wanted not in seen:
            left_s = until_s - time.monotonic()
            assert left_s > 0, f"no {wanted!r} in {seen!r}"
            if select.select([self._ours], [], [], left_s)[0]:
                seen += os.read(self._ours, 1 << 16).decode("utf-8", "replace")
        return seen

    def close(self) -> None:
        """End the shell."""
        self._shell.kill()
        self._shell.wait()
        os.close(self._ours)


@pytest.fixture
def environment(tmp_path: Path, sidecar: Sidecar) -> dict[str, str]:
    """Put a `cryo` on PATH that speaks to the sidecar, which has tasks in two namespaces."""
    for namespace, name in (("default", "alpha"), ("default", "beta-1"), ("k8s.io", "gamma")):
        ref = TaskRef(namespace=namespace, id=name)
        sidecar.core.tasks[ref] = FakeTask(CreateRequest(ref=ref, bundle="/b"))
    program = tmp_path / "bin" / "cryo"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m shim.entry.cli "$@"\n', "utf-8")
    program.chmod(0o755)
    return {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "CRYO_ADDRESS": sidecar.address,
        "HOME": str(tmp_path),
        "TERM": "dumb",
        "LC_ALL": "C.UTF-8",
    }


# What is typed before Tab, and what the line is afterwards.
LINES = {
    "cryo tasks ps al": "cryo tasks ps alpha",
    "cryo t kill -s SIGUSR2 bet": "cryo t kill -s SIGUSR2 beta-1",
    "cryo -n k8s": "cryo -n k8s.io",
    "cryo -n k8s.io tasks ps g": "cryo -n k8s.io tasks ps gamma",
    "cryo checkpoints pin llama:w": "cryo checkpoints pin llama:warm",
    "cryo tasks checkpoint --engine bui": "cryo tasks checkpoint --engine builtin",
    "cryo checkp": "cryo checkpoints",
    "cryo tasks ps zz": "cryo tasks ps zz",
}


def completed(terminal: Terminal, line: str) -> str:
    """Type a line and Tab; return the line that this makes.

    Ctrl-A goes to its beginning and Ctrl-E to its end: the line becomes arguments.
    """
    terminal.send(f"{line}\t\x01printf '<%s>' BEGIN \x05 END\n")
    shown = terminal.until("<END>")
    words = shown.rpartition("<BEGIN>")[2].partition("<END>")[0]
    return words.strip("<>").replace("><", " ")


@pytest.mark.parametrize("shell", SHELLS)
def test_what_tab_writes(environment: dict[str, str], shell: str) -> None:
    """Commands, options, and what the sidecar knows are completed."""
    argv, setup = SHELLS[shell]
    if shutil.which(argv[0]) is None:
        excuse(f"{argv[0]} is not installed")
    terminal = Terminal(argv, environment)
    try:
        # In two parts, so that the echo of the command is not taken for its output.
        terminal.send(f"{setup}; printf 'is now %s\\n' ready\n")
        terminal.until(_READY)
        made = {line: completed(terminal, line) for line in LINES}
    finally:
        terminal.close()
    assert made == LINES


@pytest.mark.parametrize("shell", SHELLS)
def test_without_a_sidecar(environment: dict[str, str], shell: str) -> None:
    """Nothing is completed and nothing is printed if no sidecar answers."""
    environment |= {
        "CRYO_ADDRESS": "unix:///nowhere/cryo.sock",
        "_CRYO_COMPLETE": f"{shell}_complete",
    }
    environment |= {"COMP_LINE": "cryo tasks ps a", "COMP_WORDS": "cryo tasks ps a"}
    environment |= {"COMP_CWORD": "a" if shell == "fish" else "3"}

    done = subprocess.run(
        ["cryo"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


def test_completion_loads_no_grpc(environment: dict[str, str]) -> None:
    """Each Tab starts the program, so it loads no more than a list of tasks."""
    program = (
        "import sys\n"
        "from shim.entry.cli import main\n"
        "try:\n    main([])\n"
        "finally:\n"
        "    print(*{'grpc', 'asyncio', 'shim.task'} & set(sys.modules), file=sys.stderr)\n"
    )
    environment |= {"_CRYO_COMPLETE": "bash_complete", "COMP_LINE": "cryo tasks ps "}

    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["plain,alpha", "plain,beta-1"]
    assert done.stderr.strip() == ""
