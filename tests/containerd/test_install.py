"""The unchanged files of hack/containerd/install, with containerd, CRI and Docker."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shim.simgpu.waiting import wait_until
from tests.builds import RunscBuild
from tests.containerd import cryo
from tests.containerd.builds import ContainerdBuild, find_containerd
from tests.containerd.config import Cri
from tests.containerd.conftest import make_ready, program
from tests.containerd.cri.client import Kubelet, Pod, Wanted, log_lines
from tests.containerd.cryo import Cryo
from tests.containerd.docker import Dockerd
from tests.containerd.image import PAUSE, REFERENCE
from tests.containerd.place import Place

INSTALL = Path(__file__).resolve().parents[2] / "hack/containerd/install"
HANDLER = "cryo"
IMAGE = "cryobox:1"
COUNT = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done"


def drop_in(build: ContainerdBuild) -> dict[str, Any]:
    """Return the config of the runtime for a line: 2.x by a drop-in file, 1.x in its main file."""
    if build.config_version > 2:
        return {"imports": [INSTALL / "containerd-2.toml"]}
    text = (INSTALL / "containerd-1.toml").read_text("utf-8")
    return {"config": text.replace("version = 2\n", "")}


@pytest.fixture(scope="module")
def node(
    containerd_build: ContainerdBuild,
    place: Place,
    runsc_new: RunscBuild,
    archive: Path,
    pause_archive: Path,
) -> Iterator[Cryo]:
    """Yield a containerd of each line with the CRI plugin and our runtime."""
    plugin = Cri(sandbox_image=PAUSE)
    how = drop_in(containerd_build)
    with Cryo(containerd_build, place, runsc_new.path, cri=plugin, **how) as made:
        make_ready(made, archive, pause_archive, handler=HANDLER)
        yield made


@pytest.fixture
def kubelet(node: Cryo) -> Iterator[Kubelet]:
    """Yield a client; afterwards remove the test's pods and check that nothing is left."""
    before = node.look()
    with Kubelet(node.address) as made:
        yield made
        assert made.pods() == []
    left = node.left_behind(before)
    assert not left, "\n".join(left)


@pytest.fixture
def pod(node: Cryo, kubelet: Kubelet) -> Iterator[Pod]:
    """Yield a running pod in our runtime."""
    logs = node.folder / "scratch" / "logs"
    made = kubelet.run_pod("pod", logs, handler=HANDLER, cgroup=node.cgroup)
    try:
        yield made
    finally:
        kubelet.remove_pod(made)
        shutil.rmtree(logs)


def test_a_pod_with_two_containers(kubelet: Kubelet, pod: Pod) -> None:
    """Two containers of a pod run, take an exec each, write logs, report stats and are stopped."""
    loop = ["sh", "-c", "echo begun; sleep 100"]
    wanted = [Wanted(name, REFERENCE, loop) for name in ("one", "two")]

    containers = [kubelet.run(pod, one) for one in wanted]

    assert kubelet.pod_state(pod) == "SANDBOX_READY"
    for container in containers:
        ran = kubelet.exec(container, "sh", "-c", "echo in; echo err >&2; exit 3")
        assert (ran.stdout, ran.stderr, ran.exit_code) == (b"in\n", b"err\n", 3)
        assert kubelet.stats(container).memory.working_set_bytes.value > 0
        kubelet.stop(container)
        assert kubelet.until_exited(container).exit_code == 137
    assert [log_lines(pod, one) for one in wanted] == [["begun"], ["begun"]]


def test_an_exit_code_is_seen(kubelet: Kubelet, pod: Pod) -> None:
    """The exit code of a container that exits is reported, and it can be started again."""
    for code in (7, 0):
        name = f"ends-{code}"
        container = kubelet.run(pod, Wanted(name, REFERENCE, ["sh", "-c", f"exit {code}"]))

        assert kubelet.until_exited(container).exit_code == code


@pytest.fixture(scope="module")
def dockerd(
    place: Place, runsc_new: RunscBuild, runc: Path, archive: Path, docker_build: Path
) -> Iterator[Dockerd]:
    """Yield a dockerd with our runtime, as daemon.json names it."""
    program("containerd-1.7")
    folder = place.folder_for("dc")
    config = cryo.write_config(folder, runsc_new.path, cryo.FLAGS, {})
    wanted = json.loads((INSTALL / "daemon.json").read_text("utf-8"))["runtimes"]
    with Dockerd(
        docker_build,
        find_containerd("1.7"),
        place,
        programs={"runc": runc, cryo.LAUNCHER: cryo.write_launcher(folder)},
        runtimes={name: entry["runtimeType"] for name, entry in wanted.items()},
        env={"CRYO_CONFIG": str(config)},
    ) as made:
        made.docker("load", "--input", str(archive))
        run_in(made, "--rm", IMAGE, "true")
        yield made


