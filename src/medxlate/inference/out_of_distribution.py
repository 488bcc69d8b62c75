"""What a model was not trained on: images unlike training's, predictions beyond its labels.

Grey values are compared only of images without a header that names their modality.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medxlate.artifacts.greys import Greys
from medxlate.images.modality import SILENT
from medxlate.inference.inputs import SliceBatch
from medxlate.method.label_transform import LabelTransform

UNKNOWN = (
    "Predictions outside the range of the training labels are not flagged: the model comes from an "
    "older version that did not record the range."
)


@dataclass(frozen=True)
class Looks:
    """How many images were compared with those of training.

    Attributes:
        compared: Images of which nothing names the modality.
        unlike: Of these, how many look unlike the images of training.
    """

    compared: int = 0
    unlike: int = 0

    @classmethod
    def of(cls, images: Tensor, greys: Greys | None) -> Looks:
        """Compare images [B, 1, S, S]; none where it is not known what training's look like."""
        if greys is None or not len(images):
            return cls()
        return cls(len(images), int(greys.unlike(images.numpy()).sum()))

    @classmethod
    def of_batch(cls, batch: SliceBatch, greys: Greys | None) -> Looks:
        """Compare those images of a batch for which no header names the modality."""
        if batch.images is None:
            return cls()
        silent = [item.scan.modality in SILENT for item in batch.shown]
        return cls.of(batch.images[torch.tensor(silent)], greys)

    @classmethod
    def noted(cls, entry: Mapping[str, Any]) -> Looks:
        """Return what the journal's entry of a unit holds."""
        return cls(**entry.get("looks", {}))

    def __add__(self, other: Looks) -> Looks:
        return Looks(self.compared + other.compared, self.unlike + other.unlike)

    def notes(self, modality: str) -> list[str]:
        """Return what to say where more than a third look unlike the modality's; sentences.

        Of a new patient's images, one in twenty does.
        """
        if 3 * self.unlike <= self.compared:
            return []
        return [
            f"The grey values of {self.unlike} of {self.compared} images differ from the "
            f"{modality} that this model was trained on, and no header gives their modality. Check "
            f"that they are {modality} and were acquired and processed in the same way."
        ]


def total(looks: Iterable[Looks]) -> Looks:
    """Return the sum."""
    return sum(looks, Looks())


@dataclass(frozen=True)
class Span:
    """The range of the training labels of some predictors together; for classes, everything.

    Attributes:
        low: Lowest label that one of them was trained on.
        high: Highest.
        unit: Of the label.
        known: Whether all of them say what they were trained on.
    """

    low: float
    high: float
    unit: str
    known: bool

    @classmethod
    def of(cls, heads: Sequence[LabelTransform]) -> Span:
        """Return the span of at least one predictor, all of one task."""
        task, spans = heads[0].task, [head.span for head in heads if head.span is not None]
        if len(spans) < len(heads):
            return cls(-math.inf, math.inf, task.unit, task.kind == "classification")
        return cls(min(low for low, _ in spans), max(high for _, high in spans), task.unit, True)

    def outside(self, labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which labels [N] lie outside."""
        return np.asarray((labels < self.low) | (labels > self.high))

    def notes(self, outside: Mapping[str, tuple[int, int]]) -> list[str]:
        """Return what to say of a run's predictions; sentences.

        Args:
            outside: How many lie outside, and of how many, by what they are of: slice, patient...
        """
        if not self.known:
            return [UNKNOWN]
        counts = [f"{lost} of {all_} {what}s" for what, (lost, all_) in outside.items() if lost]
        if not counts:
            return []
        between = f"{self.low:g} to {self.high:g} {self.unit}".rstrip()
        return [
            f"Predictions outside the range of the training labels ({between}): "
            f"{', '.join(counts)}. Check that the images are of the same modality and kind as the "
            "training images."
        ]
