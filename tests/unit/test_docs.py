"""What the documents say is what the code does: settings, commands, exit codes, import rules."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
import pytest

from hack.build_hook import BUILT
from shim.config import Config
from shim.entry.cli import exits
from shim.entry.cli.app import cryo
from shim.errors import CryoError
from shim.service import status
from tests.source import parsed

ROOT = Path(__file__).parents[2]
SETTINGS = ROOT / "docs" / "settings.md"
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
LIBRARY = ROOT / "docs" / "python.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PEOPLE = (
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / ".github").rglob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
)
DECISIONS = ROOT / "docs" / "adr"


class Said(NamedTuple):
    """A command line that a document shows."""

    where: str
    words: tuple[str, ...]


def read(path: Path) -> str:
    """Return a document."""
    return path.read_text("utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def rows(text: str, head: str) -> list[list[str]]:
    """Return the rows of the table that begins with `head`, a cell each."""
    lines = iter(text.splitlines())
    assert any(line == head for line in lines), head
    next(lines)
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


# Settings.


def settings_shown() -> dict[str, Any]:
    """Return what docs/settings.md shows of config.toml."""
    (block,) = blocks(read(SETTINGS), "toml")
    return tomllib.loads(block)


def test_every_setting_is_reported_with_its_default() -> None:
    """docs/settings.md shows each key of config.toml, and no other, with its value when unset."""
    assert settings_shown() == msgspec.json.decode(msgspec.json.encode(Config()))


def settings_read() -> set[tuple[str, str]]:
    """Return what the code reads of any section: `config.timeouts.save`, `self._timeouts.save`."""
    found = set()
    for path in (ROOT / "shim").rglob("*.py"):
        if path.name != "config.py" and "api" not in path.parts:
            for node in ast.walk(parsed(read(path))):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    of = node.value
                    name = str(getattr(of, "attr", "") or getattr(of, "id", ""))
                    found.add((name.lstrip("_"), node.attr.rstrip("_")))
    return found


def test_every_setting_is_read() -> None:
    """Each key of config.toml is read somewhere in the code, so that none is without effect."""
    reported = {(section, key) for section, keys in settings_shown().items() for key in keys}

    assert reported - settings_read() == set()


def test_the_shown_settings_can_be_used() -> None:
    """What docs/settings.md shows is a config.toml, and means the same as none."""
    assert msgspec.convert(settings_shown(), Config) == Config()


# Commands.


def command_lines() -> list[Said]:
    """Return every `cryo ...` that a document shows, in a block or in the text."""
    return [Said(path.name, words) for path in PEOPLE for words in lines_of(read(path))]


def lines_of(text: str) -> Iterator[tuple[str, ...]]:
    """Give the command lines of a document, without comments."""
    indented = re.findall(r"^(?:    |\$ )*(cryo [^\n]*)$", text, re.MULTILINE)
    inline = re.findall(r"`(cryo [^`]*)`", text)
    for line in (*indented, *inline):
        words = tuple(shlex.split(line.rstrip(";&"), comments=True))
        # A line that the program prints begins with its name too, and is no command.
        if len(words) > 1 and words[0] == "cryo":
            yield words


def wrong(words: tuple[str, ...]) -> str:
    """Return what is wrong with a command line; empty when nothing is."""
    command: click.Command = cryo
    context = click.Context(cryo)
    todo = list(words[1:])
    while todo:
        word = todo.pop(0)
        if word.startswith("-") and word != "-":
            option = option_of(command, word)
            if option is None:
                return f"{command.name} has no option {word}"
            if not option.is_flag and "=" not in word and todo:
                todo.pop(0)
        elif isinstance(command, click.Group):
            found = command.get_command(context, word)
            if found is None:
                return f"{command.name} has no command {word}"
            command = found
        elif command.context_settings.get("ignore_unknown_options"):
            todo.clear()  # what follows belongs to the program inside
    return ""


def option_of(command: click.Command, word: str) -> click.Option | None:
    """Find an option by its long or short name."""
    if word in ("-h", "--help"):
        return click.Option(["--help"], is_flag=True)
    name = word.partition("=")[0]
    options = (param for param in command.params if isinstance(param, click.Option))
    return next((o for o in options if name in (*o.opts, *o.secondary_opts)), None)


def test_no_help_of_a_command_is_cut() -> None:
    """The first sentence of each fits into the list of its group, in 80 columns."""
    context = click.Context(cryo)
    found = (cryo.get_command(context, name) for name in cryo.list_commands(context))
    groups = [cryo, *(command for command in found if isinstance(command, click.Group))]
    assert len(groups) > 3
    for group in groups:
        shown = click.Context(group, info_name="cryo", terminal_width=80)
        _, _, commands = group.get_help(shown).partition("\nCommands:\n")
        assert commands
        assert not [line for line in commands.splitlines() if line.endswith("...")]


def test_commands_that_are_shown_exist() -> None:
    """Each command line in a document has a command and options that the program has."""
    found = [f"{said.where}: {said.words}: {wrong(said.words)}" for said in command_lines()]

    assert [line for line in found if not line.endswith(": ")] == []
    assert len(found) > 15


def test_the_main_commands_are_shown() -> None:
    """The documents show how to serve, run, checkpoint and restore, and README the last two."""
    shown = {said.words[1:3] for said in command_lines()}
    first = {said.words[1:3] for said in command_lines() if said.where == "README.md"}

    assert ("checkpoints", "verify") in shown
    assert {("tasks", "checkpoint"), ("tasks", "restore")} <= first
    assert {words[0] for words in shown} >= {"serve", "run", "selftest", "info"}


@pytest.mark.parametrize(
    "words",
    (
        ("cryo", "nosuch"),
        ("cryo", "tasks", "thaw", "a"),
        ("cryo", "tasks", "checkpoint", "--nosuch", "a"),
        ("cryo", "--nosuch", "info"),
    ),
)
def test_a_command_that_does_not_exist_is_seen(words: tuple[str, ...]) -> None:
    """The check above finds a wrong command and a wrong option."""
    assert wrong(words)


def test_the_library_example_compiles_and_imports() -> None:
    """The Python in docs/python.md uses names that are there."""
    for block in blocks(read(LIBRARY), "python"):
        compile(block, "python.md", "exec")
        for module, names in re.findall(r"^from (\S+) import (.+)$", block, re.MULTILINE):
            there = importlib.import_module(module)
            assert all(hasattr(there, name.strip()) for name in names.split(","))


# Exit codes.


def test_exit_codes_are_those_of_the_program() -> None:
    """docs/troubleshooting.md has the codes of `exits`, in its words."""
    table = rows(read(TROUBLESHOOTING), "| exit code | gRPC | when |")
    reported = re.findall(r"^    (\d+) +(\S.*)$", exits.__doc__ or "", re.MULTILINE)

    assert [(code, text) for code, _, text in table] == reported
    assert {int(code) for code, _, _ in table} == {0, 130, *exits.CODES.values()}


def test_grpc_codes_are_those_of_the_wire() -> None:
    """docs/troubleshooting.md names the gRPC status of each class beside its exit code."""
    table = rows(read(TROUBLESHOOTING), "| exit code | gRPC | when |")
    shown = {int(code): name for code, name, _ in table if name}
    kinds: dict[int, type[CryoError]] = {code: kind for kind, code in exits.CODES.items()}

    assert shown == {
        0: "OK",
        **{code: status.code_of(kind("")).name for code, kind in kinds.items()},
    }


# The layers.


def test_the_layers_are_those_of_the_imports() -> None:
    """CONTRIBUTING shows the layers that hack/layers.py reads from the imports."""
    argv = [sys.executable, str(ROOT / "hack" / "layers.py"), "--check"]
    done = subprocess.run(argv, capture_output=True, check=False, text=True, timeout=120)

    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


def test_files_that_are_named_exist() -> None:
    """A path of ours in a document leads somewhere, once all is built that can be."""
    pattern = re.compile(r"`((?:shim|tests|hack|docs|proto|native|\.ci)/[A-Za-z0-9_./-]*)`")
    missing = [
        f"{path.name}: {name}"
        for path in PEOPLE
        for name in pattern.findall(read(path))
        if name not in BUILT and not (ROOT / name).exists() and not (ROOT / f"{name}.py").exists()
    ]

    assert missing == []


@pytest.mark.parametrize("path", PEOPLE, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_are_of_the_project_alone(path: Path) -> None:
    """No folder of a developer's machine stands in a document."""
    assert not re.search(r"/(?:root|home|work)/|/tmp/(?!nvidia-mps/)", read(path))