@pytest.fixture
def docker(dockerd: Dockerd) -> Iterator[Dockerd]:
    """Yield the dockerd; afterwards check that nothing is left."""
    before = dockerd.look()
    yield dockerd
    left = dockerd.left_behind(before)
    assert not left, "\n".join(left)


def run_in(dockerd: Dockerd, *arguments: str, check: bool = True) -> tuple[str, int]:
    """Run a container in our runtime; return its output and exit code."""
    how = ("--runtime", HANDLER, "--network", "none")
    ran = dockerd.docker("run", *how, *arguments, check=check)
    return ran.out, ran.status


def test_docker_runs_to_the_end(docker: Dockerd) -> None:
    """`docker run --runtime` returns the container's output and exit code."""
    command = ("sh", "-c", "echo hello; exit 7")

    assert run_in(docker, "--rm", IMAGE, *command, check=False) == ("hello\n", 7)


def test_a_container_of_docker(docker: Dockerd) -> None:
    """Exec, stats, pause, unpause, logs, kill and remove work."""
    run_in(docker, "--detach", "--name", "stays", IMAGE, "sh", "-c", "echo begun; sleep 100")

    assert docker.docker("exec", "stays", "echo", "in").out == "in\n"
    stats = docker.docker("stats", "--no-stream", "--format", "{{.PIDs}}", "stays").out
    assert int(stats) > 0
    docker.docker("pause", "stays")
    assert docker.inspect("stays")["State"]["Status"] == "paused"
    docker.docker("unpause", "stays")
    assert docker.docker("logs", "stays").out == "begun\n"
    docker.docker("kill", "stays")
    assert docker.docker("wait", "stays").out == "137\n"
    docker.docker("rm", "stays")


def test_docker_checkpoint_and_start(docker: Dockerd) -> None:
    """After a kill, a container continues where it was saved.

    Docker passes no options to runtimes other than runc: the container runs on after the save.
    """
    run_in(docker, "--detach", "--name", "counts", IMAGE, "sh", "-c", COUNT)
    wait_until(lambda: len(numbers_of(docker)) > 5, "some counting", 10.0)

    docker.docker("checkpoint", "create", "counts", "saved")
    docker.docker("kill", "counts")
    before = numbers_of(docker)
    # Docker stores the image again, which fails until containerd has collected the first.
    start = ("start", "--checkpoint", "saved", "counts")
    wait_until(lambda: docker.docker(*start, check=False).status == 0, "a start", 20.0)
    wait_until(lambda: len(numbers_of(docker)) > len(before) + 3, "more counting", 10.0)
    docker.docker("kill", "counts")

    after = numbers_of(docker)[len(before) :]
    assert 5 < after[0] <= before[-1] + 1
    assert after == list(range(after[0], after[0] + len(after)))
    docker.docker("rm", "counts")


@pytest.fixture
def job(docker: Dockerd) -> Iterator[str]:
    """Yield a running container; remove it at the end."""
    run_in(docker, "--detach", "--name", "job", IMAGE, "sleep", "1000")
    yield "job"
    docker.docker("rm", "--force", "job")


@pytest.mark.parametrize(
    ("argv", "runsc"),
    (
        # containerd pauses a task before a checkpoint.
        (("checkpoint", "create", "job", "saved"), "pause"),
        (("exec", "job", "true"), "exec"),
    ),
    ids=("checkpoint", "exec"),
)
def test_docker_kill_gets_through(
    docker: Dockerd, job: str, argv: tuple[str, ...], runsc: str
) -> None:
    """A kill ends a container whose sandbox hangs, and pending calls fail."""
    (sandbox,) = docker.processes(f"^runsc-sandbox .*{docker.inspect(job)['Id']}")
    os.kill(sandbox, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(docker.docker, *argv, check=False)
            command = f"/moby .*{runsc} "
            wait_until(lambda: bool(docker.processes(command)), f"runsc {runsc}", 20.0)

            docker.docker("kill", job)

            assert docker.docker("wait", job).out == "137\n"
            assert work.result(60).status != 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(sandbox, signal.SIGCONT)


def numbers_of(dockerd: Dockerd) -> list[int]:
    """Return the output of the counting container so far."""
    return [int(line) for line in dockerd.docker("logs", "counts").out.split()]
