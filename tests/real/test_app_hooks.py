"""Hooks in containers on real runsc: in a checkpoint, its rollback, a park and a restore."""

from __future__ import annotations

from pathlib import Path

import pytest

from shim.errors import CryoError, DeadlineExceeded, HookFailed
from shim.simgpu.simulation import wait_until
from shim.state import TaskState
from tests.real.helpers_rig import WAIT_S, Background, Rig, refused

pytestmark = pytest.mark.timeout(180)

PRE, POST, RESTORED = (f"io.cryo.hook.{k}" for k in ("pre-freeze", "post-thaw", "post-restore"))
TIMEOUT = "io.cryo.hook.timeout"
CRI = "io.kubernetes.cri"


def notes(word: str) -> str:
    """Return a hook that writes a word, and as whom and where it runs."""
    return f"""exec /bin/sh -c 'echo {word} $(id -u) $PWD $MINE >> /tmp/log'"""


ALL = {PRE: notes("pre"), POST: notes("post"), RESTORED: notes("restored")}


def started(rig: Rig, name: str, annotations: dict[str, str]) -> None:
    """Start a container of a user with these annotations."""
    bundle = rig.bundle(
        name,
        ("/bin/sleep", "1000"),
        user={"uid": 1234, "gid": 0},
        cwd="/usr",
        env=["PATH=/usr/bin:/bin", "MINE=own"],
    )
    with rig.edited(bundle) as spec:
        spec["annotations"] = annotations
    rig.client.create(name, str(bundle))
    rig.client.start(name)


def log(rig: Rig, name: str) -> list[str]:
    """Return what hooks have written in a container."""
    return rig.guest.exec(name, ["/bin/cat", "/tmp/log"]).out.split("\n")[:-1]


def programs(rig: Rig, name: str) -> str:
    """Return the command lines of all processes of a container."""
    argv = ["/bin/sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]
    return rig.guest.exec(name, argv).out


def fails(rig: Rig, kind: type[CryoError]) -> CryoError:
    """Make a checkpoint that a hook ends; the task runs, and there is no image."""
    error = refused(kind, lambda: rig.checkpoint("job"))
    assert rig.client.state("job").state is TaskState.RUNNING
    assert rig.client.images() == []
    return error


@pytest.mark.every_combination
def test_hooks_of_a_container(rig: Rig) -> None:
    """They run as the container's user, in order, and in a copy after its restore."""
    started(rig, "job", ALL)

    made = rig.checkpoint("job")
    assert {"pre-freeze", "post-thaw"} < set(made.timings_s)
    assert log(rig, "job") == ["pre 1234 /usr own", "post 1234 /usr own"]

    result = rig.restore("copy", made.image_path)
    assert "post-restore" in result.timings_s
    assert log(rig, "copy") == ["pre 1234 /usr own", "restored 1234 /usr own"]

    rig.client.pause("job")
    assert rig.checkpoint("job").warnings == ("the task is paused, so its hooks are not run",)
    assert rig.client.state("job").state is TaskState.PAUSED


@pytest.mark.every_combination
def test_hooks_that_fail(rig: Rig) -> None:
    """A checkpoint fails before the freeze with the output; post-thaw runs; a flood is cut."""
    flood = """exec /bin/sh -c 'head -c 3000000 /dev/zero | tr "\\0" "\\033" >&2; exit 7'"""
    started(rig, "job", {**ALL, PRE: flood})
    error = fails(rig, HookFailed)
    assert error.message.startswith("the hook pre-freeze of job failed: exit status 7: \\x1b\\x1b")
    assert len(error.message) < 600
    assert log(rig, "job") == ["post 1234 /usr own"]
    rig.end("job")

    hang = "exec /bin/sh -c 'trap \"\" TERM; sleep 4321'"
    started(rig, "job", {**ALL, PRE: hang, TIMEOUT: "1"})
    error = fails(rig, DeadlineExceeded)
    assert error.message == "the hook pre-freeze of job did not end in 1 s"
    assert "trap" not in programs(rig, "job")
    assert log(rig, "job") == ["post 1234 /usr own"]
    rig.end("job")

    started(rig, "job", {PRE: "exec /no/such/program"})
    assert "the image has no program /no/such/program" in fails(rig, HookFailed).message


def test_hooks_that_fail_after_the_save(rig: Rig) -> None:
    """That of a thaw is a warning, and the image complete; that of a restore ends the restore."""
    wrong = {
        POST: "exec /bin/sh -c 'echo broken; exit 3'",
        RESTORED: "exec /bin/sh -c 'echo no peers >&2; exit 4'",
    }
    started(rig, "job", wrong)

    made = rig.checkpoint("job")
    assert made.warnings == ("the hook post-thaw of job failed: exit status 3: broken",)

    error = refused(HookFailed, lambda: rig.restore("copy", made.image_path))
    assert error.message == "the hook post-restore of copy failed: exit status 4: no peers"
    assert [view.id for view in rig.client.list()] == ["job"]


@pytest.fixture
def waiting(rig: Rig) -> Background:
    """Give a checkpoint whose pre-freeze hook does not end by itself."""
    hook = "exec /bin/sh -c 'echo pre >> /tmp/log; until test -e /tmp/go; do sleep 0.05; done'"
    started(rig, "job", {**ALL, PRE: hook})
    work = Background(lambda: rig.checkpoint("job"))

    def begun() -> bool:  # no exec of the sidecar's can be had meanwhile
        return rig.behind.exec("job", ["/bin/cat", "/tmp/log"]).out == "pre\n"

    wait_until(begun, "the hook", WAIT_S)
    return work


def test_an_owner_that_is_killed_in_a_hook(rig: Rig, waiting: Background) -> None:
    """The next owner runs post-thaw, and the task can be saved."""
    rig.crash()
    with pytest.raises(CryoError):
        waiting.result()

    assert log(rig, "job") == ["pre", "post 1234 /usr own"]
    rig.guest.exec("job", ["/bin/touch", "/tmp/go"])
    # It goes on without its owner, and the older runsc saves no exec.
    wait_until(lambda: "until" not in programs(rig, "job"), "the end of the hook", WAIT_S)
    rig.checkpoint("job")


def test_a_task_that_is_killed_in_a_hook(rig: Rig, waiting: Background) -> None:
    """It ends at once, and the checkpoint fails."""
    rig.end("job")
    with pytest.raises(CryoError):
        waiting.result()


@pytest.mark.every_combination
def test_hooks_of_a_pod(rig: Rig) -> None:
    """The pod's annotations are in each container; those with a name are that container's."""
    annotations = {
        f"{PRE}.web": notes("pre"),
        f"{POST}.web": notes("post"),
        f"{PRE}.side": notes("pre"),
        f"{RESTORED}.side": notes("restored"),
        f"{PRE}.gone": "exec nothing",
    }
    for name, kind in (("pod", "sandbox"), ("web", "container"), ("side", "container")):
        cri = {"container-type": kind, "sandbox-id": "pod", "container-name": name}
        started(rig, name, {**annotations, **{f"{CRI}.{key}": text for key, text in cri.items()}})

    made = rig.checkpoint("web")
    assert log(rig, "web") == ["pre 1234 /usr own", "post 1234 /usr own"]
    assert log(rig, "side") == ["pre 1234 /usr own"]
    assert log(rig, "pod") == []

    for name in ("side", "web", "pod"):
        rig.end(name)
    rig.restore("pod", Path(made.image_path))
    assert log(rig, "web") == ["pre 1234 /usr own"]
    assert log(rig, "side") == ["pre 1234 /usr own", "restored 1234 /usr own"]
