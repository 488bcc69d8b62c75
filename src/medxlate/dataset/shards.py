"""Writing slices to shards that can be memory-mapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medxlate.files import naming_full_disk

SHARD_BYTES = 128 * 2**20  # small enough to be gathered in memory


class ShardWriter:
    """Gather slices [S, S] of one type and write them as ``00000.npy``, ``00001.npy``...

    Args:
        folder: Where the shards go.
        shard_bytes: A shard is closed once it holds this much.
    """

    def __init__(self, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
        self._folder = folder
        self._shard_bytes = shard_bytes
        self._slices: list[npt.NDArray[Any]] = []
        self._shard = 0
        folder.mkdir(parents=True)

    def append(self, pixels: npt.NDArray[Any]) -> tuple[int, int]:
        """Add a slice and return its shard and row."""
        self._slices.append(pixels)
        place = self._shard, len(self._slices) - 1
        if len(self._slices) * pixels.nbytes >= self._shard_bytes:
            self.close()
        return place

    def close(self) -> None:
        """Write what was gathered."""
        if self._slices:
            path = self._folder / f"{self._shard:05d}.npy"
            with naming_full_disk(path):
                np.save(path, np.stack(self._slices))
            self._slices = []
            self._shard += 1
