"""The settings in config.toml, with their defaults. One frozen value, read once."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from shim.errors import InvalidArgument
from shim.model import (
    DEFAULT_ADDRESS,
    Connections,
    CudaMode,
    EngineName,
    ExecProcesses,
    FromEnvironment,
    Stage,
)

DEFAULT_CONFIG = Path("/etc/cryo/config.toml")
# At most a year: more is a mistake, and `inf` or `nan` would break the timers.
Seconds = Annotated[float, msgspec.Meta(gt=0, le=365 * 86400)]

Accepted = Literal["any", "signed", "auto"]
# Read by `shim.host.sizes`.
SizeText = Annotated[
    str, msgspec.Meta(pattern=r"^([0-9]{1,18}(\.[0-9]{1,9})? *([KMGTP](iB)?|B)?)?$", max_length=40)
]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of config.toml; an unknown key is an error."""


class Paths(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The directories in use.

    `scratch` holds what containers write to their root filesystems while they run, in unnamed
    files; containers of containerd use containerd's own folder instead.
    """

    state: str = "/run/cryo"
    images: str = "/var/lib/cryo/checkpoints"
    verified: str = "/var/lib/cryo/verified"
    scratch: str = "/var/lib/cryo/scratch"


class Server(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sidecar's sockets. Root may connect, and the members of `group` if it is set.

    `ttrpc` is a second socket, for a containerd whose tasks the sidecar serves; `containerd` is
    the ttrpc socket of that containerd, which receives every event. `events` is the gRPC socket of
    the containerd whose shims' events are among those that clients follow.
    """

    address: str = DEFAULT_ADDRESS
    group: str = ""
    ttrpc: str = ""
    containerd: str = ""
    events: str = "/run/containerd/containerd.sock"


class Runsc(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The runsc binary and its top-level flags (`{"network": "none"}` is `--network=none`)."""

    binary: str = "runsc"
    flags: dict[str, str] = {}


class Cuda(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The host's GPU tools and files. If `tool` is empty, PATH is searched for cuda-checkpoint.

    `helper` is whether cryo-cuda may run the CUDA steps, if it was built and the driver has the
    calls that it makes. `from_environment` selects the containers whose NVIDIA_VISIBLE_DEVICES
    counts. `missing` is what happens to a container that requests GPUs and gets none.
    """

    tool: str = ""
    guest_tool: str = "/dev/cryo/cuda-checkpoint"
    helper: Literal["auto", "never"] = "auto"
    guest_helper: str = "/dev/cryo/cryo-cuda"
    from_environment: FromEnvironment = FromEnvironment.ALWAYS
    missing: Literal["refuse", "warn"] = "refuse"
    nvidia_proc: str = "/proc/driver/nvidia"
    nvidia_smi: str = "nvidia-smi"
    cdi_dirs: tuple[str, ...] = ("/etc/cdi", "/var/run/cdi")
    # Host sockets of the GPU's own services: not counted as the workload's connections.
    ignored_sockets: tuple[str, ...] = (
        "/run/nvidia-persistenced/",
        "/tmp/nvidia-mps/",  # noqa: S108 - the default of NVIDIA's MPS
    )


class Host(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the host's kernel on which speed depends.

    With `huge_pages` as `adjust` the sidecar and the shims set, when they start, what runsc needs
    to back sandboxes with huge pages; with `warn` they report that it is missing.
    """

    huge_pages: Literal["warn", "adjust", "ignore"] = "warn"


class Defaults(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Defaults for checkpoint options that a call omits."""

    engine: EngineName = EngineName.AUTO
    cuda: CudaMode = CudaMode.AUTO
    connections: Connections = Connections.CUT
    exec_processes: ExecProcesses = ExecProcesses.REFUSE
    stage: Stage = Stage.AUTO


class Timeouts(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Deadlines in seconds. `checkpoint` and `restore` bound the whole call."""

    command: Seconds = 30.0
    create: Seconds = 60.0
    console: Seconds = 30.0
    detect: Seconds = 15.0
    lock: Seconds = 30.0
    freeze: Seconds = 120.0
    save: Seconds = 900.0
    thaw: Seconds = 300.0
    rollback: Seconds = 120.0
    checkpoint: Seconds = 1200.0
    restore: Seconds = 1200.0
    shutdown: Seconds = 60.0


class Pods(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Pods of Kubernetes, and what they may request in annotations, which their authors write.

    `restore` allows io.cryo.restore and io.cryo.warm, from images of the pod's own namespace.
    `kubelet` is the kubelet's root directory. `empty_dirs` is where emptyDir volumes are: in the
    sandbox, so that an image contains them, or on the host. `start_timeout` bounds each Start of a
    restore, and the wait for the next one: the kubelet gives up a Start after two minutes.
    """

    restore: bool = False
    kubelet: str = "/var/lib/kubelet"
    empty_dirs: Literal["sandbox", "host"] = "sandbox"
    start_timeout: Seconds = 110.0


class Trust(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which images are accepted, and what one from elsewhere may use of this host.

    `keys` are files with public keys. Each of `restore`, `pull` and `import` is `signed` for images
    that one of them has signed, or `any`; `auto` is `signed` if there are keys. `rootfs` are
    folders: below them are the root filesystems that an image from elsewhere may name.
    `max_image_bytes` bounds what is pulled or imported.
    """

    keys: tuple[str, ...] = ()
    restore: Accepted = "any"
    pull: Accepted = "auto"
    import_: Accepted = msgspec.field(name="import", default="auto")
    rootfs: tuple[str, ...] = ()
    max_image_bytes: Annotated[int, msgspec.Meta(gt=0)] = 1 << 42


class Store(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the store of images keeps; an empty text and 0 are no limit.

    `quota` and `min_free` are sizes such as 200GiB: of all images, and of the disk's free space.
    `keep_last` is the number of images kept of each name, or of each task. `ttl` is the time after
    the last use of an image, in seconds. Pinned images and images in use are not removed.
    """

    quota: SizeText = ""
    min_free: SizeText = ""
    keep_last: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    ttl: Annotated[float, msgspec.Meta(ge=0, le=10 * 365 * 86400)] = 0.0


class Log(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sidecar's log: lines of name=value pairs, or of JSON, from this level on."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["logfmt", "json"] = "logfmt"


class Metrics(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Prometheus gets metrics: `127.0.0.1:PORT` or `unix:/path`; empty is nowhere.

    Root may connect to a unix socket, and the members of `group` if it is set.
    """

    address: str = ""
    group: str = ""


class Http(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the page for a browser is: `127.0.0.1:PORT` or `unix:/path`; empty is nowhere.

    Root may connect to a unix socket, and the members of `group` if it is set. `token_file` has a
    token that readers need; without it the address must be one of this host.
    """

    address: str = ""
    group: str = ""
    token_file: str = ""


class Config(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of config.toml."""

    paths: Paths = Paths()
    server: Server = Server()
    runsc: Runsc = Runsc()
    cuda: Cuda = Cuda()
    host: Host = Host()
    defaults: Defaults = Defaults()
    timeouts: Timeouts = Timeouts()
    pods: Pods = Pods()
    trust: Trust = Trust()
    store: Store = Store()
    log: Log = Log()
    metrics: Metrics = Metrics()
    http: Http = Http()


# Keys of [cuda] that have been renamed; the old name is still read.
_RENAMED = {"own_sockets": "ignored_sockets"}
_UNREADABLE = (
    OSError,
    RecursionError,
    UnicodeDecodeError,
    tomllib.TOMLDecodeError,
    msgspec.ValidationError,
)


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "nested too deep"
    # str() of an OSError repeats its number and the path.
    return getattr(error, "strerror", None) or str(error)


def _renamed(data: dict[str, Any]) -> dict[str, Any]:
    """Replace the names that keys had in earlier versions."""
    cuda = data.get("cuda")
    if isinstance(cuda, dict):
        for old in _RENAMED.keys() & cuda.keys():
            cuda.setdefault(_RENAMED[old], cuda.pop(old))
    return data


def load(path: Path | None = None) -> Config:
    """Read config.toml; without a path, the default one when it exists.

    Raises:
        InvalidArgument: the file is missing (when named), not TOML, or has an invalid key or value.
    """
    chosen = path or DEFAULT_CONFIG
    if path is None and not chosen.exists():
        return Config()
    try:
        return msgspec.convert(_renamed(tomllib.loads(chosen.read_text("utf-8"))), Config)
    except _UNREADABLE as error:
        message = f"config {chosen}: {_reason(error)}"
        raise InvalidArgument(message, remedy="correct or remove the file") from error
