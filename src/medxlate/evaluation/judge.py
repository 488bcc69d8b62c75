"""The judge: a small predictor that was trained on real target images alone.

A run's own predictor was trained together with its translators, and they may agree on a sign that
nobody else can read. The judge never saw a translated image, so it reads what real ones show too.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from medxlate.artifacts.folder import load_network, write_weights
from medxlate.artifacts.info import Weights
from medxlate.artifacts.runs import RunFolder
from medxlate.base.device import Compute, deterministic
from medxlate.base.distributed import ranks
from medxlate.base.errors import ModelError
from medxlate.base.events import Event, Listener, Progress, Stage, Warned, silent
from medxlate.base.files import locked, write_json
from medxlate.base.records import read_record
from medxlate.config import Config, ModelConfig, OptimizerConfig, RuntimeConfig, flat
from medxlate.evaluation.cohort import Cohort
from medxlate.evaluation.results import Record
from medxlate.inference.finite import check_finite
from medxlate.inference.predict import predict_batches
from medxlate.method.label_transform import LabelTransform
from medxlate.method.placing import place
from medxlate.method.predictor import PredictorNetwork, import_timm
from medxlate.training.checkpoints import load_part
from medxlate.training.loop import Loop
from medxlate.training.randomness import seed_all
from medxlate.training.setup import TrainingSetup, make_inputs, set_up
from medxlate.training.stages import checkpoint_of

SCHEMA_VERSION = 1
FOLDER = "judge"  # in the run
REAL = "real"  # the judge's own files there
ARCHITECTURE = "test_resnet"
BATCH_SIZE = 16
PASSES = 40  # over the training images, within STEPS
STEPS = (60, 300)
EPOCHS = 6  # of equal length, each with a validation; the best one is kept
SEED = 0  # whatever the run's, so that all runs of a split have the same judge

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Judge:
    """A small trained predictor.

    Attributes:
        network: In eval mode, on the device.
        head: What its outputs mean.
        compute: Device and precision.
        trained_on: What it is and saw, such as "test_resnet, 180 steps on 100 real ct images of 25
            patients".
    """

    network: PredictorNetwork
    head: LabelTransform
    compute: Compute
    trained_on: str

    def predict(self, images: Iterable[Tensor]) -> Array:
        """Return labels [N], or class probabilities [N, K], for batches [B, 1, S, S]."""
        found = predict_batches(self.network, images, head=self.head, compute=self.compute)
        check_finite(found, "judge")
        return found


class JudgeRecord(Record):
    """The content of ``judge/<name>.json``.

    Attributes:
        schema_version: Version of this file's format.
        made_from: Everything that it depends on; if that changes, it is trained again.
        architecture: Its name in timm.
        head: What its outputs mean.
        weights: Its file of weights.
        trained_on: What it is and what it was trained on, in words.
    """

    schema_version: int = SCHEMA_VERSION
    made_from: dict[str, Any]
    architecture: str
    head: LabelTransform
    weights: Weights
    trained_on: str


@dataclass(frozen=True)
class Lesson:
    """What a small predictor learns.

    Attributes:
        name: The name of its files in the run's ``judge/``.
        config: See ``small_config``.
        depends: All that it depends on; see ``made_from``.
        seen: What it learns from, in words.
        prepare: Sets up the training; it may write files into the folder that it receives.
    """

    name: str
    config: Config
    depends: dict[str, Any]
    seen: str
    prepare: Callable[[Path], TrainingSetup]


def find_judge(run: RunFolder, cohort: Cohort, device: torch.device, listener: Listener) -> Judge:
    """Return the judge of a run: the one that the run keeps, or a new one, which it then keeps.

    The judge learns from the target's training images as the run did, and the validation patients
    choose its best state. The processes of a job train it together.

    Args:
        run: The run, whose folder ``judge/`` is written.
        cohort: Its cohort.
        device: Where it is trained and used, in float32.
        listener: Receives progress.

    Raises:
        OutputError: The disk is full.
    """
    target = cohort.config.data.target
    slices = cohort.train[target]
    config = small_config(cohort, "target-only", (), len(slices), device)

    def prepare(_: Path) -> TrainingSetup:
        tables = {target: cohort.tables[target]}
        return set_up(make_inputs(config, cohort.dataset, tables, cohort.split))

    seen = f"{len(slices)} real {target} images of {len(set(slices.patients))} patients"
    lesson = Lesson(REAL, config, made_from(cohort, config), seen, prepare)
    return load_or_train(run, lesson, listener)


def small_config(
    cohort: Cohort, method: str, sources: tuple[str, ...], images: int, device: torch.device
) -> Config:
    """Return how a small predictor is trained.

    Args:
        cohort: That of the run whose data it learns from.
        method: The way of training.
        sources: The source modalities that it learns from.
        images: The number of images that it learns from.
        device: Where it is trained.
    """
    run = cohort.config
    steps = min(max(PASSES * images // BATCH_SIZE, STEPS[0]), STEPS[1])
    return Config(
        method=method,
        data=run.data.model_copy(update={"sources": sources, "oracle": ""}),
        split=run.split,
        model=ModelConfig(predictor=ARCHITECTURE),
        optimizer=OptimizerConfig(
            epochs=EPOCHS,
            steps_per_epoch=math.ceil(steps / EPOCHS),
            batch_size=max(BATCH_SIZE, ranks().count),
        ),
        runtime=RuntimeConfig(
            seed=SEED,
            device=str(device),
            precision="fp32",
            compile="off",
            checkpoint_every=EPOCHS,
            checkpoint_minutes=None,
            keep_checkpoints=1,
            deterministic=run.runtime.deterministic,
        ),
    )


def made_from(cohort: Cohort, config: Config) -> dict[str, Any]:
    """Return all that a small predictor depends on, as values of JSON."""
    names = (config.data.target, *config.data.sources)
    place = ("data.folder", "runtime.")  # where and how it is computed, not what
    settings = {key: value for key, value in flat(config).items() if not key.startswith(place)}
    return {
        "split": cohort.split.to_json()["hash"],
        "fingerprints": {name: cohort.tables[name].fingerprint() for name in names},
        "image_size": cohort.train[config.data.target].shape[1],
        "task": cohort.dataset.info.task.model_dump(mode="json"),
        "config": {**settings, "runtime.seed": config.runtime.seed},
    }


def load_or_train(run: RunFolder, lesson: Lesson, listener: Listener) -> Judge:
    """Return the predictor of a lesson: the one that the run keeps, or a new one.

    Where another process trains it, this one waits and uses the result.

    Args:
        run: The run, whose folder ``judge/`` is written.
        lesson: What it learns.
        listener: Receives progress, and a warning where a kept one is damaged.
    """
    folder = run.path / FOLDER
    found = _kept(folder, lesson, listener)
    if not ranks().any(found is None):
        assert found is not None
        return found
    first = ranks().is_first
    with locked(folder / f".{lesson.name}.lock", wait=True) if first else nullcontext():
        if ranks().broadcast(first and _kept(folder, lesson, silent) is None):
            _teach(folder, lesson, listener)
    found = _kept(folder, lesson, listener)
    if found is None:
        raise ModelError(f"{folder} does not contain what was just written.", "Check the disk.")
    return found


def _teach(folder: Path, lesson: Lesson, listener: Listener) -> None:
    """Train a lesson in a temporary folder."""
    listener(Stage(f"Training a small predictor ({ARCHITECTURE}) on {lesson.seen}"))
    first, place = ranks().is_first, folder / f".{lesson.name}.training"
    try:
        if first:
            shutil.rmtree(place, ignore_errors=True)  # of an evaluation that was killed
            place.mkdir(parents=True)
        ranks().barrier()
        _train(folder, place, lesson, listener)
        ranks().barrier()
    finally:
        if first:
            shutil.rmtree(place, ignore_errors=True)


def _train(folder: Path, place: Path, lesson: Lesson, listener: Listener) -> None:
    """Train a lesson in ``place`` and write its files into ``folder``."""

    def report(event: Event) -> None:
        if isinstance(event, Progress):
            listener(replace(event, task="judge's steps", values={}))

    with deterministic(lesson.config.runtime.deterministic):
        work = lesson.prepare(place)
        training = RunFolder(place)
        loop = Loop(work, training, listener=report)
        seed_all(SEED)
        position = loop.run()
    if not ranks().is_first:
        return
    best = load_part(checkpoint_of(training, "best"), "predictor.")
    file = f"{lesson.name}.safetensors"
    weights = write_weights(place, file, best, step=position.best_step)
    (place / file).replace(folder / file)
    record = JudgeRecord(
        made_from=lesson.depends,
        architecture=ARCHITECTURE,
        head=work.head,
        weights=weights,
        trained_on=f"{ARCHITECTURE}, {position.best_step} steps on {lesson.seen}",
    )
    write_json(folder / f"{lesson.name}.json", record.model_dump(mode="json"))


def _kept(folder: Path, lesson: Lesson, listener: Listener) -> Judge | None:
    """Return the kept predictor; None where there is none, or it was made from something else."""
    path = folder / f"{lesson.name}.json"
    if not path.is_file():
        return None
    try:
        record = read_record(
            path, JudgeRecord, version=SCHEMA_VERSION, error=ModelError, hint="", again="Evaluate"
        )
        if record.made_from != lesson.depends:
            return None
        import_timm()
        network = load_network(
            lambda: PredictorNetwork(architecture=record.architecture, outputs=record.head.outputs),
            folder,
            record.weights,
        )
    except ModelError as problem:
        listener(Warned(f"{problem.message} Training it again."))
        return None
    compute = Compute(torch.device(lesson.config.runtime.device), "fp32")
    return Judge(place(network, compute), record.head, compute, record.trained_on)
