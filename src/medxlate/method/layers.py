"""Layers of generator and discriminator that torch has only in a slower form."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class InstanceNorm(nn.Module):
    """Instance norm (Ulyanov et al. 2016) of features [B, C, H, W], without scale and shift.

    The same function as ``torch.nn.InstanceNorm2d``. That one copies channels-last features to the
    other layout and back; for a single image instance norm is batch norm, which needs no copy on
    the processor (there a quarter of the time, forward and backward).
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return the features with mean 0 and variance 1 in each image and channel."""
        if torch.compiler.is_compiling() or features.device.type != "cpu":
            return F.instance_norm(features)
        images = torch.split(features, 1)
        normed = [F.batch_norm(image, None, None, training=True) for image in images]
        return normed[0] if len(normed) == 1 else torch.cat(normed)


class ReflectionPad(nn.ReflectionPad2d):
    """Reflection padding of features [B, C, H, W] by as many pixels on each side.

    Torch's own adds up its gradient in an order of chance on GPUs; where only deterministic
    algorithms are allowed, it is put together from mirrored borders, whose gradient has one order.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return the padded features."""
        if features.device.type == "cuda" and torch.are_deterministic_algorithms_enabled():
            return mirrored(mirrored(features, self.padding[0], dim=3), self.padding[0], dim=2)
        return super().forward(features)


def mirrored(features: Tensor, width: int, *, dim: int) -> Tensor:
    """Return features between the mirror images of their borders, along ``dim``."""
    size = features.shape[dim]
    before = features.narrow(dim, 1, width).flip(dim)
    after = features.narrow(dim, size - 1 - width, width).flip(dim)
    return torch.cat([before, features, after], dim)


class LastConvolution(nn.Conv2d):
    """A wide convolution with few output channels, such as the generator's last, 7x7 to one.

    The processor's convolutions compute output channels in blocks, of which one channel fills a
    sixteenth. So each column of the kernel becomes an output channel of its own there, and the
    shifted columns are added up, in float32: the same sum in another order, three times faster.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return the convolution of [B, C, H, W], without padding."""
        if features.device.type != "cpu":
            return super().forward(features)
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
