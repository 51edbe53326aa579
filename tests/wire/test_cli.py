"""The command line against a real server: what it prints, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from shim import errors
from shim.distribution.image_diff import ImageDiff
from shim.entry import serve
from shim.entry.cli import exits
from shim.entry.cli.app import cryo as cryo_command
from shim.entry.cli.app import main
from shim.errors import CryoError
from shim.image import keys, signature
from shim.image.name import ImageName
from shim.image.named import ImageRef
from shim.image.retention import PruneOptions
from shim.model import (
    CheckpointOptions,
    Connections,
    CreateRequest,
    CudaMode,
    Direct,
    EngineName,
    GuestProcessView,
    MemberOptions,
    ProcessList,
    RestoreOptions,
    Stdio,
    TaskRef,
    Verify,
)
from shim.simgpu.waiting import wait_until
from tests.wire import fakes
from tests.wire.conftest import Cryo, Sidecar
from tests.wire.fakes import (
    DIFF,
    MANIFEST,
    PROCESSES,
    RESULT,
    STATEMENT,
    FakeTask,
    every_error,
    failing,
)

A = TaskRef(namespace="default", id="a")
Spawn = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def spawn(sidecar: Sidecar) -> Iterator[Spawn]:
    """Run the command line as a program of its own; none outlives the test."""
    started: list[subprocess.Popen[bytes]] = []
    pipe = subprocess.PIPE

    def run(*argv: str, **more: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "shim.entry.cli", "-a", sidecar.address, *argv]
        streams: dict[str, Any] = {"stdin": pipe, "stdout": pipe, "stderr": pipe, **more}
        started.append(subprocess.Popen(command, **streams))
        return started[-1]

    yield run
    for each in started:
        each.kill()
        each.communicate()


# --- what is printed ------------------------------------------------------------------------


def test_tasks_ls(cryo: Cryo, sidecar: Sidecar, task: FakeTask) -> None:
    """Tasks are columns for people and one JSON document for programs."""
    code, out, err = cryo("tasks", "ls")
    lines = [line.split() for line in out.splitlines()]

    assert (code, err) == (0, "")
    assert lines[0][:3] == ["TASK", "PID", "STATUS"]
    assert lines[1] == ["a", "1234", "CREATED", "yes", "-", "-"]
    [view] = json.loads(cryo("--output", "json", "tasks", "ls")[1])
    assert (view["id"], view["state"], view["gpu"]) == ("a", "created", True)
    assert cryo("t", "list", "-q")[1] == "a\n"
    assert cryo("-n", "other", "tasks", "ls")[1].splitlines()[1:] == []


def test_a_task_lives(cryo: Cryo, sidecar: Sidecar) -> None:
    """Create, start, ps, pause, resume, kill, wait and delete do what they say."""
    code, out, _ = cryo("--output", "json", "tasks", "create", "--bundle", "/b", "a")
    assert (code, json.loads(out)) == (0, {"id": "a", "pid": 1234})
    assert cryo("tasks", "start", "a") == (0, "", "")
    assert cryo("tasks", "ps", "-q", "a")[1].split() == ["1", "7", "8"]
    assert cryo("tasks", "pause", "a")[0] == 0
    assert cryo("tasks", "resume", "a")[0] == 0
    assert cryo("tasks", "kill", "-s", "usr1", "a")[0] == 0
    assert cryo("tasks", "wait", "a") == (0, f"{128 + signal.SIGUSR1}\n", "")
    assert json.loads(cryo("--output", "json", "tasks", "wait", "a")[1])["status"] == 138
    assert cryo("tasks", "delete", "a") == (0, "", "")
    assert sidecar.core.tasks == {}


def test_tasks_ps(cryo: Cryo, sidecar: Sidecar, task: FakeTask) -> None:
    """Each process has its command, user and GPU state; what is not known is `-`, or null."""
    code, out, err = cryo("tasks", "ps", "a")
    head, *lines = out.splitlines()

    assert (code, err) == (0, "warning: CUDA states are not known\n")
    assert " ".join(head.split()) == "PID PPID USER MEMORY GPU CUDA GPU MEMORY COMMAND"
    assert lines[0].endswith(
        "nvidia0,nvidiactl    running    40.0 GiB      python3 train.py --name a b"
    )
    assert lines[1].split() == ["7", "1", "-", "-", "-", "-", "-", "sh", "\\x1b[31m"]
    assert lines[2].split() == ["8", *"-------"]
    rows = json.loads(cryo("--output", "json", "tasks", "ps", "a")[1])
    assert msgspec.convert(rows[0], GuestProcessView) == PROCESSES.processes[0]
    assert rows[2]["uid"] is None


def test_tasks_ps_of_an_earlier_version(cryo: Cryo, sidecar: Sidecar, task: FakeTask) -> None:
    """Of a shim that cannot say what runs, the numbers are shown as before."""

    async def processes(ref: TaskRef) -> ProcessList:
        raise errors.Unimplemented("unknown method ListProcesses")

    sidecar.core.processes = processes  # type: ignore[method-assign]
    code, out, err = cryo("tasks", "ps", "a")

    assert (code, [line.split()[0] for line in out.splitlines()]) == (0, ["PID", "1", "7", "8"])
    assert "earlier version" in err


def test_delete_with_force(cryo: Cryo, sidecar: Sidecar, task: FakeTask) -> None:
    """A task that still runs is refused without -f and killed with it."""
    assert cryo("tasks", "rm", "a")[0] == 5
    assert cryo("tasks", "rm", "-f", "a")[0] == 0
    assert ("kill", A, signal.SIGKILL, "", True) in sidecar.core.calls
    assert sidecar.core.tasks == {}


def test_metrics(cryo: Cryo, task: FakeTask) -> None:
    """Resource use is shown in units for people and exactly for programs."""
    assert "8.0 GiB" in cryo("tasks", "metrics", "a")[1]
    stats = json.loads(cryo("--output", "json", "tasks", "metrics", "a")[1])
    assert stats["memory_bytes"] == 1 << 33


def test_checkpoint_options(cryo: Cryo, sidecar: Sidecar, task: FakeTask, tmp_path: Path) -> None:
    """Every option reaches the core, and a relative path is this folder's."""
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        code, out, err = cryo(
            *("tasks", "checkpoint", "--exit", "--image-path", "img", "--engine", "builtin"),
            *("--cuda", "require", "--connections", "refuse", "--no-seal", "--compress"),
            *("--direct", "--timeout", "1m30s", "a"),
        )
    finally:
        os.chdir(before)

    assert code == 0
    assert out == "/images/a\n"
    assert sidecar.core.calls == [
        (
            "checkpoint",
            A,
            CheckpointOptions(
                image_path=f"{tmp_path}/img",
                exit=True,
                engine=EngineName.BUILTIN,
                cuda=CudaMode.REQUIRE,
                connections=Connections.REFUSE,
                timeout_s=90.0,
                seal=False,
                compress=True,
                direct=True,
            ),
        )
    ]
    assert "process 7 locked" in err
    assert err.count("warning: a connection was cut") == 1
    assert "1.0 TiB, 2 GPU processes by engine phased, 1.75 s" in err


