from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shim.oci import run_hook
from shim.oci.hooks import KINDS, Names, wrapped
from shim.oci.pod import SANDBOX_ID

NAMES = Names(task="job", bundle="/run/containerd/bundles/job", sandbox="pod")
STATE = {
    "ociVersion": "1.0.2",
    "id": "job+",
    "status": "created",
    "pid": 42,
    "bundle": "/run/cryo/tasks/default/job/bundle",
    "annotations": {SANDBOX_ID: "pod+", "a": "<&>"},
}


def hook_of(folder: Path, hook: dict[str, Any], kind: str = "createRuntime") -> dict[str, Any]:
    """Wrap one hook and make its links; return it as runsc gets it."""
    changed, links = wrapped({kind: [hook]}, NAMES, folder)
    for link, target in links.items():
        link.symlink_to(target)
    found: dict[str, Any] = changed[kind][0]
    return found


def run(hook: dict[str, Any], state: object = STATE) -> subprocess.CompletedProcess[bytes]:
    """Run a hook as runsc does: these arguments, this environment, the state on stdin."""
    return subprocess.run(
        hook["args"],
        executable=hook["path"],
        env=dict(line.split("=", 1) for line in hook.get("env", ["PATH=/usr/bin:/bin"])),
        input=json.dumps(state).encode(),
        capture_output=True,
        timeout=30,
        check=False,
    )


def test_a_hook_reads_the_callers_names(tmp_path: Path) -> None:
    """The id, the bundle and the sandbox are the caller's; all the rest is runsc's."""
    ran = run(hook_of(tmp_path, {"path": "/bin/cat"}))

    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {
        **STATE,
        "id": "job",
        "bundle": NAMES.bundle,
        "annotations": {SANDBOX_ID: "pod", "a": "<&>"},
    }


def test_a_large_state_is_passed_whole(tmp_path: Path) -> None:
    """A state that is larger than a pipe holds reaches a hook that reads it late."""
    large = {**STATE, "annotations": {"large": "x" * 300_000}}

    ran = run(hook_of(tmp_path, {"path": "/bin/cat"}), large)

    assert json.loads(ran.stdout)["annotations"] == large["annotations"]


def test_arguments_environment_and_status_are_the_hooks_own(tmp_path: Path) -> None:
    """A hook gets its argv from argv[0] on and exactly its environment; its exit status counts."""
    script = 'echo "$0 $1"; /usr/bin/env; exit 7'
    hook = {
        "path": "/bin/sh",
        "args": ["sh", "-c", script, "name", "one"],
        "env": ["ONLY=this"],
        "timeout": 3,
    }

    changed = hook_of(tmp_path, hook)
    ran = run(changed)

    assert ran.returncode == 7
    first, *environment = ran.stdout.decode().splitlines()
    assert first == "name one"
    of_the_shell = {"PWD", "SHLVL", "_"}
    assert [one for one in environment if one.partition("=")[0] not in of_the_shell] == [
        "ONLY=this"
    ]
    assert (changed["env"], changed["timeout"]) == (["ONLY=this"], 3)


def test_without_arguments_the_path_is_the_name(tmp_path: Path) -> None:
    """A hook without arguments has its path as its only one, as runsc would start it."""
    program = tmp_path / "hook"
    program.write_text('#!/bin/sh\necho "$0 $#"\n')
    program.chmod(0o755)

    assert run(hook_of(tmp_path, {"path": str(program)})).stdout.decode() == f"{program} 0\n"


def test_a_hook_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Who cannot be started is named with the reason."""
    ran = run(hook_of(tmp_path, {"path": "/nowhere/hook"}))

    assert ran.returncode == 127
    assert ran.stderr.decode() == "cannot run the hook /nowhere/hook: No such file or directory\n"


def test_the_link_reports_which_hook_it_is(tmp_path: Path) -> None:
    """Runsc names the path of a hook that fails, so that path says which of them it was."""
    hooks = {kind: [{"path": "/bin/true"}, {"path": "/opt/cni/setup"}] for kind in KINDS}

    changed, links = wrapped(hooks, NAMES, tmp_path)

    assert changed["poststop"][1]["path"] == str(tmp_path / "poststop-1-setup")
    assert len(links) == 2 * len(KINDS)
    assert set(links.values()) == {Path(sys.executable)}
    assert hooks == {kind: [{"path": "/bin/true"}, {"path": "/opt/cni/setup"}] for kind in KINDS}


@pytest.mark.parametrize(
    "hook",
    (
        {"path": "relative/hook"},
        {"path": ""},
        {},
        "no hook",
        {"path": "/bin/true", "args": "text"},
        {"path": "/bin/true", "args": [1]},
        {"path": "/usr/bin/nvidia-container-runtime-hook", "args": ["hook", "prestart"]},
        {"path": "/usr/bin/nvidia-cdi-hook", "args": ["hook", "create-symlinks"]},
    ),
)
def test_what_runsc_judges_by_the_path_stays(tmp_path: Path, hook: object) -> None:
    """What runsc refuses, and what it knows by its path, reaches it as it was written."""
    assert wrapped({"prestart": [hook]}, NAMES, tmp_path) == ({"prestart": [hook]}, {})


@pytest.mark.parametrize("hooks", (None, [], {}, {"startContainer": [{"path": "/x"}]}, {"x": 1}))
def test_nothing_to_wrap(tmp_path: Path, hooks: object) -> None:
    """Without a hook that runsc runs nothing changes."""
    assert wrapped(hooks, NAMES, tmp_path) == (hooks, {})


def test_one_name_for_the_sandbox() -> None:
    """The program that imports nothing of ours has the annotation's name right."""
    assert run_hook.SANDBOX_ID == SANDBOX_ID


@pytest.mark.parametrize("name", ("h" * 255, "é" * 127), ids=("ascii", "two bytes each"))
def test_a_long_name_of_a_program(tmp_path: Path, name: str) -> None:
    """The link by which it is started has a name that a file can have."""
    program = tmp_path / name
    program.symlink_to("/bin/true")

    assert run(hook_of(tmp_path, {"path": str(program)})).returncode == 0


def test_a_path_that_no_file_can_have(tmp_path: Path) -> None:
    """It is left for runsc to refuse."""
    hook = {"path": "/bin/\0"}

    assert hook_of(tmp_path, hook) == hook
