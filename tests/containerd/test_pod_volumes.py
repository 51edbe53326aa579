"""Volumes and networks of pods, and what comes back of them in another pod of the template."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from shim.simgpu import toml
from shim.simgpu.waiting import wait_until
from tests.builds import RunscBuild
from tests.containerd.api import Api
from tests.containerd.builds import find_containerd
from tests.containerd.conftest import program
from tests.containerd.cryo import COUNT, FLAGS, Cryo
from tests.containerd.kubelet_pod import KubeletPod
from tests.containerd.place import Place
from tests.containerd.sidecar import write_rootfs
from tests.containerd.warned import warnings_of

# Keeps files open in all volumes, and its working directory in one.
WRITER = """
mkdir -p /scratch/place && cd /scratch/place
exec 5>>/scratch/log 6>>/memory/log 7>>/dev/shm/log 8</conf/key
i=0
while true; do
  i=$((i+1)); echo $i >&5; echo $i >&6; echo $i >&7;
  { pwd; ls -l /proc/$$/fd/8; cat /proc/$$/fd/8; } > new; mv new seen
  echo $i > /count; sleep 0.1
done
"""
IDLE = ("sleep", "100000")
Pods = Callable[[], KubeletPod]


@pytest.fixture(scope="module")
def kubelet(place: Place) -> Path:
    """Return the root directory of a kubelet."""
    return place.folder_for("kubelet")


@pytest.fixture(scope="module")
def node(place: Place, kubelet: Path, runsc: RunscBuild, archive: Path) -> Iterator[Cryo]:
    """Yield the newest containerd with each runsc."""
    program("containerd-2.4")
    settings: toml.Tables = {"pods": {"kubelet": str(kubelet), "restore": True}}
    build = find_containerd("2.4")
    # The older one sets up no network on newer kernels.
    flags = {} if runsc.has_builtin else FLAGS
    with Cryo(build, place, runsc.path, flags=flags, settings=settings) as made:
        # The first container starts the fork server and creates shared directories; so does umount.
        made.import_image(archive)
        made.run("first", "true")
        place.do("mkdir", "-p", "/run/mount")
        yield made


@pytest.fixture
def pods(node: Cryo, kubelet: Path) -> Iterator[Pods]:
    """Yield what makes a pod; afterwards all are removed, with nothing left of them."""
    rootfs = write_rootfs(node.folder / "scratch" / node.fresh("rootfs"), program("busybox"))
    before = node.look()
    with Api(node) as api, contextlib.ExitStack() as stack:

        def make() -> KubeletPod:
            pod = KubeletPod(node, api, rootfs, kubelet)
            stack.callback(pod.remove)
            return pod

        yield make
    shutil.rmtree(rootfs)
    left = node.left_behind(before)
    assert not left, "\n".join(left)


OLD_TIME, TIME, NEW_TIME = (f"2026_11_28_12_00_0{at}.123456789" for at in range(3))


def begin(pod: KubeletPod, time: str, text: str, image: str = "") -> str:
    """Run the sandbox and both containers of the template; return the id of the writer."""
    scratch, memory = pod.empty_dir("scratch"), pod.empty_dir("memory", size="8m")
    conf = pod.config_map("conf", time, {"key": text, "other": text})
    pod.sandbox(image=image)
    mounts = {"/scratch": scratch, "/memory": memory, "/conf": conf}
    if not image:
        init = pod.run("init", ("sh", "-c", "echo begun > /scratch/init"), mounts)
        pod.end(init)
    made = pod.run("writer", ("sh", "-c", WRITER), mounts, image=image)
    pod.run("reader", IDLE, {"/data": scratch, "/memory": memory}, image=image)
    return made


def ends(node: Cryo, task: str, path: str) -> tuple[int, int]:
    """Return the first and the last number in a file of a container."""
    first, last = node.exec(task, "sh", "-c", f"head -n 1 {path}; tail -n 1 {path}").out.split()
    return int(first), int(last)


@pytest.mark.every_combination
def test_volumes_come_back_in_another_pod(node: Cryo, pods: Pods) -> None:
    """Contents, open files and a working directory in emptyDir volumes and /dev/shm come back.

    So does a file that is open in a config map, which has another folder there.
    """
    first = pods()
    writer = begin(first, OLD_TIME, "one\n")
    node.until_counts(writer)
    image = node.folder / "scratch" / node.fresh("image")
    node.ctr("tasks", "checkpoint", "--image-path", str(image), writer)
    _, saved = ends(node, writer, "/scratch/log")
    first.remove()

    second = pods()
    copy = begin(second, TIME, "two\n", str(image))

    node.until_counts(copy)
    reader = f"{second.id}-reader"
    assert node.exec(reader, "cat", "/data/init").out == "begun\n"
    folder, file, text = node.exec(reader, "cat", "/data/place/seen").out.splitlines()
    assert (folder, text) == ("/scratch/place", "two")
    assert file.endswith(f" /conf/..{OLD_TIME}/key")
    for path in ("/data/log", "/memory/log", "/dev/shm/log"):
        start, now = ends(node, reader, path)
        assert start == 1
        assert now > saved
    mounts = node.exec(reader, "mount").out
    assert "size=8192k" in mounts or "size=8388608" in mounts
    conf = second.config_map("conf", NEW_TIME, {"key": "three\n", "other": ""})
    assert node.exec(copy, "cat", "/conf/key").out == "three\n"
    assert {path.name for path in conf.iterdir()} == {
        *("..data", "key", "other", f"..{NEW_TIME}", f"..{OLD_TIME}")
    }
    shutil.rmtree(image)


def test_how_containers_use_a_volume(node: Cryo, pods: Pods) -> None:
    """A volume is in the sandbox, also for a restarted container; one used in part is on the host.

    To use a part of a volume that is in the sandbox is refused.
    """
    pod = pods()
    inside, part, host = (pod.empty_dir(name) for name in ("inside", "part", "host"))
    (part / "sub").mkdir()
    pod.sandbox(annotations={"io.cryo.host-volumes": "host"})
    write = ("sh", "-c", "for d in /inside /part /host; do echo one > $d/file; done; sleep 100000")
    mounts = {"/inside": inside, "/part": part / "sub", "/host": host}
    one = pod.run("one", write, mounts)
    read = ("cat", "/inside/file", "/part/sub/file", "/host/file")
    two = pod.run("two", IDLE, {"/inside": inside, "/part": part, "/host": host})
    wait_until((host / "file").exists, "the files", 30)

    assert node.exec(two, *read).out == "one\n" * 3
    assert (part / "sub" / "file").read_text() == "one\n"
    assert not (inside / "file").exists()
    pod.end(one)
    again = pod.run("one", IDLE, mounts)
    assert node.exec(again, "cat", "/inside/file").out == "one\n"
    remedy = "annotate the pod with io.cryo.host-volumes: inside"
    refusal = rf"three mounts a part \(subPath\) of volume inside, .*{remedy}"
    with pytest.raises(grpc.RpcError, match=refusal):
        pod.run("three", IDLE, {"/inside": inside / "sub"})


def test_a_warm_pod_with_files_that_no_other_pod_has(node: Cryo, pods: Pods) -> None:
    """It is not saved, and the reason names the container and the files."""
    name, pod = node.fresh("warm"), pods()
    pod.empty_dir("host")
    conf = pod.config_map("conf", OLD_TIME, {"key": "one"})
    mounts = {"/host": pod.folder / "volumes/kubernetes.io~empty-dir/host", "/conf": conf}
    notes = {
        "io.kubernetes.cri.sandbox-namespace": "team",
        "io.cryo.host-volumes": "host",
        "io.cryo.warm": name,
        "io.cryo.warm-when": "exec test -e /conf/other",
        "io.cryo.warm-timeout": "20",
    }
    pod.sandbox(annotations=notes)
    script = "exec 4>/host/gone; rm /host/gone; exec 5>/host/log 6</conf/key; sleep 100000"
    pod.run("writer", ("sh", "-c", script), mounts, annotations=notes)
    wait_until((mounts["/host"] / "log").exists, "the open files", 30)

    pod.config_map("conf", TIME, {"key": "two", "other": ""})

    use = node.folder / "images" / node.namespace / "team" / name / ".use.json"
    wait_until(lambda: use.exists() and json.loads(use.read_text())["failures"] > 0, "it", 60)
    reason = json.loads(use.read_text())["reasons"][0]["text"]
    assert f"writer: /conf/..{OLD_TIME}/key (of an earlier version of volume conf)" in reason
    assert "writer: /host/log (in volume host, which is on the host)" in reason
    assert "gone" not in reason
    shutil.rmtree(use.parent)


def test_a_warm_pod_with_a_part_of_a_volume(node: Cryo, pods: Pods) -> None:
    """It can never be saved: it is tried once, and one event has the reason."""
    name, pod = node.fresh("warm"), pods()
    part = pod.empty_dir("part") / "sub"
    part.mkdir()
    notes = {
        "io.kubernetes.cri.sandbox-namespace": "team",
        "io.cryo.warm": name,
        "io.cryo.warm-when": "exec true",
        "io.cryo.warm-timeout": "3600",
    }
    with warnings_of(node) as warned:
        sandbox = pod.sandbox(annotations=notes)
        pod.run("web", IDLE, {"/part": part}, annotations=notes)

        text = warned.until(sandbox)

    assert text.startswith(f"not saved as the image {name}: volumes that are mounted with subPath")
    assert "part (of container web)" in text
    folder = node.folder / "images" / node.namespace / "team" / name

    def counted() -> tuple[int, int]:
        use = json.loads((folder / ".use.json").read_text("utf-8"))
        return use["failures"], use["saves"]

    wait_until(lambda: counted() == (1, 0), "the count", 30)
    assert members(folder) == []
    shutil.rmtree(folder)


@pytest.mark.long
def test_a_warm_pod_that_is_ready_before_its_init_container_has_ended(
    node: Cryo, pods: Pods
) -> None:
    """It is saved again when the others run, and the next pod is restored from that image."""
    name = node.fresh("warm")
    notes = {
        "io.kubernetes.cri.sandbox-namespace": "team",
        "io.cryo.warm": name,
        "io.cryo.warm-period": "0.1",
    }
    folder = node.folder / "images" / node.namespace / "team" / name

    def saved() -> list[list[str]]:
        return members(folder)

    first = pods()
    first.sandbox(annotations=notes)
    first.run("side", IDLE, annotations=notes)
    wait = "until test -e /end; do sleep 0.1; done"
    init = first.run("init", ("sh", "-c", wait), annotations=notes)
    wait_until(lambda: saved() == [["side", "init"]], "the first save", 60)
    node.exec(init, "touch", "/end")
    node.until_all_stopped([init])
    first.end(init)
    first.run("app", ("sh", "-c", COUNT), annotations=notes)
    wait_until(lambda: saved() == [["side", "app"]], "the second save", 60)
    first.remove()

    second = pods()
    second.sandbox(annotations=notes)
    second.run("side", IDLE, annotations=notes)
    init = second.run("init", ("sh", "-c", wait), annotations=notes)
    node.until_all_stopped([init])
    second.end(init)
    again = second.run("app", ("sh", "-c", COUNT), annotations=notes)

    node.until_counts(again)
    use = json.loads((folder / ".use.json").read_text())
    assert (use["hits"], use["saves"]) == (1, 2)
    shutil.rmtree(folder)


def members(folder: Path) -> list[list[str]]:
    """Return the names of the containers in each image of a name."""
    texts = [path.read_text("utf-8") for path in folder.glob("*/[0-9]*/cryo.json")]
    return [[one["name"] for one in json.loads(text)["members"]] for text in texts]


@pytest.mark.long
def test_a_warm_pod_that_ends_before_its_init_container_has_ended(node: Cryo, pods: Pods) -> None:
    """Its image has the init container; the next pod is restored from it, and replaces it."""
    name = node.fresh("warm")
    notes = {
        "io.kubernetes.cri.sandbox-namespace": "team",
        "io.cryo.warm": name,
        "io.cryo.warm-period": "0.1",
    }
    folder = node.folder / "images" / node.namespace / "team" / name
    wait = ("sh", "-c", "until test -e /end; do sleep 0.1; done")

    def begin() -> tuple[KubeletPod, str]:
        pod = pods()
        pod.sandbox(annotations=notes)
        pod.run("side", IDLE, annotations=notes)
        return pod, pod.run("init", wait, annotations=notes)

    first, _ = begin()
    wait_until(lambda: members(folder) == [["side", "init"]], "the first save", 60)
    first.remove()

    second, init = begin()
    node.exec(init, "touch", "/end")
    node.until_all_stopped([init])
    second.end(init)
    second.run("app", ("sh", "-c", COUNT), annotations=notes)

    wait_until(lambda: members(folder) == [["side", "app"]], "the second save", 60)
    wait_until(lambda: json.loads((folder / ".use.json").read_text())["saves"] == 2, "it", 30)
    second.remove()
    third = pods()
    third.sandbox(annotations=notes)
    third.run("side", IDLE, annotations=notes)
    init = third.run("init", wait, annotations=notes)
    node.until_all_stopped([init])
    third.end(init)
    node.until_counts(third.run("app", ("sh", "-c", COUNT), annotations=notes))
    assert json.loads((folder / ".use.json").read_text())["hits"] == 2
    shutil.rmtree(folder)


@pytest.mark.parametrize("runsc", ("new",), indirect=True)
def test_a_pod_on_the_hosts_network(node: Cryo, pods: Pods, runsc: RunscBuild) -> None:
    """It has the host's network, also when it is restored."""
    port = free_port()
    serve = ("sh", "-c", f"while true; do echo hello | nc -l -p {port}; done")
    first = pods()
    first.sandbox(host_network=True)
    made = first.run("web", serve, host_network=True)
    assert received(port) == b"hello\n"
    image = node.folder / "scratch" / node.fresh("image")
    node.ctr("tasks", "checkpoint", "--image-path", str(image), made)
    first.remove()

    second = pods()
    second.sandbox(host_network=True, image=str(image))
    second.run("web", serve, host_network=True, image=str(image))

    assert received(port) == b"hello\n"
    shutil.rmtree(image)


def received(port: int) -> bytes:
    """Connect to a port of the host as soon as something listens; return what it sends."""
    found = b""

    def answered() -> bool:
        nonlocal found
        where = ("127.0.0.1", port)
        with contextlib.suppress(ConnectionError), socket.create_connection(where, 5) as peer:
            found = peer.recv(100)
        return bool(found)

    wait_until(answered, f"a server on port {port}", 30)
    return found


def free_port() -> int:
    """Return a port of the host on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
