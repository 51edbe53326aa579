"""What a spec gets at create."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shim.config import Cuda, Timeouts
from shim.cuda import native
from shim.cuda.cdi import NodeNumbers
from shim.cuda.inject import PreparedSpec, find_helper, find_tool, helper_in, prepare
from shim.errors import HostMismatch, InvalidArgument, Refused
from shim.model import FromEnvironment
from shim.oci import document
from shim.oci.document import Spec
from shim.oci.gpu import GpuRequest, gpu_request

GUEST = "/dev/cryo/cuda-checkpoint"
NODES = {
    "/dev/nvidiactl": NodeNumbers(type="c", major=195, minor=255),
    "/dev/nvidia-uvm": NodeNumbers(type="c", major=510, minor=0),
    "/dev/nvidia-uvm-tools": NodeNumbers(type="c", major=510, minor=1),
    "/dev/nvidia0": NodeNumbers(type="c", major=195, minor=0),
    "/dev/nvidia1": NodeNumbers(type="c", major=195, minor=1),
}


class Host:
    """A host with two GPUs, whose minors run against the order of the bus, and a tool."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for bus, uuid, minor in (("0000:01", "GPU-aaaa", 1), ("0000:02", "GPU-bbbb", 0)):
            gpu = folder / "proc" / "gpus" / bus
            gpu.mkdir(parents=True)
            (gpu / "information").write_text(f"GPU UUID: {uuid}\nDevice Minor: {minor}\n")
        self.tool = program(folder / "host" / "cuda-checkpoint")
        self.rootfs = folder / "bundle" / "rootfs"
        self.rootfs.mkdir(parents=True)
        self.cuda = Cuda(nvidia_proc=str(folder / "proc"), cdi_dirs=(str(folder / "cdi"),))

    def spec(self, *env: str, **more: Any) -> Spec:
        """Make a spec of a container here."""
        process = {"args": ["x"], "env": list(env)}
        data = {"ociVersion": "1.1.0", "root": {"path": "rootfs"}, "process": process, **more}
        return document.parse(data, self.folder / "bundle")

    def prepare(self, spec: Spec, **more: Any) -> PreparedSpec:
        """Prepare a spec as create would."""
        options: dict[str, Any] = {"tool": self.tool, "stat": NODES.get, "gpu": gpu_request(spec)}
        options |= more
        return prepare(spec, cuda=self.cuda, **options)

    def write_cdi(self) -> None:
        """Describe the GPUs as nvidia-ctk does."""
        (self.folder / "cdi").mkdir()
        library = "/usr/lib/libcuda.so.580.65.06"
        content = {
            "cdiVersion": "0.5.0",
            "kind": "nvidia.com/gpu",
            "devices": [
                {"name": name, "containerEdits": {"deviceNodes": [{"path": node}]}}
                for name, node in (("0", "/dev/nvidia1"), ("1", "/dev/nvidia0"))
            ],
            "containerEdits": {
                "env": ["NVIDIA_VISIBLE_DEVICES=void"],
                "deviceNodes": [{"path": "/dev/nvidiactl"}],
                "mounts": [{"hostPath": library, "containerPath": library}],
                "hooks": [
                    {"hookName": "createContainer", "path": "/h", "args": ["h", "update-ldcache"]}
                ],
            },
        }
        (self.folder / "cdi" / "nvidia.json").write_text(json.dumps(content))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Give a host with two GPUs."""
    return Host(tmp_path)


def program(path: Path) -> str:
    """Make an executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o755)
    return str(path)


def node(*paths: str) -> dict[str, Any]:
    """Make the part of a spec that lists device nodes."""
    return {"devices": [{"path": path, "type": "c", "major": 195, "minor": 0} for path in paths]}


def paths(prepared: PreparedSpec) -> list[str]:
    """Name the device nodes."""
    return [device.path for device in prepared.spec.devices]


def test_a_plain_container_is_left_alone(host: Host) -> None:
    """No request, no change."""
    spec = host.spec("PATH=/bin")

    assert host.prepare(spec) == PreparedSpec(spec=spec)


def test_nodes_that_are_there_get_the_tool(host: Host) -> None:
    """Only the mount of cuda-checkpoint is added."""
    spec = host.spec(linux=node("/dev/nvidiactl"))

    done = host.prepare(spec)

    assert done.gpu_wanted
    assert done.spec is not spec
    assert done.guest_tool == GUEST
    assert paths(done) == ["/dev/nvidiactl"]
    assert [(m.destination, m.source) for m in done.spec.mounts] == [(GUEST, host.tool)]
    assert "ro" in (done.spec.mounts[0].options or ())


