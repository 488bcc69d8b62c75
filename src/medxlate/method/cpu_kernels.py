"""Layers that compute the same on the processor in less time than torch's own.

Networks are made of torch's layers; ``accelerate`` exchanges some of them for those of this module,
which have the same weights under the same names and compute the same sums in another order.

The 3x3 convolutions are F(4x4, 3x3) of Lavin and Gray ("Fast Algorithms for Convolutional Neural
Networks", CVPR 2016, section 4.3): tiles of 4x4 outputs need 36 multiplications in place of 144.
Rounding grows to about 1e-5 of the output's deviation, so it is not for bfloat16.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
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


def accelerate(network: nn.Module) -> None:
    """Exchange layers of a network on the processor for faster ones, in place.

    Weights, their names and the layers themselves stay; what changes is how they compute.
    """
    for layer in network.modules():
        if type(layer) is nn.InstanceNorm2d and not layer.affine and not layer.track_running_stats:
            layer.__class__ = InstanceNorm
        elif type(layer) is nn.Conv2d and _is_dense(layer):
            if layer.kernel_size == (3, 3) and layer.in_channels == layer.out_channels:
                layer.__class__ = WinogradConvolution
            elif layer.kernel_size == (7, 7) and layer.out_channels < layer.in_channels:
                layer.__class__ = NarrowConvolution


def _is_dense(layer: nn.Conv2d) -> bool:
    """Return whether a convolution has neither stride, padding, dilation nor groups, but a bias."""
    plain = layer.stride == layer.dilation == (1, 1) and layer.padding == (0, 0)
    return plain and layer.groups == 1 and layer.bias is not None


class InstanceNorm(nn.InstanceNorm2d):
    """Instance norm (Ulyanov et al. 2016) of features [B, C, H, W], without scale and shift.

    Torch copies channels-last features to the other layout and back; for a single image instance
    norm is batch norm, which needs no copy (a quarter of the time, forward and backward).
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return the features with mean 0 and variance 1 in each image and channel."""
        if torch.compiler.is_compiling():
            return super().forward(features)
        images = torch.split(features, 1)
        normed = [F.batch_norm(image, None, None, training=True, eps=self.eps) for image in images]
        return normed[0] if len(normed) == 1 else torch.cat(normed)


class NarrowConvolution(nn.Conv2d):
    """A wide kernel with few output channels, such as the generator's last, 7x7 to one.

    The processor's convolutions compute output channels in blocks, of which one channel fills a
    sixteenth. So each column of the kernel becomes an output channel of its own, and the shifted
    columns are added up, in float32: three times faster.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return the convolution of [B, C, H, W], without padding."""
        channels, inputs, height, width = self.weight.shape
        kernel = self.weight.permute(3, 0, 1, 2).reshape(width * channels, inputs, height, 1)
        columns = F.conv2d(features, kernel)
        columns = columns.float() if columns.dtype == torch.bfloat16 else columns
        wide = columns.shape[-1] - width + 1
        total = sum(
            columns[:, i * channels : (i + 1) * channels, :, i : i + wide] for i in range(width)
        )
        assert isinstance(total, Tensor)
        assert self.bias is not None
        return total + self.bias.view(1, -1, 1, 1)


class WinogradConvolution(nn.Conv2d):
    """A 3x3 convolution by Winograd's algorithm where that is faster, else torch's."""

    def forward(self, features: Tensor) -> Tensor:
        """Return the convolution [B, C, H - 2, W - 2] of [B, C, H, W]."""
        if not _suits_winograd(features):
            return super().forward(features)
        assert self.bias is not None
        return winograd(features, self.weight) + self.bias.view(1, -1, 1, 1)


def _suits_winograd(features: Tensor) -> bool:
    plain = features.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    size, channels, height, width = features.shape
    whole = (height - 2) % TILE == (width - 2) % TILE == 0
    tiles = size * ((height - 2) // TILE) * ((width - 2) // TILE)
    large = channels >= FEWEST_CHANNELS and tiles >= FEWEST_TILES
    return plain and whole and large and not torch.compiler.is_compiling()


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
