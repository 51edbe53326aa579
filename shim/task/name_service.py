"""The operations on names of images that need no task."""

from __future__ import annotations

from pathlib import Path

from shim.config import Config
from shim.host.filecalls import file_call
from shim.image import name_view
from shim.image.name_view import NameView
from shim.image.named import ImageRef, NamedImages

# A list reads every manifest; a removal frees the blocks of possibly hundreds of GiB.
_LIST_S = 50.0
_REMOVE_S = 600.0


class NameService:
    """Lists, shows and drops names."""

    def __init__(self, config: Config) -> None:
        self._folder = Path(config.paths.images)

    async def show(self, ref: ImageRef) -> NameView:
        """Describe a name.

        Raises:
            NotFound: nothing has that name.
        """
        return await file_call(
            lambda: name_view.show_name(self._folder, ref),
            doing=f"read the images named {ref}",
            deadline_s=_LIST_S,
        )

    async def drop(self, ref: ImageRef) -> int:
        """Remove the images and counters of a name; return how many images there were.

        Raises:
            NotFound: nothing has that name.
        """
        await self.show(ref)
        return await file_call(
            NamedImages(self._folder, ref).drop,
            doing=f"remove the images named {ref}",
            deadline_s=_REMOVE_S,
        )

    # Last: below it, `list` in an annotation would mean this method.
    async def list(self, namespace: str) -> list[NameView]:
        """List the names of a containerd namespace."""
        return await file_call(
            lambda: name_view.list_names(self._folder, namespace),
            doing=f"list the names in {self._folder}",
            deadline_s=_LIST_S,
        )
