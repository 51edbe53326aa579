"""The parsers to fuzz, each with valid inputs to mutate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from hack.fuzzing import elsewhere
from hack.fuzzing.parser import Parser, as_text
from shim import config as configs
from shim.cuda import batch, cdi, detect, inventory
from shim.cuda.moves import Action
from shim.cuda.tool import last_line, move_error
from shim.entry.shimbin import call, forkserver, wire
from shim.image import manifest as manifests
from shim.image.manifest import Build, Manifest
from shim.model import Stdio, TaskRef, utcnow
from shim.oci import canonical, document, untrusted_json
from shim.oci.annotations import read_annotations
from shim.oci.gpu import gpu_request
from shim.runsc import failure, known, output, probe
from shim.runsc.run import Completed
from shim.task import record as records
from shim.task.record import TaskRecord
from shim.transaction.journal import Entry, Journal, Operation

_SPEC: dict[str, Any] = {
    "ociVersion": "1.1.0",
    "process": {"args": ["/bin/train"], "cwd": "/", "env": ["NVIDIA_VISIBLE_DEVICES=all"]},
    "root": {"path": "rootfs", "readonly": True},
    "mounts": [{"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["rw"]}],
    "annotations": {"io.cryo.engine": "phased", "cdi.k8s.io/x": "nvidia.com/gpu=0"},
    "linux": {"devices": [{"path": "/dev/nvidia0", "type": "c", "major": 195, "minor": 0}]},
}
_TOML = b"""[runsc]
binary = "runsc"
flags = { network = "none" }
[timeouts]
lock = 3.5
[paths]
state = "/run/cryo"
[defaults]
engine = "phased"
"""
_CDI = b"""cdiVersion: "0.6.0"
kind: nvidia.com/gpu
devices:
- name: "0"
  containerEdits:
    deviceNodes: [{path: /dev/nvidia0, type: c, major: 195, minor: 0}]
    mounts: [{hostPath: /x, containerPath: /y, options: [ro]}]
