"""Generate the bindings in shim/api, tests and examples; with --check, compare them."""

from __future__ import annotations

import argparse
import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
API = Path("shim/api")

# Only for tests and examples; the bindings are in the directory of the .proto.
BESIDE = (Path("tests/containerd"), Path("hack/examples"))

GRPC = ("shim/api/containerd/task/v3/shim.proto", "shim/api/cryo/v1/cryo.proto")


def main(argv: list[str] | None = None) -> int:
    """Generate in place, or compare; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if stale")
    if parser.parse_args(argv).check:
        return check()
    return generate(ROOT)


def check() -> int:
    """Generate into a temporary folder and name every file that differs."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        status = generate(fresh)
        stale = [
            place / path
            for place, pattern in ((API, "*.py*"), *((place, "*_pb2.py*") for place in BESIDE))
            for path in differences(fresh / place, ROOT / place, pattern)
        ]
    for path in stale:
        print(f"stale: {path}", file=sys.stderr)
    if stale:
        print("run `make protos` and commit the result", file=sys.stderr)
    return status or int(bool(stale))


def generate(out: Path) -> int:
    """Write the bindings of every .proto below `out`; return protoc's exit status."""
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    status = run(PROTO, out, sources, "python", "mypy")
    status = status or run(PROTO, out, [*GRPC], "grpc_python", "mypy_grpc")
    make_packages(out / API)
    found = (path for place in BESIDE for path in (ROOT / place).rglob("*.proto"))
    sources = sorted(str(path.relative_to(ROOT)) for path in found)
    return status or run(ROOT, out, sources, "python", "mypy")


def run(root: Path, out: Path, sources: list[str], *plugins: str) -> int:
    """Run protoc, which comes with grpcio-tools, with these output plugins; return its status."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{root}", f"-I{PROTO}"]
    for plugin in plugins:
        command += output(plugin, out)
    return subprocess.run([*command, *sources], check=False).returncode


def output(plugin: str, out: Path) -> list[str]:
    """Return protoc's arguments for one plugin; mypy-protobuf's are in python's directory."""
    if not plugin.startswith("mypy"):
        return [f"--{plugin}_out={out}"]
    name = f"protoc-gen-{plugin}"
    program = Path(sys.executable).with_name(name)
    return [f"--plugin={name}={program}", f"--{plugin}_out=quiet:{out}"]


def make_packages(api: Path) -> None:
    """Make every directory a package, for type checkers and wheels."""
    for folder in [api, *(path for path in api.rglob("*") if path.is_dir())]:
        if folder.name != "__pycache__":
            (folder / "__init__.py").touch()


def differences(fresh: Path, committed: Path, pattern: str) -> list[str]:
    """List the files that are in one folder only, or differ."""
    names = listing(fresh, pattern) | listing(committed, pattern)
    return sorted(name for name in names if not same(fresh / name, committed / name))


def listing(folder: Path, pattern: str) -> set[str]:
    """List the files of this pattern below a folder, as relative paths."""
    files = (path for path in folder.rglob(pattern) if "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)) for path in files}


def same(one: Path, other: Path) -> bool:
    """Return whether both files exist and are equal."""
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


if __name__ == "__main__":
    sys.exit(main())
