"""Pids in runsc's state file, which a delete would kill even when they were reused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shim.runsc import statefile
from shim.runsc.statefile import forget_ended, gofer_pid

BUNDLE = "/run/cryo/tasks/ns/a/bundle"
OURS = ("runsc-sandbox", "--root=/r", "boot", f"--bundle={BUNDLE}", "a+")
GOFER = ("runsc-gofer", "--root=/r", "gofer", "--bundle", BUNDLE)
OTHER = ("runsc-sandbox", "--root=/r", "boot", "--bundle=/run/cryo/tasks/ns/b/bundle", "b+")


class Host:
    """A /proc, and a state file of a container with a sandbox 7 and a gofer 8."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.path = folder / "a+_sandbox:a+.state"
        self.state: dict[str, Any] = {
            "id": "a+",
            "bundleDir": BUNDLE,
            "goferPid": 8,
            "sandbox": {"id": "a+", "pid": 7, "cgroup": None},
            "big": 2**63,
        }

    def runs(self, pid: int, *words: str) -> None:
        """Let a number be that of a process."""
        (self.proc / str(pid)).mkdir(parents=True)
        (self.proc / str(pid) / "cmdline").write_text("\0".join((*words, "")))

    def forget(self) -> tuple[int, int]:
        """Do it; return what stands there for the sandbox and the gofer."""
        self.path.write_text(json.dumps(self.state))
        self.path.chmod(0o640)
        forget_ended(self.path, self.proc)
        found = json.loads(self.path.read_text())
        assert {**found, "goferPid": 0, "sandbox": 0} == {**self.state, "goferPid": 0, "sandbox": 0}
        assert self.path.stat().st_mode & 0o777 == 0o640
        return found["sandbox"]["pid"], found["goferPid"]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Give one on which nothing runs."""
    return Host(tmp_path)


def test_who_runs_is_deleted(host: Host) -> None:
    """A delete ends what is still there of the container."""
    host.runs(7, *OURS)
    host.runs(8, *GOFER)

    assert host.forget() == (7, 8)


def test_who_has_ended_is_forgotten(host: Host) -> None:
    """There is no process to kill, now or in a moment."""
    assert host.forget() == (0, 0)


@pytest.mark.parametrize("words", (OTHER, ("sleep", "1"), ()), ids=("sandbox", "any", "zombie"))
def test_who_has_its_number_now_is_left_alone(host: Host, words: tuple[str, ...]) -> None:
    """Not even another sandbox with the same root is taken for it."""
    host.runs(7, *words)
    host.runs(8, *GOFER)

    assert host.forget() == (0, 8)


def test_a_member_keeps_the_number_of_its_sandbox(host: Host) -> None:
    """A delete of one container of a pod does not kill the sandbox, and has to find it."""
    host.state["sandbox"]["id"] = "pod+"
    host.runs(7, *OTHER)

    assert host.forget() == (7, 0)


@pytest.mark.parametrize("text", ("", "x", "[]", '{"sandbox": 1}', "{}"))
def test_a_file_of_another_kind_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    """What cannot be understood is for runsc to complain about."""
    path = tmp_path / "state"
    path.write_text(text)

    forget_ended(path)

    assert path.read_text() == text


@pytest.mark.parametrize(("words", "found"), ((GOFER, 8), (OTHER, 0), ((), 0)))
def test_the_gofer_of_a_container(
    host: Host, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], found: int
) -> None:
    """Its pid is returned while it is the gofer's, and not once it was reused."""
    monkeypatch.setattr(statefile, "_PROC", host.proc)
    host.path.write_text(json.dumps(host.state))
    host.runs(8, *words)

    assert gofer_pid(host.path.parent, "a+") == found


def test_no_gofer(tmp_path: Path) -> None:
    """A container that runsc does not know, or whose file says nothing, has none."""
    assert gofer_pid(tmp_path, "a+") == 0
    (tmp_path / "a+_sandbox:a+.state").write_text("[]")
    assert gofer_pid(tmp_path, "a+") == 0
