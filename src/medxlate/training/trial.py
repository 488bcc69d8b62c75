"""What a training will cost, by taking a few of its steps."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from medxlate.dataset.loading import Order
from medxlate.inference.predict import predict_batches
from medxlate.method.predictor import PredictorNetwork
from medxlate.method.schedule import first_epoch, phase_at
from medxlate.training.setup import RunInputs, TrainingSetup, set_up
from medxlate.training.step import take_step
from medxlate.training.validation import VALIDATION_BATCH

WARM_UP = 2
STEPS = 3


@dataclass(frozen=True)
class Trial:
    """What a few steps took.

    Attributes:
        step_seconds: A step, reading its images included.
        validation_seconds: A validation.
        checkpoint_bytes: Networks and optimizer states of a checkpoint.
        memory_bytes: Highest memory of the GPU; None on other devices.
    """

    step_seconds: float
    validation_seconds: float
    checkpoint_bytes: int
    memory_bytes: int | None


def try_steps(inputs: RunInputs) -> Trial:
    """Take a few steps of a training without keeping anything.

    What a first stage gives is not waited for: translated images cost what others cost.
    """
    setup = set_up(inputs)
    device = setup.compute.device
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    seconds = _step_seconds(setup)
    # Weights, and Adam's two moments of each.
    size = 3 * sum(_bytes(setup.learner.networks.parameters()))
    return Trial(
        seconds,
        _validation_seconds(setup),
        size,
        torch.cuda.max_memory_allocated(device) if on_gpu else None,
    )


def _step_seconds(setup: TrainingSetup) -> float:
    """Return what a step takes on average over the training's phases."""
    optimizer = setup.config.optimizer
    epochs = range(0 if setup.learner.translates else first_epoch(optimizer), optimizer.epochs)
    kinds: dict[tuple[bool, ...], list[int]] = {}
    for epoch in epochs:
        phase = phase_at(epoch / optimizer.epochs, optimizer)
        kind = (phase.translators, phase.reproduces, phase.predictor, phase.finetunes)
        kinds.setdefault(kind, []).append(epoch)
    seconds = sum(
        len(same) * _seconds_at(setup, same[0] / optimizer.epochs) for same in kinds.values()
    )
    return seconds / optimizer.epochs


def _seconds_at(setup: TrainingSetup, progress: float) -> float:
    """Return what a step takes at some point of the training."""
    size = setup.config.optimizer.batch_size
    orders = {
        name: Order(len(setup.data.train[name]), seed=0, name=name)
        for name in setup.learner.modalities
    }
    began = 0.0
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            began = time.perf_counter()
        batches = {
            name: setup.data.train[name].batch(order.take(step, size)).to(setup.compute.device)
            for name, order in orders.items()
        }
        losses = take_step(setup.learner, batches, progress=progress)
        _wait_for(losses.values())
    return (time.perf_counter() - began) / STEPS


def _validation_seconds(setup: TrainingSetup) -> float:
    """Time one batch of the validation and scale it to all of its images."""
    parts = [setup.data.val[name] for name in setup.learner.validates]
    count = sum(len(part) for part in parts)
    if not count:
        return 0.0
    predictor = setup.learner.networks["predictor"]
    assert isinstance(predictor, PredictorNetwork)
    part = max(parts, key=len)
    images = part.batch(range(min(VALIDATION_BATCH, len(part)))).images
    began = time.perf_counter()
    predict_batches(predictor, [images], head=setup.head, compute=setup.compute)
    return (time.perf_counter() - began) * count / len(images)


def _wait_for(losses: Iterable[Tensor]) -> None:
    for loss in losses:
        loss.item()


def _bytes(tensors: Iterable[Tensor]) -> Iterable[int]:
    return (tensor.numel() * tensor.element_size() for tensor in tensors)
