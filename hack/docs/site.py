"""Build the site of the documents: `python -m hack.docs [FOLDER]`, by default build.

The folder gets `pages`, as Zensical reads them, and `site`. A page that is in no
menu, a link that leads nowhere, and every warning of Zensical are errors.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from hack.docs import commands, pages, protos

CONFIG = Path(__file__).with_name("mkdocs.yml")
STYLE = Path(__file__).with_name("site.css")
LIMIT_S = 120


def build(folder: Path) -> int:
    """Write the pages and build the site; return the exit status of Zensical.

    Raises:
        pages.Wrong: a link or the menu is wrong.
    """
    written = folder / "pages"
    if written.exists():
        shutil.rmtree(written)
    pages.write(written)
    for name, text in references().items():
        path = written / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    (written / STYLE.name).write_bytes(STYLE.read_bytes())
    (folder / CONFIG.name).write_text(yaml.safe_dump(config(written), sort_keys=False), "utf-8")
    argv = [
        sys.executable,
        "-m",
        "zensical",
        "build",
        "--strict",
        "--clean",
        "--config-file",
        CONFIG.name,
    ]
    return subprocess.run(argv, check=False, cwd=folder, timeout=LIMIT_S).returncode


def references() -> dict[str, str]:
    """Return the pages that are written from code, by their places."""
    found = {f"reference/{name}.md": text for name, text in protos.references().items()}
    return {"reference/commands.md": commands.reference(), **found}


def config(written: Path) -> dict[str, Any]:
    """Return the configuration of the site, with the decisions in its menu.

    Raises:
        pages.Wrong: a page is in no menu, or a menu has one that is not there.
    """
    found: dict[str, Any] = yaml.safe_load(CONFIG.read_text("utf-8"))
    decisions = sorted(path.name for path in (written / "adr").glob("[0-9]*.md"))
    found["nav"][-1] = {"Decisions": ["adr/index.md", *(f"adr/{name}" for name in decisions)]}
    there = {path.relative_to(written).as_posix() for path in written.rglob("*.md")}
    if different := there ^ set(listed(found["nav"])):
        name = CONFIG.relative_to(pages.ROOT)
        message = f"{name}: only one of nav and pages has {', '.join(sorted(different))}"
        raise pages.Wrong(message)
    return found


def listed(nav: Any) -> Iterator[str]:
    """Give the pages of a menu."""
    match nav:
        case str():
            yield nav
        case dict():
            for entries in nav.values():
                yield from listed(entries)
        case list():
            for entry in nav:
                yield from listed(entry)


def main() -> int:
    """Build the site; return the exit status."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else pages.ROOT / "build"
    try:
        return build(folder.resolve())
    except pages.Wrong as wrong:
        print(f"hack.docs: {wrong}", file=sys.stderr)
        return 1