# Decisions.


def test_the_index_lists_each_decision() -> None:
    """docs/adr/README.md has a row for each record, with its title and its date."""
    shown = rows(read(DECISIONS / "README.md"), "| | decision | date |")
    records = [head_of(path) for path in sorted(DECISIONS.glob("[0-9]*.md"))]

    assert shown == records


def head_of(path: Path) -> list[str]:
    """Return the row that the index should have for a record."""
    number = path.name.partition("-")[0]
    title, date = re.findall(rf"^# {int(number)}\. (.+)\n\nDate: ([\d-]+).* Status: ", read(path))[
        0
    ]
    return [f"[{number}]({path.name})", title, date]


@pytest.mark.parametrize("path", sorted(DECISIONS.glob("[0-9]*.md")), ids=lambda path: path.name)
def test_a_decision_has_its_three_parts(path: Path) -> None:
    """Each record says what forced it, what was decided, and what follows."""
    assert re.findall(r"^## (.+)$", read(path), re.MULTILINE) == [
        "Context",
        "Decision",
        "Consequences",
    ]


# Security.


def attacks_tests(text: str) -> list[str]:
    """Return the tests that the table of attacks names, as FILE::NAME."""
    table = rows(text, "| attack | what happens | test |")
    return [cell.strip("`") for *_, cell in table]


def test_each_attack_of_the_table_has_its_test() -> None:
    """security.md names a test for each attack, and it is there under that name."""
    named = attacks_tests(read(ROOT / "docs" / "security.md"))

    assert len(named) > 20
    for each in named:
        path, _, name = each.partition("::")
        tree = parsed(read(ROOT / path))
        functions = {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert name in functions, each
