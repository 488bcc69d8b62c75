"""What a step is: the gradients of a learner, then one update of everything.

A learner owns networks, optimizers and buffers, and says what its gradients are; all gradients are
taken at the weights before the step. Losses are detached tensors on the device: nothing waits for
the device here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Adam

from medxlate.config import ObjectiveConfig, OptimizerConfig
from medxlate.dataset.loading import Batch
from medxlate.models.device import Compute
from medxlate.models.head import Head
from medxlate.models.predictor import PredictorNetwork
from medxlate.training.augment import Augmentation
from medxlate.training.averages import Averages
from medxlate.training.buffer import ImageBuffer
from medxlate.training.fakes import for_predictor
from medxlate.training.objective import Losses, fake_weight, l_pred
from medxlate.training.schedule import is_constant, phase_at


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
        optimizer: Learning rate and schedule: the sources are left out where it fine-tunes.
        compute: Device and precision.
        objective: How the sources weigh beside the target.
        separate: Whether P's batch norm takes the statistics of sources and target apart.
        translated: Whether the sources' images are translations (``for_predictor``).
        counts: Training images by modality, where ``objective.fake_weight`` goes by them.
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
        objective: ObjectiveConfig | None = None,
        separate: bool = False,
        translated: bool = False,
        counts: Mapping[str, int] | None = None,
        augment: Augmentation | None = None,
    ) -> None:
        objective = objective or ObjectiveConfig()
        targets = () if target is None else (target,)
        self.modalities = (*sources, *targets)
        self.validates = targets or tuple(sources)
        self.predictor_batches = len(self.modalities) + (augment is not None)
        self.translates = False
        self.capturable = augment is None and is_constant(optimizer)
        self.averages = Averages({}, decay=0)
        self.networks = nn.ModuleDict({"predictor": predictor})
        self.optimizers = {"predictor": predictor_adam(predictor.parameters(), optimizer)}
        self.buffers: dict[str, ImageBuffer] = {}
        self._sources = tuple(sources)
        self._target = target
        self._predictor = predictor
        self._head = head
        self._compute = compute
        self._augment = augment
        self._schedule = optimizer
        self._objective = objective
        self._translated = translated
        self._aside = predictor.aside if separate and target is not None else None
        self._weights = {
            f"{name}.predict": fake_weight(objective, counts, name, target) for name in sources
        }

    def backward(
        self, batches: Mapping[str, Batch], *, share: float = 1.0, progress: float = 0.0
    ) -> Losses:
        """Add the gradients of the weighted sum of the modalities' mean losses (equation 2)."""
        fakes = {f"{name}.predict": batches[name] for name in self._sources}
        real: dict[str, Batch] = {}
        if self._target is None:  # the sources are all there is
            fakes, real = {}, fakes
        else:
            real = target_parts(batches[self._target], self._augment)
            if phase_at(progress, self._schedule).finetunes:
                fakes = {}
            if self._translated:
                x = batches[self._target].images
                fakes = {
                    name: Batch(for_predictor(batch.images, x, self._objective), batch.labels)
                    for name, batch in fakes.items()
                }
        with self._compute.autocast():
            total, losses = l_pred(
                self._predictor,
                fakes,
                real,
                self._head,
                weights=self._weights,
                aside=self._aside,
            )
        backward(share * total)
        return losses


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
