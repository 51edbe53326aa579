"""Generate both clients from the table of operations; with --check, compare them.

Each public function of an operations module that returns a `Call`, a `Stream` or a `Feed` becomes a
method of `shim.client.AsyncClient` and of `shim.client.Client`, with its parameters and docstring.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (
    "shim/service/task_operations.py",
    "shim/service/cryo_operations.py",
    "shim/service/clone_operations.py",
    "shim/service/event_operations.py",
    "shim/service/examine_operations.py",
    "shim/service/image_operations.py",
    "shim/service/store_operations.py",
    "shim/service/timeline_operations.py",
    "shim/service/transfer_operations.py",
    "shim/service/trust_operations.py",
)
_HEAD = '''\
"""{about}.

Generated from the operations in shim/service by `make protos`.
"""

from __future__ import annotations

{imports}
from shim.client.{module} import {base}
{modules}



class {name}({base}):
    """{about}."""
'''


@dataclass(frozen=True)
class Kind:
    """One client: its file and class, and the hand-written module and class below it."""

    path: str
    name: str
    module: str
    base: str
    about: str


ASYNCIO = Kind(
    "shim/client/aio.py",
    "AsyncClient",
    "async_transport",
    "AsyncTransport",
    "A client of a sidecar for asyncio",
)
BLOCKING = Kind(
    "shim/client/blocking.py",
    "Client",
    "transport",
    "Transport",
    "A blocking client of a sidecar, which threads may share",
)


def main(argv: list[str] | None = None) -> int:
    """Generate in place, or compare; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if stale")
    check = parser.parse_args(argv).check
    sources = {Path(path).stem: (ROOT / path).read_text("utf-8") for path in SOURCES}
    stale = []
    for kind in (ASYNCIO, BLOCKING):
        text, path = client_of(sources, kind), ROOT / kind.path
        if check and text != path.read_text("utf-8"):
            stale.append(kind.path)
        elif not check:
            path.write_text(text, "utf-8")
    for name in stale:
        print(f"stale: {name}: run `make protos` and commit the result", file=sys.stderr)
    return int(bool(stale))


def client_of(sources: dict[str, str], kind: Kind) -> str:
    """Return the text of one client for these modules of operations, each by its name."""
    methods, imports, needed = [], set(), set()
    for source, text in sources.items():
        tree = ast.parse(text)
        calls = list(_calls(tree))
        methods += [_method(source, call, is_async=kind is ASYNCIO) for call in calls]
        imports |= _imports(tree, calls)
        needed |= _defaults(calls)
    # Last, because after it `list` in an annotation would be the method.
    methods.sort(key=lambda method: " def list(" in method)
    if kind is BLOCKING:
        typing = {one for one in imports if one.split()[-1] not in needed}
        imports -= typing
        indented = "\n".join(f"    {one}" for one in sorted(typing))
        modules = f"from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n{indented}"
    else:
        modules = f"from shim.service import {', '.join(sources)}"
    head = _HEAD.format(**vars(kind), modules=modules, imports="\n".join(sorted(imports)))
    return _formatted(head + "\n" + "\n\n".join(methods) + "\n")


def _calls(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and _result(node)[0] in ("Call", "Stream", "Feed"):
            yield node


def _result(function: ast.FunctionDef) -> tuple[str, str]:
    """Return `Call`, `Stream` or `Feed`, and the type of its result, or of each of a feed."""
    match function.returns:
        case ast.Subscript(value=ast.Name(id=kind), slice=given):
            return kind, ast.unparse(given)
    return "", ""


def _method(module: str, function: ast.FunctionDef, *, is_async: bool) -> str:
    kind, result = _result(function)
    name = function.name.removesuffix("_")
    given = _arguments(function)
    if kind == "Stream":
        _add_progress(function.args)
        run = f"self._stream({module}.{function.name}({given}), on_progress)"
    elif kind == "Feed":
        run = f"self._feed({module}.{function.name}({given}))"
        result = f"{'Async' if is_async else ''}Iterator[{result}]"
    else:
        run = f"self._call({module}.{function.name}({given}))"
    waits = is_async and kind != "Feed"
    define, run = ("async def", f"await {run}") if waits else ("def", run)
    parameters = ast.unparse(function.args).replace("ref: TaskRef", "task: str | TaskRef")
    parameters = f"self, {parameters}" if parameters else "self"
    first, *rest = (ast.get_docstring(function, clean=False) or "").split("\n")
    docstring = "\n".join([first, *(f"    {line}" if line else "" for line in rest)])
    # The blocking client is that of `cryo`, which loads the modules of what it calls alone.
    load = "" if is_async else f"        from shim.service import {module}\n\n"
    return (
        f"    {define} {name}({parameters}) -> {result}:\n"
        f'        """{docstring}"""\n'
        f"{load}"
        f"        {'' if result == 'None' else 'return '}{run}"
    )


def _arguments(function: ast.FunctionDef) -> str:
    """Return the arguments to pass on, with the client's defaults for task and namespace."""
    special = {"ref": "self._ref(task)", "namespace": "namespace or self.namespace"}
    given = [special.get(one.arg, one.arg) for one in function.args.args]
    given += [f"{one.arg}={special.get(one.arg, one.arg)}" for one in function.args.kwonlyargs]
    return ", ".join(given)


def _add_progress(arguments: ast.arguments) -> None:
    """Add the parameter for a stream's progress callback."""
    annotation = ast.parse("Report | None", mode="eval").body
    report = ast.arg(arg="on_progress", annotation=annotation)
    arguments.args.append(report)
    arguments.defaults.append(ast.Constant(value=None))


def _imports(tree: ast.Module, calls: Sequence[ast.FunctionDef]) -> set[str]:
    """Return the import of each name that the parameters and results use."""
    used = {"TaskRef"}
    for call in calls:
        for part in (call.args, call.returns):
            if part is not None:
                used |= {node.id for node in ast.walk(part) if isinstance(node, ast.Name)}
    found = {"from shim.model import Report"}
    if any(_result(call)[0] == "Feed" for call in calls):
        found.add("from collections.abc import AsyncIterator, Iterator")
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            found |= {
                f"from {node.module} import {name.name}" for name in node.names if name.name in used
            }
    return {line for line in found if "operation import" not in line}


def _defaults(calls: Sequence[ast.FunctionDef]) -> set[str]:
    """Return the names that the defaults of parameters need when the client is loaded."""
    values = [one for call in calls for one in (*call.args.defaults, *call.args.kw_defaults) if one]
    return {
        node.id for value in values for node in ast.walk(value) if isinstance(node, ast.Name)
    } | {"annotations"}


def _formatted(text: str) -> str:
    ruff = Path(sys.executable).with_name("ruff")
    for command in (
        ["check", "--fix-only", "--quiet", "--select", "I,F401"],
        ["format", "--quiet"],
    ):
        argv = [str(ruff), *command, "--stdin-filename", "shim/client/generated.py", "-"]
        text = subprocess.run(
            argv, input=text, text=True, capture_output=True, check=True, cwd=ROOT
        ).stdout
    return text


if __name__ == "__main__":
    sys.exit(main())
