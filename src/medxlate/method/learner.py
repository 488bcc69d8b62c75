"""What a method is to the training: networks, optimizers, buffers, and the gradients of a step.

All gradients are taken at the weights before the step. Losses are detached tensors on the device:
nothing waits for the device here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Adam

from medxlate.config import OptimizerConfig
from medxlate.dataset.loading import Batch
from medxlate.method.augment import Augmentation
from medxlate.method.averages import Averages
from medxlate.method.buffer import ImageBuffer
from medxlate.method.objective import Losses


class Learner(Protocol):
    """What a step needs of a method.

    Attributes:
        modalities: Which modalities a step takes a batch of.
        validates: On which modalities the predictor is validated; none without a predictor.
        predictor_batches: From how many batches of images the predictor learns in a step.
        translates: Whether translators learn in a step.
        capturable: Whether a step does the same on the device each time, so that it can be
            captured in a CUDA graph; not so where it draws numbers on the processor.
        networks: ``predictor``, and the translator of each source under its name.
        optimizers: By name.
        buffers: By name.
        averages: Of the generators; empty where there are none.
    """

    modalities: tuple[str, ...]
    validates: tuple[str, ...]
    predictor_batches: int
    translates: bool
    capturable: bool
    networks: nn.ModuleDict
    optimizers: dict[str, Adam]
    buffers: dict[str, ImageBuffer]
    averages: Averages

    def backward(
        self, batches: Mapping[str, Batch], *, share: float = 1.0, progress: float = 0.0
    ) -> Losses:
        """Add the gradients of all losses, times ``share``, and return the losses as they are.

        Args:
            batches: A batch of each of ``modalities``, on the device.
            share: Which share of the step's images these are, 0 to 1.
            progress: Which share of all steps is done, 0 to 1.
        """
        ...


def target_parts(target: Batch, augment: Augmentation | None) -> dict[str, Batch]:
    """Return the target's batch and, where there is an augmentation, the changed one before it."""
    parts = {"predict_real": target}
    if augment is None:
        return parts
    return {"predict_augmented": Batch(augment(target.images), target.labels), **parts}


def predictor_adam(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> Adam:
    """Return the optimizer of the predictor and of what is trained at its rate."""
    return _adam(parameters, config.predictor_lr, config.predictor_betas)


def translator_adam(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> Adam:
    """Return the optimizer of the translators' generators or discriminators."""
    return _adam(parameters, config.translator_lr, config.translator_betas)


def set_rate(optimizer: Adam, rate: float) -> None:
    """Set the learning rate, where a captured step finds it too."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def backward(loss: Tensor) -> None:
    """Add the gradients of a loss."""
    loss.backward()  # type: ignore[no-untyped-call]


def _adam(parameters: Iterable[nn.Parameter], rate: float, betas: tuple[float, float]) -> Adam:
    chosen = list(parameters)
    device = chosen[0].device
    if device.type != "cuda":
        return Adam(chosen, rate, betas=betas, fused=True)
    on_device = torch.tensor(rate, device=device)  # a captured step reads it anew each time
    return Adam(chosen, on_device, betas=betas, fused=True, capturable=True)
