"""hack/layers.py: the layers of a package, read from its imports."""

from __future__ import annotations

from pathlib import Path

import pytest

from hack import layers

FILES = {
    "__init__.py": "",
    "errors.py": "import os",
    "low/__init__.py": '"""The lowest."""',
    "low/part/__init__.py": '"""A part."""',
    "low/part/one.py": "from shim import errors",
    "mid/__init__.py": "",
    "mid/two.py": "import msgspec\n\n\ndef later():\n    from shim.low.part import one",
    "top/__init__.py": "",
    "top/three.py": "import shim.mid.two\nfrom shim.low.part.one import name\nimport grpc.aio",
}


@pytest.fixture
def shim(tmp_path: Path) -> Path:
    """Write a package of three layers and a shared module."""
    for name, source in FILES.items():
        path = tmp_path / "shim" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, "utf-8")
    return tmp_path / "shim"


def test_a_layer_is_shown_with_what_it_is_built_on(shim: Path) -> None:
    """Layers come from the top down; what another layer brings along is left out."""
    assert layers.table(layers.read(shim)) == layers.HEAD + (
        "| `top` |  | `mid` | `grpc` |\n"
        "| `mid` |  | `low` | `msgspec` |\n"
        "| `low` | The lowest. | `values` |  |\n"
        "| `low/part` | A part. |  |  |\n"
        "| `values` | `errors` |  |  |\n"
    )


def test_a_cycle_is_named(shim: Path) -> None:
    """Two layers that import each other are an error with their names."""
    (shim / "low" / "wrong.py").write_text("from shim.top import three", "utf-8")

    with pytest.raises(ValueError, match="low -> top -> low"):
        layers.table(layers.read(shim))


def test_only_the_text_between_the_markers_changes() -> None:
    """The rest of a document stays."""
    document = f"before\n{layers.BEGIN}old\n{layers.END}after\n"

    assert layers.drawn(document, "new\n") == f"before\n{layers.BEGIN}new\n{layers.END}after\n"


def test_a_document_without_markers_is_an_error() -> None:
    """Nothing is written into a document that has no place for it."""
    with pytest.raises(ValueError, match="layers"):
        layers.drawn("text\n", "new\n")