def test_checkpoint_without_options(cryo: Cryo, sidecar: Sidecar) -> None:
    """A checkpoint leaves the task running unless --exit, and JSON is the whole stdout."""
    code, out, _ = cryo("--output", "json", "tasks", "checkpoint", "a")

    assert code == 0
    assert json.loads(out)["digest"] == "blake3:00ff"
    assert sidecar.core.calls == [("checkpoint", A, CheckpointOptions())]


def test_restore_options(cryo: Cryo, sidecar: Sidecar) -> None:
    """Every option reaches the core."""
    code, out, err = cryo(
        *("tasks", "restore", "--image-path", "/i", "--bundle", "/b", "--verify", "full"),
        *("--background", "--direct", "--device-map", "GPU-1=GPU-2,GPU-3=GPU-4"),
        *("--member", "w=w2", "--member", "x=x2"),
        *("--member-bundle", "w=/w", "--member-bundle", "y=/y=1"),
        *("--image-hooks", "--untrusted-folder", "--trust-spec", "--digest", "00ff"),
        *("--stdin", "/0", "--stdout", "/1", "--stderr", "/2", "--timeout", "500ms", "a"),
    )
    cryo("tasks", "restore", "--image-path", "/i", "b")

    assert (code, out) == (0, "")
    assert "restore of a: pid 4321, with w, x" in err
    assert [call[2] for call in sidecar.core.calls] == [
        RestoreOptions(
            image_path="/i",
            bundle="/b",
            stdio=Stdio(stdin="/0", stdout="/1", stderr="/2"),
            verify=Verify.FULL,
            background=True,
            direct=Direct.ON,
            timeout_s=0.5,
            device_map={"GPU-1": "GPU-2", "GPU-3": "GPU-4"},
            members=(
                MemberOptions(saved="w", id="w2", bundle="/w"),
                MemberOptions(saved="x", id="x2"),
                MemberOptions(saved="y", bundle="/y=1"),
            ),
            image_hooks=True,
            untrusted_folder=True,
            trust_spec=True,
            digest="00ff",
        ),
        RestoreOptions(image_path="/i"),
    ]


@pytest.mark.parametrize(
    ("words", "direct"),
    (
        (("b",), Direct.AUTO),
        (("--direct", "b"), Direct.ON),
        (("--direct", "off", "b"), Direct.OFF),
        (("--direct=auto", "b"), Direct.AUTO),
        (("b", "--direct"), Direct.ON),
    ),
)
def test_direct_with_and_without_a_value(
    cryo: Cryo, sidecar: Sidecar, words: tuple[str, ...], direct: Direct
) -> None:
    """A task after it is no value of it."""
    assert cryo("tasks", "restore", "--image-path", "/i", *words)[0] == 0

    [(_, ref, options)] = sidecar.core.calls
    assert (ref.id, options.direct) == ("b", direct)


