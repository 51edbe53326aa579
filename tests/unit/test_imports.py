"""The import rules of the layers, as one table; CONTRIBUTING.md shows what is imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hack import layers
from tests.source import parsed

ROOT = Path(__file__).parents[2]

# From the ground up: a room may import itself and the rooms before it.
ORDER = (
    "values",
    "host",
    "tracing",
    "timeline",
    "oci",
    "runsc",
    "cuda",
    "image",
    "distribution",
    "transaction",
    "task",
    "service",
    "client",
    "metrics",
    "page",
    "install",
    "entry",
)
VALUES = ("errors", "state", "model", "config", "bundle", "failpoints", "finding")
EDGES = ("service", "client", "metrics", "tracing", "page", "entry", "selftest")


@dataclass(frozen=True)
class Layer:
    """What a layer may import: other layers, and packages that are not the standard library's."""

    layers: tuple[str, ...]
    packages: tuple[str, ...] = ()


def below(layer: str, *more: str) -> tuple[str, ...]:
    """Return the layers that `layer` may import by its place in the order."""
    return (*ORDER[: ORDER.index(layer) + 1], *more)


# Loaded when an image is pushed, pulled or signed, and not before.
DISTRIBUTION = ("cryptography", "obstore", "pyrage", "urllib3", "zstandard")
GRPC = ("google", "grpc", "grpc_health", "grpc_reflection")

RULES = {
    "values": Layer(below("values"), ("msgspec",)),
    "host": Layer(below("host"), ("msgspec",)),
    # Only where OTEL_* is in the environment.
    "tracing": Layer(below("tracing"), ("opentelemetry",)),
    # Only the command line and the selftest draw.
    "timeline": Layer(below("timeline")),
    "oci": Layer(below("oci"), ("blake3", "msgspec", "yaml")),
    "runsc": Layer(below("runsc"), ("msgspec",)),
    "cuda": Layer(below("cuda"), ("msgspec", "yaml")),
    "image": Layer(below("image"), ("blake3", "cryptography", "msgspec")),
    "distribution": Layer(below("distribution"), ("msgspec", *DISTRIBUTION)),
    "transaction": Layer(below("transaction"), ("msgspec",)),
    "task": Layer(below("task"), ("msgspec",)),
    "service": Layer(below("service", "api"), ("msgspec", *GRPC)),
    "client": Layer(below("client", "api"), ("msgspec", *GRPC)),
    # Only for a sidecar that is to be observed.
    "metrics": Layer(below("metrics", "api"), ("prometheus_client",)),
    # Only for a sidecar that is to be looked at.
    "page": Layer(below("page", "api", "doctor"), ("msgspec", "jinja2", "starlette", "uvicorn")),
    # Only the command line and the page examine the host.
    "doctor": Layer(below("task", "doctor"), ("msgspec",)),
    "entry": Layer(below("entry", "api", "doctor"), ("click", "msgspec", "rich", *GRPC)),
    # It edits texts and files; no library of TOML keeps each byte that it does not change.
    "install": Layer(("values", "host", "install")),
    # Never imported by the above: an installation may leave both out.
    "selftest": Layer(below("client", "selftest", "simgpu"), ("click",)),
    "simgpu": Layer(("values", "host", "oci", "runsc", "simgpu", "guest"), ("msgspec",)),
    # It runs inside the sandbox with whatever Python is there.
    "guest": Layer(("guest",)),
    "api": Layer(("api",), GRPC),
}


def layer_of(module: str) -> str:
    """Return the layer that a module of ours is in."""
    parts = module.split(".")
    if parts[:3] == ["shim", "simgpu", "guest"]:
        return "guest"
    if len(parts) == 1 or parts[1] in (*VALUES, "__version__"):
        return "values"
    return parts[1]


