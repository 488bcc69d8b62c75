"""Arrays of slices on disk, written one after the other and read from anywhere."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from medxlate.base.errors import DataError
from medxlate.base.files import naming_full_disk
from medxlate.dataset.arrays import open_array

SHARD_BYTES = 128 << 20


class ShardWriter:
    """Writes ``00000.npy``, ``00001.npy``... of slices [n, S, S], one slice after the other.

    Args:
        folder: Where to write the shards.
        size: Side of the slices, pixels.
        dtype: uint8 or uint16.
        shard_bytes: A shard is closed once it holds this much.
    """

    def __init__(
        self,
        folder: Path,
        *,
        size: int,
        dtype: npt.DTypeLike,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self._folder = folder
        self._size = size
        self._dtype: np.dtype[Any] = np.dtype(dtype)
        self._shard_bytes = shard_bytes
        self._stream: BinaryIO | None = None
        self._shard = 0
        self._rows = 0
        folder.mkdir(parents=True)

    def __enter__(self) -> ShardWriter:
        """Return the writer."""
        return self

    def __exit__(self, problem: type[BaseException] | None, *_: object) -> None:
        """Finish the shard; after a failure, only close the file."""
        if problem is None:
            self.close()
        elif self._stream is not None:
            with naming_full_disk(self._path):  # what is still to be written may not fit either
                self._stream.close()

    def append(self, pixels: bytes) -> tuple[int, int]:
        """Add a slice, its integers as bytes, and return its shard and row."""
        with naming_full_disk(self._path):
            if self._stream is None:
                self._stream = self._path.open("wb")
                self._stream.write(self._header())
            self._stream.write(pixels)
        place = self._shard, self._rows
        self._rows += 1
        if self._rows * len(pixels) >= self._shard_bytes:
            self.close()
        return place

    def close(self) -> None:
        """Finish the shard that is being written."""
        if self._stream is not None:
            with naming_full_disk(self._path), self._stream as stream:
                stream.seek(0)
                stream.write(self._header())  # now with the number of rows
            self._stream = None
            self._shard, self._rows = self._shard + 1, 0

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._shard:05d}.npy"

    def _header(self) -> bytes:
        buffer = io.BytesIO()
        shape = (self._rows, self._size, self._size)
        description = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(buffer, description)
        return buffer.getvalue()  # of one length: numpy leaves room for the number of rows


class ShardReader:
    """Reads slices from shards, wherever they lie in them.

    Each is read at its offset in the file, through the page cache into memory of its own: six times
    as fast as a map made for the slice, and without the pages of a standing map, which count as
    resident memory until all of the dataset does.

    A shard that is not the file that was opened is never read: another ``prepare`` replaced it
    with other slices.

    Args:
        paths: The shards, by number.

    Attributes:
        counts: How many slices each shard holds.
        dtype: uint8 or uint16.
        size: Side of the slices, pixels.

    Raises:
        OSError, ValueError: A shard is missing, damaged, or of another type or size.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._names = [str(path) for path in paths]  # of which a file is opened twice as fast
        self.counts: list[int] = []
        self._offsets: list[int] = []
        self._states: list[tuple[int, ...]] = []
        shapes = set()
        for path in self.paths:
            mapped = open_array(path)
            if mapped.ndim != 3 or mapped.dtype.kind != "u" or mapped.dtype.itemsize > 2:
                raise ValueError(f"{path} contains no 8-bit or 16-bit slices")
            if mapped.shape[1] != mapped.shape[2]:
                raise ValueError(f"the slices in {path} are not square")
            self.counts.append(len(mapped))
            self._offsets.append(mapped.offset)
            self._states.append(_state(os.stat(path)))
            shapes.add((mapped.shape[1:], mapped.dtype.str))
        if len(shapes) != 1:
            raise ValueError(f"shards of {len(shapes)} kinds in {self.paths[:1]}")
        ((self.size, _), kind) = shapes.pop()
        self.dtype: np.dtype[Any] = np.dtype(kind)

    def read(
        self, shards: Sequence[int], rows: Sequence[int]
    ) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Return the stored integers [B, S, S] of the slices at these shards and rows.

        Raises:
            DataError: A shard was removed, replaced or cut off.
        """
        pixels = np.empty((len(rows), self.size, self.size), self.dtype)
        step = self.size**2 * self.dtype.itemsize
        in_turn = sorted(range(len(rows)), key=lambda i: (shards[i], rows[i]))
        for shard, places in groupby(in_turn, shards.__getitem__):
            with self._opened(shard) as stream:
                for i in places:
                    stream.seek(self._offsets[shard] + rows[i] * step)
                    if stream.readinto(pixels[i]) != step:
                        raise self._changed(shard)
        return pixels

    def _opened(self, shard: int) -> io.FileIO:
        try:
            stream = io.FileIO(self._names[shard])
        except FileNotFoundError:
            raise self._changed(shard) from None
        if _state(os.fstat(stream.fileno())) != self._states[shard]:
            stream.close()
            raise self._changed(shard)
        return stream

    def _changed(self, shard: int) -> DataError:
        return DataError(
            f"{self._names[shard]} was replaced, removed or truncated while in use.",
            "Run the command again when no `prepare` is running on this modality.",
        )


def _state(status: os.stat_result) -> tuple[int, ...]:
    """Return what differs once another file takes this one's place."""
    return status.st_ino, status.st_size, status.st_mtime_ns
