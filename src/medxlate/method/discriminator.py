"""The PatchGAN discriminator (Isola et al. 2017; Zhu et al. 2017, appendix 7.2)."""

from __future__ import annotations

from torch import Tensor, nn

from medxlate.config import DiscriminatorNorm
from medxlate.method.init import init_normal

WIDEST = 8  # times the first layer's channels


class Discriminator(nn.Module):
    """Judge overlapping patches of images [B, C, H, W]: 1 is real, 0 is fake.

    In the paper's notation Cw-C2w-C4w-C8w and a closing 1-channel convolution, 4x4 kernels, leaky
    ReLU of slope 0.2, instance norm except in the first layer: patches of 70x70 pixels, made for
    images of 256 px. On small images such a patch is the whole image, and a discriminator of a few
    images learns these by heart; fewer layers make its patches smaller (Isola et al. 2017, 4.4).

    Args:
        width: Channels after the first convolution (w; the paper's 64).
        channels: Image channels.
        layers: Convolutions of stride 2 (the paper's 3); see ``receptive_field``.
        norm: ``instance`` as published; ``none`` where grey levels mean something, as in CT:
            instance norm makes a discriminator blind to them.
    """

    def __init__(
        self,
        *,
        width: int = 64,
        channels: int = 1,
        layers: int = 3,
        norm: DiscriminatorNorm = "instance",
    ) -> None:
        super().__init__()
        widths = [width * min(2**i, WIDEST) for i in range(layers + 1)]
        strides = [2] * (layers - 1) + [1]
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            *(
                layer
                for before, after, stride in zip(widths[:-1], widths[1:], strides, strict=True)
                for layer in _block(before, after, stride=stride, norm=norm)
            ),
            nn.Conv2d(widths[-1], 1, 4, padding=1),
        )
        init_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return a map of judgements, unbounded: [B, 1, H / 2^layers - 2, W / 2^layers - 2]."""
        output: Tensor = self.layers(images)
        return output


def receptive_field(layers: int) -> int:
    """Return the side of the patches that a discriminator judges, pixels: 16, 34, 70, 142..."""
    side = 1
    for stride in (1, 1, *[2] * layers):  # from the last layer to the first
        side = (side - 1) * stride + 4
    return side


def most_layers(image_size: int) -> int:
    """Return how many layers of stride 2 leave a map of at least 2 x 2 judgements."""
    layers = 0
    while image_size // 2 ** (layers + 1) - 2 >= 2:
        layers += 1
    return layers


def _block(
    channels_in: int, channels_out: int, *, stride: int, norm: DiscriminatorNorm
) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, 4, stride=stride, padding=1),
        *([nn.InstanceNorm2d(channels_out)] if norm == "instance" else []),
        nn.LeakyReLU(0.2, inplace=True),
    ]