def name_of(path: Path) -> str:
    """Return the dotted name of one of our files."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str) -> Iterator[str]:
    """Yield the dotted name of everything that a source imports, at any depth."""
    return layers.imported(parsed(source))


def breach(module: str, imported: str) -> str:
    """Return "" when `module` may import `imported`, or the rule that it breaks."""
    layer, top = layer_of(module), imported.split(".", maxsplit=1)[0]
    if top == "":
        # A relative import would hide its layer.
        return f"{module} imports {imported}: write the full name"
    if top == "shim":
        if layer_of(imported) in RULES[layer].layers:
            return ""
        return f"{module} imports {imported}: {layer} may not know {layer_of(imported)}"
    if top in sys.stdlib_module_names or top in RULES[layer].packages:
        return ""
    return f"{module} imports {imported}: {layer} may not use {top}"


def modules() -> dict[str, Path]:
    """Return every module of ours by its dotted name."""
    return {name_of(path): path for path in sorted((ROOT / "shim").rglob("*.py"))}


def test_every_import_points_down() -> None:
    """No module of ours imports what its room may not know."""
    found = [
        message
        for module, path in modules().items()
        for imported in imports(path.read_text("utf-8"))
        if (message := breach(module, imported))
    ]

    assert found == []


@pytest.mark.parametrize(
    ("module", "source"),
    (
        ("shim.host.pidfd", "from shim.runsc import run"),
        ("shim.runsc.client", "import shim.cuda.detect"),
        ("shim.cuda.detect", "from shim import image"),
        ("shim.image.manifest", "def later():\n    from shim.task.tasks import Tasks"),
        ("shim.image.store", "from shim.transaction.journal import Journal"),
        ("shim.task.tasks", "from shim.api.cryo.v1 import cryo_pb2"),
        ("shim.task.tasks", "import grpc"),
        ("shim.service.ttrpc", "from shim.client import client"),
        ("shim.model", "from google.protobuf import any_pb2"),
        ("shim.errors", "import yaml"),
        ("shim.simgpu.guest.client", "from shim.errors import CryoError"),
        ("shim.simgpu.guest.client", "import msgspec"),
        ("shim.client.client", "from shim.simgpu import simulation"),
        ("shim.entry.cli.app", "from shim.selftest import command"),
        ("shim.simgpu.simulation", "from shim.selftest import runner"),
        ("shim.oci.document", "from . import canonical"),
    ),
)
def test_a_wrong_import_is_seen(module: str, source: str) -> None:
    """Each kind of wrong import is named, wherever in the file it stands."""
    assert [breach(module, imported) for imported in imports(source)] != [""]


def test_every_layer_has_a_rule() -> None:
    """A new folder of shim/ needs a row in the table before it is used."""
    assert {layer_of(module) for module in modules()} <= set(RULES)


def loaded(modules: list[str], watched: tuple[str, ...]) -> str:
    """Import modules in a fresh interpreter; return which of the watched ones it has loaded."""
    code = f"import sys, {', '.join(modules)}\nprint([m for m in {watched} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, text=True, timeout=120
    )
    return done.stdout.strip() + done.stderr[-500:]


def test_only_the_edges_load_grpc() -> None:
    """Importing everything below the edges loads neither grpc nor protobuf."""
    inner = [
        module
        for module in modules()
        if layer_of(module) not in (*EDGES, "api") and not module.endswith("__main__")
    ]

    assert loaded(inner, ("grpc", "google.protobuf")) == "[]"


def test_the_core_does_not_load_what_may_be_left_out() -> None:
    """Importing all of the core loads neither the selftest nor the simulated GPU."""
    outside = ("selftest", "simgpu", "guest")
    core = [
        module
        for module in modules()
        if layer_of(module) not in outside and not module.endswith("__main__")
    ]

    assert loaded(core, ("shim.selftest", "shim.simgpu")) == "[]"


def test_metrics_and_the_page_are_loaded_only_by_a_sidecar_that_has_them() -> None:
    """Neither the sidecar nor a shim or a command loads them, or their packages."""
    without = [module for module in modules() if layer_of(module) == "entry"]

    assert (
        loaded(
            [module for module in without if not module.endswith("__main__")],
            ("shim.metrics", "shim.page", "prometheus_client", "starlette", "uvicorn", "jinja2"),
        )
        == "[]"
    )


def test_a_shim_serves_every_operation_of_shims() -> None:
    """The table of a shim, which loads no other operations, has all that are marked so."""
    served = "sorted(name for name, one in CRYO.operations.items() if one.in_shims)"
    each = [
        subprocess.run(
            [
                sys.executable,
                "-c",
                f"import {module}\nfrom shim.service.cryo_table import CRYO\nprint({served})",
            ],
            capture_output=True,
            check=True,
            text=True,
            timeout=120,
        ).stdout
        for module in ("shim.entry.shimbin.serve", "shim.service.tables")
    ]

    assert each[0] == each[1]


def test_traces_are_loaded_only_where_they_are_wanted() -> None:
    """Neither a sidecar nor a shim, a command or a client loads what makes spans by itself."""
    without = [
        module
        for module in modules()
        if module != "shim.tracing.tracer" and not module.endswith("__main__")
    ]

    assert loaded(without, ("shim.tracing.tracer", "opentelemetry")) == "[]"


def test_the_supervisor_stays_small() -> None:
    """The supervisor lives as long as any task, so it loads no more than it needs."""
    assert loaded(["shim.host.supervisor.server"], ("asyncio", "msgspec", "subprocess")) == "[]"
