"""The order in which a transaction calls its parts, from the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "shim" / "transaction"
# What these do is not a step of its own.
ASIDE = {"asyncio", "self", "Transaction"}

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Call(NamedTuple):
    """A call of a part that is waited for: its class or module, its method, and the phases."""

    part: str
    method: str
    text: str
    phases: tuple[str, ...]


class _Class(NamedTuple):
    methods: Mapping[str, _Function]
    parts: Mapping[str, str]


def calls(name: str, *methods: str) -> list[Call]:
    """Return what the methods of a class call and wait for, in the order of the code.

    Methods of its own are followed; those of its parts are not.
    """
    classes = _classes()
    return [call for method in methods for call in _Reader(classes, name).of(method, ())]


def _classes() -> dict[str, _Class]:
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        module = ast.parse(path.read_text("utf-8"))
        functions = {one.name: one for one in module.body if isinstance(one, _Function)}
        found[path.stem] = _Class(functions, {})
        for node in module.body:
            if isinstance(node, ast.ClassDef):
                inside = {one.name: one for one in node.body if isinstance(one, _Function)}
                found[node.name] = _Class(inside, dict(_made(node)))
    return found


def _made(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Give the class of each attribute, variable and parameter that a tree shows."""
    for node in ast.walk(tree):
        match node:
            case ast.Assign(
                targets=[target],
                value=ast.Call(func=ast.Name(id=kind))
                | ast.IfExp(orelse=ast.Call(func=ast.Name(id=kind))),
            ):
                yield ast.unparse(target), kind
            case ast.arg(arg=name, annotation=ast.Name(id=kind)):
                yield name, kind


class _Reader:
    def __init__(self, classes: Mapping[str, _Class], name: str) -> None:
        self._classes = classes
        self._own = classes[name]
        self._local: Mapping[str, str] = {}

    def of(self, method: str, phases: tuple[str, ...]) -> Iterator[Call]:
        """Give the calls of a method in a phase."""
        outside, function = self._local, self._own.methods[method]
        self._local = {**self._own.parts, **dict(_made(function))}
        for statement in function.body:
            yield from self._in(statement, phases)
        self._local = outside

    def _in(self, node: ast.AST, phases: tuple[str, ...]) -> Iterator[Call]:
        if isinstance(node, ast.With):
            phases += tuple(_phases(node.items))
            for inner in node.body:
                yield from self._in(inner, phases)
            return
        if isinstance(node, ast.ExceptHandler):
            return
        if isinstance(node, ast.Await) and isinstance(node.value, ast.Call):
            yield from self._call(node.value, phases)
            return
        for child in ast.iter_child_nodes(node):
            yield from self._in(child, phases)

    def _call(self, call: ast.Call, phases: tuple[str, ...]) -> Iterator[Call]:
        for argument in call.args:
            yield from self._in(argument, phases)
            if isinstance(argument, ast.Call):
                yield from self._call(argument, phases)
        part, _, method = ast.unparse(call.func).rpartition(".")
        if part == "self" and method in self._own.methods:
            yield from self.of(method, phases)
            return
        kind = self._local.get(part, part)
        if kind in ASIDE or kind not in self._classes:
            return
        called = self._classes[kind].methods.get(method)
        if called is not None:
            text = (ast.get_docstring(called) or "").partition("\n")[0].rstrip(".")
            part = f"{kind}.py" if kind.islower() else kind
            yield Call(part, method, text, phases or tuple(_phases(called.body)))


def _phases(nodes: list[ast.withitem] | list[ast.stmt]) -> Iterator[str]:
    """Give the phases that are reported in some code."""
    for node in nodes:
        for inner in ast.walk(node):
            match inner:
                case ast.Call(
                    func=ast.Attribute(attr="step"),
                    args=[ast.Attribute(value=ast.Name(id="Phase"), attr=phase)],
                ):
                    yield phase.lower().replace("_", "-")
