"""From the predictor's raw outputs to predictions in the label's own terms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from medxlate.dataset.labels import Task
from medxlate.models.device import full_precision


class Head(BaseModel):
    """What the outputs mean.

    A regression network answers in standardised labels; ``mean`` and ``std`` bring them back to
    the label's unit, in which the loss is taken (that is the scale for which the paper's
    lambda = 0.001 is meant).

    Attributes:
        task: Regression or classification.
        mean: Mean training label.
        std: Standard deviation of the training labels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task
    mean: float = 0.0
    std: float = 1.0

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

        Squared error in the label's own unit, or cross-entropy.
        """
        if self.task.kind == "classification":
            return F.cross_entropy(full_precision(outputs), labels)
        return F.mse_loss(self.predictions(outputs), labels)


def fit_head(task: Task, labels: Sequence[Tensor]) -> Head:
    """Return the head for the training labels of all modalities together."""
    if task.kind == "classification":
        return Head(task=task)
    values = np.asarray(torch.cat(list(labels)), dtype=np.float64)
    std = float(values.std())
    return Head(task=task, mean=float(values.mean()), std=std if std > 0 else 1.0)