def test_a_request_that_settings_forbid_is_reported(host: Host) -> None:
    """The container runs without a GPU, and a warning says which setting it was."""
    spec = host.spec("NVIDIA_VISIBLE_DEVICES=all")

    done = host.prepare(spec, gpu=gpu_request(spec, FromEnvironment.NEVER))

    assert not done.gpu_wanted
    assert done.spec is spec
    assert "cuda.from_environment" in done.warnings[0]


@pytest.mark.parametrize("cdi", (True, False))
@pytest.mark.parametrize("value", ("all", "0", "GPU-bbbb", "1,0"))
def test_preparing_twice_is_once(host: Host, cdi: bool, value: str) -> None:
    """With the same request or the one of the prepared spec, nothing changes any more."""
    if cdi:
        host.write_cdi()
    spec = host.spec(f"NVIDIA_VISIBLE_DEVICES={value}")
    once = host.prepare(spec)

    for gpu in (gpu_request(spec), gpu_request(once.spec)):
        twice = host.prepare(once.spec, gpu=gpu)

        assert twice.spec.data == once.spec.data
        assert twice.spec is once.spec
        assert twice.gpu_wanted
        assert twice.guest_tool == once.guest_tool == GUEST


@pytest.mark.parametrize(
    ("value", "gpus"),
    (
        ("all", ["/dev/nvidia1", "/dev/nvidia0"]),
        ("0", ["/dev/nvidia1"]),
        ("1", ["/dev/nvidia0"]),
        ("GPU-bbbb", ["/dev/nvidia0"]),
        ("GPU-bbbb,0", ["/dev/nvidia0", "/dev/nvidia1"]),
    ),
)
@pytest.mark.parametrize("cdi", (True, False))
def test_the_variable_chooses_gpus(host: Host, value: str, gpus: list[str], cdi: bool) -> None:
    """Indices count along the bus, as in nvidia-smi, whatever the minor numbers are."""
    if cdi:
        host.write_cdi()

    done = host.prepare(host.spec(f"NVIDIA_VISIBLE_DEVICES={value}"))

    assert [path for path in paths(done) if path[-1].isdigit()] == gpus
    assert "/dev/nvidiactl" in paths(done)


def test_without_cdi_the_libraries_are_said_to_be_missing(host: Host) -> None:
    """The device nodes alone run nothing: the warning says what to do."""
    done = host.prepare(host.spec("NVIDIA_VISIBLE_DEVICES=all"))

    assert paths(done)[:2] == ["/dev/nvidiactl", "/dev/nvidia-uvm"]
    assert "/dev/nvidia-uvm-tools" in paths(done)
    assert "nvidia-ctk cdi generate" in done.warnings[0]


def test_with_cdi_the_hooks_are_named_and_replaced(host: Host) -> None:
    """No hook runs in a sandbox; the name that ldconfig would have made is a mount of its own."""
    host.write_cdi()

    done = host.prepare(host.spec(annotations={"cdi.k8s.io/x": "nvidia.com/gpu=0"}))

    assert [mount.destination for mount in done.spec.mounts] == [
        "/usr/lib/libcuda.so.580.65.06",
        "/usr/lib/libcuda.so.1",
        GUEST,
    ]
    assert done.spec.variable("NVIDIA_VISIBLE_DEVICES") == "void"
    assert "update-ldcache" in done.warnings[0]


def test_all_without_a_gpu_runs_without(host: Host) -> None:
    """Images carry NVIDIA_VISIBLE_DEVICES=all: on a plain host they run, and it is said."""
    spec = host.spec("NVIDIA_VISIBLE_DEVICES=all")

    done = host.prepare(spec, stat={}.get)

    assert not done.gpu_wanted
    assert done.spec is spec
    assert "asks for GPUs (all) and runs without" in done.warnings[0]


def test_all_with_a_driver_and_no_gpu_is_refused(host: Host) -> None:
    """On a GPU node it is a request: that the container would get none is a fault of the node."""
    (host.folder / "proc" / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun\n"
    )
    spec = host.spec("NVIDIA_VISIBLE_DEVICES=all")

    with pytest.raises(Refused, match=r"gets none on this host with driver 580\.65\.06") as caught:
        host.prepare(spec, stat={}.get)
    assert "cuda.missing" in caught.value.remedy

    host.cuda = msgspec.structs.replace(host.cuda, missing="warn")
    assert "runs without" in host.prepare(spec, stat={}.get).warnings[0]


