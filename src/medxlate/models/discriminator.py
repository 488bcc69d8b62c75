"""The 70x70 PatchGAN discriminator (Isola et al. 2017; Zhu et al. 2017, appendix 7.2)."""

from __future__ import annotations

from torch import Tensor, nn

from medxlate.models.init import init_normal
from medxlate.models.layers import InstanceNorm


class Discriminator(nn.Module):
    """Judge overlapping 70x70 patches of images [B, C, H, W]: 1 is real, 0 is fake.

    In the paper's notation Cw-C2w-C4w-C8w and a closing 1-channel convolution, 4x4 kernels, leaky
    ReLU of slope 0.2, instance norm except in the first layer.

    Args:
        width: Channels after the first convolution (w; the paper's 64).
        channels: Image channels.
    """

    def __init__(self, *, width: int = 64, channels: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            *_block(width, 2 * width, stride=2),
            *_block(2 * width, 4 * width, stride=2),
            *_block(4 * width, 8 * width, stride=1),
            nn.Conv2d(8 * width, 1, 4, padding=1),
        )
        init_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return a map of judgements [B, 1, H / 8 - 2, W / 8 - 2], unbounded."""
        output: Tensor = self.layers(images)
        return output


def _block(channels_in: int, channels_out: int, *, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, 4, stride=stride, padding=1),
        InstanceNorm(),
        nn.LeakyReLU(0.2, inplace=True),
    ]
