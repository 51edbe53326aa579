"""Mounts, for real, in a mount namespace of the test's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shim.errors import Unimplemented
from shim.host.mounts import Options, parse_options

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")

PRELUDE = """
import json, os, sys
from pathlib import Path
from shim.errors import *
from shim.host import mounts
from shim.model import Mount
at = Path(sys.argv[1])
def info(path):
    lines = [l.split() for l in open("/proc/self/mountinfo") if l.split()[4] == str(path)]
    return [[l[5], [f for f in l[6:l.index("-")]], l[l.index("-") + 1]] for l in lines]
said = {}
"""


def in_private_mounts(tmp_path: Path, script: str) -> dict[str, Any]:
    """Run a script in a namespace whose mounts are shared among themselves; return `said`."""
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c"]
    code = f"{PRELUDE}{script}\nprint(json.dumps(said))"
    done = subprocess.run(
        [*command, code, str(tmp_path)], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("given", "flags", "data"),
    (
        ((), 0, ""),
        (("ro", "rw"), 0, ""),
        (("rbind", "ro"), 4096 | 16384 | 1, ""),
        (("lowerdir=/a:/b", "index=off"), 0, "lowerdir=/a:/b,index=off"),
        (("rshared", "nosuid", "nodev"), 6, ""),
        (("size=1m", "noexec"), 8, "size=1m"),
    ),
)
def test_options(given: tuple[str, ...], flags: int, data: str) -> None:
    """Known words become flags, later ones win, propagation is ours, the rest is data."""
    assert parse_options(given) == Options(flags, data)


def test_loop_is_unimplemented() -> None:
    """What only mount(8) does is refused with a reason."""
    with pytest.raises(Unimplemented):
        parse_options(("loop",))


@needs_root
def test_bind_read_only_and_private(tmp_path: Path) -> None:
    """A read-only bind really is, and stays private below a shared parent."""
    said = in_private_mounts(
        tmp_path,
        """
import subprocess
subprocess.run(["mount", "-t", "tmpfs", "none", at], check=True)
subprocess.run(["mount", "--make-shared", at], check=True)
(at / "src").mkdir(); (at / "dst").mkdir(); (at / "src" / "f").write_text("x")
said["before"] = bool(info(at / "dst"))
mounts.mount_all([Mount(type="bind", source=str(at / "src"), options=("rbind", "ro"))], at / "dst")
said["is"] = bool(info(at / "dst"))
said["info"] = info(at / "dst")
try: (at / "dst" / "f").write_text("y")
except OSError as e: said["write"] = e.errno
mounts.unmount(at / "dst"); mounts.unmount(at / "dst"); mounts.unmount(at / "gone")
said["after"] = bool(info(at / "dst"))
said["gone"] = bool(info(at / "gone"))
""",
    )

    assert (said["before"], said["is"], said["after"], said["gone"]) == (False, True, False, False)
    (options, propagation, _) = said["info"][0]
    assert options.startswith("ro")
    assert propagation == []
    assert said["write"] == 30


@needs_root
def test_overlay_of_many_layers(tmp_path: Path) -> None:
    """An overlay whose options are longer than a page is mounted all the same."""
    said = in_private_mounts(
        tmp_path,
        """
import subprocess
subprocess.run(["mount", "-t", "tmpfs", "none", at], check=True)
base = at / ("snapshots-" * 12)
layers = [base / str(n) / "fs" for n in range(60)]
for n, layer in enumerate(layers):
    layer.mkdir(parents=True); (layer / f"f{n}").write_text(str(n))
for name in ("upper", "work"): (base / name).mkdir()
(at / "dst").mkdir()
options = ("index=off", "workdir=%s" % (base / "work"), "upperdir=%s" % (base / "upper"),
           "lowerdir=" + ":".join(map(str, layers)))
said["length"] = len(",".join(options))
mounts.mount_all([Mount(type="overlay", source="overlay", options=options)], at / "dst")
said["files"] = len(os.listdir(at / "dst"))
(at / "dst" / "new").write_text("x")
said["upper"] = os.listdir(base / "upper")
fds = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd")]
said["fds"] = [os.readlink(each) for each in fds if os.path.exists(each)]
mounts.unmount(at / "dst")
""",
    )

    assert said["length"] > 4096
    assert (said["files"], said["upper"]) == (60, ["new"])
    assert not [each for each in said["fds"] if "snapshots-" in each]


@needs_root
def test_failure_takes_everything_back(tmp_path: Path) -> None:
    """When one mount of a list fails those before it are undone, and what was there stays."""
    said = in_private_mounts(
        tmp_path,
        """
(at / "dst").mkdir(); (at / "src" / "sub").mkdir(parents=True)
mounts.mount(Mount(type="tmpfs", source="tmpfs", options=("size=1m",)), at / "dst")
good = Mount(type="bind", source=str(at / "src"))
for bad, name in (
    (Mount(type="bind", source=str(at / "no")), "source"),
    (Mount(type="nosuchfs", source="x"), "type"),
    (Mount(type="bind", source=str(at / "src"), target="../out"), "target"),
    (Mount(type="tmpfs", source="x", target="no"), "folder"),
    (Mount(type="tmpfs", source="x", options=("bogus=1",)), "option"),
):
    try: mounts.mount_all([good, bad], at / "dst")
    except CryoError as e: said[name] = type(e).__name__
said["left"] = [each[2] for each in info(at / "dst")]
mounts.mount_all([good, Mount(type="tmpfs", source="tmpfs", target="/sub")], at / "dst")
said["sub"] = bool(info(at / "dst" / "sub"))
try: mounts.unmount(at / "dst")
except Busy as e: said["busy"] = str(e)
mounts.unmount(at / "dst", lazy=True)
said["end"] = info(at / "dst")
""",
    )

    assert said["source"] == "NotFound"
    assert said["type"] == "InvalidArgument"
    assert said["target"] == "InvalidArgument"
    assert said["folder"] == "NotFound"
    assert said["option"] == "InvalidArgument"
    assert said["left"] == ["tmpfs"]
    assert said["sub"] is True
    assert "unmount" in said["busy"]
    assert said["end"] == []