def test_a_cdi_device_that_brings_no_gpu_is_refused(host: Host) -> None:
    """Who asks by an annotation means it, on any host."""
    (host.folder / "cdi").mkdir()
    device = {"name": "0", "containerEdits": {"env": ["A=b"]}}
    content = {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [device]}
    (host.folder / "cdi" / "nvidia.json").write_text(json.dumps(content))
    spec = host.spec(annotations={"cdi.k8s.io/a": "nvidia.com/gpu=0"})

    with pytest.raises(Refused, match="without an NVIDIA driver"):
        host.prepare(spec)

    host.cuda = msgspec.structs.replace(host.cuda, missing="warn")
    assert "runs without" in host.prepare(spec).warnings[0]


def test_a_gpu_that_is_not_there_may_be_a_warning(host: Host) -> None:
    """With `missing = "warn"` the container runs, and both are said: what is missing, and that."""
    host.cuda = msgspec.structs.replace(host.cuda, missing="warn")

    done = host.prepare(host.spec("NVIDIA_VISIBLE_DEVICES=7"))

    assert not done.gpu_wanted
    assert "asks for GPU 7" in done.warnings[0]
    assert "runs without" in done.warnings[1]


@pytest.mark.parametrize("value", ("2", "GPU-cccc", "0,7"))
def test_a_gpu_that_is_not_there_is_refused(host: Host, value: str) -> None:
    """Who names a GPU means it: the message says which there are."""
    with pytest.raises(InvalidArgument, match="GPU-aaaa"):
        host.prepare(host.spec(f"NVIDIA_VISIBLE_DEVICES={value}"))


def test_an_unknown_index_is_refused_by_cdi_too(host: Host) -> None:
    """The CDI names that exist are in the message."""
    host.write_cdi()

    with pytest.raises(InvalidArgument, match=r"nvidia\.com/gpu=0"):
        host.prepare(host.spec("NVIDIA_VISIBLE_DEVICES=7"))


def test_a_driver_that_is_half_loaded_is_refused(host: Host) -> None:
    """A node that is missing is named, with the command that makes it."""
    some = {path: found for path, found in NODES.items() if path != "/dev/nvidia-uvm"}

    with pytest.raises(InvalidArgument, match="/dev/nvidia-uvm") as caught:
        host.prepare(host.spec("NVIDIA_VISIBLE_DEVICES=0"), stat=some.get)

    assert "nvidia-modprobe" in caught.value.remedy


@pytest.mark.parametrize(
    "place",
    ("usr/local/bin", "usr/bin", "usr/local/cuda/bin", "opt/cuda/bin", "srv/tools"),
)
def test_a_tool_in_the_image_is_used(host: Host, place: str) -> None:
    """The image's own tool at a usual place or on its PATH comes first."""
    program(host.rootfs / place / "cuda-checkpoint")

    spec = host.spec("PATH=/srv/tools:relative:", linux=node("/dev/nvidiactl"))

    done = host.prepare(spec)

    assert done.guest_tool == f"/{place}/cuda-checkpoint"
    assert done.spec is spec


def test_links_are_followed_inside_the_image(host: Host) -> None:
    """An absolute link means the image's root, not the host's, and does not get out."""
    program(host.rootfs / "opt" / "cuda-12.8" / "bin" / "cuda-checkpoint")
    (host.rootfs / "usr" / "local").mkdir(parents=True)
    (host.rootfs / "usr" / "local" / "cuda").symlink_to("/opt/../opt/cuda-12.8")
    (host.rootfs / "usr" / "bin").symlink_to("../../../../" + host.tool.rpartition("/")[0][1:])

    done = host.prepare(host.spec(linux=node("/dev/nvidiactl")))

    assert done.guest_tool == "/usr/local/cuda/bin/cuda-checkpoint"


@pytest.mark.parametrize("kind", ("circle", "folder", "not executable", "dangling"))
def test_what_is_no_program_is_not_the_tool(host: Host, kind: str) -> None:
    """A name alone is not enough: the host's tool is put in."""
    place = host.rootfs / "usr" / "bin" / "cuda-checkpoint"
    place.parent.mkdir(parents=True)
    if kind == "circle":
        place.symlink_to("cuda-checkpoint")
    elif kind == "dangling":
        place.symlink_to("/nowhere")
    elif kind == "folder":
        place.mkdir()
    else:
        place.touch(mode=0o644)

    assert host.prepare(host.spec(linux=node("/dev/nvidiactl"))).guest_tool == GUEST


