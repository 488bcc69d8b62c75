"""Running a network over many images."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from medxlate.models.device import Compute


@torch.inference_mode()
def run(
    network: nn.Module,
    images: Iterable[Tensor],
    *,
    compute: Compute,
    call: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the outputs [N, ...] of a network, float32 on the CPU, for batches of images.

    The network runs in eval mode, whatever mode it is in, and is left as it was found.

    Args:
        network: On ``compute.device``.
        images: Batches float32 [B, 1, S, S] in [-1, 1].
        compute: Device and precision.
        call: What to call in place of the network's forward (its features, say).
    """
    call = call or network
    was_training = network.training
    network.eval()
    try:
        with compute.autocast():
            outputs = [
                call(batch.to(compute.device, non_blocking=True)).float().cpu() for batch in images
            ]
    finally:
        network.train(was_training)
    return torch.cat(outputs)
