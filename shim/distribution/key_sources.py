"""Where the keys of a transfer come from; nothing is read here."""

from __future__ import annotations

from shim.model import Value


class KeySources(Value):
    """Where keys come from: files of the user, and recipients as text or as files with them."""

    key_file: str | None = None
    recipients: tuple[str, ...] = ()
    identities: tuple[str, ...] = ()
