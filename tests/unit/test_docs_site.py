"""The documents are a site: it builds without a warning, and its references are complete."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from hack.docs import commands, pages, protos, site
from shim.api.cryo.v1 import cryo_pb2
from shim.entry.cli.app import cryo

DOCUMENT = "docs/here.md"


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """Every page is there, and none loads anything from elsewhere."""
    assert site.build(tmp_path) == 0

    built = sorted((tmp_path / "site").rglob("*.html"))
    assert {path.stem for path in built} >= {"index", "commands", "cryo.v1", "0001-fork-server"}
    loads = re.compile(r'<(?:script|img|iframe)[^>]*src="https?:|<link[^>]*href="https?:')
    assert [path.name for path in built if loads.search(path.read_text("utf-8"))] == []


@pytest.mark.parametrize(
    ("text", "why"),
    (
        ("[a](gone.md)", "docs/here.md: the link to gone.md is no file"),
        ("![a](gone.svg)", "is no file"),
        ("[a](../hack/script.py)", "is outside of the site: name it in backticks"),
    ),
)
def test_a_link_that_leads_nowhere_is_an_error(tmp_path: Path, text: str, why: str) -> None:
    """A missing page, a missing picture, and a file that the site does not have."""
    with pytest.raises(pages.Wrong, match=re.escape(why)):
        pages.page(DOCUMENT, text, tmp_path)


def test_links_hold_in_the_site(tmp_path: Path) -> None:
    """Documents beside docs/ have other places there; code and addresses stay as they are."""
    for name in ("docs/there.md", "SECURITY.md", "docs/adr/README.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    code = "\n```text\n[a](gone.md)\n```\n"

    found = pages.page(
        DOCUMENT,
        f"[a](../SECURITY.md#x) [b](adr/README.md) [c](https://example.com) {code}",
        tmp_path,
    )

    assert found == f"[a](vulnerabilities.md#x) [b](adr/index.md) [c](https://example.com) {code}"
    assert pages.page("README.md", "[a](docs/there.md)", tmp_path) == "[a](there.md)"


def test_a_page_in_no_menu_is_an_error(tmp_path: Path) -> None:
    """So is an entry of the menu without a page."""
    (tmp_path / "new.md").touch()

    with pytest.raises(pages.Wrong, match=r"only one of nav and pages has .*index\.md, .*new\.md"):
        site.config(tmp_path)


def test_the_reference_has_every_command_and_option() -> None:
    """Each has its place, with all names of each option."""
    sections = dict(
        re.findall(
            r"^## (cryo[^\n]*)\n(.*?)(?=^## |\Z)", commands.reference(), re.MULTILINE | re.DOTALL
        )
    )
    found = {
        context.command_path: context.command
        for context in commands.contexts(click.Context(cryo, info_name="cryo"))
    }

    assert set(sections) == set(found)
    assert len(found) > 40
    for path, command in found.items():
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                for name in (*option.opts, *option.secondary_opts):
                    assert re.search(rf"^\| `[^`]*{name}\b", sections[path], re.MULTILINE), (
                        path,
                        name,
                    )


def test_the_reference_has_every_call_and_message() -> None:
    """What the .proto defines is what the page shows, with its comments."""
    page = protos.references()["cryo.v1"]
    file = cryo_pb2.DESCRIPTOR
    headings = set(re.findall(r"^### (\S+)$", page, re.MULTILINE))
    (service,) = file.services_by_name.values()

    assert headings >= {*file.message_types_by_name, *file.enum_types_by_name}
    assert all(f"| `{method.name}` |" in page for method in service.methods)
    for message in file.message_types_by_name.values():
        part = page.partition(f"### {message.name}\n")[2].partition("\n### ")[0]
        assert all(f"| `{field.name}` |" in part for field in message.fields), message.name
    assert "Saves a running or paused task to an image" in page
    assert set(re.findall(r"\]\(#(\S+)\)", page)) <= {
        heading.lower().replace(".", "") for heading in headings
    }
