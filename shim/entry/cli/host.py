"""Commands about this host and this program: info, version, serve, recover."""

from __future__ import annotations

import platform
from pathlib import Path

import click

from shim import __version__
from shim.entry.cli.settings import Settings, pass_settings
from shim.entry.cli.table import table
from shim.host.text import printable


@click.command("info")
@pass_settings
def info(settings: Settings) -> None:
    """Print the features of the host: runsc, engines, driver."""
    with settings.client() as client:
        facts = client.info()
    settings.show(facts, table(("WHAT", "VALUE"), sorted(facts.items())))


@click.command("version")
@pass_settings
def version(settings: Settings) -> None:
    """Print the version of this program."""
    facts = {"version": __version__, "python": platform.python_version()}
    settings.show(facts, f"cryo {__version__}")


def _flag(context: click.Context, param: click.Parameter, values: tuple[str, ...]) -> object:
    """Read KEY=VALUE pairs; a bare KEY is true, as runsc's own flags are."""
    pairs = [value.removeprefix("--").partition("=") for value in values]
    if not all(key for key, _, _ in pairs):
        message = "write KEY=VALUE"
        raise click.BadParameter(message, context, param)
    return tuple((key, value if equals else "true") for key, equals, value in pairs)


_config = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="config.toml [default: /etc/cryo/config.toml if it exists]",
)


@click.command("recover")
@_config
@click.option("--state", default="", help="runtime state directory")
@pass_settings
def recover(settings: Settings, config_path: Path | None, state: str) -> None:
    """Roll back operations that a crash interrupted.

    A sidecar does the same when it starts. Idempotent; fails if a sidecar is running.
    """
    from shim.entry import recover as recovery
    from shim.entry import serve as sidecar

    done = recovery.run(sidecar.settings(config_path, sidecar.Overrides(state=state)))
    settings.show(done, "\n".join(map(printable, done)))


@click.command("serve")
@_config
@click.option("--address", default="", help="socket to listen on; same as -a before serve")
@click.option("--state", default="", help="runtime state directory")
@click.option("--images", default="", help="default directory of images")
@click.option("--runsc", default="", help="path of runsc")
@click.option(
    "--runsc-flag",
    "flags",
    multiple=True,
    callback=_flag,
    help="global flag of runsc, such as network=none",
)
@click.option("--group", default="", help="group that may connect, in addition to root")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default=None,
    help="log level [default: info]",
)
@click.option(
    "--log-format",
    type=click.Choice(["logfmt", "json"]),
    default=None,
    help="format of log lines [default: logfmt]",
)
@click.option(
    "--http",
    default="",
    metavar="ADDRESS",
    help="serve a page for a browser, at 127.0.0.1:PORT or unix:/path [default: none]",
)
@click.option(
    "--http-token-file",
    default="",
    metavar="PATH",
    help="file with the token that readers of the page need; required for any other address",
)
@pass_settings
def serve(
    settings: Settings,
    config_path: Path | None,
    address: str,
    state: str,
    images: str,
    runsc: str,
    flags: tuple[tuple[str, str], ...],
    group: str,
    log_level: str | None,
    log_format: str | None,
    http: str,
    http_token_file: str,
) -> None:
    """Run the sidecar.

    Command-line options override config.toml.
    """
    from shim.entry import serve as sidecar

    over = sidecar.Overrides(
        address=address or (settings.address if settings.address_given else ""),
        state=state,
        images=images,
        runsc=runsc,
        runsc_flags=flags,
        group=group,
        log_level=log_level or "",
        log_format=log_format or "",
        http=http,
        http_token_file=http_token_file,
    )
    sidecar.run(config_path, over)


COMMANDS = (info, version, serve, recover)
