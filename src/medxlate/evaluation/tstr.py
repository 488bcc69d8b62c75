"""Train on translated, test on real: what translated images teach a predictor by themselves.

A small predictor learns from translated source training images with their labels alone and is
tested on the target's real test patients (TSTR: Esteban et al. 2017, "Real-valued (medical) time
series generation with recurrent conditional GANs", section 4; as the classification accuracy
score: Ravuri and Vinyals 2019, "Classification Accuracy Score for Conditional Generative Models").
Beside it stand the judge, which learned from real images in the same way, and a constant.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from medxlate.artifacts.runs import RunFolder
from medxlate.base.distributed import ranks
from medxlate.base.events import Listener, Stage
from medxlate.dataset.labels import Task
from medxlate.dataset.loading import Slices
from medxlate.dataset.training_data import Data
from medxlate.evaluation.batches import gather_predictions, some_of
from medxlate.evaluation.judge import Judge, Lesson, load_or_train, made_from, small_config
from medxlate.evaluation.prediction_metrics import Array, Cases, constant_predictions, figures
from medxlate.evaluation.results import Metric, taught_in
from medxlate.evaluation.subject import Subject
from medxlate.training.setup import TrainingSetup, make_inputs, set_up
from medxlate.training.stages import read_translated, write_translated

NAME = "tstr"
MOST = 2000  # translated images of a part, evenly spaced
DIGEST = 12  # digits of the generator's hash, in names
CHEAP = 1000 * 64 * 64  # pixels of training images; a processor translates more only on request


def is_cheap(subject: Subject) -> bool:
    """Return whether the figure takes only a minute or two and so is taken by default."""
    if subject.compute.device.type != "cpu":
        return True
    train = [subject.cohort.train[source] for source in subject.translators]
    pixels = sum(prod((min(len(each), MOST), *each.shape[1:])) for each in train)
    return bool(train) and pixels <= CHEAP


def tstr_metrics(run: RunFolder, subject: Subject, *, listener: Listener) -> tuple[Metric, ...]:
    """Return the figure of each source, of the judge and of a constant prediction.

    The figure is the mean squared error or the accuracy over the target's test patients, by the
    mean of each one's images.

    Args:
        run: The run, which keeps the predictors.
        subject: What is judged, with its judge.
        listener: Receives stages and progress.
    """
    assert subject.judge is not None  # callers have found it
    task = subject.cohort.dataset.info.task
    labels = subject.cohort.train[subject.info.target].labels.numpy()
    real = _tested(subject, subject.judge)
    constant = constant_predictions(labels, len(real), task)
    found = []
    for source in subject.translators:
        student = _student(run, subject, source, listener)
        own = _figure(_tested(subject, student), task, constant, student.trained_on)
        found.append(own.model_copy(update={"of": "translated", "source": source}))
    judges = _figure(real, task, constant, subject.judge.trained_on)
    guess = _figure(replace(real, values=constant), task, constant)
    found.append(judges.model_copy(update={"of": "judge"}))
    return (*found, guess.model_copy(update={"of": "constant"}))


def _tested(subject: Subject, predictor: Judge) -> Cases:
    """Return a predictor's answers for the real test patients."""
    slices = subject.cohort.test[subject.info.target]
    values = gather_predictions(predictor.predict, slices, subject.batch_size)
    cases = Cases(values.astype(np.float64), slices.labels.numpy(), tuple(slices.patients))
    return cases.grouped(slices.patients)


def _figure(cases: Cases, task: Task, constant: Array, trained_on: str = "") -> Metric:
    """Return the figure of a predictor over patients, with a note of what it was trained on."""
    name = "mse" if task.kind == "regression" else "accuracy"
    (found,) = figures(cases, task, constant, [name], "patient", "model")
    update: dict[str, Any] = {"group": NAME, "name": NAME}
    if trained_on:
        note = f"{taught_in(found).capitalize()} over patients. Predictor: {trained_on}."
        update["notes"] = (note, *found.notes)
    return found.model_copy(update=update)


def _student(run: RunFolder, subject: Subject, source: str, listener: Listener) -> Judge:
    """Return the predictor that learned from a source's translated training images alone."""
    cohort = subject.cohort
    train, val = (some_of(part[source], MOST) for part in (cohort.train, cohort.val))
    device = subject.compute.device
    config = small_config(cohort, "source-only", (source,), len(train), device)
    generator = subject.info.translators[source].weights.sha256
    depends = {**made_from(cohort, config), "generator": generator}

    def prepare(place: Path) -> TrainingSetup:
        listener(Stage(f"Translating {len(train) + len(val)} {source} images as training data"))
        tables = {name: cohort.tables[name] for name in (source, subject.info.target)}
        work = set_up(make_inputs(config, cohort.dataset, tables, cohort.split))
        data = Data(
            {**work.data.train, source: _translated(subject, train, place / "train.npy")},
            {**work.data.val, source: _translated(subject, val, place / "val.npy")},
        )
        return replace(work, data=data)

    seen = f"{len(train)} translated {source} images of {len(set(train.patients))} patients"
    name = f"{NAME}-{source}-{generator[:DIGEST]}"  # another model's has another name
    return load_or_train(run, Lesson(name, config, depends, seen, prepare), listener)


def _translated(subject: Subject, slices: Slices, path: Path) -> Slices:
    """Return slices with G(y) in place of y; the images are on disk while they are needed."""
    if not len(slices):
        return slices
    translator = subject.translators[slices.name]
    if ranks().is_first:
        write_translated(path, slices, translator.network, translator.compute, slices.shape[1])
    ranks().barrier()
    return slices.with_images(read_translated(path))
