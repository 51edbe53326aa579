"""Commands for signatures of images: checkpoints keygen, sign."""

from __future__ import annotations

from pathlib import Path

import click

from shim.entry.cli.params import PATH
from shim.entry.cli.settings import Settings, pass_settings
from shim.host.text import printable


@click.command("keygen")
@click.argument("file", type=PATH)
@pass_settings
def keygen(settings: Settings, file: str) -> None:
    """Make a pair of Ed25519 keys: FILE, to keep secret, and FILE.pub.

    List FILE.pub under [trust] in config.toml of the hosts that accept its signatures.
    """
    from shim.image import keys

    public = keys.generate(Path(file))
    settings.show(
        {"private": file, "public": public.name, "id": public.id},
        printable(f"{public.name}: public key {public.id}"),
    )


@click.command("sign")
@click.option("--key", type=PATH, required=True, help="private key, a file of `keygen`")
@click.argument("path", type=PATH)
@pass_settings
def sign(settings: Settings, key: str, path: str) -> None:
    """Sign an image. The private key stays in this process.

    The signature is stored in the image's folder and is pushed and exported with it. An image can
    have several, by different keys.
    """
    from shim.image import keys, signature

    private, image = keys.read_private(Path(key)), Path(path)
    payload = signature.image_statement(image)
    count = signature.add(image, private.public, private.sign(signature.to_sign(payload)))
    settings.show(
        {"image": path, "key": private.public.id, "signatures": count},
        printable(f"{path}: signed by {private.public.id}"),
    )


COMMANDS = (keygen, sign)
