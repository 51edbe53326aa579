"""Chooses GPUs for the copies of an image, so that each runs on those that are used least. Pure.

A driver maps GPUs only to GPUs of the same model, and wants one for each that the processes can
see. gVisor gives a restored container the device nodes that it had: only GPUs with these numbers
can be chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from shim.cuda.inventory import Gpu


class GpuSpread:
    """The GPUs of an image, those of this host that can stand for them, and how they are used."""

    def __init__(
        self,
        saved: Sequence[Gpu],
        used: Collection[str],
        host: Sequence[Gpu],
        free_bytes: Mapping[str, int],
    ) -> None:
        """Take the GPUs of the image, the UUIDs that its processes used, and what is free here."""
        self._saved = [gpu.uuid for gpu in saved]
        self._used = [uuid for uuid in self._saved if uuid in used]
        minors, models = {gpu.minor for gpu in saved}, {gpu.model for gpu in saved}
        found = [gpu for gpu in host if gpu.minor in minors and gpu.model in models]
        self._here = [gpu.uuid for gpu in sorted(found, key=lambda gpu: gpu.minor)]
        self._alike = len(models) == 1
        self._free_bytes = free_bytes
        self._copies: Counter[str] = Counter()

    @property
    def has_choice(self) -> bool:
        """Whether the copies can run on different GPUs."""
        return self._alike and 0 < len(self._used) < len(self._saved) == len(self._here)

    def next(self) -> dict[str, str]:
        """Return the GPU of the next copy for each one of the image; empty if all are the same."""
        if not self.has_choice:
            return {}
        chosen = sorted(self._here, key=self._load)[: len(self._used)]
        self._copies.update(chosen)
        kept = {uuid: uuid for uuid in self._used if uuid in chosen}
        moved = [uuid for uuid in self._used if uuid not in kept]
        mapped = kept | dict(zip(moved, [one for one in chosen if one not in kept], strict=True))
        others = [uuid for uuid in self._saved if uuid not in mapped]
        # Those that are not used stay, where their own GPU is not taken.
        stay = {uuid: uuid for uuid in others if uuid in self._here and uuid not in chosen}
        rest = [uuid for uuid in self._here if uuid not in chosen and uuid not in stay]
        mapped |= stay | dict(zip([one for one in others if one not in stay], rest, strict=True))
        return {} if all(old == new for old, new in mapped.items()) else mapped

    def gpus_of(self, device_map: Mapping[str, str]) -> tuple[str, ...]:
        """Return the GPUs that the processes of a copy use."""
        return tuple(device_map.get(uuid, uuid) for uuid in self._used)

    def _load(self, uuid: str) -> tuple[int, int]:
        return self._copies[uuid], -self._free_bytes.get(uuid, 0)
