"""Where a network computes: its device, the layout of its weights and its kernels there."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from medxlate.base.device import Compute
from medxlate.method.cpu_kernels import accelerate

Network = TypeVar("Network", bound=nn.Module)


def place(network: Network, compute: Compute) -> Network:
    """Return a network on the device, its weights in the layout that convolutions like.

    That is channels last, but for float32 on the processor, where strided convolutions are slower
    that way (docs/benchmarks.md). On the processor, some layers compute faster than torch's.
    """
    network.to(compute.device)
    if compute.device.type != "cpu" or compute.precision == "bf16":
        network.to(memory_format=torch.channels_last)
    if compute.device.type == "cpu":
        accelerate(network)
    return network
