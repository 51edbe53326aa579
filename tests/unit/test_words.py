"""The words of the code and the documents are the field's; those that were replaced stay out."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.source import parsed

ROOT = Path(__file__).parents[2]

# Parts of identifiers and words of the prose, with what is written in their place.
PARTS = {
    "bystander": "a process without CUDA that holds a device",
    "gathering": "pod restore",
    "house": "runtime environment",
    "keeper": "supervisor",
    "ledger": "verify cache",
    "nursery": "fork server",
    "outsider": "exec process",
    "rehearsal": "warm-up",
    "revival": "restore transaction",
    "revive": "restore",
    "stray": "tool process",
    "teller": "output",
    "unbroken": "shielded",
    "wishes": "annotations",
}

# Whole identifiers.
NAMES = {
    "Batched": "BatchMover",
    "Born": "ProcessId",
    "Drain": "WaitGate",
    "Edge": "ErrorInterceptor",
    "Fleet": "CudaGroup",
    "Folder": "ImageDir",
    "Holds": "Invariant",
    "Once": "SetOnce",
    "KeeperPort": "ProcessSupervisor",
    "Processes": "StepMover",
    "Say": "log",
    "Solo": "CudaGroup",
    "Strays": "ToolProcesses",
    "Subject": "CheckpointTarget",
    "Wishes": "TaskAnnotations",
    "agree": "reconcile_pause",
    "attend": "_watch_exit",
    "despite": "_best_effort",
    "note_kindly": "_try_save",
    "attend_end": "watch_exit",
    "born": "process",
    "claim": "lock",
    "forgive": "allow_write_errors",
    "grave": "trash",
    "hear": "on_event",
    "go_on": "_resume_sandbox",
    "let_go": "detach",
    "maker": "creator",
    "maker_pid": "creator_pid",
    "members_wanted": "member_mapping",
    "mend": "repair",
    "metered": "throttled",
    "news": "progress",
    "own_sockets": "ignored_sockets",
    "tell": "publish, report or log",
    "to_its_end": "shielded",
    "told": "published, reported or logged",
    "until_quiet": "wait_for_save_idle",
}

# Ordinary words that say too little as the name of a module, class or function of shim/.
DEFINITIONS = {
    "exact": "process_id",
    "given": "bootstrap_params",
    "halt": "_pause_sandbox",
    "held": "fd_store, or what is held",
    "kept": "_run_tracked, or what is kept",
    "once": "SetOnce",
    "own": "root",
    "places": "paths",
    "points": "failpoints",
    "quiet": "save_idle",
    "refuse": "corrupt",
    "room": "layer",
    "settled": "shielded",
    "spans": "timeline",
    "tick": "on_bytes",
    "trial": "runner",
    "wake": "thaw_restored",
    "wanted": "member_mapping",
    "whole": "combined, intact",
}
# Names of modules alone: a TCP port, say, is called so elsewhere.
MODULES = {
    "batched": "batch_mover",
    "drain": "wait_gate",
    "edge": "error_interceptor",
    "fleet": "group",
    "folder": "directory",
    "member": "pod_container",
    "metered": "throttled",
    "port": "service",
    "subject": "target",
    "tell": "report",
}

# What is written in plain English instead, in comments, strings and documents.
PROSE = {
    r"for ever\b": "forever, without end",
    r"who has left\b": "that was cancelled",
    r"of which none\b": "none of which",
    r"whoever\b": "the process that",
    r"nobody\b": "no process",
    r"news\b": "progress",
    r"(?:is|are|was|were|be|been) told\b": "is reported, is notified",
    r"(?:tells?|told) (?:apart|from|of)\b": "distinguish, report",
    r"tell whether\b": "return whether",
    r"hears? of\b": "is notified of",
    r"restoreing\b": "restoring",
    r"anew\b": "again",
    r"lately\b": "recently",
    r"thereby\b": "so",
    r"(?:has|have) (?:not )?got\b": "has, does not have",
    r"(?:of today\b|today's)": "current",
}

# Files of the sources and documents. CHANGELOG quotes what was, shim/api is generated.
FOLDERS = ("shim", "tests", "hack", "native", "proto", "docs")
SUFFIXES = {".py", ".md", ".c", ".h", ".proto", ".sh"}
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile")

# What may stay: the file, the match, and why.
ALLOWED = (
    (
        "*",
        r"keeper\.(?:sock|lock|exits|log)",
        "names on disk: an upgrade finds the process",
    ),
    ("*", r"name=\"outsiders\"", "the name in journals that an earlier release wrote"),
    ("*", r"\bmaker_(?:pid|start)\b", "names in records that an earlier release wrote"),
    ("tests/unit/test_docs.py", r"house", "the check of the documents quotes them"),
    ("*", r"\"nobody\"|'nobody'|as nobody|-u nobody|\bnobody:", "the Unix user of that name"),
    ("*", r"\b\w+\.tell\(\)", "the position in a file"),
    ("*", r"containerManager\.Processes", "a method of the sentry"),
    ("shim/config.py", r"\"own_sockets\"", "a key of config.toml: the old name is still read"),
)

_PART = re.compile(rf"(?i:{'|'.join(PARTS)})(?:s|es|S)?(?![a-z])")
_NAME = re.compile(rf"\b_?(?:{'|'.join(NAMES)})\b")
_WORDS = (
    *PARTS,
    *(
        "for ever",
        "has left",
        "which none",
        "nobody",
        "whoever",
        "news",
        " told",
        " tell",
        "hears",
        "anew",
        "lately",
        "thereby",
        "s got",
        "ve got",
        "not got",
        "today",
        "hear of",
    ),
)
_PROSE = re.compile(rf"(?i)\b(?:{'|'.join(PROSE)})")


def sources() -> Iterator[Path]:
    """Give every file that people write, except this one."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in SUFFIXES or not path.is_file() or path == Path(__file__):
                continue
            name = str(path.relative_to(ROOT))
            if not name.startswith("shim/api/") and "_pb2" not in name:
                yield path
    yield from (ROOT / name for name in DOCUMENTS if (ROOT / name).exists())


