"""Batch norm whose statistics are those of all processes' images (Ioffe and Szegedy 2015).

``torch.nn.SyncBatchNorm`` does the same on GPUs only; ``predictor.synchronise`` takes it there.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medxlate.base.device import full_precision
from medxlate.base.distributed import ranks


class SyncedBatchNorm(nn.BatchNorm2d):
    """Batch norm of features [B, C, H, W] over the images of all processes, in training.

    Gradients of scale and shift are those of this process's images; the others' come to them with
    all other gradients.

    Args:
        norm: The batch norm in whose place it stands; its tensors are taken over.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.train(norm.training)
        # What timm's joined layers do after the norm.
        self.after = nn.Sequential(*(getattr(norm, n) for n in ("drop", "act") if hasattr(norm, n)))

    def forward(self, features: Tensor) -> Tensor:
        """Return the normed features, of the same shape."""
        if not self.training:
            output: Tensor = self.after(super().forward(features))
            return output
        mean, var, count = _statistics(features)
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        output = self.after(
            _Norm.apply(features, self.weight, self.bias, mean, var, count, self.eps)
        )
        return output


def synchronise(network: nn.Module) -> None:
    """Replace all batch norms of a network; names and values of its tensors stay."""
    for name, child in network.named_children():
        if isinstance(child, _BatchNorm):
            setattr(network, name, SyncedBatchNorm(child))
        else:
            synchronise(child)


def _statistics(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean [C], biased variance [C] and count of all processes' values of a channel.

    The parts' means and variances are combined after Chan et al. 1979, in float32.
    """
    with torch.no_grad():
        mean, var = _own_statistics(features)
        own = mean.new_full((1,), features.numel() / features.shape[1])
        every = [mean.new_empty(2 * len(mean) + 1) for _ in range(ranks().count)]
        distributed.all_gather(every, torch.cat([mean, var, own]))
        means, variances, counts = torch.split(torch.stack(every), [len(mean), len(mean), 1], dim=1)
        total = counts.sum()
        shares = counts / total
        mean = (shares * means).sum(0)
        var = (shares * (variances + (means - mean) ** 2)).sum(0)
        return mean, var, total


def _own_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean [C] and biased variance [C] of this process's values of a channel."""
    if features.device.type == "cpu":  # batch norm's own kernel, thirty times as fast as var_mean
        kind = torch.float32 if features.dtype == torch.bfloat16 else features.dtype
        unused = features.new_zeros(2, features.shape[1], dtype=kind)  # so that it answers in it
        mean, var = torch.batch_norm_update_stats(features, unused[0], unused[1], 0.0)
        return mean, var
    var, mean = torch.var_mean(full_precision(features), dim=(0, 2, 3), correction=0)
    return mean, var


def _gathered(values: Tensor) -> Tensor:
    """Return the values [N] of all processes as [processes, N].

    Gloo gathers small tensors in less than half the time in which it sums them.
    """
    every = values.new_empty(ranks().count * len(values))
    distributed.all_gather_into_tensor(every, values)
    return every.view(-1, len(values))


class _Norm(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias, where mean and var come of all x."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(features, weight, mean, var, count)
        ctx.eps = eps
        return F.batch_norm(features, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients; that of x also flows through mean and var.

        With y = w (x - m) s + b, s = 1 / sqrt(v + eps) and n values: dx = w s (dy - mean(dy) -
        (x - m) s mean(dy (x - m) s)), whose first term is the gradient for given m and v.
        """
        features, weight, mean, var, count = ctx.saved_tensors
        given, d_weight, d_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, features, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        own = full_precision(torch.cat([d_weight, d_bias]))
        sums = _gathered(own).sum(0).view(2, -1)
        inverse = torch.rsqrt(var + ctx.eps)
        slope = -weight * inverse * inverse * sums[0] / count
        shift = -weight * inverse * sums[1] / count - slope * mean
        shape = (1, -1, 1, 1)
        through = torch.addcmul(shift.view(shape), full_precision(features), slope.view(shape))
        return given.add_(through.to(given.dtype)), d_weight, d_bias, None, None, None, None