def test_checkpoints(cryo: Cryo, sidecar: Sidecar) -> None:
    """Images are listed, inspected, verified and deleted."""
    head, line = cryo("checkpoints", "ls")[1].splitlines()
    columns = "IMAGE TASK CREATED SIZE ENGINE PROCESSES NAMES PIN EXPIRES"
    assert head.split() == columns.split()
    assert line.split()[:2] == ["/images/a", "a"]
    assert "llama:warm, llama:a (in k8s.io), llama:b (in k8s.io)" in line
    assert line.split()[-3:] == ["pinned", "2026-11-23", "12:00:00"]
    assert "1.0 TiB" in line
    assert json.loads(cryo("checkpoints", "inspect", "/i")[1]) == MANIFEST
    assert cryo("checkpoints", "verify", "/i")[:2] == (0, "/i: good\n")
    assert cryo("checkpoints", "rm", "/i", "/j")[0] == 0
    assert sidecar.core.calls[-3:] == [
        ("verify", "/i", Verify.FULL, "default"),
        ("remove", "/i", "default"),
        ("remove", "/j", "default"),
    ]


def test_signatures_of_images(cryo: Cryo, sidecar: Sidecar, tmp_path: Path) -> None:
    """The sidecar gets signatures and public keys, and never the private one."""
    cryo("checkpoints", "keygen", str(tmp_path / "key"))
    signed = cryo("checkpoints", "sign", "--key", str(tmp_path / "key"), "llama:warm")
    verified = cryo("checkpoints", "verify", "--key", str(tmp_path / "key.pub"), "llama:warm")

    public = keys.read_public(tmp_path / "key.pub")
    statement, added, verify = sidecar.core.calls
    assert (signed[0], verified[0]) == (0, 0)
    assert f"llama:warm: signed by {tmp_path}/key, id {public.id}" in signed[1]
    assert statement == ("statement", "llama:warm", "default")
    assert added[:3] == ("add_signature", "llama:warm", "default")
    assert (added[3].pem, verify[4].pem) == (public.pem, public.pem)
    assert public.accepts(added[4], signature.to_sign(STATEMENT))
    assert "PRIVATE" not in repr(sidecar.core.calls)


def test_differences_of_images(cryo: Cryo, sidecar: Sidecar) -> None:
    """One line for each; of the environment only names."""
    code, out, _ = cryo("checkpoints", "diff", "/i", "llama:warm")

    assert code == 0
    assert out.splitlines() == [
        "engine: phased -> builtin",
        "container a:",
        "  mounts[/data].source: /x -> -",
        "  environment added: NEW",
        "  environment removed: OLD",
        "  environment changed: TOKEN",
        "pages.img: 1073741824 bytes -> 1073741824 bytes, equal content 900.0 MiB",
        "pages_meta.img: - -> 5 bytes, equal content 0 B",
        "equal content: 900.0 MiB of 1.0 GiB and 1.0 GiB",
    ]
    plain = cryo("--output", "json", "checkpoints", "diff", "/i", "/j")[1]
    assert msgspec.json.decode(plain, type=ImageDiff) == DIFF
    assert sidecar.core.calls == [
        ("diff", "/i", "llama:warm", "default"),
        ("diff", "/i", "/j", "default"),
    ]


def test_names_of_images(cryo: Cryo, sidecar: Sidecar) -> None:
    """Tag, pin and remove by name; the client's namespace is that of the names."""
    assert cryo("checkpoints", "tag", "/i", "llama:warm", "--ttl", "1h")[:2] == (0, "/images/a\n")
    assert cryo("-n", "ns", "checkpoints", "tag", "--remove", "llama:warm", "llama:a")[0] == 0
    assert cryo("checkpoints", "pin", "llama")[:2] == (0, "/images/a\n")
    assert cryo("checkpoints", "unpin", "/i")[:2] == (0, "/images/a\n")
    status, out, _ = cryo("--output", "json", "checkpoints", "rm", "llama", "/i")
    assert (status, json.loads(out)) == (0, {"deleted": ["/i"], "untagged": ["llama"]})
    assert sidecar.core.calls == [
        ("tag", "/i", ImageName(namespace="default", repository="llama", tag="warm"), 3600.0),
        ("untag", "llama:warm", ImageName(namespace="ns", repository="llama", tag="a")),
        ("pin", "llama", "default", True),
        ("pin", "/i", "default", False),
        ("remove", "llama", "default"),
        ("remove", "/i", "default"),
    ]


