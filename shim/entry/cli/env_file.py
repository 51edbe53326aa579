"""Files with an environment, as `docker run --env-file` takes: NAME=value, comments, empty lines.

They may have secrets, so messages name a line by its number.
"""

from __future__ import annotations

from pathlib import Path

import click

_MAX_BYTES = 1 << 20


def read(path: str) -> tuple[str, ...]:
    """Return the lines NAME=value of a file.

    Raises:
        UsageError: it cannot be read, or has another line.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        text = data.decode("utf-8")
    except OSError as error:
        message = f"the environment cannot be read from {path}: {error.strerror}"
        raise click.UsageError(message) from error
    except UnicodeDecodeError as error:
        message = f"{path} is not text in UTF-8"
        raise click.UsageError(message) from error
    if len(data) > _MAX_BYTES:
        message = f"{path} is too large for an environment"
        raise click.UsageError(message)
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if not line.partition("=")[1]:
            message = f"line {number} of {path} is not NAME=value"
            raise click.UsageError(message)
        found.append(line)
    return tuple(found)
