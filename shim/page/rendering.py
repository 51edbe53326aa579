"""The templates of the page, and how values are written in them; all text is escaped."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from shim import __version__
from shim.host.sizes import size
from shim.host.text import printable
from shim.model import Timeline
from shim.timeline import terminal
from shim.timeline.bounds import bounds
from shim.timeline.rows import rows
from shim.timeline.style import duration

_TEXT_MAX = 600
_WHEN = "%Y-%m-%d %H:%M:%S"


class Templates:
    """Renders the templates in this package."""

    def __init__(self, host: str, store: str) -> None:
        """Load all of them, so that a request reads no file.

        Paths of images below `store` are written without it.
        """
        below = store.rstrip("/") + "/"
        self._environment = Environment(
            loader=PackageLoader("shim.page"),
            autoescape=True,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
        )
        self._environment.globals |= {"host": host, "version": __version__}
        self._environment.filters |= {
            "size": size,
            "duration": duration,
            "when": _when,
            "text": _text,
            "stored": lambda path: path.removeprefix(below),
        }
        for name in self._environment.list_templates():
            self._environment.get_template(name)

    def render(self, template: str, **values: Any) -> str:
        """Render a template."""
        return self._environment.get_template(template).render(**values)


def timeline_parts(timeline: Timeline) -> dict[str, Any]:
    """Return what a template shows of a timeline beside its picture."""
    return {
        "title": terminal.title(timeline),
        "details": terminal.details(timeline),
        "rows": rows(timeline),
        "bounds": bounds(timeline, None),
        "summary": terminal.summary(timeline),
        "total_s": timeline.total_s,
        "error": timeline.error,
    }


def _when(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime(_WHEN)


def _text(text: object) -> str:
    """Make untrusted text printable, and not too long; the template escapes it."""
    return printable(str(text), _TEXT_MAX)
