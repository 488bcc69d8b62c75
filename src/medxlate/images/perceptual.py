"""The perceptual hash, by which nearly identical images are recognised.

The DCT based one of Zauner (Implementation and benchmarking of perceptual image hash functions,
2010): whether each of the lowest DCT coefficients of 32 x 32 means exceeds their median. It takes
512 coefficients in place of 64; ``dataset/duplicates.py`` says why, and how near is near.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

BITS = 512
_SIDE = 32
Indices = npt.NDArray[np.intp]


def perceptual_hash(stored: npt.NDArray[np.unsignedinteger[Any]]) -> str:
    """Return the hash by which nearly identical images are recognised.

    Args:
        stored: uint8 or uint16 [S, S], S at least 32.

    Returns:
        512 bits as 128 hexadecimal digits, the lowest frequencies first. All are 0 where the
        image is constant, and only there.
    """
    means = _block_means(stored)
    basis = _cosines()
    coefficients = (basis @ means @ basis.T).ravel()[_lowest()]
    bits = coefficients > np.median(coefficients)
    if means.max() == means.min():
        bits[:] = False  # rounding errors would decide
    return np.packbits(bits).tobytes().hex()


def _block_means(stored: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.float64]:
    """Return the means of 32 x 32 blocks [32, 32], from exact sums of whole numbers."""
    size = len(stored)
    if size % _SIDE:
        overlaps = _overlaps(size)
        means: npt.NDArray[np.float64] = overlaps @ stored.astype(np.float64) @ overlaps.T
        return means / size**2
    edges = np.arange(_SIDE) * (size // _SIDE)
    down = stored.reshape(_SIDE, size // _SIDE, size).sum(axis=1, dtype=np.uint32)
    means = np.add.reduceat(down, edges, axis=1) / (size // _SIDE) ** 2
    return means


@lru_cache(maxsize=4)
def _overlaps(size: int) -> npt.NDArray[np.float64]:
    """Return by how many 32nds of a pixel each of the blocks covers each pixel [32, size]."""
    pixels, blocks = np.arange(size) * _SIDE, np.arange(_SIDE)[:, None] * size
    starts, ends = np.maximum(pixels, blocks), np.minimum(pixels + _SIDE, blocks + size)
    covered: npt.NDArray[np.float64] = np.maximum(ends - starts, 0).astype(np.float64)
    return covered


@lru_cache(maxsize=1)
def _lowest() -> Indices:
    """Return where the 512 lowest frequencies stand in a flat 32 x 32 DCT, without the mean."""
    u, v = (axis.ravel() for axis in np.mgrid[:_SIDE, :_SIDE])
    return np.lexsort((v, u, u**2 + v**2))[1 : BITS + 1]


@lru_cache(maxsize=1)
def _cosines() -> npt.NDArray[np.float64]:
    """Return the orthonormal DCT of type II as a matrix [32, 32]."""
    k, n = np.mgrid[:_SIDE, :_SIDE]
    basis: npt.NDArray[np.float64] = np.cos(np.pi * (2 * n + 1) * k / (2 * _SIDE))
    basis *= np.sqrt(2 / _SIDE)
    basis[0] /= np.sqrt(2)
    return basis
