"""What a step is: the gradients of a learner, then one update of everything."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from medxlate.dataset.loading import Batch
from medxlate.method.learner import Learner
from medxlate.method.objective import Losses


def take_step(
    learner: Learner, batches: Mapping[str, Batch], *, progress: float = 0.0, parts: int = 1
) -> Losses:
    """Update every network once and return the losses before the update.

    Args:
        learner: The method.
        batches: A batch [B] of each of its modalities, on the device.
        progress: Which share of all steps is done, 0 to 1.
        parts: In how many parts the batch is computed; see ``gradients``.
    """
    plan_buffers(learner, len(next(iter(batches.values())).labels))
    losses = gradients(learner, batches, progress=progress, parts=parts)
    update(learner, losses)
    return losses


def plan_buffers(learner: Learner, size: int) -> None:
    """Draw what the image buffers will show in the next step, of ``size`` fakes."""
    for buffer in learner.buffers.values():
        buffer.plan(size)


def gradients(
    learner: Learner,
    batches: Mapping[str, Batch],
    *,
    progress: float = 0.0,
    parts: int = 1,
    whole: int | None = None,
) -> Losses:
    """Set the gradients of a step and return its losses.

    Args:
        learner: The method.
        batches: A batch [B] of each of its modalities, on the device.
        progress: Which share of all steps is done, 0 to 1.
        parts: In how many parts the batch is computed, their gradients added up: less memory and
            the same gradients, but for the predictor's batch norm, whose statistics are a part's.
        whole: Images of a modality in the step, where these are only a part of it; gradients and
            losses are then this part's share of the step's.
    """
    for optimizer in learner.optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    for buffer in learner.buffers.values():
        buffer.rewind()
    size = len(next(iter(batches.values())).labels)
    whole = whole or size
    if parts == 1 and size == whole:
        return learner.backward(batches, progress=progress)
    losses: Losses = {}
    for part in torch.arange(size).tensor_split(min(parts, size)):
        chosen = slice(int(part[0]), int(part[-1]) + 1)
        piece = {
            name: Batch(batch.images[chosen], batch.labels[chosen])
            for name, batch in batches.items()
        }
        share = len(part) / whole
        for name, loss in learner.backward(piece, share=share, progress=progress).items():
            losses[name] = losses.get(name, 0) + share * loss
    return losses


def update(learner: Learner, losses: Losses) -> Tensor:
    """Take one step of all optimizers, unless a loss is not finite; nothing waits for the device.

    Returns:
        Whether the step was skipped: float32, 0 or 1, on the device.
    """
    skipped = (~torch.isfinite(torch.stack(list(losses.values())))).any().float()
    for optimizer in learner.optimizers.values():
        # Torch's fused Adam leaves everything as it is where this is 1 (made for loss scaling).
        optimizer.found_inf = skipped  # type: ignore[attr-defined]
        optimizer.step()
    for buffer in learner.buffers.values():
        buffer.commit()
    return skipped
