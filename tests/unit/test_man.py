"""The manual pages: one for each command, with what its help has, and in correct roff."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import click
import pytest

from hack import man
from shim.entry.cli import exits
from tests.builds import excuse


def shown(page: man.Page, folder: Path) -> str:
    """Render a page as text, without its typography; no warning is tolerated."""
    if shutil.which("groff") is None:
        excuse("groff is not installed")
    path = folder / page.name
    path.write_text(page.text, "utf-8")
    options = ("-man", "-ww", "-Tascii", "-P-c", "-P-b", "-P-u", "-P-o", "-rLL=200n")
    done = subprocess.run(["groff", *options, path], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return " ".join(done.stdout.split())


def page_of(context: click.Context) -> man.Page:
    """Return the page of a command."""
    return man.page(context, "2026-01-01")


def page_named(name: str) -> man.Page:
    """Return a page by its name, such as `cryo-doctor`."""
    [found] = [page for page in man.pages() if page.name == f"{name}.1"]
    return found


def test_each_command_has_a_page() -> None:
    """Groups load their commands on use; all of them have a page, under the name of its path."""
    names = {page.name for page in man.pages()}

    assert {"cryo.1", "cryo-tasks.1", "cryo-tasks-checkpoint.1", "cryo-warm-save.1"} <= names
    for context in man.contexts():
        if isinstance(context.command, click.Group):
            for name in context.command.list_commands(context):
                assert f"{context.command_path.replace(' ', '-')}-{name}.1" in names


def test_a_page_has_the_options_of_its_command(tmp_path: Path) -> None:
    """Every option stands in the page with its help, and no text is read as roff."""
    for context in man.contexts():
        text = shown(page_of(context), tmp_path)
        for parameter in context.command.get_params(context):
            record = parameter.get_help_record(context)
            if record is not None:
                assert " ".join(record[1].replace("`", "").split()) in text, (
                    context.command_path,
                    record,
                )


def test_exit_codes_are_in_the_page_of_cryo(tmp_path: Path) -> None:
    """cryo(1) lists every exit code, and cryo-doctor(1) its own."""
    text = shown(page_named("cryo"), tmp_path).partition("EXIT STATUS")[2]

    for code in exits.CODES.values():
        assert f" {code} " in text
    assert " 22 runsc " in shown(page_named("cryo-doctor"), tmp_path)


def test_text_is_not_read_as_a_request() -> None:
    """A line that begins with a dot, backslashes and quotes stay what they are."""

    @click.command("odd", help=".so \\fB/etc/passwd's\n\n'br")
    def odd() -> None:
        pass

    text = man.page(click.Context(odd, info_name="odd"), "2026-01-01").text

    assert not [line for line in text.splitlines() if line.startswith((".so", "'"))]
    assert r"\(rsfB" in text


def test_pages_have_no_warnings_of_mandoc(tmp_path: Path) -> None:
    """Mandoc, which other systems use for man, accepts every page."""
    if shutil.which("mandoc") is None:
        excuse("mandoc is not installed")
    written = []
    for page in man.pages():
        written.append(tmp_path / page.name)
        written[-1].write_text(page.text, "utf-8")
    lint = ["mandoc", "-T", "lint", "-W", "warning"]
    done = subprocess.run([*lint, *written], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_date_is_reproducible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages made at different times are equal if SOURCE_DATE_EPOCH is set."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")
    man.main([str(tmp_path / "man")])

    assert '1 2026-01-01 "' in (tmp_path / "man" / "cryo.1").read_text("utf-8")
