"""Commands for signatures of images: checkpoints keygen, sign."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from shim.entry.cli.params import PATH, REF
from shim.entry.cli.settings import Settings, pass_settings
from shim.host.text import printable
from shim.model import KeyFile

if TYPE_CHECKING:
    from shim.client import Client
    from shim.image.keys import PrivateKey


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
        f"{public.name}: id {public.id}",
    )


@click.command("sign")
@click.option("--key", type=PATH, required=True, help="private key, a file of `keygen`")
@click.argument("image", type=REF)
@pass_settings
def sign(settings: Settings, key: str, image: str) -> None:
    """Sign an image, given its path or its name. The private key stays in this process.

    The signature is stored in the image's folder and is pushed and exported with it. An image can
    have several, by different keys.
    """
    from shim.image import keys

    private = keys.read_private(Path(key))
    count = settings.with_image(
        [image], lambda client: _through(client, image, private), lambda: _here(image, private)
    )
    settings.show(
        {"image": image, "key": private.public.id, "signatures": count},
        f"{printable(image)}: signed by {printable(key)}, id {private.public.id}",
    )


def _through(client: Client, image: str, private: PrivateKey) -> int:
    from shim.image import signature

    signed = private.sign(signature.to_sign(client.image_statement(image)))
    public = private.public
    return client.add_signature(image, KeyFile(name=public.name, pem=public.pem), signed)


def _here(image: str, private: PrivateKey) -> int:
    from shim.image import signature

    payload = signature.image_statement(Path(image))
    return signature.add(Path(image), private.public, private.sign(signature.to_sign(payload)))


COMMANDS = (keygen, sign)