def permitted(path: Path, line: str) -> str:
    """Return a line without what may stay in it."""
    for glob, pattern, _reason in ALLOWED:
        if path.relative_to(ROOT).match(glob):
            line = re.sub(pattern, "", line)
    return line


def names(source: str) -> Iterator[tuple[int, str]]:
    """Give each name that a source defines or uses, with its line."""
    for node in ast.walk(parsed(source)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield node.lineno, name
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                yield node.lineno, name
            case ast.AsyncFunctionDef(name=name):
                yield node.lineno, name


def found(path: Path) -> Iterator[str]:
    """Give each old word of a file, with its place."""
    text = path.read_text("utf-8")
    lowered = text.lower()
    where, lines = path.relative_to(ROOT), text.splitlines()
    if any(word in lowered for word in _WORDS):  # the patterns are slow
        for number, line in enumerate(lines, 1):
            rest = permitted(path, line)
            for match in (*_PART.finditer(rest), *_PROSE.finditer(rest)):
                yield f"{where}:{number}: {match[0]!r}"
    if path.suffix == ".py" and _NAME.search(text):
        for number, name in names(text):
            if name.lstrip("_") in NAMES and name in permitted(path, lines[number - 1]):
                yield f"{where}:{number}: {name!r}"


def test_old_words_are_gone() -> None:
    """Each is printed with its place; the tables above have what is written instead."""
    lines = [line for path in sources() for line in found(path)]
    assert not lines, "\n".join(lines)


def definitions(path: Path) -> Iterator[str]:
    """Give each module, class and function that has the name of one that was replaced."""
    where = path.relative_to(ROOT)
    if path.stem in DEFINITIONS | MODULES:
        yield f"{where}: the module {path.stem}"
    for node in ast.walk(parsed(path.read_text("utf-8"))):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                pass
            case ast.AsyncFunctionDef(name=name):
                pass
            case _:
                continue
        if name.lstrip("_") in DEFINITIONS:
            yield f"{where}:{node.lineno}: {name!r}"


def test_no_definition_has_an_old_name() -> None:
    """Each is printed with its place; the tables above have what to write instead."""
    paths = (one for one in (ROOT / "shim").rglob("*.py") if "api" not in one.parts)
    lines = [line for path in paths for line in definitions(path)]
    assert not lines, "\n".join(lines)


def test_documents_have_layers() -> None:
    """The parts of shim/ are called layers there, not rooms."""
    documents = [path for path in sources() if path.suffix == ".md"]
    assert documents
    assert not [path for path in documents if re.search(r"(?i)\brooms?\b", path.read_text("utf-8"))]


def test_the_check_of_definitions_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a module's name, and in methods and nested functions with or without an underscore."""
    path = tmp_path / "port.py"
    path.write_text("class A:\n  async def _held(self): ...\n  def x(self):\n    def wake(): ...\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    found = ["port.py: the module port", "port.py:2: '_held'", "port.py:4: 'wake'"]
    assert sorted(definitions(path)) == sorted(found)


def test_the_check_finds_them() -> None:
    """In names, parts of names and prose; a name on disk may stay."""
    assert all(map(_PART.search, ("class KeeperPort:", "self._house = 1", "two strays")))
    assert all(map(_PROSE.search, ("# it waits for ever", "Nobody is there", "the caller is told")))
    assert {name for _, name in names("x.born = told(f'{_tell}')")} >= {"born", "told", "_tell"}
    path = ROOT / "shim" / "x.py"
    assert not _PART.search(permitted(path, 'state_dir / "keeper.sock"'))
