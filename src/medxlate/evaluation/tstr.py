"""Train on translated, test on real: what translated images teach a predictor by themselves.

A small predictor learns from translated source training images with their labels alone and is
tested on the target's real test patients (TSTR: Esteban et al. 2017, "Real-valued (medical) time
series generation with recurrent conditional GANs", section 4; as the classification accuracy
score: Ravuri and Vinyals 2019, "Classification Accuracy Score for Conditional Generative Models").
Beside it stand the judge, which learned from real images in the same way, and a constant.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
from torch import Tensor

from medxlate.dataset.loading import Slices
from medxlate.evaluation.judge import Judge, Lesson, learned, made_from, small_config
from medxlate.evaluation.judging import Array, Cases, judge
from medxlate.evaluation.results import Metric
from medxlate.evaluation.shared import gather_predictions
from medxlate.evaluation.subject import Subject
from medxlate.events import Listener, Stage
from medxlate.models.runs import RunFolder
from medxlate.ranks import ranks
from medxlate.training.data import Data
from medxlate.training.stages import read_translated, write_translated
from medxlate.training.work import Work, make_material, prepare_work

NAME = "tstr"
MOST = 2000  # translated images of a part, evenly spaced
CHEAP = 1000 * 64 * 64  # pixels of training images that a processor translates without being asked


def is_cheap(subject: Subject) -> bool:
    """Return whether the figure takes a minute or two, so that nobody need ask for it by name."""
    if subject.compute.device.type != "cpu":
        return True
    train = [subject.patients.train[source] for source in subject.translators]
    pixels = sum(prod((min(len(each), MOST), *each.shape[1:])) for each in train)
    return bool(train) and pixels <= CHEAP


def tstr_metrics(run: RunFolder, subject: Subject, *, listener: Listener) -> tuple[Metric, ...]:
    """Return the figure of each source, of the judge and of a constant prediction.

    Mean squared error or accuracy over the target's test patients, by their images' mean.

    Args:
        run: The run; the predictors are kept in it.
        subject: What is judged, with its judge.
        listener: Told of stages and progress.
    """
    assert subject.judge is not None  # callers have found it
    real, constant = _tested(subject, subject.judge)
    found = []
    for source in subject.translators:
        student = _student(run, subject, source, listener)
        own, _ = _tested(subject, student)
        found.append(own.model_copy(update={"of": "translated", "source": source}))
    return (*found, real.model_copy(update={"of": "judge"}), constant)


def _tested(subject: Subject, predictor: Judge) -> tuple[Metric, Metric]:
    """Return the figure of a predictor on the real test patients, and that of a constant."""
    patients, target = subject.patients, subject.info.target
    slices, task = patients.test[target], patients.dataset.info.task

    def predict(images: Iterable[Tensor]) -> Array:
        return predictor.predict(images)

    values = gather_predictions(predict, slices, subject.batch_size)
    cases = Cases(values.astype(np.float64), slices.labels.numpy(), tuple(slices.patients))
    name = "mse" if task.kind == "regression" else "accuracy"
    labels = patients.train[target].labels.numpy()
    figures = {
        each.of: each
        for each in judge(cases, labels, task, slices.patients, [name])
        if each.level == "patient"
    }
    what = "Mean squared error" if name == "mse" else "Accuracy"
    notes = (f"{what} over patients, of {predictor.trained_on}.",)
    about = {"group": NAME, "name": NAME}
    model = figures["model"].model_copy(
        update={**about, "notes": (*notes, *figures["model"].notes)}
    )
    return model, figures["constant"].model_copy(update=about)


def _student(run: RunFolder, subject: Subject, source: str, listener: Listener) -> Judge:
    """Return the predictor that learned from a source's translated training images alone."""
    patients = subject.patients
    train, val = (_some(subject, part[source]) for part in (patients.train, patients.val))
    device = subject.compute.device
    config = small_config(patients, "source-only", (source,), len(train), device)
    generator = subject.info.translators[source].weights.sha256
    depends = {**made_from(patients, config), "generator": generator}

    def prepare(place: Path) -> Work:
        listener(Stage(f"Translating {len(train) + len(val)} {source} images to learn from"))
        tables = {name: patients.tables[name] for name in (source, subject.info.target)}
        work = prepare_work(make_material(config, patients.dataset, tables, patients.split))
        data = Data(
            {**work.data.train, source: _translated(subject, train, place / "train.npy")},
            {**work.data.val, source: _translated(subject, val, place / "val.npy")},
        )
        return replace(work, data=data)

    who = len(set(train.patients))
    seen = f"{len(train)} translated {source} images of {who} patients"
    return learned(run, Lesson(f"{NAME}-{source}", config, depends, seen, prepare), listener)


def _some(subject: Subject, slices: Slices) -> Slices:
    """Return at most MOST of some slices, evenly spaced."""
    keep = np.unique(np.linspace(0, len(slices) - 1, min(MOST, len(slices))).astype(int))
    patients = subject.patients
    return Slices(
        patients.tables[slices.name],
        slices.rows[keep],
        task=patients.dataset.info.task,
        image_size=slices.shape[1],
    )


def _translated(subject: Subject, slices: Slices, path: Path) -> Slices:
    """Return slices with G(y) in place of y; the images lie on the disk while they are needed."""
    if not len(slices):
        return slices
    translator = subject.translators[slices.name]
    if ranks().is_first:
        write_translated(path, slices, translator.network, translator.compute, slices.shape[1])
    ranks().wait()
    return slices.with_images(read_translated(path))
