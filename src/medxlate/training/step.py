"""What the loop needs of a way of training, and the predictor's supervised step.

A learner owns networks, optimizers and buffers; ``step`` takes a batch of every modality it asks
for and returns its losses as detached tensors on the device: nothing waits for the device here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Adam

from medxlate.config import OptimizerConfig
from medxlate.dataset.loading import Batch
from medxlate.models.device import Compute
from medxlate.models.head import Head
from medxlate.models.predictor import PredictorNetwork
from medxlate.training.augment import Augmentation
from medxlate.training.buffer import ImageBuffer

Losses = dict[str, Tensor]


class Learner(Protocol):
    """What the loop needs of a method.

    Attributes:
        modalities: Which modalities a step takes a batch of.
        validates: On which modalities the predictor is validated; none without a predictor.
        predictor_batches: From how many batches of images the predictor learns in a step.
        networks: ``predictor``, and the translator of each source under its name.
        optimizers: By name.
        buffers: By name.
    """

    modalities: tuple[str, ...]
    validates: tuple[str, ...]
    predictor_batches: int
    networks: nn.ModuleDict
    optimizers: dict[str, Adam]
    buffers: dict[str, ImageBuffer]

    def step(self, batches: Mapping[str, Batch], *, progress: float = 0.0) -> Losses:
        """Update every network once and return the losses before the update.

        Args:
            batches: A batch of each of ``modalities``, on the device.
            progress: Which share of all steps is done, 0 to 1.
        """
        ...


class Supervised:
    """The predictor on labelled images, of the target or of anything put in its place.

    On the target alone it is PURE (paper, section 4.4); with source images, translated before or
    not, their batch goes through P together with the target's, each with its own mean loss
    (equation 2); an augmentation adds the changed target images as further training data
    (section 4.3).

    Args:
        predictor: P, on the device.
        sources: Modalities whose images it learns from beside the target's, or without them.
        target: The target modality, on which it is validated; None: there is none, and it is
            validated on the sources.
        head: Takes the loss.
        optimizer: Learning rate.
        compute: Device and precision.
        augment: Changes the target's images; None: nothing is added.
    """

    def __init__(
        self,
        predictor: PredictorNetwork,
        *,
        sources: Sequence[str],
        target: str | None,
        head: Head,
        optimizer: OptimizerConfig,
        compute: Compute,
        augment: Augmentation | None = None,
    ) -> None:
        targets = () if target is None else (target,)
        self.modalities = (*sources, *targets)
        self.validates = targets or tuple(sources)
        self.predictor_batches = len(self.modalities) + (augment is not None)
        self.networks = nn.ModuleDict({"predictor": predictor})
        self.optimizers = {"predictor": predictor_adam(predictor.parameters(), optimizer)}
        self.buffers: dict[str, ImageBuffer] = {}
        self._sources = tuple(sources)
        self._target = target
        self._predictor = predictor
        self._head = head
        self._compute = compute
        self._augment = augment

    def step(self, batches: Mapping[str, Batch], *, progress: float = 0.0) -> Losses:
        """One step on the sum of the modalities' mean losses."""
        parts = {f"{name}.predict": batches[name] for name in self._sources}
        if self._target is not None:
            parts |= target_parts(batches[self._target], self._augment)
        with self._compute.autocast():
            total, losses = prediction_loss(self._predictor, parts, self._head)
        update(self.optimizers["predictor"], total)
        return losses


def target_parts(target: Batch, augment: Augmentation | None) -> dict[str, Batch]:
    """Return the target's batch and, where there is an augmentation, the changed one before it."""
    parts = {"predict_real": target}
    if augment is None:
        return parts
    return {"predict_augmented": Batch(augment(target.images), target.labels), **parts}


def prediction_loss(
    predictor: Callable[[Tensor], Tensor], parts: Mapping[str, Batch], head: Head
) -> tuple[Tensor, Losses]:
    """Return the sum of the parts' mean losses (equation 2), and each of them detached.

    All go through P as one batch, so that its batch norm sees the combined training set.
    """
    outputs = predictor(torch.cat([batch.images for batch in parts.values()]))
    pieces = torch.split(outputs, [len(batch.labels) for batch in parts.values()])
    losses = {
        name: head.loss(piece, batch.labels)
        for (name, batch), piece in zip(parts.items(), pieces, strict=True)
    }
    total = torch.stack(list(losses.values())).sum()
    return total, {name: loss.detach() for name, loss in losses.items()}


def predictor_adam(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> Adam:
    """Return the optimizer of the predictor and of what is trained at its rate."""
    return Adam(list(parameters), config.predictor_lr, betas=config.predictor_betas, fused=True)


def translator_adam(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> Adam:
    """Return the optimizer of the translators' generators or discriminators."""
    return Adam(list(parameters), config.translator_lr, betas=config.translator_betas, fused=True)


def update(optimizers: Adam | Sequence[Adam], loss: Tensor) -> None:
    """Take one step of the optimizers down the gradient of the loss."""
    several = (optimizers,) if isinstance(optimizers, Adam) else optimizers
    for optimizer in several:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    for optimizer in several:
        optimizer.step()
