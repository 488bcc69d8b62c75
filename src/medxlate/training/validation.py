"""What is looked at after an epoch: the predictor's errors, and translated images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medxlate.artifacts.runs import RunFolder
from medxlate.base.device import Compute
from medxlate.base.distributed import ranks
from medxlate.dataset.loading import Slices
from medxlate.dataset.training_data import Data
from medxlate.images.write import write_grid
from medxlate.inference.engine import run
from medxlate.inference.predict import predict_batches
from medxlate.method.compiling import eagerly
from medxlate.method.label_transform import LabelTransform
from medxlate.method.learner import Learner
from medxlate.method.predictor import PredictorNetwork
from medxlate.method.translator import TranslatorNetworks
from medxlate.training.exchange import average_statistics
from medxlate.training.loader import Resident, reside
from medxlate.training.monitor import constant_error

VALIDATION_BATCH = 16
SAMPLE_ROWS = 4
ENLARGED, LARGEST_TILE = 3, 512  # times, pixels: how large an image of a grid is shown

Translations = dict[str, tuple[Tensor, Tensor, Tensor]]  # by source: y, G(y), x


class Validation:
    """Looks at a learner with the validation images.

    Several processes share the predictions and have the same metrics; the first draws the samples.

    Args:
        learner: The method.
        data: Whose validation part is looked at; training images where it has none, for samples.
        target: The target modality.
        head: Turns outputs into predictions.
        compute: Device and precision.
    """

    def __init__(
        self, learner: Learner, data: Data, *, target: str, head: LabelTransform, compute: Compute
    ) -> None:
        self._learner = learner
        self._data = data
        self._target = target
        self._head = head
        self._compute = compute
        self._ranks = ranks()
        val = {name: data.val[name] for name in learner.validates}
        held, read = reside(val, compute.device)
        self._val: Mapping[str, Resident | Slices] = {**held, **read}

    def metrics(self) -> dict[str, float]:
        """Return the error by which the best predictor is chosen, and what people read.

        Nothing where there is no predictor, or no image to validate it on.
        """
        names = [name for name in self._learner.validates if len(self._val[name])]
        if not names:
            return {}
        predictor = self._learner.networks["predictor"]
        assert isinstance(predictor, PredictorNetwork)
        if not self._ranks.is_alone:
            average_statistics(self._learner)
        predicted = [self._predicted(predictor, self._val[name]) for name in names]
        values = np.concatenate(predicted)
        labels = torch.cat([self._data.val[name].labels for name in names])
        return validation_metrics(values, labels, self._head)

    def _predicted(
        self, predictor: PredictorNetwork, slices: Resident | Slices
    ) -> np.ndarray[Any, Any]:
        """Return the predictions for some slices, each process's part made by itself."""
        own = range(len(slices))[self._ranks.part(len(slices))]
        images = (batch.images for batch in slices.batches(VALIDATION_BATCH, own))
        outputs = self._head.outputs
        values: np.ndarray[Any, Any] = np.empty((0, outputs) if outputs > 1 else 0)
        if own:
            with eagerly():  # batches of other shapes than in training
                values = predict_batches(predictor, images, head=self._head, compute=self._compute)
        return torch.cat(
            self._ranks.gather_rows(torch.from_numpy(values.astype(np.float32)))
        ).numpy()

    def constant(self) -> float | None:
        """Return the error of a prediction that ignores the image; None without a validation."""
        names = [name for name in self._learner.validates if len(self._val[name])]
        if not names:
            return None
        train, val = (
            torch.cat([part[name].labels for name in names])
            for part in (self._data.train, self._data.val)
        )
        return constant_error(train, val, self._head)

    def translations(self) -> Translations:
        """Translate a few validation images of each source; only the first process does."""
        found: Translations = {}
        for name, networks in self._learner.networks.items():
            if isinstance(networks, TranslatorNetworks) and self._ranks.is_first:
                y = self._some(name)
                found[name] = (y, self._run(networks.g, y), self._some(self._target))
        return found

    def write_samples(
        self, folder: RunFolder, epoch: int, epochs: int, translations: Translations
    ) -> dict[str, Path]:
        """Write y, G(y), F(G(y)) | x, F(x), G(F(x)) of what was translated: a PNG a source.

        Of one-sided training, y, G(y) and x.
        """
        files = {}
        for name, (y, fake_t, x) in translations.items():
            networks = self._learner.networks[name]
            assert isinstance(networks, TranslatorNetworks)
            target = self._target
            columns = {f"{name}, real": y, f"to {target}": fake_t}
            if networks.f is not None:
                fake_s = self._run(networks.f, x)
                columns[f"back to {name}"] = self._run(networks.f, fake_t)
                columns |= {f"{target}, real": x, f"to {name}": fake_s}
                columns[f"back to {target}"] = self._run(networks.g, fake_s)
            else:
                columns[f"{target}, real"] = x
            rows = [
                [column[i, 0].numpy() for column in columns.values()]
                for i in range(min(len(column) for column in columns.values()))
            ]
            shown = ", ".join(f"{each} of {self._part(each)}" for each in (name, target))
            files[name] = folder.samples / f"{name}-epoch-{epoch:04d}.png"
            write_grid(
                files[name],
                rows,
                scale=max(1, min(ENLARGED, LARGEST_TILE // y.shape[-1])),
                titles=list(columns),
                heading=f"Epoch {epoch} of {epochs}: {shown}",
            )
        return files

    def _part(self, name: str) -> str:
        """Return the part that a modality's samples come from, in words."""
        return "validation" if len(self._data.val[name]) else "training"

    def _some(self, name: str) -> Tensor:
        """Return up to four images of a modality's validation part, else of its training part."""
        slices = (self._data.val if self._part(name) == "validation" else self._data.train)[name]
        count = min(SAMPLE_ROWS, len(slices))
        return slices.batch([i * len(slices) // count for i in range(count)]).images

    def _run(self, network: torch.nn.Module, images: Tensor) -> Tensor:
        with eagerly():
            return run(network, [images], compute=self._compute)


def validation_metrics(
    values: np.ndarray[Any, Any], labels: Tensor, head: LabelTransform
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
