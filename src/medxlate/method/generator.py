"""CycleGAN's ResNet generator (Zhu et al. 2017, appendix 7.2; Johnson et al. 2016), and variants.

As published it begins far from its input: its weights are N(0, 0.02), and it has to learn to
reproduce an image before it can translate one. A global skip lets it begin at its input, and those
of a U-Net show its last layers the input's detail.

Shapes: B images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medxlate.base.plugins import (
    PluginError,
    Setting,
    blamed,
    choose,
    described,
    expected,
    with_settings,
)
from medxlate.config import Skip, Upsample
from medxlate.method.init import init_normal

# A global skip hands the input through tanh; at its ends tanh has no slope to learn by, so the
# input is kept a little away from them.
KEPT_RANGE = 0.97


class Generator(nn.Module):
    """Translate images [B, C, H, W] in [-1, 1] to images of the same shape and range.

    In the paper's notation c7s1-w, d2w, d4w, R4w x blocks, u2w, uw, c7s1-C, with reflection
    padding, instance norm and a closing tanh.

    Args:
        width: Channels after the first convolution (w; the paper's 64).
        blocks: Residual blocks (6 for images up to 128 px, 9 above).
        channels: Image channels.
        upsample: How u2w and uw double height and width: a transposed convolution as published,
            or ``nearest`` or ``bilinear`` interpolation and a convolution, which leaves no
            checkerboard (Odena et al. 2016, "Deconvolution and Checkerboard Artifacts").
        skip: What bypasses layers. ``global``: G(y) = tanh(net(y) + atanh(0.97 y)), where the
            last convolution begins at zero, so that G begins as G(y) = 0.97 y and learns the
            difference. ``unet``: the features before each halving join those after the doubling
            back to that size (Ronneberger et al. 2015). ``both``: the two together.
        recompute: Whether the blocks save memory in training; see ``ResidualBlock``.
    """

    def __init__(
        self,
        *,
        width: int = 64,
        blocks: int = 9,
        channels: int = 1,
        upsample: Upsample = "transposed",
        skip: Skip = "none",
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.is_global = skip in ("global", "both")
        self.is_unet = skip in ("unet", "both")
        joined = 2 if self.is_unet else 1
        parts = {
            "full": [nn.ReflectionPad2d(3), *_norm_relu(nn.Conv2d(channels, width, 7), width)],
            "half": _norm_relu(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), 2 * width),
            "deep": [
                *_norm_relu(nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1), 4 * width),
                *[ResidualBlock(4 * width, recompute=recompute) for _ in range(blocks)],
                *_norm_relu(_double(4 * width, 2 * width, upsample), 2 * width),
            ],
            "up": _norm_relu(_double(joined * 2 * width, width, upsample), width),
            "image": [nn.ReflectionPad2d(3), nn.Conv2d(joined * width, channels, 7), nn.Tanh()],
        }
        self.layers = nn.Sequential(*(layer for part in parts.values() for layer in part))
        self._ends = list(accumulate(map(len, parts.values())))  # of the parts among the layers
        init_normal(self)
        if self.is_global:
            nn.init.zeros_(self.layers[-2].weight)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Return the translated images, same shape, in [-1, 1]; H and W must divide by 4."""
        output: Tensor
        if not (self.is_global or self.is_unet):
            output = self.layers(images)
            return output
        full, half, deep, up, _ = self._ends
        at_full = self.layers[:full](images)
        at_half = self.layers[full:half](at_full)
        features = self._joined(self.layers[half:deep](at_half), at_half)
        features = self._joined(self.layers[deep:up](features), at_full)
        output = self.layers[up:-1](features)
        if self.is_global:
            output = output + torch.atanh(KEPT_RANGE * images)
        return torch.tanh(output)

    def _joined(self, features: Tensor, earlier: Tensor) -> Tensor:
        """Return the features, with those of before the halving where the skip is U-Net's."""
        return torch.cat([features, earlier], dim=1) if self.is_unet else features


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
            nn.ReflectionPad2d(1),
            *_norm_relu(nn.Conv2d(channels, channels, 3), channels),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return features + layers(features)."""
        if self.recompute and self.training and torch.is_grad_enabled():
            changes: Tensor = checkpoint(
                self.layers, features, use_reentrant=False, preserve_rng_state=False
            )
            return features + changes
        return torch.add(features, self.layers(features))


@dataclass(frozen=True)
class GeneratorShape:
    """What a generator is built from; what each means is the architecture's own affair.

    Attributes:
        width: Channels after the first convolution (``model.generator_width``).
        blocks: Residual blocks, or another measure of depth (``model.generator_blocks``).
        upsample: How height and width are doubled (``model.upsample``).
        skip: What bypasses layers (``model.skip``).
        recompute: Whether to save memory in training (``runtime.recompute``).
    """

    width: int
    blocks: int
    upsample: Upsample = "transposed"
    skip: Skip = "none"
    recompute: bool = False


# From a shape, and settings of its own as keywords, to a network with new weights, which takes and
# gives images [B, 1, H, W] in [-1, 1].
BuildGenerator = Callable[..., nn.Module]


def _resnet(shape: GeneratorShape) -> nn.Module:
    return Generator(
        width=shape.width,
        blocks=shape.blocks,
        upsample=shape.upsample,
        skip=shape.skip,
        recompute=shape.recompute,
    )


GENERATORS: dict[str, BuildGenerator] = {"resnet": _resnet}


def build_generator(
    architecture: str, shape: GeneratorShape, settings: Mapping[str, Setting] | None = None
) -> nn.Module:
    """Return a generator by the name of its architecture, with new weights.

    It takes and gives images [B, 1, H, W] in [-1, 1].

    Args:
        architecture: One of GENERATORS, or a plug-in's.
        shape: How large it is.
        settings: Of the plug-in.

    Raises:
        ConfigError: There is no such architecture or setting.
        PluginError: The plug-in cannot be loaded, or fails.
    """
    if architecture in GENERATORS:
        return GENERATORS[architecture](shape)
    build = choose("generators", architecture, GENERATORS)
    build = with_settings("generators", architecture, build, settings or {})
    with blamed("generators", architecture):
        return expected(build(shape), nn.Module, "generators", architecture)


def check_images(network: nn.Module, architecture: str, image_size: int) -> None:
    """Raise PluginError unless a plug-in's generator gives images like those that it takes."""
    was_training = network.training
    with torch.random.fork_rng(devices=[]), torch.no_grad(), blamed("generators", architecture):
        images = torch.rand(1, 1, image_size, image_size) * 2 - 1
        made = network.eval()(images)
        network.train(was_training)
    if not isinstance(made, Tensor) or made.shape != images.shape:
        what = list(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise PluginError(
            f"The {described('generators', architecture)} gave {what} for images "
            f"{list(images.shape)}."
        )
    if not bool(made.abs().max() <= 1):
        raise PluginError(
            f"The {described('generators', architecture)} gave values outside of [-1, 1]."
        )


def default_blocks(image_size: int) -> int:
    """Return CycleGAN's number of residual blocks: 6 up to 128 px, 9 above."""
    return 6 if image_size <= 128 else 9


def _norm_relu(convolution: nn.Module, channels: int) -> list[nn.Module]:
    return [convolution, nn.InstanceNorm2d(channels), nn.ReLU(inplace=True)]


def _double(channels_in: int, channels_out: int, upsample: Upsample) -> nn.Module:
    """Double height and width: a fractionally strided convolution, or one after interpolation."""
    if upsample == "transposed":
        return nn.ConvTranspose2d(
            channels_in, channels_out, 3, stride=2, padding=1, output_padding=1
        )
    align = False if upsample == "bilinear" else None
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode=upsample, align_corners=align),
        nn.Conv2d(channels_in, channels_out, 3, padding=1),
    )
