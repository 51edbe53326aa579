"""The texts of the warnings that users see, from the code.

A warning is what a function returns whose name or docstring says so, and what is given to `warn`,
to `leave_behind`, or to a Progress with `warning=True`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHIM = ROOT / "shim"
# Findings of the doctor have subjects; the simulation warns no user; the API is generated.
ELSEWHERE = {"api", "doctor", "simgpu", "selftest"}
PUBLISH = {"warn", "_warn", "leave_behind"}
# What stands for a value in a text.
VALUE = "…"
WORDS = 3

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def texts() -> dict[str, str]:
    """Return where each warning is made, by its text."""
    found = {}
    for path in sorted(SHIM.rglob("*.py")):
        name = path.relative_to(SHIM)
        if name.parts[0] not in ELSEWHERE:
            for text in texts_of(ast.parse(path.read_text("utf-8"))):
                found[text] = str(name)
    return found


def texts_of(module: ast.Module) -> Iterator[str]:
    """Give the texts of warnings in a module, with `VALUE` for each value."""
    outside = _assigned(module.body)
    for node in ast.walk(module):
        if isinstance(node, _Function):
            yield from _Texts(node, outside).all()


class _Texts:
    """The texts of warnings in a function."""

    def __init__(self, function: _Function, outside: dict[str, list[ast.expr]]) -> None:
        self._function = function
        self._known = {**outside, **_assigned(ast.walk(function))}

    def all(self) -> Iterator[str]:
        for value in self._values():
            for text in self._literals(value):
                if len(text.split()) >= WORDS:
                    yield text

    def _values(self) -> Iterator[ast.expr]:
        """Give the expressions that are warnings."""
        returns = self._returns_warnings()
        for node in _inside(self._function):
            match node:
                case ast.Return(value=ast.expr() as value) if returns:
                    yield value
                case ast.Call(func=ast.Attribute(attr="append"), args=args) if returns:
                    yield from args
                case ast.Call(func=ast.Name(id="print"), args=[ast.JoinedStr(values=[first, *_])]):
                    if isinstance(first, ast.Constant) and first.value == "warning: ":
                        yield node.args[0]
                case ast.Call() if _warns(node):
                    yield from (*node.args, *(one.value for one in node.keywords))

    def _returns_warnings(self) -> bool:
        first = (ast.get_docstring(self._function) or "").partition("\n")[0].lower()
        returned = ast.unparse(self._function.returns or ast.Constant(None))
        return "str" in returned and "warning" in f"{self._function.name} {first}"

    def _literals(self, node: ast.AST) -> Iterator[str]:
        """Give the texts in an expression, and in the names that it has."""
        match node:
            case ast.JoinedStr() | ast.Constant(value=str()):
                yield self._template(node)
            case ast.Name(id=name):
                for value in self._known.get(name, []):
                    yield from self._literals(value)
            case ast.BinOp(left=left):
                for text in self._literals(left):
                    yield f"{text}{VALUE}"
            case ast.ListComp(elt=part) | ast.GeneratorExp(elt=part):
                yield from self._literals(part)
            case ast.Call(func=ast.Name(id="tuple" | "list"), args=[part]):
                yield from self._literals(part)
            case ast.List() | ast.Tuple() | ast.Starred() | ast.IfExp() | ast.BoolOp():
                for child in ast.iter_child_nodes(node):
                    yield from self._literals(child)

    def _template(self, node: ast.AST) -> str:
        match node:
            case ast.JoinedStr(values=values):
                return "".join(self._template(value) for value in values).removeprefix("warning: ")
            case ast.Constant(value=str() as text):
                return text
            case ast.FormattedValue(value=ast.Name(id=name)) if len(self._known.get(name, [])) == 1:
                (value,) = self._known[name]
                return self._template(value)
            case _:
                return VALUE


def _inside(function: _Function) -> Iterator[ast.AST]:
    """Give the nodes of a function that are in no function inside of it."""
    todo: list[ast.AST] = [*function.body]
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, _Function):
            todo += ast.iter_child_nodes(node)


def _assigned(nodes: Iterable[ast.AST]) -> dict[str, list[ast.expr]]:
    """Return what each name is assigned."""
    found: dict[str, list[ast.expr]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).append(node.value)
    return found


def _warns(call: ast.Call) -> bool:
    function = ast.unparse(call.func)
    marked = any(one.arg == "warning" and ast.unparse(one.value) == "True" for one in call.keywords)
    return marked or (function.rpartition(".")[2] in PUBLISH and "_log" not in function)
