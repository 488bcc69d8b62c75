"""The generator of the CycleGAN authors' code with its names, written from its description.

Zhu et al. 2017, appendix 7.2, in plain torch; layers lie in ``model`` and ``conv_block``, which
gives the names of weights that the authors' checkpoints have. Nothing here may import the package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """x + norm(conv(drop(relu(norm(conv(x))))))."""

    def __init__(self, channels: int, norm: Any, *, dropout: bool, bias: bool) -> None:
        super().__init__()
        conv = [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=bias), norm(channels)]
        again = [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=bias), norm(channels)]
        drop = [nn.Dropout(0.5)] if dropout else []
        self.conv_block = nn.Sequential(*conv, nn.ReLU(), *drop, *again)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.conv_block(features)


class ResnetGenerator(nn.Module):
    """c7s1-w, d2w, d4w, R4w x blocks, u2w, uw, c7s1-out, tanh."""

    def __init__(
        self,
        inputs: int = 3,
        outputs: int = 3,
        width: int = 64,
        *,
        blocks: int = 9,
        dropout: bool = False,
        norm: Any = nn.InstanceNorm2d,
        bias: bool = True,
    ) -> None:
        super().__init__()
        options = {"stride": 2, "padding": 1, "bias": bias}
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(inputs, width, 7, bias=bias)]
        layers += [norm(width), nn.ReLU()]
        for n in (width, 2 * width):
            layers += [nn.Conv2d(n, 2 * n, 3, **options), norm(2 * n), nn.ReLU()]
        layers += [Block(4 * width, norm, dropout=dropout, bias=bias) for _ in range(blocks)]
        for n in (2 * width, width):
            layers += [nn.ConvTranspose2d(2 * n, n, 3, output_padding=1, **options)]
            layers += [norm(n), nn.ReLU()]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, outputs, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        translated: Tensor = self.model(images)
        return translated


def trained(seed: int = 0, spread: float = 0.1, **options: Any) -> ResnetGenerator:
    """Return one with weights and biases that matter: outputs reach over most of [-1, 1]."""
    network = ResnetGenerator(**options)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * spread)
    return network.eval()


def save(path: Path, network: nn.Module, *, legacy: bool = False) -> Path:
    """Save as the authors' code does; ``legacy``: as it did before torch 1.6."""
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    return path
