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
