"""3x3 convolutions in float32 on the processor by Winograd's algorithm.

F(4x4, 3x3) of Lavin and Gray ("Fast Algorithms for Convolutional Neural Networks", CVPR 2016,
section 4.3): tiles of 4x4 outputs need 36 multiplications in place of 144. The same sums in another
order; rounding grows to about 1e-5 of the output's deviation, so it is not for bfloat16.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

TILE = 4  # outputs along one side of a tile, of 6 inputs

# With fewer, transforming costs more than is saved (measured on AVX512, forward and backward: 0.93
# of the time at 64 tiles and 96 channels, 0.7 at 64 and 256 or 256 and 96, 0.47 at 256 and 256).
FEWEST_CHANNELS = 96
FEWEST_TILES = 64

_INPUT = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_KERNEL = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
_OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


class Convolution3x3(nn.Conv2d):
    """A 3x3 convolution of stride 1 without padding, by Winograd's algorithm where that is faster.

    Args:
        channels: Input and output channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3)

    def forward(self, features: Tensor) -> Tensor:
        """Return the convolution [B, C, H - 2, W - 2] of [B, C, H, W]."""
        if not self._suits(features):
            return super().forward(features)
        assert self.bias is not None
        return winograd(features, self.weight) + self.bias.view(1, -1, 1, 1)

    def _suits(self, features: Tensor) -> bool:
        on_cpu = features.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        plain = features.dtype == torch.float32 and not torch.compiler.is_compiling()
        size, channels, height, width = features.shape
        whole = (height - 2) % TILE == (width - 2) % TILE == 0
        tiles = size * ((height - 2) // TILE) * ((width - 2) // TILE)
        large = channels >= FEWEST_CHANNELS and tiles >= FEWEST_TILES
        return on_cpu and plain and whole and large


def winograd(features: Tensor, kernel: Tensor) -> Tensor:
    """Return the 3x3 convolution [B, O, H - 2, W - 2] of features [B, C, H, W].

    Args:
        features: H - 2 and W - 2 are multiples of 4.
        kernel: [O, C, 3, 3].
    """
    to_input, to_kernel, to_output = _transforms(features.dtype)
    size, channels, height, width = features.shape
    outputs, down, right = len(kernel), (height - 2) // TILE, (width - 2) // TILE
    tiles = (to_input @ _Tiles.apply(features)).view(36, -1, channels)
    weights = (to_kernel @ kernel.permute(2, 3, 1, 0).reshape(9, -1)).view(36, channels, outputs)
    products = torch.bmm(tiles, weights).view(36, -1)
    made = (to_output @ products).view(TILE, TILE, size, down, right, outputs)
    image = made.permute(2, 3, 0, 4, 1, 5).reshape(size, height - 2, width - 2, outputs)
    return image.permute(0, 3, 1, 2)


class _Tiles(torch.autograd.Function):
    """Cut features [B, C, H, W] into overlapping 6x6 tiles: [36, B * tiles * C]."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.shape = features.shape
        tiles = features.permute(0, 2, 3, 1).unfold(1, 6, TILE).unfold(2, 6, TILE)
        return tiles.permute(4, 5, 0, 1, 2, 3).reshape(36, -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        size, channels, height, width = ctx.shape
        down, right = (height - 2) // TILE, (width - 2) // TILE
        tiles = gradient.view(6, 6, size, down, right, channels)
        image = gradient.new_zeros(size, height, width, channels)
        for i in range(6):
            for j in range(6):
                rows, columns = slice(i, i + TILE * down, TILE), slice(j, j + TILE * right, TILE)
                image[:, rows, columns] += tiles[i, j]
        return image.permute(0, 3, 1, 2)


@cache
def _transforms(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return the transforms of flattened tiles: [36, 36], [36, 9] and [16, 36]."""
    matrices = (torch.tensor(rows, dtype=torch.float64) for rows in (_INPUT, _KERNEL, _OUTPUT))
    first, second, third = (torch.kron(matrix, matrix).to(dtype) for matrix in matrices)
    return first, second, third
