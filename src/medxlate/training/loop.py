"""The training loop: epochs of steps, then validation, samples and a checkpoint."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medxlate.config import Config
from medxlate.dataset.loading import Batch, Slices
from medxlate.errors import ModelError
from medxlate.events import EpochEnded, Listener, Progress, StepLogged
from medxlate.images.write import write_grid
from medxlate.inference.engine import run
from medxlate.inference.predict import predict_batches
from medxlate.models.compiling import eagerly
from medxlate.models.device import Compute
from medxlate.models.head import Head
from medxlate.models.predictor import PredictorNetwork
from medxlate.models.runs import RunFolder
from medxlate.models.translator import TranslatorNetworks
from medxlate.training.checkpoints import Position, save_checkpoint
from medxlate.training.data import Data
from medxlate.training.feed import Feed, Resident, reside
from medxlate.training.schedule import rate_factor
from medxlate.training.step import Learner, set_rate
from medxlate.training.stepper import Stepper

VALIDATION_BATCH = 16
SAMPLE_ROWS = 4


class Loop:
    """Trains a learner from wherever it stands to the last epoch.

    Args:
        learner: The method.
        data: What it learns from.
        config: Schedule and intervals.
        head: Turns outputs into predictions.
        compute: Device and precision.
        folder: The run.
        listener: Told of everything.
    """

    def __init__(
        self,
        learner: Learner,
        data: Data,
        *,
        config: Config,
        head: Head,
        compute: Compute,
        folder: RunFolder,
        listener: Listener,
    ) -> None:
        self._learner = learner
        self._data = data
        self._config = config
        self._head = head
        self._compute = compute
        self._folder = folder
        self._listener = listener
        self._batch_size = config.optimizer.batch_size
        self._steps_per_epoch = data.steps_per_epoch(config.optimizer)
        self._feed = Feed(
            {name: data.train[name] for name in learner.modalities},
            batch_size=self._batch_size,
            seed=config.runtime.seed,
            device=compute.device,
        )
        val = {name: data.val[name] for name in learner.validates}
        held, read = reside(val, compute.device)
        self._val: dict[str, Resident | Slices] = {**held, **read}
        self._base_rates = {
            n: float(o.param_groups[0]["lr"]) for n, o in learner.optimizers.items()
        }

    def run(self, position: Position) -> Position:
        """Train from ``position`` to the end and return where the training then stands.

        Raises:
            ModelError: The training diverged; the checkpoints before stay.
        """
        with self._feed:
            return self._run(position)

    def _run(self, position: Position) -> Position:
        epochs = self._config.optimizer.epochs
        if position.epoch == epochs:
            return position
        stepper = self._stepper(position)
        for epoch in range(position.epoch, epochs):
            self._set_rates(epoch)
            skipped = self._epoch(epoch, stepper)
            position = replace(
                position,
                step=(epoch + 1) * self._steps_per_epoch,
                epoch=epoch + 1,
                skipped=position.skipped + skipped,
                compiled=stepper.compiled,
            )
            step, last = position.step, epoch + 1 == epochs
            metrics = self._validate()
            error = metrics.get("val_error")
            if error is not None and not math.isfinite(error):
                raise ModelError(
                    f"The training diverged: in epoch {epoch + 1} the validation error is {error}.",
                    "Lower optimizer.translator_lr and optimizer.predictor_lr.",
                )
            # Without a validation the last state is the one to take.
            best = last if error is None else position.is_better(error)
            if best:
                position = replace(position, best_error=error, best_step=step)
            self._listener(EpochEnded(step, epoch + 1, epochs, metrics, best))
            if last or (epoch + 1) % self._config.runtime.samples_every == 0:
                self._write_samples(epoch + 1)
            if best or last or (epoch + 1) % self._config.runtime.checkpoint_every == 0:
                save_checkpoint(self._folder.checkpoints, self._learner, position, best=best)
        return position

    def _stepper(self, position: Position) -> Stepper:
        """Return what takes the steps, as it took those before."""
        stepper = Stepper(
            self._learner,
            compute=self._compute,
            runtime=self._config.runtime,
            listener=self._listener,
            compiled=position.compiled,
        )
        planned = self._config.optimizer.epochs * self._steps_per_epoch
        stepper.prepare(self._batches(position.step), steps=planned)
        return stepper

    def _epoch(self, epoch: int, stepper: Stepper) -> int:
        """Take the steps of one epoch and return how many of them were skipped.

        Losses are fetched from the device at log time only.
        """
        total = self._config.optimizer.epochs * self._steps_per_epoch
        log_every = self._config.runtime.log_every
        first = epoch * self._steps_per_epoch
        skipped, waited, began = 0, 0.0, time.monotonic()
        for step in range(first, first + self._steps_per_epoch):
            asked = time.monotonic()
            batches = self._batches(step)
            waited += time.monotonic() - asked
            stepper.step(batches, progress=step / total)
            values: dict[str, float] = {}
            if (step + 1) % log_every == 0 or step + 1 == first + self._steps_per_epoch:
                window = stepper.collect()  # the one place that waits for the device
                values = window.losses
                skipped += window.skipped
                images = window.steps * self._batch_size * len(self._learner.modalities)
                seconds = time.monotonic() - began
                self._listener(
                    StepLogged(
                        step + 1,
                        epoch + 1,
                        values,
                        images / seconds,
                        waited / seconds,
                        window.skipped,
                    )
                )
                waited, began = 0.0, time.monotonic()
            self._listener(Progress("training", step + 1, total, values))
        return skipped

    def _batches(self, step: int) -> dict[str, Batch]:
        return self._feed.take(step)

    def _set_rates(self, epoch: int) -> None:
        optimizer = self._config.optimizer
        factor = rate_factor(
            epoch, epochs=optimizer.epochs, constant_share=optimizer.constant_share
        )
        for name, each in self._learner.optimizers.items():
            set_rate(each, self._base_rates[name] * factor)

    def _validate(self) -> dict[str, float]:
        """Return the error by which the best predictor is chosen, and what people read.

        Nothing where there is no predictor, or no image to validate it on.
        """
        names = [name for name in self._learner.validates if len(self._val[name])]
        if not names:
            return {}
        predictor = self._learner.networks["predictor"]
        assert isinstance(predictor, PredictorNetwork)
        parts = (self._val[name].batches(VALIDATION_BATCH) for name in names)
        images = (batch.images for part in parts for batch in part)
        with eagerly():  # batches of other shapes than in training
            values = predict_batches(predictor, images, head=self._head, compute=self._compute)
        labels = torch.cat([self._data.val[name].labels for name in names])
        return validation_metrics(values, labels, self._head)

    def _write_samples(self, epoch: int) -> None:
        """Write y, G(y), F(G(y)) | x, F(x), G(F(x)) of a few validation images."""
        for name, networks in self._learner.networks.items():
            if isinstance(networks, TranslatorNetworks):
                y = self._some(name)
                x = self._some(self._config.data.target)
                columns = [*self._there_and_back(networks.g, networks.f, y)]
                columns += self._there_and_back(networks.f, networks.g, x)
                rows = [
                    [column[i, 0].numpy() for column in columns]
                    for i in range(min(len(column) for column in columns))
                ]
                write_grid(self._folder.samples / f"{name}-epoch-{epoch:04d}.png", rows)

    def _some(self, name: str) -> Tensor:
        """Return up to four images of a modality's validation part, else of its training part."""
        slices = self._data.val[name] if len(self._data.val[name]) else self._data.train[name]
        count = min(SAMPLE_ROWS, len(slices))
        return slices.batch([i * len(slices) // count for i in range(count)]).images

    def _there_and_back(
        self, there: torch.nn.Module, back: torch.nn.Module, images: Tensor
    ) -> list[Tensor]:
        with eagerly():
            fakes = run(there, [images], compute=self._compute)
            return [images, fakes, run(back, [fakes], compute=self._compute)]


def validation_metrics(
    values: np.ndarray[Any, Any], labels: Tensor, head: Head
) -> dict[str, float]:
    """Return ``val_error`` and the figures that people read.

    The error is the mean squared error for a regression, the cross-entropy for a classification.
    """
    truth = labels.numpy()
    if head.task.kind == "regression":
        difference = values.astype(np.float64) - truth
        mse = float(np.mean(difference**2))
        return {"val_error": mse, "val_mse": mse, "val_mae": float(np.mean(np.abs(difference)))}
    chosen = np.clip(values[np.arange(len(truth)), truth], 1e-12, 1).astype(np.float64)
    entropy = float(-np.log(chosen).mean())
    accuracy = float((values.argmax(axis=1) == truth).mean())
    return {"val_error": entropy, "val_cross_entropy": entropy, "val_accuracy": accuracy}
