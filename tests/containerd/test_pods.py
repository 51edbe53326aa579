"""Pods under a real containerd: checkpointed as by the kubelet, and restored."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hack.examples import task_api
from hack.tools.running import NotHere
from shim.simgpu.simulation import Settings, Simulation
from tests.builds import RunscBuild, excuse
from tests.containerd import gpu
from tests.containerd.api import Api
from tests.containerd.beside import Beside, serving
from tests.containerd.builds import LINES, ContainerdBuild, find_containerd
from tests.containerd.config import Cri
from tests.containerd.conftest import make_ready, program
from tests.containerd.cri.client import Kubelet, Pod, Wanted
from tests.containerd.cryo import COUNT, COUNTS, GPU_FLAGS, RUNTIME, Cryo
from tests.containerd.image import PAUSE, REFERENCE
from tests.containerd.place import Place
from tests.containerd.sidecar import write_rootfs

HANDLER = "cryo"
COUNTER = ["sh", "-c", COUNT]


@pytest.fixture(scope="module")
def node(
    containerd_build: ContainerdBuild,
    place: Place,
    runsc_new: RunscBuild,
    archive: Path,
    pause_archive: Path,
) -> Iterator[Cryo]:
    """Yield a containerd of each line with the CRI plugin, our runtime and criu."""
    plugin = Cri(sandbox_image=PAUSE, runtimes={HANDLER: RUNTIME})
    criu = {"criu": program("criu")}
    with Cryo(containerd_build, place, runsc_new.path, cri=plugin, programs=criu) as made:
        make_ready(made, archive, pause_archive, handler=HANDLER)
        yield made


@pytest.fixture(scope="module")
def beside(node: Cryo) -> Iterator[Beside]:
    """Yield a client of a sidecar with the settings of the shims, for the kubelet's containers."""
    with serving(node, "k8s.io") as client:
        yield client


@pytest.fixture
def kubelet(node: Cryo, beside: Beside) -> Iterator[Kubelet]:
    """Yield a client; afterwards remove the test's pods and check that nothing is left."""
    before = node.look()
    with Kubelet(node.address) as made:
        yield made
        assert made.pods() == []
    # The sidecar keeps the directories of a namespace in which it had tasks.
    left = node.left_behind(before, (f"{node.state}/runsc/", f"{node.state}/tasks/"))
    assert not left, "\n".join(left)


@pytest.fixture
def pod(node: Cryo, kubelet: Kubelet) -> Iterator[Pod]:
    """Yield a running pod in our runtime."""
    made = kubelet.run_pod(
        "pod", node.folder / "scratch" / "logs", handler=HANDLER, cgroup=node.cgroup
    )
    try:
        yield made
    finally:
        kubelet.remove_pod(made)


# containerd has no CheckpointContainer before 2.0.
@pytest.mark.parametrize("containerd_build", LINES[2:], indirect=True)
def test_the_kubelet_saves_a_container(node: Cryo, kubelet: Kubelet, pod: Pod) -> None:
    """CheckpointContainer writes an archive with the image of the whole pod, which keeps running.

    Its layer has nothing of runsc: the pod is paused for as long as that is read.
    """
    names = ("one", "two")
    containers = [kubelet.run(pod, Wanted(name, REFERENCE, COUNTER)) for name in names]
    before = [count(kubelet, one) for one in containers]
    path = node.folder / "scratch" / "one.tar"

    kubelet.checkpoint(containers[0], path)

    with tarfile.open(path) as tar:
        manifest = json.load(tar.extractfile("checkpoint/cryo.json") or io.BytesIO())
        with tarfile.open(fileobj=tar.extractfile("rootfs-diff.tar"), mode="r|*") as layer:
            written = layer.getnames()
    assert not [name for name in written if ".gvisor" in name]
    assert manifest["task"] == pod.id
    saved = {member["name"]: member["task"] for member in manifest["members"]}
    assert saved == dict(zip(names, containers, strict=True))
    after = [count(kubelet, one) for one in containers]
    assert all(now > then for now, then in zip(after, before, strict=True))
    assert kubelet.pod_state(pod) == "SANDBOX_READY"
    path.unlink()


def count(kubelet: Kubelet, container: str) -> int:
    """Wait until the count of a container increases; return its first value."""
    return int(kubelet.exec(container, "sh", "-c", COUNTS).stdout)


# containerd 1.6 mounts /dev/shm twice, which runsc does not restore under another id.
@pytest.mark.every_combination
@pytest.mark.parametrize("containerd_build", LINES[1:], indirect=True)
def test_a_pod_of_the_kubelet_comes_back_beside_it(
    node: Cryo, kubelet: Kubelet, pod: Pod, beside: Beside
) -> None:
    """`cryo` restores a copy of a pod under other ids, also from the kubelet's archive."""
    containers = [kubelet.run(pod, Wanted(name, REFERENCE, COUNTER)) for name in ("one", "two")]
    before = [count(kubelet, one) for one in containers]
    image = node.folder / "scratch" / node.fresh("image")
    if node.build.numbers < (2, 0):
        beside("tasks", "checkpoint", "--image-path", str(image), containers[1])
    else:
        unpack(kubelet, containers[1], image)

    renamed = [f"{one}=copy-{at}" for at, one in enumerate(containers)]
    words = [word for pair in renamed for word in ("--member", pair)]
    beside("tasks", "restore", "--image-path", str(image), *words, "copy")

    copies = ("copy-0", "copy-1")
    found = [int(beside("tasks", "exec", one, "sh", "-c", COUNTS).out) for one in copies]
    assert all(now >= then for now, then in zip(found, before, strict=True))
    beside("tasks", "delete", "--force", *copies, "copy")
    assert all(count(kubelet, one) > 0 for one in containers)
    shutil.rmtree(image)


