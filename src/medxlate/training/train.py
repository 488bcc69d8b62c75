"""``medxlate train``: from a dataset folder to a run folder."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from medxlate.config import Config, parse
from medxlate.dataset.index import Dataset, Modality
from medxlate.dataset.loading import Slices
from medxlate.dataset.splits import (
    Part,
    Split,
    check_no_leak,
    check_part,
    read_split,
    split_patients,
)
from medxlate.errors import ConfigError, DataError, ModelError
from medxlate.events import Listener, Stage, Warned, silent
from medxlate.files import read_json, write_json
from medxlate.models.device import Compute, choose_compute
from medxlate.models.head import Head, fit_head
from medxlate.models.runs import RunFolder, find_run, new_run
from medxlate.training.checkpoints import Position, load_checkpoint, pointed
from medxlate.training.export import export_model
from medxlate.training.loop import Data, Loop
from medxlate.training.methods import build_learner, find_method
from medxlate.training.record import Recorder, rewind_record
from medxlate.training.step import Learner


@dataclass(frozen=True)
class TrainResult:
    """What ``train`` did.

    Attributes:
        run: The run folder.
        steps: Optimizer steps taken in all.
        epochs: Epochs ended.
        best_error: Lowest validation error (squared error, or cross-entropy).
        best_step: The step at which it was reached.
        seconds: How long this call took.
    """

    run: Path
    steps: int
    epochs: int
    best_error: float
    best_step: int
    seconds: float


def train(
    config: Config,
    *,
    runs: Path | str = "runs",
    name: str | None = None,
    listener: Listener = silent,
) -> TrainResult:
    """Train translators and predictor from a prepared dataset.

    Args:
        config: Everything that decides the training; see ``medxlate.config.resolve``.
        runs: The folder of all runs.
        name: The run's name; None: made from the modalities and a number.
        listener: Told of progress, losses and validation.

    Raises:
        ConfigError: Source or target are missing or contradict the method.
        DataError: The dataset cannot be used, or its patients cannot be divided.
        OutputError: The run exists already.
    """
    check_config(config)
    dataset = Dataset(Path(config.data.folder))
    tables = _open(dataset, config)
    split = split_patients(
        {n: m.slices for n, m in tables.items()}, target=config.data.target, config=config.split
    )
    work = _prepare_work(config, dataset, tables, split)
    run = new_run(Path(runs), name, config.data.sources, config.data.target)
    write_json(run.config, config.model_dump(mode="json"))
    used = {name: modality.fingerprint() for name, modality in tables.items()}
    write_json(run.split, {**split.to_json(), "slices": used})
    return _train(run, work, Position(), listener)


def resume(
    run: Path | str = "runs/latest",
    *,
    data: Path | str | None = None,
    listener: Listener = silent,
) -> TrainResult:
    """Continue a run from its last checkpoint, with its own configuration and split.

    Args:
        run: A run folder or ``runs/latest``.
        data: The dataset folder; None: where it was when the run began.
        listener: Told of progress, losses and validation.

    Raises:
        ModelError: There is no such run, or its checkpoint is damaged.
        DataError: The dataset is gone or has changed.
    """
    folder = find_run(Path(run))
    config = parse(read_json(folder.config, error=ModelError))
    dataset = Dataset(Path(data or config.data.folder))
    tables = _open(dataset, config)
    split = read_split(folder.split, tables)
    work = _prepare_work(config, dataset, tables, split)
    checkpoint = pointed(folder.checkpoints, "last")
    if checkpoint is None:
        listener(Warned("The run has no checkpoint yet; it starts from the beginning."))
        return _train(folder, work, Position(), listener)
    position = load_checkpoint(checkpoint, work.learner, work.compute.device)
    return _train(folder, work, position, listener)


def check_config(config: Config) -> None:
    """Raise ConfigError unless the method has the modalities that it needs."""
    if not config.data.target:
        raise ConfigError("No target modality is given.", "Name it with --target.")
    if find_method(config.method).uses_sources and not config.data.sources:
        raise ConfigError(
            f"The method {config.method} needs a source modality.", "Name it with --source."
        )


def make_data(
    dataset: Dataset, tables: dict[str, Modality], split: Split, config: Config
) -> tuple[Data, int]:
    """Return training and validation slices, and the image size; refuses a leaking split.

    Raises:
        DataError: A patient or image is on two sides, or a modality has no training patient.
    """
    check_no_leak(split, [modality.slices for modality in tables.values()])
    size = config.data.image_size or dataset.info.image_size
    if size > dataset.info.image_size:
        raise ConfigError(
            f"data.image_size is {size}, and the dataset holds images of "
            f"{dataset.info.image_size} px.",
            f"Prepare it with --size {size}, or choose a smaller preset.",
        )

    def part(which: Part) -> dict[str, Slices]:
        made = {
            name: Slices(m, split.rows(m.slices, which), task=dataset.info.task, image_size=size)
            for name, m in tables.items()
        }
        for slices in made.values():
            check_part(split, which, slices.patients)
        return made

    data = Data(part("train"), part("val"))
    for name, slices in data.train.items():
        if len(slices) == 0:
            raise DataError(
                f"No {name} patient is left for training: they all fell to validation or test.",
                "Prepare more patients, or change split.seed.",
            )
    return data, size


@dataclass(frozen=True)
class _Work:
    """Everything that a training needs, made before anything is written."""

    config: Config
    dataset: Dataset
    data: Data
    image_size: int
    head: Head
    compute: Compute
    learner: Learner


def _prepare_work(
    config: Config, dataset: Dataset, tables: dict[str, Modality], split: Split
) -> _Work:
    data, image_size = make_data(dataset, tables, split, config)
    compute = choose_compute(config.runtime.device, config.runtime.precision)
    used = tables if find_method(config.method).uses_sources else (config.data.target,)
    head = fit_head(dataset.info.task, [data.train[name].labels for name in used])
    learner = build_learner(config, head, image_size, compute)
    return _Work(config, dataset, data, image_size, head, compute, learner)


def _train(run: RunFolder, work: _Work, position: Position, listener: Listener) -> TrainResult:
    """Train from ``position`` to the end and export the model."""
    began = time.monotonic()
    rewind_record(run.metrics, position.step)
    used = work.learner.modalities
    counts = ", ".join(f"{len(work.data.train[name])} {name}" for name in used)
    how = f"{work.image_size} px ({work.compute.device.type}, {work.compute.precision})"
    listener(Stage(f"Training {work.config.method} on {counts} images of {how} in {run.path}"))
    loop = Loop(
        work.learner,
        work.data,
        config=work.config,
        head=work.head,
        compute=work.compute,
        folder=run,
        listener=Recorder(run.metrics, listener),
    )
    position = loop.run(position)
    export_model(
        run,
        config=work.config,
        dataset=work.dataset.info,
        head=work.head,
        image_size=work.image_size,
        position=position,
    )
    assert position.best_error is not None
    return TrainResult(
        run.path,
        position.step,
        position.epoch,
        position.best_error,
        position.best_step,
        round(time.monotonic() - began, 3),
    )


def _open(dataset: Dataset, config: Config) -> dict[str, Modality]:
    """Open every modality that is named, also where the method does not use it.

    A test patient's images of any modality are then outside of every method's training, and
    methods on the same data share their split and their number of updates.
    """
    names = [*config.data.sources, config.data.target]
    return {name: dataset.modality(name) for name in names}
