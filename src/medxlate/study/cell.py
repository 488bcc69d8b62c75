"""One cell of a study: a training, its predictions on the test patients, and its figures.

A cell's folder appears whole or not at all. A cell that was interrupted leaves its training in a
hidden folder and goes on from the last checkpoint.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medxlate.artifacts.runs import LATEST, RunFolder
from medxlate.base.device import choose_compute
from medxlate.base.errors import DataError
from medxlate.base.events import Listener, silent
from medxlate.base.files import locked, whole_file, write_json
from medxlate.base.plugins import refuse_changed
from medxlate.base.records import read_object
from medxlate.config import Config
from medxlate.dataset.index import Dataset, Modality
from medxlate.dataset.loading import Slices
from medxlate.dataset.splits import Part, Split, read_split
from medxlate.dataset.training_data import named_modalities, open_modalities, part_slices
from medxlate.evaluation.features import to_eight_bit
from medxlate.evaluation.prediction_metrics import constant_predictions
from medxlate.inference.engine import run as run_network
from medxlate.inference.finite import check_finite
from medxlate.inference.predict import Predictor, predict_batches
from medxlate.inference.translate import Translator
from medxlate.method.registry import find_method, first_stages
from medxlate.study.prediction_rows import add_predictions, image_rows
from medxlate.study.study import Cell, StudyFolder, cell_config, find_cell, read_study
from medxlate.training.train import TrainResult, resume, train, train_stage

BATCH = 16
JUDGE = "target-only"  # its predictor's features compare images where Inception is not at hand
RESULT = "cell.json"
PREDICTIONS = "predictions.parquet"
RUN = "run"
STAGE_RECORD = "stage.json"

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Assignment:
    """What a process has to do.

    Attributes:
        folder: The study folder, absolute: a cluster's worker begins elsewhere.
        index: The cell.
        stage: The name of a first stage of that cell to train alone; "": the cell itself.
        keep_models: Whether the trained models stay.
        listener: Receives the training's progress, where it is in the same process.
    """

    folder: Path
    index: int
    stage: str = ""
    keep_models: bool = False
    listener: Listener = field(default=silent, compare=False)


@dataclass(frozen=True)
class Done:
    """What became of an assignment.

    Attributes:
        seconds: Spent in training; 0 where it was finished before.
        other_seconds: Spent on everything else: reading, predicting, writing.
        loss: The cell's error per image; None for a stage.
    """

    seconds: float
    other_seconds: float
    loss: float | None


@dataclass(frozen=True)
class _CellInputs:
    """What a cell works on."""

    folder: StudyFolder
    cell: Cell
    config: Config
    dataset: Dataset
    tables: Mapping[str, Modality]
    split: Split

    def slices(self, part: Part) -> dict[str, Slices]:
        """Return the slices of a part by modality."""
        return part_slices(self.dataset, self.tables, self.split, self.config, part)


def carry_out(assignment: Assignment, device: str, threads: int) -> Done:
    """Train a stage or a cell, unless it is finished; a finished one costs nothing.

    Args:
        assignment: What to do.
        device: cpu, cuda, cuda:N, mps...; "": the configured one.
        threads: Of the processor; 0: as they are.
    """
    began = time.monotonic()
    if threads:
        torch.set_num_threads(threads)
    study = read_study(assignment.folder)
    refuse_changed(study.plugins, f"The study {assignment.folder}", silent)
    cell = find_cell(study, assignment.index)
    config = cell_config(study, cell)
    runtime = config.runtime.model_copy(update={"device": device or config.runtime.device})
    config = config.model_copy(update={"runtime": runtime})
    dataset = Dataset(Path(config.data.folder))
    everything = open_modalities(dataset, study.config)
    folder = StudyFolder(assignment.folder)
    split = read_split(folder.split(cell.repeat), everything)
    tables = {name: everything[name] for name in named_modalities(config)}
    work = _CellInputs(folder, cell, config, dataset, tables, split)
    loss = None
    if assignment.stage:
        seconds = _train_stage(work, assignment.stage, assignment.listener).now
    else:
        seconds, loss = _run_cell(work, assignment)
    return Done(seconds, time.monotonic() - began - seconds, loss)


def _run_cell(work: _CellInputs, assignment: Assignment) -> tuple[float, float]:
    """Return the seconds of the training, and the cell's loss."""
    final, working = work.folder.cell(work.cell), work.folder.working(work.cell)
    with locked(final.with_name(f".{final.name}.lock"), wait=True):
        if (final / RESULT).is_file():
            return 0.0, read_object(final / RESULT, error=DataError, needs=["loss"])["loss"]
        working.mkdir(parents=True, exist_ok=True)
        seconds = 0.0
        if not (working / RESULT).is_file():
            if find_method(work.cell.method).build is None:
                facts = _constant(work, working)
            else:
                facts, seconds = _trained(work, working, assignment)
            write_json(working / RESULT, {**work.cell.keys, "policy": work.split.policy, **facts})
        _tidy(work, working, assignment)
        working.rename(final)
        work.folder.failure(work.cell).unlink(missing_ok=True)
    return seconds, read_object(final / RESULT, error=DataError, needs=["loss"])["loss"]


def _tidy(work: _CellInputs, working: Path, assignment: Assignment) -> None:
    """Drop what takes space; only once the result is written, for it cannot be trained from."""
    run = RunFolder(working / RUN)
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    (working / LATEST).unlink(missing_ok=True)
    if not assignment.keep_models and work.cell.method != JUDGE:
        shutil.rmtree(run.model, ignore_errors=True)