def test_a_mount_hides_what_is_below_it(host: Host) -> None:
    """What the rootfs has under a mount, the container does not see."""
    program(host.rootfs / "usr" / "local" / "bin" / "cuda-checkpoint")
    mounts = [{"destination": "/usr/local", "source": "/x", "type": "bind"}]

    done = host.prepare(host.spec(linux=node("/dev/nvidiactl"), mounts=mounts))

    assert done.guest_tool == GUEST


def test_a_tool_that_is_mounted_already_is_used(host: Host) -> None:
    """Somebody's own mount of the tool stays."""
    mounts = [{"destination": "/x/cuda-checkpoint", "source": host.tool, "type": "bind"}]

    spec = host.spec(linux=node("/dev/nvidiactl"), mounts=mounts)

    done = host.prepare(spec)

    assert done.guest_tool == "/x/cuda-checkpoint"
    assert done.spec is spec


def test_without_a_tool_the_container_runs_all_the_same(host: Host) -> None:
    """Only a checkpoint needs it, and will say so."""
    done = host.prepare(host.spec(linux=node("/dev/nvidiactl")), tool=None)

    assert done.gpu_wanted
    assert done.guest_tool == ""


def test_a_restore_puts_the_tool_where_the_image_has_it(host: Host) -> None:
    """The recorded place counts, even where this host would choose another."""
    program(host.rootfs / "usr" / "bin" / "cuda-checkpoint")
    spec = host.spec(linux=node("/dev/nvidiactl"))

    done = host.prepare(spec, recorded_tool=GUEST)

    assert done.guest_tool == GUEST
    assert [mount.destination for mount in done.spec.mounts] == [GUEST]


def test_a_restore_finds_the_images_own_tool(host: Host) -> None:
    """A recorded place inside the rootfs needs no mount and no tool of the host's."""
    program(host.rootfs / "usr" / "bin" / "cuda-checkpoint")

    spec = host.spec(linux=node("/dev/nvidiactl"))

    done = host.prepare(spec, tool=None, recorded_tool="/usr/bin/cuda-checkpoint")

    assert done.guest_tool == "/usr/bin/cuda-checkpoint"
    assert done.spec is spec


def test_a_restore_without_a_tool_is_refused(host: Host) -> None:
    """The processes could never be thawed."""
    with pytest.raises(HostMismatch, match="cuda-checkpoint") as caught:
        host.prepare(host.spec(linux=node("/dev/nvidiactl")), tool=None, recorded_tool=GUEST)

    assert "cuda.tool" in caught.value.remedy


def test_a_mount_from_another_host_is_turned_to_this_ones_tool(host: Host) -> None:
    """A spec that comes with an image may name a path that is not here; its place stays."""
    mounts = [
        {"destination": GUEST, "source": "/other/host/cuda-checkpoint", "type": "bind"},
        {"destination": "/last", "source": "/x", "type": "bind"},
    ]
    spec = host.spec(linux=node("/dev/nvidiactl"), mounts=mounts)

    done = host.prepare(spec, recorded_tool=GUEST)

    assert done.guest_tool == GUEST
    assert [(m.destination, m.source) for m in done.spec.mounts] == [
        (GUEST, host.tool),
        ("/last", "/x"),
    ]
    with pytest.raises(HostMismatch):
        host.prepare(spec, tool=None, recorded_tool=GUEST)


def test_a_request_can_be_made_by_hand(host: Host) -> None:
    """The request is a value: what it says is what is done."""
    request = GpuRequest(wanted=True, devices=("0",), source="env")

    assert "/dev/nvidia1" in paths(host.prepare(host.spec(), gpu=request))


