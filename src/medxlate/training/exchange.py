"""Gradients, losses and statistics of several processes made those of the whole batch.

Every process holds the same weights and takes the same updates; what differs is its part of each
batch. So the sum of all gradients, each weighted by its share, is what one process would have.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed

from medxlate.base.distributed import ranks
from medxlate.method.learner import Learner
from medxlate.method.objective import Losses


def add_up(learner: Learner, losses: Losses) -> Losses:
    """Sum the gradients of all processes, in place, and return the sums of their losses."""
    parameters = (
        parameter
        for optimizer in learner.optimizers.values()
        for group in optimizer.param_groups
        for parameter in group["params"]
    )
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    total = torch.stack(list(losses.values()))
    sum_all([*gradients, total])
    return dict(zip(losses, total.unbind(), strict=True))


def average_statistics(learner: Learner) -> None:
    """Give all processes the mean of their batch norms' running statistics.

    These are running means, so the mean now and steps later are the same; without ``sync_bn``
    they differ between the processes.
    """
    floating = [b for b in learner.networks.buffers() if b.is_floating_point()]
    sum_all(floating)
    for each in floating:
        each.div_(ranks().count)


def sum_all(tensors: Sequence[Tensor]) -> None:
    """Sum each tensor over all processes, in place; they must be laid out alike in all."""
    kinds = sorted({each.dtype for each in tensors}, key=str)  # all processes in one order
    for kind in kinds:
        parts = [_in_memory_order(each) for each in tensors if each.dtype == kind]
        flat = torch.cat(parts)  # one message in place of hundreds
        distributed.all_reduce(flat)
        pieces = torch.split(flat, [len(each) for each in parts])
        torch._foreach_copy_(parts, list(pieces))


def _in_memory_order(tensor: Tensor) -> Tensor:
    """Return a flat view of a tensor without gaps, whatever the order of its dimensions."""
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda i: (-strides[i], i))
    return tensor.permute(order).view(-1)
