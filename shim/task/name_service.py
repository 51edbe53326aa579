"""The operations on names of images that need no task."""

from __future__ import annotations

from pathlib import Path

from shim.config import Config
from shim.host.filecalls import file_call
from shim.image import name_view
from shim.image.images import LIST_S, REMOVE_S
from shim.image.name_view import NameView
from shim.image.named import ImageRef
from shim.image.verify_cache import VerifyCache


class NameService:
    """Lists, shows and drops names."""

    def __init__(self, config: Config) -> None:
        self._folder = Path(config.paths.images)
        self._cache = VerifyCache(Path(config.paths.verified))

    async def show(self, ref: ImageRef) -> NameView:
        """Describe a name.

        Raises:
            NotFound: nothing has that name.
        """
        return await file_call(
            lambda: name_view.show_name(self._folder, ref),
            doing=f"read the images named {ref}",
            deadline_s=LIST_S,
        )

    async def drop(self, ref: ImageRef) -> int:
        """Remove the images and counters of a name; return how many images there were.

        Raises:
            NotFound: nothing has that name.
        """
        return await file_call(
            lambda: name_view.existing(self._folder, ref).drop(self._cache),
            doing=f"remove the images named {ref}",
            deadline_s=REMOVE_S,
        )

    # Last: below it, `list` in an annotation would mean this method.
    async def list(self, namespace: str) -> list[NameView]:
        """List the names of a containerd namespace."""
        return await file_call(
            lambda: name_view.list_names(self._folder, namespace),
            doing=f"list the names in {self._folder}",
            deadline_s=LIST_S,
        )
