"""The options of commands that copy images: how to reach a registry, and the keys."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shim.entry.cli.params import PATH

if TYPE_CHECKING:
    from shim.distribution.settings import TransferSettings

JOBS = 4
_NETWORK = (
    click.option(
        "--jobs",
        type=click.IntRange(1, 64),
        default=JOBS,
        show_default=True,
        help="number of blobs that are copied at once",
    ),
    click.option("--plain-http", is_flag=True, help="connect without TLS; default on loopback"),
    click.option(
        "--ca-file", type=PATH, help="PEM file of certificate authorities [default: the system's]"
    ),
)
_KEYS = (
    click.option("--key-file", type=PATH, help="file with the key of encrypted images"),
    click.option(
        "--identity",
        "identities",
        type=PATH,
        multiple=True,
        help="file with an age identity: decrypts, and lets the chunks of pushes be shared",
    ),
)
_WRITE = (
    click.option(
        "--recipient",
        "recipients",
        multiple=True,
        metavar="RECIPIENT|FILE",
        help="encrypt for an age recipient, or those in a file",
    ),
    click.option(
        "--compress",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        show_default=True,
        help="auto compresses the chunks for which it is faster than to send them as they are",
    ),
)
_NAMES = ("jobs", "plain_http", "ca_file", "key_file", "identities", "recipients", "compress")


def read_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a pull to a command, which gets them as `transfer`."""
    return _collected(command, (*_NETWORK, *_KEYS))


def write_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a push to a command, which gets them as `transfer`."""
    return _collected(command, (*_NETWORK, *_KEYS, *_WRITE))


def archive_read_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of an import to a command, which gets them as `transfer`."""
    return _collected(command, _KEYS)


def archive_write_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of an export to a command, which gets them as `transfer`."""
    return _collected(command, (*_KEYS, *_WRITE))


def _collected(
    command: Callable[..., None], options: tuple[Callable[..., Any], ...]
) -> Callable[..., None]:
    @functools.wraps(command)
    def run(*args: Any, **others: Any) -> None:
        given = {name: others.pop(name) for name in _NAMES if name in others}
        command(*args, transfer=given, **others)

    for option in reversed(options):
        run = option(run)
    return run


def settings_of(transfer: Mapping[str, Any]) -> TransferSettings:
    """Return the settings of a transfer, from its options and the caller's environment.

    Credentials are the caller's: the docker config is read by the sidecar, the variables AWS_* are
    sent to it.
    """
    from shim.distribution.compress import Compress
    from shim.distribution.key_sources import KeySources
    from shim.distribution.settings import TransferSettings

    return TransferSettings(
        plain_http=transfer.get("plain_http", False),
        ca_file=transfer.get("ca_file"),
        docker_config=_docker_config(),
        object_store={name: text for name, text in os.environ.items() if name.startswith("AWS_")},
        jobs=transfer.get("jobs", JOBS),
        compress=Compress(transfer.get("compress", Compress.AUTO)),
        keys=KeySources(
            key_file=transfer["key_file"],
            recipients=tuple(map(_recipient, transfer.get("recipients", ()))),
            identities=transfer["identities"],
        ),
    )


def _docker_config() -> str | None:
    """Return the path of the caller's docker config; None if there is none."""
    folder = os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker"
    path = Path(folder).absolute() / "config.json"
    return str(path) if path.exists() else None


def _recipient(text: str) -> str:
    """Return a recipient as it is, and a file of recipients by its absolute path."""
    return str(Path(text).absolute()) if Path(text).is_file() else text