def test_prune(cryo: Cryo, sidecar: Sidecar) -> None:
    """What was removed and why on stdout, what was not and what is missing on stderr."""
    status, out, err = cryo(
        *("checkpoints", "prune", "--dry-run", "--keep-last", "2", "--older-than", "7d"),
        *("--quota", "200GiB"),
    )

    assert status == 0
    assert [line.split(maxsplit=3) for line in out.splitlines()] == [
        ["IMAGE", "SIZE", "REASON"],
        ["/images/a", "3.0", "GiB", "expired"],
        ["/images/b", "0", "B", "not among the last 2 of ns/t"],
    ]
    assert err.splitlines() == [
        "kept /images/c: in use",
        "2 images would be removed, 3.0 GiB",
        "warning: 1.0 MiB too much is left: what can be removed is not enough",
    ]
    options = PruneOptions(
        dry_run=True, keep_last=2, older_than_s=7 * 86400.0, quota_bytes=200 << 30
    )
    assert sidecar.core.calls == [("prune", options)]
    assert json.loads(cryo("--output", "json", "checkpoints", "prune")[1]) == {
        "removed": [
            {"path": "/images/a", "size_bytes": 3 << 30, "reason": "expired"},
            {"path": "/images/b", "size_bytes": 0, "reason": "not among the last 2 of ns/t"},
        ],
        "kept": [{"path": "/images/c", "reason": "in use"}],
        "missing_bytes": 1 << 20,
    }
    assert sidecar.core.calls[-1] == ("prune", PruneOptions())
    assert cryo("checkpoints", "prune", "--quota", "much")[0] == 2
    assert cryo("checkpoints", "prune", "--keep-last", "0")[0] == 2


@pytest.mark.parametrize(
    ("typed", "sent"),
    (
        ("llama:warm", "llama:warm"),
        ("/x/y", "/x/y"),
        ("./x", "{here}/./x"),
        ("../x", "{here}/../x"),
        ("image", "{here}/image"),
        ("other", "other"),
    ),
)
def test_a_path_or_a_name(
    cryo: Cryo,
    sidecar: Sidecar,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    sent: str,
) -> None:
    """Only what begins like a path, or is an image in the working directory, is made absolute."""
    (tmp_path / "other").mkdir()
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "cryo.json").touch()
    monkeypatch.chdir(tmp_path)

    assert cryo("tasks", "restore", "--image", typed, "job")[0] == 0

    assert sidecar.core.calls[-1][2].image_path == sent.format(here=tmp_path)


def test_a_name_that_is_none(cryo: Cryo) -> None:
    """A text that is neither a path nor a name is an error that says what a name is."""
    status, _, err = cryo("checkpoints", "tag", "/i", "Llama")
    assert status != 0
    assert "'Llama' is neither an absolute path nor the name of an image" in err
    assert "lower-case" in err
    assert cryo("checkpoints", "tag", "/i", "a", "--remove", "--ttl", "1h")[0] == 2


SHOWN = """\
NAME            HITS    MISSES    REFUSALS    SAVES    SKIPS    FAILURES
team-a/llama    3       1         2           1        4        5

LAST                   OUTCOME    COUNT    REASON
2026-11-29 01:00:00    refusal    2        it differs

/images/k8s.io/team-a/llama/f/1
  size               1.0 GiB
  created            2026-11-29 00:00:00
  digest             ab
  runsc              release-1
  spec mounts /tmp   type tmpfs, options nosuid ro
  spec process.args  sh -c 'exec serve'
  spec process.user  uid 0
"""


def test_warm(cryo: Cryo, sidecar: Sidecar) -> None:
    """Names are listed with their counters, shown with reasons and parts, saved and dropped."""
    head, line = cryo("warm", "ls")[1].splitlines()
    assert head.split()[:5] == ["NAME", "IMAGES", "SIZE", "HITS", "MISSES"]
    assert line.split() == ["team-a/llama", "1", "1.0", "GiB", "3", "1", "2", "1", "4", "5"]
    assert cryo("warm", "show", "-k", "team-a", "llama")[1] == SHOWN
    [view] = json.loads(cryo("--output", "json", "warm", "ls")[1])
    assert view["use"]["reasons"][0]["text"] == "it differs"
    assert cryo("warm", "save", "llama", "a")[:2] == (0, f"{RESULT.image_path}\n")
    assert cryo("warm", "rm", "llama")[0] == 2
    assert cryo("warm", "drop", "llama")[0] == 0
    assert sidecar.core.calls[-2:] == [
        ("save", A, "llama"),
        ("drop", ImageRef(namespace="default", name="llama")),
    ]


def test_run_warm(cryo: Cryo, sidecar: Sidecar) -> None:
    """Its options are annotations of the task, beside others; a check alone has no meaning."""
    how = ("--warm", "llama", "--warm-when", "tcp://:80", "--annotation", "io.cryo.verify=full")

    assert cryo("run", "-d", "--bundle", "/b", *how, "a")[0] == 0

    created = next(call[1] for call in sidecar.core.calls if call[0] == "create")
    assert created.annotations == {
        "io.cryo.warm": "llama",
        "io.cryo.warm-when": "tcp://:80",
        "io.cryo.verify": "full",
    }
    assert cryo("run", "-d", "--bundle", "/b", "--warm-when", "self", "a")[0] == 2