"""
_SCAN = b"N 7 train\nF 7 /dev/nvidia0\nM 7 /dev/nvidiactl\nC 7\nT 0100007F:1F90 01\nE\n"
_LSOF = (b"p7\nctrain\nn/dev/nvidia0\n", b"7\t/bin/train\t/dev/nvidiactl\n")
_BATCH = b"""{"cryo_cuda": 1, "verb": "freeze"}
{"step": "init", "ok": true, "cuda": 12080, "ms": 3}
{"step": "scan", "pid": 7, "comm": "train", "device": "/dev/nvidia0", "thread": true}
{"step": "tcp", "remote": "10.0.0.1:80"}
{"step": "state", "pid": 7, "ok": true, "state": "running", "ms": 1}
{"step": "lock", "pid": 7, "ok": false, "state": "running", "late": false, "text": "not ready"}
{"step": "checkpoint", "pid": 7, "ok": false, "late": true, "gone": false, "ms": -1}
{"step": "end", "ok": true}
"""
_PS = b"UID PID PPID C STIME TTY TIME CMD\n0 1 0 0 10:00 ? 10ms train\n0 7 1 0 10:00 ? 0s x\n"
_LOG = b'{"level":"error","msg":"creating container: no space left on device"}\n{"msg":"x"}\n'
_ERR = b"W0905 a.go:1] careful\ncheckpoint failed: no space left\ngoroutine 1 [x]:\n"
_HELP = b"  -image-path string\n\tfolder\n  -direct\n  -cuda-checkpoint-path string\n"


class _Files:
    """Parsers of files, which are first written into a directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _put(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def toml(self, data: bytes) -> object:
        return configs.load(self._put("config.toml", data))

    def spec(self, data: bytes) -> object:
        self._put("config.json", data)
        spec = document.load(self.folder)
        gpu_request(spec)
        return read_annotations(spec)

    def cdi(self, data: bytes) -> object:
        (self.folder / "cdi").mkdir(exist_ok=True)
        self._put("cdi/nvidia.yaml", data)
        found = cdi.read([str(self.folder / "cdi")], stat=lambda _path: None)
        return found.edits(found.names("nvidia.com/gpu"))

    def journal(self, data: bytes) -> object:
        journal = Journal(self.folder)
        journal.path.write_bytes(data)
        return journal.load()

    def record(self, data: bytes) -> object:
        self._put(records.NAME, data)
        return records.load(self.folder)

    def known(self, data: bytes) -> object:
        return known.recall(self._put("runsc.json", data), "/usr/bin/runsc", (1, 2, 3, 4), {})


def _sealed_again(data: bytes) -> object:
    """Decode a manifest after correcting its digest, as a forger can."""
    try:
        plain = untrusted_json.decode(data)
        if not isinstance(plain, dict):
            return None
        rest = {key: value for key, value in plain.items() if key != "digest"}
        plain["digest"] = canonical.digest(canonical.encode(rest))
        data = canonical.encode_pretty(plain)
    except ValueError:
        return None
    return manifests.decode(data, "/images/a")


def _last_line(data: bytes) -> object:
    return move_error(Action.LOCK, 7, last_line(Completed(status=1, stdout=b"", stderr=data)))


def _batch(data: bytes) -> object:
    return batch.parse(Completed(status=0, stdout=data, stderr=data)).states()


def _manifest() -> bytes:
    made = Manifest(
        created_at=utcnow(),
        namespace="ns",
        task="a",
        runsc=Build(version="release-20260905.0"),
        arch="x86_64",
        kernel="6.18",
        cpu_features=("avx2", "sse4_2"),
        spec=_SPEC,
        spec_digest="00",
        bundle="/b",
        rootfs="/b/rootfs",
    )
    return manifests.encode(made)[1]


_PLACE = wire.write_texts(["-id", "a", "start"]) + wire.write_text("/b")
_ENV = wire.write_texts(["PATH=/bin", "A=b"])
_LAUNCHED = _PLACE + _ENV + b"18\0mnt:[1]\0pid:[2]\0options"
_SHIM_REQUEST = wire.write_texts(["start"]) + b"/s\0/b\0" + _ENV


def _record() -> bytes:
    ref = TaskRef(namespace="ns", id="a")
    return msgspec.json.encode(
        TaskRecord(ref=ref, bundle="/b", stdio=Stdio(), created_at=utcnow(), pid=1, start=2)
    )


def _journal() -> bytes:
    entry = Entry(operation=Operation.CHECKPOINT, image_path="/images/a")
    return msgspec.json.encode(entry)


def parsers(folder: Path) -> list[Parser]:
    """Return all parsers; those of files use the directory."""
    files, spec, manifest = _Files(folder), json.dumps(_SPEC).encode(), _manifest()
    stats = json.dumps({"type": "stats", "data": {"cpu": {"usage": {"total": 5}}}}).encode()
    state = json.dumps({"ociVersion": "1.1.0", "id": "a+", "status": "running"}).encode()
    return [
        Parser("config.toml", [_TOML], files.toml),
        Parser("config.json", [spec], files.spec, json=True),
        Parser("cdi", [_CDI], files.cdi),
        Parser("cryo.json", [manifest], lambda data: manifests.decode(data, "/images/a")),
        Parser("cryo.json sealed again", [manifest], _sealed_again, json=True),
        Parser("journal", [_journal()], files.journal, json=True),
        Parser("task.json", [_record()], files.record, json=True),
        Parser("runsc.json", [b"{}"], files.known),
        Parser("guest's /proc", [_SCAN], as_text(detect.parse_scan)),
        Parser("lsof", _LSOF, as_text(detect.parse_lsof)),
        Parser(
            "nvidia-smi",
            [b"7, GPU-1, 1024\n8, GPU-1, [N/A]\n"],
            as_text(lambda text: (inventory.parse_apps(text, 7), inventory.parse_gpus(text))),
        ),
        Parser("driver", [b"Model: H200\nDevice Minor: 0\n"], as_text(inventory.parse_gpu)),
        Parser("cuda-checkpoint", [b"Could not lock process 7: out of memory\n"], _last_line),
        Parser("cryo-cuda", [_BATCH], _batch),
        Parser("runsc ps", [_PS], as_text(output.parse_ps)),
        Parser("runsc state", [state], as_text(output.parse_status), json=True),
        Parser("runsc events", [stats], as_text(output.parse_stats), json=True),
        Parser("runsc log", [_LOG], as_text(failure.log_error)),
        Parser("runsc stderr", [_ERR], as_text(failure.error_line)),
        Parser("runsc help", [_HELP], as_text(probe.parse_flags)),
        Parser("launcher", [_LAUNCHED], call.decode, allowed=(ValueError,)),
        Parser("fork server", [_SHIM_REQUEST], forkserver.decode, allowed=(ValueError,)),
        *elsewhere.parsers(folder, manifest),
    ]
