"""The pages of the site: documents of the repository, with links that hold there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
DOCS = "docs"

# Where documents outside of docs/ are in the site. Its home is README.
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "RELEASE.md": "release.md",
    "CHANGELOG.md": "changelog.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
    "SECURITY.md": "vulnerabilities.md",
    "docs/adr/README.md": "adr/index.md",
}
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_FENCED = re.compile(r"^(?P<mark>```|~~~).*?^(?P=mark)$", re.MULTILINE | re.DOTALL)


class Wrong(Exception):
    """A document is not what it should be; the argument says where and what to do."""


def place(name: str) -> str | None:
    """Return where a file of the repository is in the site; `None` if it is not there."""
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    found = PurePosixPath(name)
    return str(found.relative_to(DOCS)) if found.is_relative_to(DOCS) else None


def documents(root: Path = ROOT) -> Iterator[str]:
    """Give the names of all files that the site is made from."""
    yield from (name for name in ELSEWHERE if not name.startswith(DOCS))
    for path in sorted((root / DOCS).rglob("*")):
        if path.is_file():
            yield path.relative_to(root).as_posix()


def page(name: str, text: str, root: Path = ROOT) -> str:
    """Return a document with its links as they are in the site.

    Raises:
        Wrong: a link leads nowhere, or to a file that is not in the site.
    """
    here = PurePosixPath(place(name) or name).parent

    def link(match: re.Match[str]) -> str:
        target, mark, fragment = match["target"].partition("#")
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        file = os.path.normpath(PurePosixPath(name).parent / target)
        found = place(file)
        if found is None or not (root / file).is_file():
            why = "is no file" if found else "is outside of the site: name it in backticks"
            message = f"{name}: the link to {target} {why}"
            raise Wrong(message)
        return f"]({os.path.relpath(found, here)}{mark}{fragment})"

    parts, end = [], 0
    for code in _FENCED.finditer(text):
        parts += [_LINK.sub(link, text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, _LINK.sub(link, text[end:])])


def write(folder: Path, root: Path = ROOT) -> None:
    """Write all pages into a folder, and what they show.

    Raises:
        Wrong: see `page`.
    """
    for name in documents(root):
        path = folder / str(place(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            path.write_text(page(name, (root / name).read_text("utf-8"), root), "utf-8")
        else:
            path.write_bytes((root / name).read_bytes())
