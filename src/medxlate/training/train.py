"""``medxlate train``: from a dataset folder to a run folder."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from medxlate.config import Config, parse
from medxlate.dataset.index import Dataset, Modality
from medxlate.dataset.links import find_links
from medxlate.dataset.splits import MEANING, Split, draw_split, read_split
from medxlate.errors import ConfigError, ModelError
from medxlate.events import Listener, Stage, Warned, silent
from medxlate.files import read_json, write_json
from medxlate.models.device import Compute, choose_compute
from medxlate.models.head import Head, fit_head
from medxlate.models.runs import RunFolder, find_run, new_run
from medxlate.training.checkpoints import Position, load_checkpoint, pointed
from medxlate.training.data import Data, image_size, make_data, open_modalities
from medxlate.training.export import export_model
from medxlate.training.loop import Loop
from medxlate.training.methods import STAGES, build_learner, find_method, first_stages
from medxlate.training.record import Recorder, rewind_record
from medxlate.training.stages import Stages, is_trained, start_predictor, translated
from medxlate.training.step import Learner

FIRST = "first"
RESERVED = {"predictor", *dir(nn.ModuleDict())}  # of the networks, by whose names sources go too


@dataclass(frozen=True)
class TrainResult:
    """What ``train`` did.

    Attributes:
        run: The run folder.
        steps: Optimizer steps taken in all.
        epochs: Epochs ended.
        images_seen: Images that the predictor has learned from in these steps, repetitions
            counted; what is trained first comes on top.
        best_error: Lowest validation error (squared error, or cross-entropy); None where nothing
            was validated.
        best_step: The step at which it was reached.
        skipped: Steps without an update, because a loss was not finite.
        seconds: How long this call took, what is trained first included.
    """

    run: Path
    steps: int
    epochs: int
    images_seen: int
    best_error: float | None
    best_step: int
    skipped: int
    seconds: float


def train(
    config: Config,
    *,
    runs: Path | str = "runs",
    name: str | None = None,
    split: Split | None = None,
    stages: Stages | None = None,
    listener: Listener = silent,
) -> TrainResult:
    """Train a predictor, and translators where the method has them, from a prepared dataset.

    Args:
        config: Everything that decides the training; see ``medxlate.config.resolve``.
        runs: The folder of all runs.
        name: The run's name; None: made from the modalities and a number.
        split: Who is trained and tested on; None: drawn by ``config.split``.
        stages: Finished runs of what the method trains first, by the names that
            ``first_stages`` gives; None: they are trained inside the run.
        listener: Told of progress, losses and validation.

    Raises:
        ConfigError: Source or target are missing or contradict the method.
        DataError: The dataset cannot be used, or its patients cannot be divided.
        OutputError: The run exists already.
    """
    check_config(config)
    dataset = Dataset(Path(config.data.folder))
    tables = open_modalities(dataset, config)
    if split is None:
        split = draw_split(
            {n: m.slices for n, m in tables.items()},
            target=config.data.target,
            config=config.split,
            links=find_links(tables, config.split.policy),
        )
    material = Material(config, dataset, tables, split)
    # What cannot be trained is refused before anything is written.
    work = prepare_work(material, listener)
    _tell(split, listener)
    run = new_run(Path(runs), name, config.data.sources, config.data.target)
    _begin(run, material)
    return _run(run, material, work, stages, listener)


def resume(
    run: Path | str = "runs/latest",
    *,
    data: Path | str | None = None,
    stages: Stages | None = None,
    device: str | None = None,
    listener: Listener = silent,
) -> TrainResult:
    """Continue a run from its last checkpoint, with its own configuration and split.

    Args:
        run: A run folder or ``runs/latest``.
        data: The dataset folder; None: where it was when the run began.
        stages: As given to ``train``.
        device: Where to compute; None: where the run began.
        listener: Told of progress, losses and validation.

    Raises:
        ModelError: There is no such run, or its checkpoint is damaged.
        DataError: The dataset is gone or has changed.
    """
    folder = find_run(Path(run))
    config = parse(read_json(folder.config, error=ModelError))
    runtime = config.runtime.model_copy(update={"device": device or config.runtime.device})
    config = config.model_copy(update={"runtime": runtime})
    dataset = Dataset(Path(data or config.data.folder))
    tables = open_modalities(dataset, config)
    split = read_split(folder.split, tables)
    if pointed(folder.checkpoints, "last") is None and not (folder.path / FIRST).exists():
        listener(Warned("The run has no checkpoint yet; it starts from the beginning."))
    _tell(split, listener)
    material = Material(config, dataset, tables, split)
    return _run(folder, material, prepare_work(material, listener), stages, listener)


def check_config(config: Config) -> None:
    """Raise ConfigError unless the method can be trained and has the modalities that it needs."""
    if not config.data.target:
        raise ConfigError("No target modality is given.", "Name it with --target.")
    method = find_method(config.method)
    if config.method in STAGES:
        raise ConfigError(
            f"{config.method} is no method of its own.",
            "It is the first stage of cyclegan or transfer; train one of these.",
        )
    if method.build is None:
        raise ConfigError(
            f"The method {config.method} needs no training.", "It is a row of `medxlate compare`."
        )
    for name in config.data.sources:
        if name in RESERVED:
            raise ConfigError(
                f"A source cannot be called '{name}'.", "Prepare it under another name."
            )
    if method.uses_sources and not config.data.sources:
        raise ConfigError(
            f"The method {config.method} needs a source modality.", "Name it with --source."
        )


@dataclass(frozen=True)
class Material:
    """What a training is made from."""

    config: Config
    dataset: Dataset
    tables: dict[str, Modality]
    split: Split


@dataclass(frozen=True)
class Work:
    """Everything that a training needs, before anything is taken over from a first stage."""

    config: Config
    dataset: Dataset
    data: Data
    image_size: int
    head: Head
    compute: Compute
    learner: Learner


def _tell(split: Split, listener: Listener) -> None:
    if split.policy == "image":
        listener(Warned(MEANING["image"]))


def _begin(run: RunFolder, material: Material) -> None:
    """Write what a run is resumed from; the configuration last, which makes it a run."""
    used = {name: modality.fingerprint() for name, modality in material.tables.items()}
    write_json(run.split, {**material.split.to_json(), "slices": used})
    write_json(run.config, material.config.model_dump(mode="json"))


def _run(
    run: RunFolder, material: Material, work: Work, stages: Stages | None, listener: Listener
) -> TrainResult:
    """Train what comes first, then the run itself, from wherever they stand to the end."""
    began = time.monotonic()
    if stages is None:
        stages = _train_stages(run, material, listener)
    work = _take_over(work, stages)
    checkpoint = pointed(run.checkpoints, "last")
    if checkpoint is None:
        torch.manual_seed(work.config.runtime.seed)  # whatever was trained before
        position = Position()
    else:
        position = load_checkpoint(checkpoint, work.learner, work.compute.device)
    position = _train(run, work, position, listener)
    if work.config.method not in STAGES:
        export_model(
            run,
            config=work.config,
            dataset=work.dataset.info,
            head=work.head,
            image_size=work.image_size,
            position=position,
            stages=stages,
            precision=work.compute.precision,
        )
    batches = work.learner.predictor_batches
    return TrainResult(
        run.path,
        position.step,
        position.epoch,
        position.step * work.config.optimizer.batch_size * batches,
        position.best_error,
        position.best_step,
        position.skipped,
        round(time.monotonic() - began, 3),
    )


def _train_stages(run: RunFolder, material: Material, listener: Listener) -> Stages:
    """Train what the method needs first, in folders inside the run; finished ones are kept."""
    stages = {}
    for name, config in first_stages(material.config).items():
        stage = RunFolder(run.path / FIRST / name)
        stages[name] = stage
        train_stage(stage, config, material.dataset, material.split, listener)
    return stages


def train_stage(
    stage: RunFolder, config: Config, dataset: Dataset, split: Split, listener: Listener
) -> None:
    """Train a first stage to its end, from wherever it stands; a finished one is left alone.

    Args:
        stage: Its folder.
        config: Of ``first_stages``.
        dataset: The dataset.
        split: Who is trained on.
        listener: Told of progress.
    """
    if is_trained(stage, config):
        return
    material = Material(config, dataset, open_modalities(dataset, config), split)
    if not stage.config.exists():
        stage.path.mkdir(parents=True, exist_ok=True)
        _begin(stage, material)
    _run(stage, material, prepare_work(material, listener), {}, listener)


def prepare_work(material: Material, listener: Listener = silent) -> Work:
    """Return data, head and learner of a training; the listener hears of a replaced precision.

    Raises:
        ConfigError: Something in the configuration cannot be.
        DataError: The split leaks, or leaves a modality without training data.
    """
    config = material.config
    data = make_data(material.dataset, material.tables, material.split, config)
    size = image_size(material.dataset, config)
    runtime = config.runtime
    compute = choose_compute(runtime.device, runtime.precision, listener=listener)
    scale_from = {
        "target": (config.data.target,),
        "sources": config.data.sources,
        "all": (*config.data.sources, config.data.target),
    }[find_method(config.method).scale_from]
    head = fit_head(material.dataset.info.task, [data.train[name].labels for name in scale_from])
    learner = build_learner(config, head, size, compute)
    return Work(config, material.dataset, data, size, head, compute, learner)


def _take_over(work: Work, stages: Stages) -> Work:
    """Give the predictor the weights, or the sources the translations, of a first stage."""
    first = find_method(work.config.method).first
    if first == "source-only":
        start_predictor(work.learner, stages["sources"])
    if first != "translator":
        return work
    fakes = {
        source: translated(
            work.data.train[source],
            stages[source],
            config=work.config,
            image_size=work.image_size,
            compute=work.compute,
        )
        for source in work.config.data.sources
    }
    return replace(work, data=Data({**work.data.train, **fakes}, work.data.val))


def _train(run: RunFolder, work: Work, position: Position, listener: Listener) -> Position:
    """Train from ``position`` to the end and return where it then stands."""
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
    return loop.run(position)
