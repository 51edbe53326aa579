"""Write the table of layers in CONTRIBUTING.md from the imports; with --check, compare it."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHIM = ROOT / "shim"
DOCUMENT = ROOT / "CONTRIBUTING.md"
BEGIN = "<!-- layers: written by hack/layers.py -->\n"
END = "<!-- end of layers -->\n"

# The modules directly in shim/, which every layer shares.
VALUES = "values"
# Generated packages have no docstring.
GENERATED = {"api": "Bindings generated from proto/ by `make protos`; committed, never edited."}
HEAD = "| layer | contents | built on | packages |\n|---|---|---|---|\n"


@dataclass
class Layer:
    """A package directly in shim/: what it holds, and what its modules import."""

    contents: str = ""
    parts: dict[str, str] = field(default_factory=dict)
    layers: set[str] = field(default_factory=set)
    packages: set[str] = field(default_factory=set)


def main(argv: list[str] | None = None) -> int:
    """Write the table, or compare it; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if stale")
    old = DOCUMENT.read_text("utf-8")
    new = drawn(old, table(read(SHIM)))
    if parser.parse_args(argv).check:
        if new != old:
            print("the table of layers in CONTRIBUTING.md is stale: run python3 hack/layers.py")
        return int(new != old)
    DOCUMENT.write_text(new, "utf-8")
    return 0


def drawn(document: str, text: str) -> str:
    """Return a document with the text between its markers replaced.

    Raises:
        ValueError: there are no markers.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        message = f"{DOCUMENT.name} has no {BEGIN.strip()} before {END.strip()}"
        raise ValueError(message)
    return f"{before}{BEGIN}{text}{END}{after}"


def read(shim: Path) -> dict[str, Layer]:
    """Return the layers by name."""
    found: dict[str, Layer] = {}
    for path in sorted(shim.rglob("*.py")):
        inside = path.relative_to(shim).parts
        layer = found.setdefault(inside[0] if len(inside) > 1 else VALUES, Layer())
        tree = ast.parse(path.read_text("utf-8"))
        if len(inside) == 1:
            layer.parts[path.stem] = ""
        elif inside[-1] == "__init__.py":
            _describe(layer, inside[:-1], ast.get_docstring(tree) or "")
        for name in imported(tree):
            top, _, rest = name.partition(".")
            if top == "shim":
                layer.layers.add(layer_of(rest, shim))
            elif top and top not in sys.stdlib_module_names:
                layer.packages.add(top)
    found[VALUES].contents = " ".join(f"`{name}`" for name in found[VALUES].parts if name[0] != "_")
    found[VALUES].parts.clear()
    return found


def _describe(layer: Layer, package: tuple[str, ...], docstring: str) -> None:
    first = " ".join(docstring.partition("\n\n")[0].split())
    match package:
        case (name,):
            layer.contents = GENERATED.get(name, first)
        case (_, part) if first:
            layer.parts[part] = first


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the name of every import of a module, at any depth; relative ones begin with a dot."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = "." * level + (module or "")
                yield from (f"{base}.{alias.name}" for alias in names)


def layer_of(module: str, shim: Path) -> str:
    """Return the layer of a module, named without `shim.`."""
    top = module.partition(".")[0]
    return top if top and (shim / top).is_dir() else VALUES


def ordered(edges: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the layers from the top down.

    Raises:
        ValueError: two layers import each other.
    """
    done: list[str] = []

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            cycle = " -> ".join((*above[above.index(name) :], name))
            message = f"layers import each other: {cycle}"
            raise ValueError(message)
        if name not in done:
            for below in sorted(edges[name]):
                visit(below, (*above, name))
            done.append(name)

    for name in sorted(edges):
        visit(name, ())
    return done[::-1]


def reduced(edges: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Leave out each import of a layer that another imported layer is built on."""
    below: dict[str, set[str]] = {}
    for name in reversed(ordered(edges)):
        below[name] = edges[name].union(*(below[other] for other in edges[name]))
    return {
        name: {one for one in direct if not any(one in below[other] for other in direct)}
        for name, direct in edges.items()
    }


def table(layers: Mapping[str, Layer]) -> str:
    """Return the layers as a table, the topmost first."""
    edges = {name: layer.layers - {name} for name, layer in layers.items()}
    direct = reduced(edges)
    rows = []
    for name in ordered(edges):
        layer = layers[name]
        rows.append((f"`{name}`", layer.contents, _names(direct[name]), _names(layer.packages)))
        rows += [(f"`{name}/{part}`", text, "", "") for part, text in layer.parts.items()]
    return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _names(names: Iterable[str]) -> str:
    return " ".join(f"`{name}`" for name in sorted(names))


if __name__ == "__main__":
    sys.exit(main())
