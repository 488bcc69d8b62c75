"""All audits of a run's translators, and the examples to look at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from medxlate.base.events import Listener, Stage, counted, silent
from medxlate.dataset.index import Modality
from medxlate.dataset.labels import Task
from medxlate.dataset.loading import Slices
from medxlate.evaluation.audits.domain import domain_gap, prevalence
from medxlate.evaluation.audits.intensity import identity, inversion
from medxlate.evaluation.audits.jitter import jitter
from medxlate.evaluation.audits.label import (
    Answers,
    disagreement,
    label_preservation,
    probe_source,
    table,
)
from medxlate.evaluation.audits.memorisation import Neighbours, memorisation
from medxlate.evaluation.audits.probes import Array
from medxlate.evaluation.audits.sample import Sample, look, shrink
from medxlate.evaluation.audits.tissue import tissue
from medxlate.evaluation.batches import some_of
from medxlate.evaluation.examples import choose, make_examples, write_examples
from medxlate.evaluation.results import EXAMPLES, Audit
from medxlate.evaluation.subject import Subject

PROBED = 2000  # source training images that the probe is fitted on, evenly spaced
BLOCK = 256  # training images that are in memory at once


@dataclass(frozen=True)
class _Target:
    """Real target images of patients whom G's training did not see; for all sources the same.

    Attributes:
        held: The images of validation and test patients.
        distance: Of each of them to the nearest training image.
        answers: The judge's, for the test images; None without a judge.
    """

    held: Sample
    distance: Array
    answers: Answers | None


@dataclass(frozen=True)
class _Translated:
    """A source's test images, before and after translation.

    Attributes:
        original: Before.
        translated: After.
        predictions: The judge's answers for the translated images; None without a judge.
    """

    original: Sample
    translated: Sample
    predictions: Array | None


def audit_translators(
    subject: Subject, out: Path, *, listener: Listener = silent
) -> tuple[Audit, ...]:
    """Run every audit for every translator and write examples to look at.

    One process does all of it; of several, only the first calls this. Beside small copies (64 px)
    of test and validation images, one batch of images is in memory at a time.

    Args:
        subject: What is judged. Without a judge, label preservation is left out.
        out: The folder ``<run>/evaluation``; ``examples/<source>/`` is written in it.
        listener: Receives stages and progress.

    Returns:
        The audits, source by source, each with the numbers of the examples that show it worst.
    """
    sources = [name for name in subject.translators if len(subject.cohort.test[name])]
    if not sources:
        return ()
    listener(Stage("Auditing the translators"))
    held = _held(subject)
    mean = held.small.mean(axis=0)
    seen = {name: _translate(subject, name, listener) for name in sources}
    near = {name: Neighbours(mean, each.translated.small) for name, each in seen.items()}
    of_held = Neighbours(mean, held.small)
    train = subject.cohort.train[subject.info.target]
    for start in range(0, len(train), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(train)))
        small = shrink(train.batch(rows).images[:, 0])
        for each in (of_held, *near.values()):
            each.see(small, rows)
    target = _Target(held, of_held.distance, _real_answers(subject))
    return tuple(
        audit
        for name in sources
        for audit in _audit(subject, name, seen[name], near[name], target, out)
    )


def _audit(
    subject: Subject, source: str, seen: _Translated, near: Neighbours, target: _Target, out: Path
) -> Iterator[Audit]:
    """Yield the audits of a source, and write its examples."""
    cohort, task = subject.cohort, subject.cohort.dataset.info.task
    original, translated = seen.original, seen.translated
    answers = None if seen.predictions is None else _answers(subject, source, seen, task)
    apart = np.zeros(len(translated)) if answers is None else disagreement(answers)
    changes = np.abs(translated.small - original.small).mean(axis=(1, 2))
    chosen = choose(apart if answers is not None else None, near.distance)
    made = make_examples(
        subject,
        source,
        chosen,
        nearest=near.index,
        distance=near.distance,
        predictions=seen.predictions,
    )
    write_examples(out / EXAMPLES / source, *made)

    def worst(badness: Array) -> tuple[int, ...]:
        order = sorted(range(len(chosen)), key=lambda number: -badness[chosen[number].row])
        return tuple(order[:3])

    if answers is not None and target.answers is not None:
        yield label_preservation(source, answers, target.answers, task, worst(apart))
    found = memorisation(source, translated, near.distance, target.held, target.distance)
    yield found.model_copy(update={"worst": worst(-near.distance)})
    own, other = cohort.train[source], cohort.train[subject.info.target]
    yield prevalence(
        source,
        subject.info.target,
        (own.labels.numpy(), other.labels.numpy()),
        (np.array(own.patients, dtype=object), np.array(other.patients, dtype=object)),
        task,
    )
    yield domain_gap(source, original, translated, target.held)
    found = identity(source, original, translated, target.held)
    yield found.model_copy(update={"worst": worst(-changes)})
    yield inversion(source, original, translated, target.held)
    yield tissue(source, translated, target.held, subject.info.target_recipe)
    yield jitter(source, original, translated, target.held)


def _held(subject: Subject) -> Sample:
    """Return a sample of the real target images of validation and test patients."""
    target, cohort = subject.info.target, subject.cohort
    parts = [p for p in (cohort.val[target], cohort.test[target]) if len(p)]
    seen = [_look(part, cohort.tables[target], _images(part, subject)) for part in parts]
    return Sample(*(np.concatenate([getattr(s, name) for s in seen]) for name in _FIELDS))


_FIELDS = tuple(Sample.__dataclass_fields__)


def _images(slices: Slices, subject: Subject) -> Iterator[Tensor]:
    return (batch.images for batch in slices.batches(subject.batch_size))


def _look(slices: Slices, modality: Modality, batches: Iterable[Tensor]) -> Sample:
    series, positions = (modality.column(name) for name in ("series", "position"))
    return look(
        batches,
        patients=slices.patients,
        labels=slices.labels.numpy(),
        series=[str(series[row]) for row in slices.rows],
        positions=[float(positions[row]) for row in slices.rows],
    )


def _translate(subject: Subject, source: str, listener: Listener) -> _Translated:
    """Return a source's test images before and after translation, and the judge's answers."""
    slices, fakes = subject.cohort.test[source], subject.translated[source]
    predicted: list[Array] = []

    def translated() -> Iterator[Tensor]:
        starts = range(0, len(fakes), subject.batch_size)
        for start in counted(starts, f"audited {source} batches", len(starts), listener):
            made = fakes.images(range(start, min(start + subject.batch_size, len(fakes))))
            if subject.judge is not None:
                predicted.append(subject.judge.predict([made]))
            yield made

    modality = subject.cohort.tables[source]
    after = _look(slices, modality, translated())
    before = _look(slices, modality, _images(slices, subject))
    return _Translated(before, after, np.concatenate(predicted) if predicted else None)


def _real_answers(subject: Subject) -> Answers | None:
    """Return the judge's answers for real target test images; None without a judge."""
    if subject.judge is None:
        return None
    slices, task = subject.cohort.test[subject.info.target], subject.cohort.dataset.info.task
    predicted = subject.judge.predict(_images(slices, subject))
    label = table(slices.labels.numpy(), task)
    return Answers(
        label, table(predicted, task), label[:0], np.array(slices.patients, dtype=object)
    )


def _answers(subject: Subject, source: str, seen: _Translated, task: Task) -> Answers:
    """Return the judge's answers for G(y), and a probe's for y."""
    cohort, modality = subject.cohort, subject.cohort.tables[source]

    def part(slices: Slices) -> Sample:
        some = some_of(slices, PROBED)
        images = (batch.images for batch in some.batches(BLOCK))
        return look(images, patients=some.patients, labels=some.labels.numpy())

    val = cohort.val[source]
    train = part(cohort.train[source])
    held = _look(val, modality, _images(val, subject)) if len(val) else _none_of(train)
    assert seen.predictions is not None
    return Answers(
        label=table(seen.original.labels, task),
        predicted=table(seen.predictions, task),
        probed=probe_source(train, held, seen.original, task),
        patients=seen.original.patients,
    )


def _none_of(sample: Sample) -> Sample:
    return Sample(*(getattr(sample, name)[:0] for name in _FIELDS))