def test_the_configured_tool_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the config names is used or refused; else PATH is searched."""
    tool = program(tmp_path / "bin" / "cuda-checkpoint")
    (tmp_path / "link").symlink_to(tool)

    assert find_tool(Cuda(tool=str(tmp_path / "link"))) == tool
    for wrong in ("cuda-checkpoint", str(tmp_path / "none"), str(tmp_path)):
        with pytest.raises(InvalidArgument, match=r"cuda\.tool"):
            find_tool(msgspec.structs.replace(Cuda(), tool=wrong))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_tool(Cuda()) == tool
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_tool(Cuda()) is None


# -- cryo-cuda -----------------------------------------------------------------------------------

HELPER = "/dev/cryo/cryo-cuda"
DEADLINES = Timeouts(lock=2, freeze=7)


def mounted(prepared: PreparedSpec) -> dict[str, str]:
    """Return what is mounted where."""
    return {mount.destination: mount.source for mount in prepared.spec.mounts}


def gpu_spec(host: Host) -> Spec:
    """Make a spec that has a GPU already."""
    return host.spec(linux=node("/dev/nvidiactl"))


def test_the_helper_comes_beside_the_tool(host: Host) -> None:
    """Both are mounted, with the deadlines for runsc's own engine; preparing twice is once."""
    helper = program(host.folder / "host" / "cryo-cuda")

    once = host.prepare(gpu_spec(host), helper=helper, deadlines=DEADLINES)
    twice = host.prepare(once.spec, helper=helper, deadlines=DEADLINES)

    assert mounted(once) == {HELPER: helper, GUEST: host.tool}
    assert once.guest_tool == GUEST
    assert helper_in(once.spec) == HELPER
    assert once.spec.variable("CRYO_CUDA_LOCK_MS") == "2000"
    assert once.spec.variable("CRYO_CUDA_STEP_MS") == "7000"
    assert twice.spec.data == once.spec.data


def test_default_deadlines_are_built_in(host: Host) -> None:
    """A workload sees no variable of ours where the settings are cryo-cuda's own defaults."""
    helper = program(host.folder / "host" / "cryo-cuda")
    source = (Path(__file__).parents[2] / "native" / "single.c").read_text()

    done = host.prepare(gpu_spec(host), helper=helper, deadlines=Timeouts())

    assert not [name for name in done.spec.data["process"].get("env", ()) if "CRYO_CUDA" in name]
    assert f"TOGGLE_LOCK_MS = {Timeouts().lock:g} * 1000" in source
    assert f"TOGGLE_STEP_MS = {Timeouts().freeze:g} * 1000" in source


def test_without_a_helper_nothing_speaks_of_it(host: Host) -> None:
    """No mount and no variable."""
    done = host.prepare(gpu_spec(host), deadlines=DEADLINES)

    assert mounted(done) == {GUEST: host.tool}
    assert done.spec.variable("CRYO_CUDA_LOCK_MS") is None


def test_the_helper_alone_is_the_tool_too(host: Host) -> None:
    """A host without NVIDIA's tool has one all the same."""
    helper = program(host.folder / "host" / "cryo-cuda")

    done = host.prepare(gpu_spec(host), tool=None, helper=helper)

    assert mounted(done) == {HELPER: helper}
    assert done.guest_tool == HELPER


def test_an_image_that_knows_no_helper_gets_none(host: Host) -> None:
    """The mounts of a restore are those of the save."""
    helper = program(host.folder / "host" / "cryo-cuda")

    done = host.prepare(gpu_spec(host), helper=helper, recorded_tool=GUEST, recorded_helper="")

    assert mounted(done) == {GUEST: host.tool}


@pytest.mark.parametrize("saved", (True, False))
def test_an_image_from_elsewhere(host: Host, saved: bool) -> None:
    """The mount of the image gets this host's helper, or NVIDIA's tool, or there is a clear no."""
    helper = program(host.folder / "host" / "cryo-cuda")
    gone = {"destination": HELPER, "type": "bind", "source": "/nonexistent/cryo-cuda"}
    more = {"mounts": [gone]} if saved else {}
    spec = host.spec(linux=node("/dev/nvidiactl"), **more)
    options: dict[str, Any] = {"recorded_tool": HELPER, "recorded_helper": HELPER}

    assert mounted(host.prepare(spec, helper=helper, **options)) == {HELPER: helper}
    assert mounted(host.prepare(spec, **options)) == {HELPER: host.tool}
    with pytest.raises(HostMismatch, match="cryo-cuda"):
        host.prepare(spec, tool=None, **options)


@pytest.mark.parametrize(
    ("version", "choice", "there"),
    (("570.195.03", "auto", True), ("570.195.03", "never", False), ("565.57.01", "auto", False)),
)
def test_when_the_helper_is_used(tmp_path: Path, version: str, choice: Any, there: bool) -> None:
    """Where the driver has the calls, unless the config says no."""
    (tmp_path / "version").write_text(f"NVRM version: NVIDIA UNIX  Kernel Module  {version}  x\n")

    found = find_helper(Cuda(nvidia_proc=str(tmp_path), helper=choice))

    assert found == (native.path() if there else "")
    assert find_helper(Cuda(nvidia_proc=str(tmp_path / "none"), helper=choice)) == ""
