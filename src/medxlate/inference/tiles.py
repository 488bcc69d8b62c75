"""An image in overlapping tiles, whose translations are blended into each other.

For images beyond memory. A generator's instance norm takes its statistics from what it sees, so a
tile comes out somewhat different from the same place of the whole image: tiles are a way where
there is no other, not an equal one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from medxlate.inference.request import MULTIPLE

OVERLAP = 4  # a quarter of a tile at least


def run_tiles(call: Callable[[Tensor], Tensor], images: Tensor, tile: int) -> Tensor:
    """Return what a network makes of images [B, C, S, S], computed tile by tile; float32.

    Each pixel is the mean of the tiles that hold it, weighted by a raised cosine (Hann window)
    along both sides: a tile counts next to nothing at its edge, so there is no seam.

    Args:
        call: From [B, C, T, T] to the same shape.
        images: S is a multiple of 4.
        tile: T, a multiple of 4; S where it is larger.
    """
    side = images.shape[-1]
    tile = min(tile, side)
    window = _window(tile, images.device)
    total = torch.zeros_like(images, dtype=torch.float32)
    weight = torch.zeros(side, side, device=images.device)
    for top in places(side, tile):
        for left in places(side, tile):
            at = (..., slice(top, top + tile), slice(left, left + tile))
            total[at] += call(images[at].contiguous()).float() * window
            weight[at] += window
    return total / weight


def places(side: int, tile: int) -> list[int]:
    """Return where tiles begin along one side: evenly spread, neighbours share a quarter or more.

    All are multiples of 4 where ``side`` and ``tile`` are.
    """
    if tile >= side:
        return [0]
    step = max(MULTIPLE, (tile - tile // OVERLAP) // MULTIPLE * MULTIPLE)
    count = 1 + math.ceil((side - tile) / step)
    grid = (side - tile) / MULTIPLE / (count - 1)
    return [int(i * grid) * MULTIPLE for i in range(count - 1)] + [side - tile]


def _window(tile: int, device: torch.device) -> Tensor:
    """Return the weights [T, T] of a tile's pixels, above 0 everywhere."""
    hann = torch.sin(math.pi * (torch.arange(tile, device=device) + 0.5) / tile) ** 2
    return hann[:, None] * hann