def test_info(cryo: Cryo) -> None:
    """The host is described."""
    assert "release-1" in cryo("info")[1]
    assert json.loads(cryo("--output", "json", "info")[1])["engines"] == "builtin, phased"


# --- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
def test_an_error_is_one_line_and_a_code(cryo: Cryo, sidecar: Sidecar, error: CryoError) -> None:
    """Message and remedy are one line on stderr, and the code is the table's."""
    with failing(sidecar.core, error):
        code, out, err = cryo("tasks", "ps", "a")

    assert code == exits.code_of(error)
    assert (out, err) == ("", f"cryo: {error.message}; {error.remedy}\n")


def test_every_class_of_trouble_has_its_own_code() -> None:
    """Codes differ, and none is one that shells use for something else."""
    codes = list(exits.CODES.values())

    assert len(set(codes)) == len(codes)
    assert all(0 < code < 126 for code in codes)
    assert all(f"\n    {code} " in (exits.__doc__ or "") for code in codes)


def test_an_error_of_many_lines_is_one(cryo: Cryo, sidecar: Sidecar) -> None:
    """A message that has lines does not break the rule."""
    with failing(sidecar.core, errors.NotFound("a\n  b\n", remedy="")):
        assert cryo("tasks", "ps", "a") == (3, "", "cryo: a b\n")


@pytest.mark.parametrize(
    ("argv", "said"),
    (
        (("tasks", "nosuch"), "No such command 'nosuch'; see cryo tasks -h"),
        (("tasks", "checkpoint"), "Missing argument"),
        (("tasks", "checkpoint", "--timeout", "soon", "a"), "'soon' is not a duration"),
        (("tasks", "checkpoint", "--timeout", "0", "a"), "greater than 0"),
        (("tasks", "kill", "-s", "NOSUCH", "a"), "is not a signal"),
        (("tasks", "restore", "--image-path", "/i", "--device-map", "a=b,a=c", "x"), "each GPU"),
        (("tasks", "restore", "--image-path", "/i", "--member", "a=", "x"), "'a=' is not old=new"),
        (("tasks", "exec", "-u", "root", "a", "sh"), "UID or UID:GID"),
        (("run", "-d", "-t", "--bundle", "/b", "a"), "-d cannot be combined"),
        (("run", "-t", "--bundle", "/b", "a"), "needs a terminal"),
        (
            (
                "tasks",
                "state/../x",
            ),
            "No such command",
        ),
        (("tasks", "ps", "../x"), "task id '../x' is not valid"),
    ),
    ids=lambda value: None if isinstance(value, str) else "-".join(value)[:40],
)
def test_a_wrong_command_line_is_code_2(cryo: Cryo, argv: tuple[str, ...], said: str) -> None:
    """Usage errors are one line that says where help is, and nothing is asked of the sidecar."""
    code, out, err = cryo(*argv)

    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("cryo: ")
    assert err.count("\n") == 1