def unpack(kubelet: Kubelet, container: str, image: Path) -> None:
    """Checkpoint a container as the kubelet does, and extract the image from the archive."""
    archive = image.with_suffix(".tar")
    kubelet.checkpoint(container, archive)
    with tarfile.open(archive) as tar:
        inside = [member for member in tar.getmembers() if member.name.startswith("checkpoint/")]
        for member in inside:
            member.name = member.name.removeprefix("checkpoint/")
        tar.extractall(image, inside, filter="data")
    archive.unlink()


# -- by containerd's Task service ------------------------------------------------------------------

ONES = ("pod", "one", "two")


def spec(name: str) -> dict[str, Any]:
    """Write the spec of a container of a pod as the CRI plugin does."""
    made = task_api.spec(["sleep", "10000"] if name == "pod" else COUNTER)
    made["root"]["readonly"] = False
    return {**made, "annotations": cri_of(name)}


def cri_of(name: str) -> dict[str, str]:
    """Return the annotations of a container as set by the CRI plugin."""
    return {
        "io.kubernetes.cri.container-type": "sandbox" if name == "pod" else "container",
        "io.kubernetes.cri.sandbox-id": "pod",
        "io.kubernetes.cri.container-name": name,
    }


@contextlib.contextmanager
def removing_pod(cryo: Cryo) -> Iterator[None]:
    """Delete the pod at the end, its sandbox last, in whatever state it is."""
    try:
        yield
    finally:
        for name in reversed(ONES):
            cryo.remove(name)


@pytest.fixture
def api(cryo: Cryo, nothing_left: None) -> Iterator[Api]:
    """Yield the services of a containerd of each line, with a running pod."""
    rootfs = write_rootfs(cryo.folder / "scratch" / cryo.fresh("rootfs"), program("busybox"))
    with Api(cryo) as made, removing_pod(cryo):
        for name in ONES:
            made.container(name, spec(name))
            made.create(name, rootfs)
            made.start(name)
        yield made
    shutil.rmtree(rootfs)


# ctr 1.x sends no options to runtimes other than runc.
@pytest.mark.parametrize("containerd_build", LINES[2:], indirect=True)
def test_containerd_brings_a_pod_back(cryo: Cryo, api: Api) -> None:
    """With one image for all, the sandbox's Start returns at once; all run after the last Start."""
    before = [cryo.until_counts(name) for name in ONES[1:]]
    path = cryo.folder / "scratch" / cryo.fresh("image")
    rootfs = next((cryo.folder / "scratch").glob("rootfs-*"))
    with cryo.images_apart():
        cryo.ctr("tasks", "checkpoint", "--image-path", str(path), "two")
    for name in reversed(ONES):
        api.end(name)

    for name in ONES:
        api.create(name, rootfs, str(path))
    pids = []
    for name in ONES:
        pids.append(api.start(name))
        # Asked for its resource usage, the sandbox would crash before it is loaded.
        measured = [cryo.ctr("tasks", "metrics", one, check=False) for one in ONES[1:]]
        assert all(bool(one.status) == (name != ONES[-1]) for one in measured)

    assert len(set(pids)) == 1
    assert {name: cryo.status(name) for name in ONES} == dict.fromkeys(ONES, "RUNNING")
    after = [cryo.until_counts(name) for name in ONES[1:]]
    assert all(then <= now for then, now in zip(before, after, strict=True))
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def gpu_node(simulation: Simulation, gpu_place: Place) -> Iterator[Cryo]:
    """Yield the newest containerd on a machine with a GPU, with nvproxy in every sandbox.

    A pod's sandbox is created before its containers request a GPU.
    """
    flags = {**GPU_FLAGS, "nvproxy": "true"}
    settings = {"cuda": simulation.settings_of_cuda(), "host": simulation.settings_of_host()}
    try:
        build = find_containerd(LINES[-1])
    except NotHere as no:
        excuse(str(no))
    with Cryo(build, gpu_place, simulation.runsc, flags=flags, settings=settings) as made:
        yield made


@pytest.mark.parametrize("engine", ("builtin", pytest.param("phased", marks=pytest.mark.long)))
def test_containerd_brings_a_pod_with_a_gpu_back(
    gpu_node: Cryo, simulation: Simulation, engine: str
) -> None:
    """Its CUDA processes are frozen with the pod, and work in the restored container."""
    guest = gpu.CtrGuest(gpu_node)
    path = gpu_node.folder / "scratch" / gpu_node.fresh("image")
    kinds = {"pod": Settings(gpu=False), "one": Settings(processes=2), "two": Settings(gpu=False)}
    with Api(gpu_node) as api, removing_pod(gpu_node), serving(gpu_node) as client:
        for name, settings in kinds.items():
            written = gpu.write_spec(simulation, gpu_node, name, settings, cri_of(name))
            api.container(name, json.loads(written.read_text("utf-8")))
            api.create(name)
            api.start(name)
            simulation.until_ready(guest, name)
        how = ("--engine", engine, "--image-path", str(path), "two")
        assert client.ask("tasks", "checkpoint", *how)["engine"] == engine
        assert all(simulation.verify(guest, name).intact for name in ONES)
        for name in reversed(ONES):
            api.end(name)

        for name in ONES:
            api.create(name, image_path=str(path))
        for name in ONES:
            api.start(name)

        assert all(simulation.works(guest, name) for name in ONES)
        assert all(simulation.verify(guest, name).intact for name in ONES)
    shutil.rmtree(path)
