"""docs/troubleshooting.md has an entry for each error class, warning and subject of the doctor."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.docs import warning_texts
from shim import errors
from shim.entry.cli import exits
from shim.errors import CryoError, RunscError
from shim.service import status
from tests.source import parsed

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
# Their bodies say that clients see another class.
WITHIN = {"NotReady", "CallFailed", "NotSent", "NoSession", "Lost"}


def part(heading: str) -> str:
    """Return a section of the second level."""
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def error_classes() -> set[str]:
    """Return the names of all classes of errors in shim/, those of errors.py and others."""
    bases: dict[str, set[str]] = {}
    for path in (ROOT / "shim").rglob("*.py"):
        for node in ast.walk(parsed(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                names = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                bases.setdefault(node.name, set()).update(names)
    found = {"CryoError"}
    while more := {name for name, of in bases.items() if of & found} - found:
        found |= more
    return found


def first_lines() -> dict[str, str]:
    """Return the first line below the heading of each class."""
    found = re.findall(r"^####? (\w+)\n\n([^\n]+)$", part("Errors"), re.MULTILINE)
    return dict(found)


def test_each_error_class_has_an_entry() -> None:
    """There is none too many either."""
    assert len(error_classes()) > 20
    assert set(first_lines()) == error_classes()


@pytest.mark.parametrize("name", sorted(error_classes() - WITHIN))
def test_an_entry_has_exit_code_and_status(name: str) -> None:
    """They are those of the program and of the wire."""
    kind: type[CryoError] = getattr(errors, name)
    error = kind("x", 1, "y") if kind is RunscError else kind("x")
    code, exit_code = status.code_of(error).name, exits.code_of(error)

    assert first_lines()[name].startswith(f"Exit code {exit_code}, {code}")


def shown(section: str) -> list[str]:
    """Return the texts in the first cells of a section's tables."""
    cells = re.findall(r"^\| (`.+?`) \|", part(section), re.MULTILINE)
    return [text for cell in cells for text in re.findall(r"`([^`]+)`", cell)]


def as_pattern(text: str) -> str:
    """Return a pattern with any value where a text of the code has one."""
    return ".+".join(re.escape(part) for part in text.split(warning_texts.VALUE))


def test_each_warning_has_an_entry() -> None:
    """Each text in the code has a row, and each row a text."""
    rows = shown("Warnings")
    patterns = {text: as_pattern(text) for text in warning_texts.texts()}

    assert len(rows) == len(set(rows)) > 30
    without = [t for t, one in patterns.items() if not any(re.fullmatch(one, r) for r in rows)]
    surplus = [r for r in rows if not any(re.fullmatch(one, r) for one in patterns.values())]
    assert (without, surplus) == ([], [])


SOURCE = """
def check(x) -> list[str]:
    '''Return a warning.

    Raises:
        Refused: not this.
    '''
    if x:
        message = f"never a text of it"
        raise Refused(message, remedy="and not this one")
    return [f"one of the {x} texts"]

def warn_of(self, names):
    text = f"the text before {names}"
    self._transaction.warn(text, "said three words" if names else "")
    report(Progress(message="marked as such here", warning=True))
    _log.warning("not what goes to the log")
"""


def test_warnings_are_found_in_code() -> None:
    """What is returned, published or marked is; errors and the log are not."""
    assert set(warning_texts.texts_of(ast.parse(SOURCE))) == {
        "one of the … texts",
        "the text before …",
        "said three words",
        "marked as such here",
    }


def subjects() -> Iterator[str]:
    """Give the subjects of the doctor's findings."""
    for path in (ROOT / "shim" / "doctor").glob("*.py"):
        for node in ast.walk(parsed(path.read_text("utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="Topic"), args=[_, ast.Constant(value=name)]):
                    yield str(name)


def test_each_subject_of_the_doctor_has_an_entry() -> None:
    """There is none too many either."""
    assert sorted(shown("Findings of cryo doctor")) == sorted(subjects())
