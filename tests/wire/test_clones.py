"""Clones: what reaches the core and what comes back, and the options of the command line."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from shim.client import AsyncClient
from shim.entry.cli import exits
from shim.errors import AlreadyExists
from shim.model import Clone, MemberOptions, RestoreOptions, Stdio, TaskRef, Verify
from shim.service.service import Service
from shim.service.shims import Shims
from tests.wire.conftest import Cryo, Sidecar
from tests.wire.fakes import RESTORED, UPDATES, FakeTasks, as_tasks
from tests.wire.test_cli import Spawn, spawn
from tests.wire.test_shims import recorded

__all__ = ("spawn",)
RESTORE = ("tasks", "restore", "--image-path", "/i")


def clone_of(name: str, **options: object) -> Clone:
    """Return a clone of /i in the default namespace."""
    ref = TaskRef(namespace="default", id=name)
    return Clone(ref=ref, options=RestoreOptions(image_path="/i", **options))  # type: ignore[arg-type]  # by name


def test_templates(cryo: Cryo, sidecar: Sidecar, tmp_path: Path) -> None:
    """Number and id are filled in everywhere, and files with environments are read."""
    for number in (1, 2):
        (tmp_path / f"{number}.env").write_text(f"# one\nWHO=me {number}\n\nEMPTY=\n", "utf-8")
    code, out, _ = cryo(
        *RESTORE,
        *("--count", "2", "--name-template", "job-{i}", "--at-once", "1"),
        *("--stdout", "/logs/{id}.out", "--stderr", "/logs/{i}.err", "--bundle", "/b/{i}"),
        *("--netns", "/run/netns/{id}", "--env-file", f"{tmp_path}/{{i}}.env"),
        *("--member", "web=web-{i}", "--verify", "full"),
    )
    lines = [line.split() for line in out.splitlines()]

    assert code == 0
    assert lines[0] == ["TASK", "RESULT", "PID", "SECONDS", "GPU", "ERROR"]
    assert lines[1:] == [[f"job-{n}", "running", "4321", "0.50", "-", "-"] for n in (1, 2)]
    expected = tuple(
        clone_of(
            f"job-{n}",
            bundle=f"/b/{n}",
            stdio=Stdio(stdout=f"/logs/job-{n}.out", stderr=f"/logs/{n}.err"),
            verify=Verify.FULL,
            members=(MemberOptions(saved="web", id=f"web-{n}"),),
            hostname=f"job-{n}",
            netns=f"/run/netns/job-{n}",
            env=(f"WHO=me {n}", "EMPTY="),
        )
        for n in (1, 2)
    )
    assert sidecar.core.calls == [("clone", expected, 1)]


def test_names_by_the_task(cryo: Cryo, sidecar: Sidecar) -> None:
    """Without a template the names begin with TASK; the hostname can have its own template."""
    options = ("--count", "2", "--hostname", "h{i}", "--device-map", "GPU-a=GPU-b")
    code, out, _ = cryo(*RESTORE, *options, "job")

    assert code == 0
    assert [line.split()[4] for line in out.splitlines()] == ["GPU", "GPU-b", "GPU-b"]
    device_map = {"GPU-a": "GPU-b"}
    clones = tuple(clone_of(f"job-{n}", hostname=f"h{n}", device_map=device_map) for n in (1, 2))
    assert sidecar.core.calls == [("clone", clones, 0)]


def test_one_restore_has_them_too(cryo: Cryo, sidecar: Sidecar, tmp_path: Path) -> None:
    """Without --count nothing is a template."""
    (tmp_path / "env").write_text("WHO=me\n", "utf-8")
    options = ("--hostname", "h", "--netns", "/n/{i}", "--env-file", f"{tmp_path}/env")
    assert cryo(*RESTORE, *options, "job")[0] == 0

    wanted = RestoreOptions(image_path="/i", hostname="h", netns="/n/{i}", env=("WHO=me",))
    ref = TaskRef(namespace="default", id="job")
    assert sidecar.core.calls == [("restore", ref, wanted)]


def test_a_failed_clone(cryo: Cryo) -> None:
    """It has its reason in the table or the JSON; the exit code says that there is one."""
    argv = (*RESTORE, "--count", "2", "--name-template", "taken-{i}")
    code, out, err = cryo(*argv)

    assert code == exits.FAILED
    assert out.splitlines()[1].split(maxsplit=5) == [
        *("taken-1", "failed", "-", "0.00", "-"),
        "it exists; delete it",
    ]
    assert err.splitlines()[-1].startswith("cryo: 2 of 2 clones failed; ")
    code, out, err = cryo("--output", "json", *argv)
    assert code == exits.FAILED
    assert [(one["id"], one["kind"], one["restored"]) for one in json.loads(out)] == [
        ("taken-1", "AlreadyExists", None),
        ("taken-2", "AlreadyExists", None),
    ]


async def test_errors_come_back(client: AsyncClient, core: FakeTasks) -> None:
    """Each clone has a result or the class, message and remedy of its error."""
    updates: list[object] = []
    options = RestoreOptions(image_path="/i", device_map={"a": "b"})
    found = await client.clone(
        {"taken": options, "free": options}, on_progress=updates.append, at_once=3
    )

    assert [one.id for one in found] == ["taken", "free"]
    assert (found[0].kind, found[0].error, found[0].remedy) == (
        "AlreadyExists",
        "it exists",
        "delete it",
    )
    assert found[0].restored is None
    assert (found[1].restored, found[1].took_s) == (RESTORED, 0.5)
    assert (found[1].device_map, found[1].gpus) == ({"a": "b"}, ("b",))
    assert updates == list(UPDATES)
    assert core.calls[0][2] == 3


@pytest.mark.parametrize(
    ("argv", "said"),
    (
        (("--count", "2"), "--count needs TASK, or a --name-template with {i}"),
        (("--count", "2", "--name-template", "job"), "a --name-template with {i}"),
        (("--count", "2", "--name-template", "a{i}", "job"), "TASK or --name-template, not both"),
        (("--name-template", "a{i}", "job"), "--name-template and --at-once need --count"),
        (("--count", "2", "--stdout", "/out", "job"), "--stdout /out would be that of all clones"),
        (("--count", "2", "--netns", "/n", "job"), "--netns /n would be that of all clones"),
        (("--count", "2", "--member", "a=b", "job"), "--member a b would be that of all clones"),
        (("--env-file", "/nowhere/env", "job"), "No such file or directory"),
        ((), "Missing argument 'TASK'"),
    ),
)
def test_wrong_options(cryo: Cryo, sidecar: Sidecar, argv: tuple[str, ...], said: str) -> None:
    """A mistake on the command line is found before anything is restored."""
    code, _, err = cryo(*RESTORE, *argv)

    assert code == 2
    assert said in err
    assert sidecar.core.calls == []


def test_clones_of_an_image_elsewhere(cryo: Cryo, sidecar: Sidecar) -> None:
    """It is pulled once, and not before the options are known to be right."""
    argv = ("tasks", "restore", "--image", "r.example/a:v1", "--count", "2")
    assert cryo(*argv, "--stdout", "/out", "job")[0] == 2
    assert sidecar.core.calls == []

    assert cryo(*argv, "job")[0] == 0

    assert [call[0] for call in sidecar.core.calls] == ["pull", "clone"]
    assert [one.options.image_path for one in sidecar.core.calls[1][1]] == ["/images/a"] * 2


@pytest.mark.parametrize(
    ("content", "said"),
    ((b"A=1\nsecret\n", "line 2 of"), (b"\xff=1\n", "not text"), (b"A" * (1 << 21), "too large")),
)
def test_wrong_environments(cryo: Cryo, tmp_path: Path, content: bytes, said: str) -> None:
    """The message names the line and not what is in it."""
    (tmp_path / "env").write_bytes(content)
    code, _, err = cryo(*RESTORE, "--env-file", f"{tmp_path}/env", "job")

    assert code == 2
    assert said in err
    assert "secret" not in err


def test_ctrl_c_says_what_is_left(sidecar: Sidecar, spawn: Spawn) -> None:
    """The rest is rolled back, and the message names the clones that run."""
    sidecar.core.hold = True
    program = spawn(*RESTORE, "--count", "2", "job")
    sidecar.wait_for(sidecar.core.holding)
    program.send_signal(signal.SIGINT)
    _, err = program.communicate(timeout=60)

    assert program.returncode == 130
    assert sidecar.core.rolled_back.is_set()
    assert b"these clones were complete, and run: none" in err


def test_a_name_of_a_shims_task(tmp_path: Path) -> None:
    """A task that containerd has is not replaced."""
    recorded(tmp_path, "job")
    service = Service(as_tasks(FakeTasks()), shims=Shims(tmp_path, rollback_s=1.0))
    service.admit(TaskRef(namespace="ns", id="other"))
    with pytest.raises(AlreadyExists, match="owned by a shim"):
        service.admit(TaskRef(namespace="ns", id="job"))