def _constant(work: _CellInputs, working: Path) -> dict[str, Any]:
    """Predict the mean training label, or the majority class, and return the cell's facts."""
    train, test = work.slices("train"), work.slices("test")
    target = work.config.data.target
    values = constant_predictions(
        train[target].labels.numpy(), len(test[target]), work.dataset.info.task
    )
    scores = _write_predictions(work, working, values, test[target])
    nothing = {"updates": 0, "images_seen": 0, "seconds": 0.0, "shared_seconds": 0.0}
    return {**scores, **_counts(work, train, test), **nothing}


def _trained(
    work: _CellInputs, working: Path, assignment: Assignment
) -> tuple[dict[str, Any], float]:
    """Train, predict, and translate the test patients' images.

    Returns:
        The cell's facts, and the seconds spent in training now. Among the facts, the seconds of
        what was interrupted are not known and are None.
    """
    stages = {
        name: _train_stage(work, name, assignment.listener) for name in first_stages(work.config)
    }
    result, interrupted = _train(work, working, stages, assignment.listener)
    compute = choose_compute(work.config.runtime.device, work.config.runtime.precision)
    predictor = Predictor(result.run, compute=compute)
    train, test = work.slices("train"), work.slices("test")
    real = test[work.config.data.target]
    images = (batch.images for batch in real.batches(BATCH))
    values = predict_batches(predictor.network, images, head=predictor.head, compute=compute)
    check_finite(values, "predictor", "test images")
    scores = _write_predictions(work, working, values, real)
    if find_method(work.cell.method).translates:
        for source in work.config.data.sources:
            translator = Translator(result.run, source=source, compute=compute)
            pictures = (batch.images for batch in test[source].batches(BATCH))
            if len(test[source]):
                fakes = run_network(translator.network, pictures, compute=compute)
                check_finite(fakes.numpy(), "translator", f"translated {source} images")
                _write_images(working / f"translated-{source}.npy", fakes)
    shared = [stage.seconds for stage in stages.values()]
    return {
        **scores,
        **_counts(work, train, test),
        "device": compute.device.type,
        "precision": compute.precision,
        "updates": result.steps,
        "images_seen": result.images_seen,
        "seconds": None if interrupted else result.seconds,
        "shared_seconds": None if None in shared else round(sum(filter(None, shared)), 3),
    }, result.seconds + sum(stage.now for stage in stages.values())


def _train(
    work: _CellInputs, working: Path, stages: Mapping[str, _Stage], listener: Listener
) -> tuple[TrainResult, bool]:
    """Train, or go on where it was interrupted; return whether it was."""
    run = RunFolder(working / RUN)
    folders = {name: stage.run for name, stage in stages.items()}
    if run.config.is_file():
        result = resume(
            run.path,
            data=work.dataset.folder,
            stages=folders,
            device=work.config.runtime.device,
            listener=listener,
        )
        return result, True
    shutil.rmtree(run.path, ignore_errors=True)
    result = train(
        work.config,
        runs=working,
        name=RUN,
        split=work.split,
        stages=folders,
        listener=listener,
    )
    return result, False


@dataclass(frozen=True)
class _Stage:
    """A finished first stage.

    Attributes:
        run: Its run.
        seconds: How long it took whoever trained it; None where that was interrupted.
        now: How long it took just now.
    """

    run: RunFolder
    seconds: float | None
    now: float


def _train_stage(work: _CellInputs, name: str, listener: Listener) -> _Stage:
    """Train what cells share, unless it is finished; a second process waits for the first."""
    config = first_stages(work.config)[name]
    run = work.folder.stage(config)
    record = run.path / STAGE_RECORD
    now = 0.0
    with locked(run.path.with_name(f".{run.path.name}.lock"), wait=True):
        if not record.is_file():
            interrupted = run.config.is_file()
            began = time.monotonic()
            train_stage(run, config, work.dataset, work.split, listener)
            now = round(time.monotonic() - began, 3)
            write_json(record, {"seconds": None if interrupted else now})
    return _Stage(run, read_object(record, error=DataError, needs=["seconds"])["seconds"], now)


def _write_predictions(
    work: _CellInputs, working: Path, values: Values, test: Slices
) -> dict[str, float | None]:
    """Write a row an image, with what the index knows of it; return the scores."""
    task = work.dataset.info.task
    labels = test.labels.numpy()
    frame = image_rows(work.tables[test.name].slices.iloc[test.rows], work.cell.keys)
    scores = add_predictions(frame, values, labels, task)
    with whole_file(working / PREDICTIONS) as partial:
        frame.to_parquet(partial)
    return scores


def _counts(
    work: _CellInputs, train: Mapping[str, Slices], test: Mapping[str, Slices]
) -> dict[str, int]:
    target = work.config.data.target
    shows_them = find_method(work.cell.method).shows_source_patients
    sources = [train[name] for name in work.config.data.sources if shows_them]
    return {
        "train_patients": len(set(train[target].patients)),
        "train_images": len(train[target]),
        "source_patients": len({p for part in sources for p in part.patients}),
        "source_images": sum(len(part) for part in sources),
        "test_patients": len(set(test[target].patients)),
        "test_images": len(test[target]),
    }


def _write_images(path: Path, images: torch.Tensor) -> None:
    """Write [N, 1, S, S] in [-1, 1] as 8-bit [N, S, S], as FID takes them."""
    with whole_file(path) as partial, partial.open("wb") as stream:
        np.save(stream, to_eight_bit(images)[:, 0].numpy(), allow_pickle=False)