def test_no_sidecar_is_code_11(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without a sidecar the remedy is to start one."""
    with pytest.raises(SystemExit) as caught:
        main(["-a", f"unix://{tmp_path}/s", "info"])

    assert caught.value.code == 11
    assert "start one with `cryo serve`" in capfd.readouterr().err


def test_the_address_comes_from_the_environment(
    sidecar: Sidecar, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """$CRYO_ADDRESS and $CRYO_NAMESPACE stand in for the options."""
    monkeypatch.setenv("CRYO_ADDRESS", sidecar.address)
    monkeypatch.setenv("CRYO_NAMESPACE", "other")
    with pytest.raises(SystemExit) as caught:
        main(["tasks", "ls"])

    assert caught.value.code == 0
    assert sidecar.core.calls == [("list", "other")]


# --- attached processes ---------------------------------------------------------------------


@pytest.mark.timeout(60)
def test_run_passes_streams_and_status(sidecar: Sidecar, spawn: Spawn) -> None:
    """Input goes in, both outputs come out, the status is the process's, and --rm forgets it."""
    sidecar.core.status = 7
    cryo = spawn("run", "--rm", "--bundle", "/b", "a")
    big = b"x" * 300_000 + b"\n"
    out, err = cryo.communicate(big, timeout=120)

    assert cryo.returncode == 7
    assert out == b"out\n" + big
    assert err == b"err\n"
    assert sidecar.core.tasks == {}
    assert ("close_io", A, "") in sidecar.core.calls


def test_run_without_rm_leaves_the_task(sidecar: Sidecar, spawn: Spawn) -> None:
    """The stopped task can be asked about, and its fifos are gone."""
    sidecar.core.status = 0
    cryo = spawn("run", "--bundle", "/b", "a", stdin=subprocess.DEVNULL)
    cryo.communicate(timeout=120)
    stdio = sidecar.core.tasks[A].request.stdio

    assert cryo.returncode == 0
    assert not Path(stdio.stdout).parent.exists()


def test_run_detached(cryo: Cryo, sidecar: Sidecar) -> None:
    """With -d the task has no streams and keeps running."""
    assert cryo("run", "-d", "--bundle", "/b", "a") == (0, "", "")
    assert sidecar.core.tasks[A].request.stdio == Stdio()
    assert not any(call[0] == "wait" for call in sidecar.core.calls)


def test_run_that_does_not_start_leaves_nothing(sidecar: Sidecar, spawn: Spawn) -> None:
    """A task that was made but did not start is removed, and the error is printed."""

    async def fail(ref: TaskRef, exec_id: str = "") -> int:
        raise errors.InvalidBundle("no such program", remedy="look at args")

    sidecar.core.start = fail  # type: ignore[method-assign]  # one test's own fault
    for more in ((), ("-d",)):
        sidecar.core.calls.clear()
        cryo = spawn("run", *more, "--bundle", "/b", "a", stdin=subprocess.DEVNULL)
        _, err = cryo.communicate(timeout=120)

        assert cryo.returncode == 2
        assert err == b"cryo: no such program; look at args\n"
        assert sidecar.core.tasks == {}


def test_a_run_of_a_taken_id_leaves_the_other(
    sidecar: Sidecar, spawn: Spawn, task: FakeTask
) -> None:
    """Cleaning up after a failed create does not touch the task that was there."""
    cryo = spawn("run", "--rm", "--bundle", "/b", "a", stdin=subprocess.DEVNULL)
    cryo.communicate(timeout=120)

    assert cryo.returncode == 4
    assert sidecar.core.tasks == {A: task}


def test_exec_takes_the_tasks_own_process(sidecar: Sidecar, spawn: Spawn, tmp_path: Path) -> None:
    """Environment, folder and user are the task's own unless they are given."""
    own = {"args": ["x"], "cwd": "/w", "env": ["A=1"], "user": {"uid": 5, "gid": 6}}
    (tmp_path / "config.json").write_text(json.dumps({"process": own}))
    sidecar.core.tasks[A] = FakeTask(CreateRequest(ref=A, bundle=str(tmp_path)))
    sidecar.core.status = 3
    cryo = spawn("tasks", "exec", "--exec-id", "e", "-e", "B=2", "-u", "9", "a", "sh", "-c", "x")
    out, _ = cryo.communicate(b"in\n", timeout=120)
    [spec] = [call[3] for call in sidecar.core.calls if call[0] == "exec"]

    assert (cryo.returncode, out) == (3, b"out\nin\n")
    assert spec == {
        "args": ["sh", "-c", "x"],
        "cwd": "/w",
        "env": ["A=1", "B=2"],
        "user": {"uid": 9, "gid": 0},
        "terminal": False,
    }
    assert ("delete", A, "e") in sidecar.core.calls


@pytest.mark.parametrize("config", (b"", b"[]", b'{"process": 5}', b"\xff"), ids=range(4))
def test_exec_without_a_readable_bundle(
    cryo: Cryo, sidecar: Sidecar, tmp_path: Path, config: bytes
) -> None:
    """A bundle that cannot be read gives a plain process, as root in /."""
    (tmp_path / "config.json").write_bytes(config)
    sidecar.core.tasks[A] = FakeTask(CreateRequest(ref=A, bundle=str(tmp_path)))
    assert cryo("tasks", "exec", "-d", "a", "sh")[0] == 0
    [spec] = [call[3] for call in sidecar.core.calls if call[0] == "exec"]

    assert (spec["cwd"], spec["user"]) == ("/", {"uid": 0, "gid": 0})


def test_signals_go_to_the_process(sidecar: Sidecar, spawn: Spawn) -> None:
    """What is sent to `cryo run` is for the process, and its status says so."""
    cryo = spawn("run", "--bundle", "/b", "a")
    sidecar.wait_for(sidecar.core.waiting)
    cryo.send_signal(signal.SIGTERM)
    cryo.communicate(timeout=120)

    assert cryo.returncode == 128 + signal.SIGTERM
    assert ("kill", A, signal.SIGTERM, "", False) in sidecar.core.calls


def test_the_third_ctrl_c_kills(sidecar: Sidecar, spawn: Spawn) -> None:
    """A process that looks away from Ctrl-C is killed at the third."""
    core = sidecar.core
    seen: list[int] = []

    async def ignore(ref: TaskRef, signal: int, **_: object) -> None:
        seen.append(signal)
        if signal == 9:
            core.end(ref, 137)

    core.kill = ignore  # type: ignore[method-assign]  # one test's own process
    cryo = spawn("run", "--bundle", "/b", "a")
    sidecar.wait_for(core.waiting)
    deadline = time.monotonic() + 20
    for count in (1, 2, 3):
        cryo.send_signal(signal.SIGINT)
        while len(seen) < count and time.monotonic() < deadline:
            time.sleep(0.01)
    cryo.communicate(timeout=120)

    assert seen == [signal.SIGINT, signal.SIGINT, signal.SIGKILL]
    assert cryo.returncode == 137


def test_a_terminal_is_raw_and_put_back(sidecar: Sidecar, spawn: Spawn) -> None:
    """With -t the size is set, one output is used, and the terminal is as before at the end."""
    import fcntl
    import struct
    import termios

    sidecar.core.status = 0
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 80, 0, 0))
    before = termios.tcgetattr(slave)
    cryo = spawn("run", "-t", "--bundle", "/b", "a", stdin=slave, stdout=slave, stderr=slave)
    seen = b""
    while b"out" not in seen:
        seen += os.read(master, 100)
    raw = termios.tcgetattr(slave)
    # On the server's loop the program is there as soon as its output has been seen.
    sidecar.call(lambda: sidecar.core.close_io(A))
    sidecar.do(sidecar.core.end, A, 0)
    status = cryo.wait(30)
    after = termios.tcgetattr(slave)
    os.close(master)
    os.close(slave)

    assert status == 0
    assert not raw[3] & termios.ICANON
    assert after == before
    assert ("resize_pty", A, 80, 25, "") in sidecar.core.calls
    assert sidecar.core.tasks[A].request.stdio.stderr == ""
    assert sidecar.core.tasks[A].request.stdio.terminal


