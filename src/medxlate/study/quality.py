"""How close the translations of each cell are to real target images (paper, table 5).

Cells keep the translations of their test patients; they are compared here, once the grid is
through, with features of the real images that are taken once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from medxlate.artifacts.runs import RunFolder
from medxlate.base.device import choose_compute
from medxlate.base.errors import DataError
from medxlate.base.files import write_json
from medxlate.base.records import read_json
from medxlate.dataset.arrays import open_array
from medxlate.dataset.labels import Task
from medxlate.dataset.loading import Slices
from medxlate.evaluation.feature_store import FOLDER
from medxlate.evaluation.features import (
    Extractor,
    extract,
    find_inception,
    inception_extractor,
    open_store,
    predictor_extractor,
    to_eight_bit,
)
from medxlate.evaluation.fidelity import compare_features
from medxlate.inference.predict import Predictor
from medxlate.study.cell import JUDGE, RUN
from medxlate.study.study import Cell, Study, StudyFolder, cells

BATCH = 32
METRICS = ("fid", "is")
FIGURES = ("fid", "inception_score", "features", "fid_images")
FILE = "quality.json"


def measure_quality(
    study: Study,
    folder: StudyFolder,
    finished: Sequence[Cell],
    real: Sequence[Slices],
    *,
    task: Task,
    inception: Path | None = None,
    device: str = "auto",
) -> pd.DataFrame:
    """Return fid and inception_score of the cells that translate.

    Without Inception's weights, FID is taken from the features of the repeat's own `target-only`
    predictor, the same for all methods of the repeat; IS then needs a classification.

    Args:
        study: The study.
        folder: Where it lies.
        finished: Its finished cells.
        real: The target's test slices of each repeat.
        task: Says whether a predictor has class probabilities.
        device: Where features are taken.
        inception: A file of Inception's weights; None: torch-fidelity's own copy, if there.

    Returns:
        A row a cell: index, fid, inception_score, features (``inception``, ``predictor``) and
        fid_images, how many were translated.
    """
    weights = find_inception(inception, download=False)
    rows = []
    for repeat in range(study.repeats):
        pending = [cell for cell in finished if cell.repeat == repeat and _images(folder, cell)]
        known = {cell.index: _known(folder, cell, weights) for cell in pending}
        missing = [cell for cell in pending if known[cell.index] is None]
        if missing and (judge := _judge(study, folder, repeat, task, weights, device)):
            for cell, figures in _measure(study, folder, missing, real[repeat], judge):
                write_json(folder.cell(cell) / FILE, figures)
                known[cell.index] = figures
        for cell in pending:
            if (row := known[cell.index]) is not None:
                rows.append({"index": cell.index, **row})
    found = pd.DataFrame(rows, columns=["index", *FIGURES])
    return found.astype({"fid": float, "inception_score": float})  # None becomes NaN


def _judge(
    study: Study,
    folder: StudyFolder,
    repeat: int,
    task: Task,
    weights: Path | None,
    device: str,
) -> Extractor | None:
    """Return where features come from; None where there is nothing to ask."""
    compute = choose_compute(device, "fp32")
    if weights is not None:
        extractor = inception_extractor(weights)
        extractor.network.to(compute.device)
        return extractor
    model = _judging_model(study, folder, repeat)
    if model is None:
        return None
    predictor = Predictor(model, compute=compute)
    return predictor_extractor(predictor.network, has_classes=task.kind == "classification")


def _judging_model(study: Study, folder: StudyFolder, repeat: int) -> Path | None:
    """Return the repeat's predictor of real target images, trained on the most of them."""
    found = [
        RunFolder(folder.cell(cell) / RUN).model
        for cell in cells(study)
        if (cell.method, cell.repeat) == (JUDGE, repeat)
        and cell.target_fraction == max(study.target_fractions)
    ]
    return next((model for model in found if model.is_dir()), None)


def _measure(
    study: Study, folder: StudyFolder, missing: Sequence[Cell], real: Slices, extractor: Extractor
) -> Iterator[tuple[Cell, dict[str, float | str | None]]]:
    """Yield the figures of cells of one repeat, whose real test images are the same."""
    device = next(extractor.network.parameters()).device
    with open_store(Path(study.config.data.folder) / FOLDER, extractor, device) as store:
        images = (to_eight_bit(batch.images) for batch in real.batches(BATCH))
        reals = extract(images, extractor, device, store)
        for cell in missing:
            fakes = extract(_batches(_images(folder, cell)), extractor, device, store)
            enough = min(len(fakes), len(reals)) >= 2
            width, has_classes = extractor.width, extractor.has_classes
            found = (
                compare_features(fakes, reals, METRICS, width=width, has_classes=has_classes)
                if enough
                else {}
            )
            yield (
                cell,
                {
                    "fid": found.get("fid"),
                    "inception_score": found.get("is"),
                    "features": extractor.name,
                    "fid_images": len(fakes),
                },
            )


def _known(
    folder: StudyFolder, cell: Cell, weights: Path | None
) -> dict[str, float | str | None] | None:
    """Return what was measured before with the features that are wanted now."""
    path = folder.cell(cell) / FILE
    if not path.is_file():
        return None
    figures = dict(read_json(path, error=DataError))
    wanted = "predictor" if weights is None else "inception"
    return figures if figures["features"] == wanted else None


def _images(folder: StudyFolder, cell: Cell) -> list[Path]:
    return sorted(folder.cell(cell).glob("translated-*.npy"))


def _batches(files: Sequence[Path]) -> Iterator[Tensor]:
    for file in files:
        images = open_array(file)
        for start in range(0, len(images), BATCH):
            batch = torch.from_numpy(np.array(images[start : start + BATCH]))
            yield batch.unsqueeze(1).expand(-1, 3, -1, -1)
