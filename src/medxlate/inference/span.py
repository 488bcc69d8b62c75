"""Predictions outside of what a predictor has learned from: an image of another kind, perhaps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medxlate.method.label_transform import LabelTransform

UNKNOWN = (
    "The range of the training labels is not known, because the model was made before it was kept: "
    "no prediction outside is flagged."
)


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
            f"Predicted outside the range of the training labels ({between}): {', '.join(counts)}. "
            "Are these images of the modality and the kind that the model was trained on?"
        ]
