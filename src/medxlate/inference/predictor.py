"""Trained predictors, one or several, with everything that is needed to use them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medxlate.artifacts.calibration import Calibration, Level
from medxlate.artifacts.folder import load_predictor
from medxlate.artifacts.greys import Greys
from medxlate.artifacts.info import ModelInfo, check_plugins, predictor_of, read_model
from medxlate.artifacts.runs import find_model
from medxlate.base.device import Compute
from medxlate.base.errors import ImageError, ModelError
from medxlate.base.events import Listener, silent
from medxlate.inference.engine import Engine, Pending, run, starting_size, validated_compute
from medxlate.inference.finite import check_finite
from medxlate.inference.in_memory import Spacing, Volume, outputs_of, squares_of
from medxlate.inference.inputs import Input, Reader, stack
from medxlate.inference.out_of_distribution import Looks, Span
from medxlate.inference.shifts import shifted
from medxlate.inference.uncertainty import Uncertainty
from medxlate.method.label_transform import LabelTransform
from medxlate.method.placing import place
from medxlate.method.predictor import PredictorNetwork

COVERAGE = 0.9  # of intervals, where nothing else is asked for


def predict_batches(
    network: PredictorNetwork, images: Iterable[Tensor], *, head: LabelTransform, compute: Compute
) -> np.ndarray[Any, Any]:
    """Return predictions for batches of images: labels [N], or class probabilities [N, K].

    As the network gives them, not calibrated; validation during training and ``compare`` call this.
    """
    outputs: Tensor = run(network, images, compute=compute)
    return np.asarray(head.predictions(outputs))


@dataclass(frozen=True)
class Prediction:
    """The prediction for a volume or a single image.

    Attributes:
        value: The label: the mean over slices in its unit, or the most probable class.
        low: Lower end of its interval; None where there is none, and for classes.
        high: Its upper end.
        probabilities: By class, calibrated: the mean over slices; empty for a regression.
        slices: Of each slice: labels [N], or class probabilities [N, K]; NaN for near-empty ones.
        notes: Why there is no interval, or no calibration; that the value lies outside the range of
            the training labels; that the slices look unlike those of training; sentences.
    """

    value: float | str
    low: float | None
    high: float | None
    probabilities: dict[str, float]
    slices: npt.NDArray[np.floating[Any]] = field(repr=False)
    notes: tuple[str, ...] = ()


class Predictor:
    """A trained predictor with everything needed to use it.

    Args:
        model: A model folder, a run folder, ``runs/latest``, or ``hf://OWNER/NAME@REVISION``.
        compute: Device and precision; None: chosen automatically.
        batch_size: How many slices are computed at once to begin with; None: by the device.
        tta: Whether predictions are means over small shifts of the images; see ``shifts``.
        listener: Receives a warning where memory does not suffice.

    Raises:
        ModelError: The model is missing, damaged or only translates.
    """

    def __init__(
        self,
        model: Path,
        *,
        compute: Compute | None = None,
        batch_size: int | None = None,
        tta: bool = False,
        listener: Listener = silent,
    ) -> None:
        folder = find_model(model, "a predictor", listener)
        self.info: ModelInfo = read_model(folder)
        check_plugins(folder, self.info, ("predictors", "recipes"), listener)
        self.compute = compute or validated_compute(self.info, listener=listener)
        self.network = place(load_predictor(folder, self.info), self.compute)
        found = predictor_of(folder, self.info)
        self.head = found.head
        self.calibration: Calibration | None = found.calibration_tta if tta else found.calibration
        self.reader = Reader(self.info.target_recipe, self.info.prepared_size, self.info.image_size)
        self.batch_size = batch_size or starting_size(self.compute, self.info.image_size)
        self.call = shifted(self.network) if tta else self.network
        self.engine = Engine(
            self.network,
            self.compute,
            batch_size=self.batch_size,
            call=self.call,
            listener=listener,
        )

    @classmethod
    def load(cls, model: Path | str) -> Predictor:
        """Load a predictor; device and precision are chosen automatically.

        Args:
            model: A model folder, a run folder, ``runs/latest``, or ``hf://OWNER/NAME@REVISION``.

        Raises:
            ModelError: The model is missing, damaged or only translates.
        """
        return cls(Path(model))

    def __call__(
        self,
        volume: Volume,
        *,
        spacing: Spacing = (1.0, 1.0, 1.0),
        level: float = COVERAGE,
    ) -> Prediction:
        """Predict the label of a volume, as ``predict`` does for a file.

        Args:
            volume: [slices, H, W] in the target's physical values (HU, SUVbw...), oriented as the
                recipe's plane is shown (axial: from the feet up, front on top, the patient's right
                on the left); or [H, W], a single image. A recipe with percentiles takes them over
                the whole array.
            spacing: mm between slices, rows and columns, which decides the aspect ratio.
            level: Coverage of the interval, in (0, 1).

        Returns:
            The prediction in the label's unit with its interval, or a class with probabilities;
            both over the slices that are not near-empty.

        Raises:
            ImageError: The array cannot be used with the model's recipe, or all is near-empty.
            ModelError: The output of the network is not finite.
            UsageError: It is not a volume.
        """
        uncertainty = Uncertainty([self.calibration], level)
        squares = squares_of(volume, self.reader, spacing)
        if not squares.shown.any():
            raise ImageError("All slices of the volume are near-empty.")
        found = self.calibrated(outputs_of(squares, self.engine, self.batch_size))
        check_finite(found, "predictor", "slices")
        slices = np.full((len(squares.shown), *found.shape[1:]), np.nan, dtype=np.float32)
        slices[squares.shown] = found
        mean, notes = found.mean(axis=0), tuple(uncertainty.notes())
        notes += tuple(Looks.of(squares.images, self.info.target_greys).notes(self.info.target))
        if self.head.task.kind == "classification":
            classes = self.head.task.classes
            shares = dict(zip(classes, map(float, mean), strict=True))
            return Prediction(classes[int(mean.argmax())], None, None, shares, slices, notes)
        level_of: Level = "volume" if len(slices) > 1 else "slice"
        width, value = uncertainty.half_width(level_of), float(mean)
        span = Span.of([self.head])
        notes += tuple(span.notes({level_of: (int(span.outside(mean)), 1)}))
        if not math.isfinite(width):
            return Prediction(value, None, None, {}, slices, notes)
        return Prediction(value, value - width, value + width, {}, slices, notes)

    def facts(self) -> dict[str, Any]:
        """Return what a prediction depends on beside its inputs, as JSON can hold it."""
        device = f"{self.compute.device.type} {self.compute.precision}"
        model = self.info.model_dump(mode="json")
        return {"model": model, "device": device, "batch": self.batch_size}

    def predict(self, batch: list[Input]) -> np.ndarray[Any, Any]:
        """Predict slices that were read already.

        Args:
            batch: B slices, as ``reader`` reads them.

        Returns:
            Labels [B] in the label's unit for a regression, calibrated class probabilities [B, K]
            in [0, 1] else.

        Raises:
            CapacityError: Memory does not even hold one.
            ModelError: The output of the network is not finite.
        """
        found = self.finish(self.engine.start(stack(batch)))
        check_finite(found, "predictor", "slices")
        return found

    def finish(self, outputs: Pending) -> np.ndarray[Any, Any]:
        """Return predictions, as ``predict`` does, of a batch that is being computed.

        Args:
            outputs: What the engine has begun to compute; it is waited for.
        """
        return self.calibrated(outputs.wait())

    def calibrated(self, outputs: Tensor) -> np.ndarray[Any, Any]:
        """Return predictions, as ``predict`` does, from the network's outputs.

        Args:
            outputs: [B, 1], the standardised label, or [B, K], a logit a class.
        """
        if self.calibration is not None and self.calibration.kind == "temperature":
            outputs = outputs / self.calibration.temperature
        return np.asarray(self.head.predictions(outputs))


class Ensemble:
    """Predictors that are combined by the mean of their predictions; of one, its own.

    They see the same images, so they must have been trained for the same: target, task, recipe and
    sizes.

    Args:
        predictors: At least one, on one device.
        listener: Receives a warning where memory does not suffice.

    Raises:
        ModelError: They do not agree.
    """

    def __init__(self, predictors: Sequence[Predictor], *, listener: Listener = silent) -> None:
        first, *others = predictors
        for other in others:
            if differs := _difference(first, other):
                raise ModelError(
                    f"The models cannot be combined: their {differs}s differ.",
                    "Combine runs with the same dataset and configuration and different seeds.",
                )
        self.predictors = tuple(predictors)
        self.info, self.head, self.reader = first.info, first.head, first.reader
        self.batch_size = first.batch_size
        self.engine = first.engine
        if others:
            self.engine = Engine(
                first.network,
                first.compute,
                batch_size=self.batch_size,
                call=self._call,
                listener=listener,
            )

    def facts(self) -> list[dict[str, Any]]:
        """Return what a prediction depends on beside its inputs, as JSON can hold it."""
        return [each.facts() for each in self.predictors]

    def uncertainty(self, coverage: float) -> Uncertainty:
        """Return what is known of the mean prediction's uncertainty."""
        return Uncertainty([each.calibration for each in self.predictors], coverage)

    @property
    def span(self) -> Span:
        """The range of the labels that they were trained on."""
        return Span.of([each.head for each in self.predictors])

    @property
    def greys(self) -> Greys | None:
        """The grey values of the first one's training images that are known."""
        known = (each.info.target_greys for each in self.predictors)
        return next((greys for greys in known if greys is not None), None)

    def finish(self, outputs: Pending) -> np.ndarray[Any, Any]:
        """Return each model's predictions of a batch: [B, models], or [B, models, classes]."""
        parts = torch.split(outputs.wait(), self.head.outputs, dim=1)
        found = [each.calibrated(part) for each, part in zip(self.predictors, parts, strict=True)]
        return np.stack(found, axis=1)

    def _call(self, images: Tensor) -> Tensor:
        return torch.cat([each.call(images).float() for each in self.predictors], dim=1)


def _difference(one: Predictor, other: Predictor) -> str:
    """Return in what two predictors differ that must not; "" where in nothing."""
    recipes = [
        each.reader.recipe.model_copy(update={"output_range": (0, 0)}) for each in (one, other)
    ]
    same = {
        "target": one.info.target == other.info.target,
        "task": one.head.task == other.head.task,
        "recipe": recipes[0] == recipes[1],
        "image size": (one.reader.prepared_size, one.reader.image_size)
        == (other.reader.prepared_size, other.reader.image_size),
    }
    return next((name for name, equal in same.items() if not equal), "")