# --- Ctrl-C and start-up --------------------------------------------------------------------


def test_ctrl_c_rolls_back_and_says_so(sidecar: Sidecar, spawn: Spawn) -> None:
    """Ctrl-C ends a checkpoint with 130, after the rollback, and says that it is over."""
    core = sidecar.core
    core.hold, core.rollback_s = True, 0.3
    cryo = spawn("tasks", "checkpoint", "a")
    sidecar.wait_for(core.holding)
    cryo.send_signal(signal.SIGINT)
    out, err = cryo.communicate(timeout=120)

    assert cryo.returncode == exits.INTERRUPTED
    assert core.rolled_back.is_set()
    assert out == b""
    assert b"cancelling the checkpoint of task a" in err
    assert b"cancelled and rolled back" in err
    assert b"Traceback" not in err


def test_a_second_ctrl_c_does_not_wait(sidecar: Sidecar, spawn: Spawn) -> None:
    """A caller that cannot wait for the rollback may leave; the sidecar completes it."""
    core = sidecar.core
    core.hold, core.rollback_s = True, 3.0
    cryo = spawn("tasks", "checkpoint", "a")
    assert cryo.stderr is not None
    sidecar.wait_for(core.holding)
    cryo.send_signal(signal.SIGINT)
    while b"cancelling" not in cryo.stderr.readline():
        pass
    cryo.send_signal(signal.SIGINT)
    _, err = cryo.communicate(timeout=120)

    assert cryo.returncode == exits.INTERRUPTED
    assert not core.rolled_back.is_set()
    assert b"Traceback" not in err
    sidecar.wait_for(core.rolled_back)


def test_a_closed_pipe_is_no_traceback(sidecar: Sidecar, spawn: Spawn, task: FakeTask) -> None:
    """When the reader of our output leaves, so do we, quietly."""
    read, write = os.pipe()
    os.close(read)
    cryo = spawn("tasks", "ls", stdout=write)
    os.close(write)
    _, err = cryo.communicate(timeout=120)

    assert err == b""
    assert cryo.returncode == 1


def test_a_name_that_the_locale_cannot_write_is_escaped(sidecar: Sidecar, spawn: Spawn) -> None:
    """A name in another script is no traceback where the output has a small character set."""
    for encoding, shown in (("latin-1", b"gr\xf6\xdfe-\\u753b"), ("utf-8", "größe-画".encode())):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        cryo = spawn("checkpoints", "verify", "/größe-画", env=environment)
        out, err = cryo.communicate(timeout=120)

        assert out.startswith(b"/" + shown + b": good")
        assert b"Traceback" not in err
        assert cryo.returncode == 0


@pytest.mark.parametrize("argv", (("--help",), ("version",), ("tasks", "--help"), ("-v",)), ids=str)
def test_starting_loads_no_grpc(argv: tuple[str, ...]) -> None:
    """Help and version come without gRPC, protobuf or asyncio, and so at once."""
    program = (
        "import sys\n"
        "from shim.entry.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n"
        "    heavy = {'grpc', 'google.protobuf', 'asyncio', 'blake3', 'yaml'} & set(sys.modules)\n"
        "    print(sorted(heavy), file=sys.stderr)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, *argv], capture_output=True, text=True, check=True
    )

    assert ran.stderr == "[]\n"
    assert ran.stdout


