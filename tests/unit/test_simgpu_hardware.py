"""What a container of the selftest gets of a host with a real GPU, without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shim.errors import FailedPrecondition
from shim.simgpu import hardware, pytorch
from shim.simgpu.bundle import Settings
from shim.simgpu.hardware import Hardware
from shim.simgpu.pytorch import PyTorch


def spec_of(settings: Settings) -> dict[str, Any]:
    """Return what matters of a spec, with the GPU of the host."""
    process = {"args": ["/usr/bin/python3", "-ISB", "workload.py", "{}"], "env": [], "cwd": "/"}
    content: dict[str, Any] = {"process": process, "mounts": [{"destination": "/proc"}]}
    Hardware(Path("runsc")).hardware(content, settings)
    return content


def use(monkeypatch: pytest.MonkeyPatch, library: Path | None, torch: PyTorch | None) -> None:
    """Say what is on the host; /proc is a mount of its own there, and `/` another."""
    monkeypatch.setattr(hardware, "library", lambda: library)
    monkeypatch.setattr(pytorch, "find", lambda: torch)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/a::/b")


@pytest.mark.parametrize(
    ("library", "mounted"),
    (
        ("/usr/lib/libcuda.so.1", []),
        ("/proc/self/libcuda.so.1", []),
        ("/sys/libcuda.so.1", ["/sys"]),
    ),
)
def test_the_library_is_there(
    monkeypatch: pytest.MonkeyPatch, library: str, mounted: list[str]
) -> None:
    """Its folder comes first, and what it is on is mounted where the rootfs has it not."""
    use(monkeypatch, Path(library), None)

    content = spec_of(Settings(real=True))

    path = f"LD_LIBRARY_PATH={Path(library).parent}:/a:/b"
    assert path in content["process"]["env"]
    assert [mount["destination"] for mount in content["mounts"][1:]] == mounted


def test_no_library_is_no_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    """The container asks for GPUs all the same; the driver will say what is missing."""
    use(monkeypatch, None, None)

    content = spec_of(Settings(real=True))

    assert "NVIDIA_VISIBLE_DEVICES=all" in content["process"]["env"]
    assert len(content["mounts"]) == 1


def test_a_python_with_pytorch_runs_the_workload(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of ours, and with the packages of its own environment."""
    use(monkeypatch, None, PyTorch(Path("/opt/venv/bin/python3"), "2.11.0", ("/sys/kernel",)))

    content = spec_of(Settings(real=True, pytorch=True))

    args = ["/opt/venv/bin/python3", "-IB", "workload.py", "{}"]
    assert content["process"]["args"] == args
    assert [mount["destination"] for mount in content["mounts"][1:]] == ["/sys"]


def test_no_pytorch_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the requested workload is run."""
    use(monkeypatch, None, None)

    with pytest.raises(FailedPrecondition, match="PyTorch"):
        spec_of(Settings(real=True, pytorch=True))


def python(folder: Path, name: str, said: str) -> None:
    """Put a program on the PATH that answers what a Python is asked."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{said}\n", "utf-8")
    path.chmod(0o755)


def test_the_first_python_on_path_with_pytorch_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither ours, which has none, nor one that fails, is taken."""
    answer = json.dumps(["2.11.0", ["/o/torch/__init__.py", "/v", "/usr", "/v/bin/python"]])
    python(tmp_path, "python3", "exit 3")
    python(tmp_path, "python", f"echo '{answer}'")
    monkeypatch.setenv("PATH", str(tmp_path))

    found = pytorch.find()

    assert found == PyTorch(tmp_path / "python", "2.11.0", ("/", "/o/torch", "/v/bin"))


@pytest.mark.parametrize("said", ("exit 1", "echo nonsense", "echo '[1'"))
def test_a_python_that_says_something_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str
) -> None:
    """It counts as one without."""
    python(tmp_path, "python3", said)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert pytorch.find() is None
