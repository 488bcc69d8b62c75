"""From the predictor's raw outputs to predictions in the label's own terms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from medxlate.base.device import full_precision
from medxlate.dataset.labels import Task


class LabelTransform(BaseModel):
    """What the outputs mean.

    A regression network answers in standardised labels, and its loss is taken in them: neither
    depends on the label's unit. ``mean`` and ``std`` bring answers and losses to that unit.

    Attributes:
        task: Regression or classification.
        mean: Mean training label.
        std: Standard deviation of the training labels.
        span: Lowest and highest training label of a regression; None in models of
            older versions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task
    mean: float = 0.0
    std: float = 1.0
    span: tuple[float, float] | None = None

    @property
    def outputs(self) -> int:
        """Number of network outputs."""
        return len(self.task.classes) if self.task.kind == "classification" else 1

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return labels [B] for a regression, class probabilities [B, K] for a classification."""
        if self.task.kind == "classification":
            return full_precision(outputs).softmax(dim=1)
        return self.mean + self.std * full_precision(outputs).squeeze(1)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return l of equation 2, averaged over the batch.

        Squared error of standardised labels, or cross-entropy.
        """
        if self.task.kind == "classification":
            return F.cross_entropy(full_precision(outputs), labels)
        answers = full_precision(outputs).squeeze(1)
        return F.mse_loss(answers, ((labels - self.mean) / self.std).to(answers.dtype))

    @property
    def loss_unit(self) -> float:
        """How much a loss of 1 is in the label's own unit, squared; 1 for a classification."""
        return self.std**2 if self.task.kind == "regression" else 1.0

    @property
    def constant_loss(self) -> float:
        """The loss of an answer that ignores the image, where classes are equally frequent.

        1 for a regression, whose labels are standardised, and ln K for K classes.
        """
        return math.log(self.outputs) if self.task.kind == "classification" else 1.0

    def in_unit(self, loss: Tensor) -> Tensor:
        """Return a loss as people read it: the squared error in the label's own unit."""
        return loss * self.loss_unit


def fit_label_transform(task: Task, labels: Sequence[Tensor]) -> LabelTransform:
    """Return the head for the training labels of all modalities together."""
    if task.kind == "classification":
        return LabelTransform(task=task)
    values = np.asarray(torch.cat(list(labels)), dtype=np.float64)
    std = float(values.std())
    span = float(f"{values.min():.7g}"), float(f"{values.max():.7g}")  # labels are float32
    return LabelTransform(
        task=task, mean=float(values.mean()), std=std if std > 0 else 1.0, span=span
    )
