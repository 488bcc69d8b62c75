"""Arrays in ``.npy`` files, mapped and not read; no pickle among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def open_array(path: Path) -> np.memmap[Any, np.dtype[Any]]:
    """Map an array of numbers without reading it.

    Args:
        path: A ``.npy`` file.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is damaged, shorter than its header says, or holds something else than
            numbers.
    """
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as problem:  # numpy parses the header as Python and lets its errors through
        raise ValueError(f"{path} is damaged or truncated ({problem})") from None
    if mapped.dtype.kind not in "uif" or not mapped.flags.c_contiguous:
        raise ValueError(f"{path} is not a 2-D array of numbers")
    return mapped
