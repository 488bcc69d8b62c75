"""Where a network computes: its device, the layout of its weights and its kernels there."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medxlate.base.device import Compute
from medxlate.method.cpu_kernels import accelerate

Network = TypeVar("Network", bound=nn.Module)


def place(network: Network, compute: Compute) -> Network:
    """Return a network on the device, its weights in the layout that convolutions like.

    That is channels last, but for float32 on the processor, where strided convolutions are slower
    that way (docs/benchmarks.md). On the processor, some layers compute faster than torch's; on a
    GPU, biases without effect are left out (``skip_vain_biases``).
    """
    network.to(compute.device)
    if compute.device.type != "cpu" or compute.precision == "bf16":
        network.to(memory_format=torch.channels_last)
    if compute.device.type == "cpu":
        accelerate(network)
    else:
        skip_vain_biases(network)
    return network


def skip_vain_biases(network: nn.Module) -> None:
    """Let convolutions before an instance norm compute without their bias, in place.

    The norm subtracts each channel's mean, and with it the bias: its effect is exactly zero, and
    its gradient is rounding. On a GPU it costs a pass over the features, and another one over
    their gradients. The biases stay where they are, so that weights can be loaded everywhere; they
    get no gradient, and optimizers leave them as they are.
    """
    for group in network.modules():
        if not isinstance(group, nn.Sequential):
            continue
        for layer, norm in pairwise(group):
            layer = layer[-1] if isinstance(layer, nn.Sequential) else layer
            if type(norm) is nn.InstanceNorm2d and not norm.track_running_stats:
                if type(layer) is nn.Conv2d:
                    layer.__class__ = BiasFreeConvolution
                elif type(layer) is nn.ConvTranspose2d:
                    layer.__class__ = BiasFreeTransposedConvolution


class BiasFreeConvolution(nn.Conv2d):
    """A convolution that has a bias and does not add it."""

    def forward(self, features: Tensor) -> Tensor:
        """Return the convolution of features [B, C, H, W], without the bias."""
        output: Tensor = self._conv_forward(features, self.weight, None)
        return output


class BiasFreeTransposedConvolution(nn.ConvTranspose2d):
    """A transposed convolution that has a bias and does not add it."""

    def forward(self, features: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the transposed convolution of features [B, C, H, W], without the bias."""
        assert output_size is None
        return F.conv_transpose2d(
            features,
            self.weight,
            None,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            self.output_padding,
            self.groups,
            self.dilation,
        )