@pytest.mark.parametrize(
    ("changes", "moves"),
    (({}, True), ({"NO_COLOR": "1"}, True), ({"TERM": "dumb"}, False), ({"TERM": ""}, False)),
)
def test_progress_on_a_terminal(
    spawn: Spawn, task: FakeTask, changes: dict[str, str], *, moves: bool
) -> None:
    """It is redrawn in place, without colours if these are not wanted, and not if it cannot be."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"} | changes
    environment = {
        n: v for n, v in environment.items() if n not in {"NO_COLOR", *changes}
    } | changes
    running = spawn("tasks", "checkpoint", "a", stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    # The end of a terminal is an error.
    with contextlib.suppress(OSError):
        while read := os.read(ours, 1 << 16):
            shown += read
    os.close(ours)

    assert running.wait(60) == 0
    assert "process 7" in shown.decode()
    assert (b"\x1b[" in shown) == moves
    assert (b"\x1b[3" in shown) == (moves and not changes)
    assert b"warning: a connection was cut" in shown


@pytest.mark.parametrize(("terminal", "expected"), ((True, "yes"), (False, "no")))
def test_rich_is_loaded_for_a_terminal_alone(
    sidecar: Sidecar, task: FakeTask, *, terminal: bool, expected: str
) -> None:
    """A pipe or a file has lines, which need no rich."""
    program = (
        "import sys\n"
        "from shim.entry.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    print('loaded', 'yes' if 'rich' in sys.modules else 'no')\n"
    )
    ours, theirs = pty.openpty()
    ran = subprocess.run(
        [sys.executable, "-c", program, "-a", sidecar.address, "tasks", "checkpoint", "a"],
        stdout=subprocess.PIPE,
        stderr=theirs if terminal else subprocess.PIPE,
        env={**os.environ, "TERM": "xterm"},
        check=True,
    )
    os.close(theirs)
    os.close(ours)

    assert ran.stdout.decode().split()[-2:] == ["loaded", expected]


async def test_nothing_waits_for_ever() -> None:
    """The tests above rely on it: a core that is asked for nothing has nothing open."""
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize(
    ("argv", "listens"),
    (
        (("serve",), ""),
        (("-a", "unix:///a", "serve"), "unix:///a"),
        (("-a", "unix:///a", "serve", "--address", "unix:///b"), "unix:///b"),
    ),
)
def test_serve_listens_at_its_address(
    argv: tuple[str, ...], listens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address of all commands is the sidecar's too, when it was given; else config.toml's."""
    seen: list[serve.Overrides] = []
    monkeypatch.delenv("CRYO_ADDRESS", raising=False)
    monkeypatch.setattr(serve, "run", lambda _path, over, *_logs: seen.append(over))
    with pytest.raises(SystemExit):
        main(list(argv))

    assert [over.address for over in seen] == [listens]


def test_every_option_of_every_command_has_a_help_text() -> None:
    """Every option has a help text."""
    silent = [
        f"{command.name} {option.opts[0]}"
        for command in all_commands(cryo_command)
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ]

    assert silent == []


def all_commands(command: click.Command) -> Iterator[click.Command]:
    """Give a command and all below it."""
    yield command
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        yield from all_commands(below)


def _is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a signal waits for its delivery, where another one of it would be lost."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    waiting = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (number - 1) & 1 for mask in waiting)


def test_ctrl_c_before_the_start(sidecar: Sidecar, spawn: Spawn) -> None:
    """A start that hangs can be given up, and nothing is left of the task."""
    core = sidecar.core
    starting = asyncio.Event()

    async def hang(ref: TaskRef, exec_id: str = "") -> int:
        starting.set()
        await asyncio.Event().wait()
        return 0

    core.start = hang  # type: ignore[method-assign]  # one test's own fault
    cryo = spawn("run", "--bundle", "/b", "a")
    sidecar.wait_for(starting)
    # No more than are needed: one that comes when its handler is gone would kill it.
    for _ in range(3):
        cryo.send_signal(signal.SIGINT)
        wait_until(lambda: not _is_pending(cryo.pid, signal.SIGINT), "its delivery", 60)
    _, err = cryo.communicate(timeout=120)

    assert cryo.returncode == 7
    assert err == b"cryo: interrupted before the process started\n"
    assert core.tasks == {}


def test_what_an_image_would_have_of_the_host_is_listed(
    cryo: Cryo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a verification, a line each; and an image that was not sealed is not called good."""
    access = {
        "task": "t",
        "rootfs": "/r",
        "hooks": [{"when": "poststop", "path": "/h", "args": ["h", "\x1b[2J"]}],
        "mounts": [{"source": "/etc", "destination": "/e", "writable": True}],
        "devices": ["/dev/nvidia0"],
        "namespaces": ["/run/netns/x"],
    }
    monkeypatch.setattr(fakes, "MANIFEST", {"sealed": False, "host_access": [access]})

    assert cryo("checkpoints", "verify", "/i")[1].splitlines() == [
        "/i: complete, but not sealed: its content was not verified",
        "t: root filesystem /r",
        "  hook poststop: h \\x1b[2J",
        "  mount /etc at /e, writable",
        "  device /dev/nvidia0",
        "  namespace /run/netns/x",
    ]
