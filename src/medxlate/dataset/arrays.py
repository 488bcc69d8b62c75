"""Arrays in ``.npy`` files, opened with distrust."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

MAX_HEADER = 10_000  # bytes of the text that says type and shape


def open_array(path: Path) -> np.memmap[Any, np.dtype[Any]]:
    """Map an array of numbers without reading it.

    Args:
        path: A ``.npy`` file.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is damaged or truncated, or holds something else than numbers. Nothing of
            the size that its header claims was allocated.
    """
    try:
        with path.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            shape, fortran, dtype = _header(stream, version)
            start = stream.tell()
    except OSError:
        raise
    except Exception as problem:  # numpy reads the header as a piece of Python, and fails likewise
        raise ValueError(f"{path} has a damaged header ({type(problem).__name__})") from None
    if dtype.kind not in "uif" or fortran or min(shape, default=0) < 0:
        raise ValueError(f"{path} holds no rows of numbers")
    if start + math.prod(shape) * dtype.itemsize > path.stat().st_size:
        raise ValueError(f"{path} is truncated: its header claims more than the file holds")
    return np.memmap(path, dtype, "r", start, shape)


def _header(stream: Any, version: tuple[int, int]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    found: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(stream, max_header_size=MAX_HEADER)
    return found
