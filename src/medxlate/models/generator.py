"""CycleGAN's ResNet generator (Zhu et al. 2017, appendix 7.2; Johnson et al. 2016).

Shapes: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medxlate.models.init import init_normal
from medxlate.models.layers import InstanceNorm, LastConvolution, ReflectionPad
from medxlate.models.winograd import Convolution3x3


class Generator(nn.Module):
    """Translate images [B, C, H, W] in [-1, 1] to images of the same shape and range.

    In the paper's notation c7s1-w, d2w, d4w, R4w x blocks, u2w, uw, c7s1-C, with reflection
    padding, instance norm and a closing tanh.

    Args:
        width: Channels after the first convolution (w; the paper's 64).
        blocks: Residual blocks (6 for images up to 128 px, 9 above).
        channels: Image channels.
        recompute: Whether the blocks save memory in training; see ``ResidualBlock``.
    """

    def __init__(
        self, *, width: int = 64, blocks: int = 9, channels: int = 1, recompute: bool = False
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ReflectionPad(3),
            *_norm_relu(nn.Conv2d(channels, width, 7)),
            *_norm_relu(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)),
            *_norm_relu(nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)),
            *[ResidualBlock(4 * width, recompute=recompute) for _ in range(blocks)],
            *_norm_relu(_double(4 * width, 2 * width)),
            *_norm_relu(_double(2 * width, width)),
            ReflectionPad(3),
            LastConvolution(width, channels, 7),
            nn.Tanh(),
        )
        init_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return the translated images, same shape, in [-1, 1]; H and W must divide by 4."""
        output: Tensor = self.layers(images)
        return output


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added; shape [B, C, H, W] is kept.

    Args:
        channels: C.
        recompute: Whether what lies between the layers is computed again in the backward pass
            instead of being kept: less memory, more time, the same gradients.
    """

    def __init__(self, channels: int, *, recompute: bool = False) -> None:
        super().__init__()
        self.recompute = recompute
        self.layers = nn.Sequential(
            ReflectionPad(1),
            *_norm_relu(Convolution3x3(channels)),
            ReflectionPad(1),
            Convolution3x3(channels),
            InstanceNorm(),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return features + layers(features)."""
        if self.recompute and self.training and torch.is_grad_enabled():
            changes: Tensor = checkpoint(self.layers, features, use_reentrant=False)
            return features + changes
        return torch.add(features, self.layers(features))


def default_blocks(image_size: int) -> int:
    """Return CycleGAN's number of residual blocks: 6 up to 128 px, 9 above."""
    return 6 if image_size <= 128 else 9


def _norm_relu(convolution: nn.Module) -> list[nn.Module]:
    return [convolution, InstanceNorm(), nn.ReLU(inplace=True)]


def _double(channels_in: int, channels_out: int) -> nn.Module:
    """A fractionally strided convolution: height and width double."""
    return nn.ConvTranspose2d(channels_in, channels_out, 3, stride=2, padding=1, output_padding=1)
