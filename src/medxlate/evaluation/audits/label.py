"""Label preservation: does G(y) still show what y shows of the label?

J, the judge, answers: a predictor trained on real target images alone. The run's own P was trained
together with G and may read a sign that no other predictor knows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medxlate.base.errors import percent
from medxlate.dataset.labels import Task
from medxlate.evaluation.audits.probes import (
    DRAWS,
    Array,
    agreement,
    chance_of,
    fit_ridge,
)
from medxlate.evaluation.audits.rule import Rule, Status
from medxlate.evaluation.audits.sample import Sample, cases, group_means, means_of_blocks, points
from medxlate.evaluation.results import Audit, Picture

# Both are the usual level of a test; over the patients, for a patient's slices repeat each other.
SIGNAL = 0.05  # chance of labels in random order below which images do carry the label
LOSS = 0.05  # chance below which G(y) carries less of it than y
FEWEST = 8  # patients below which even a correlation of 0.6 is no signal
LABEL = Rule(
    "label-preservation",
    "A judge, a predictor trained on real target images only, reads the label from translated "
    "images G(y), and a probe reads it from the source images y. Fires if the judge's answers "
    f"agree with the label no better than with permuted labels (p > {percent(SIGNAL)}), although "
    f"the probe's do, and the judge agrees less than the probe in more than {percent(1 - LOSS)} of "
    "bootstrap "
    "draws over patients.",
    "Look at the examples with the worst agreement. Raise the weight of the predictor's loss, "
    "train "
    "longer, or exclude these translated images from the predictor's training.",
    None,
)
_PROBE_SIDE = 16  # of the copies that the probe sees beside the statistics


@dataclass(frozen=True)
class Answers:
    """Labels of the same images, from several sources.

    Attributes:
        label: The truth, [N, K]: values, K = 1, or indicators of classes.
        predicted: The judge's answers for G(y) or for real target images, likewise.
        probed: The probe's for y, likewise; empty [0, K] for real target images.
        patients: The patient of each image [N].
    """

    label: Array
    predicted: Array
    probed: Array
    patients: Array


def table(values: Array, task: Task) -> Array:
    """Return labels or predictions as a table [N, K]."""
    if task.kind == "regression":
        return np.asarray(values, dtype=np.float64).reshape(-1, 1)
    values = np.asarray(values)
    return np.eye(len(task.classes))[values] if values.ndim == 1 else values.astype(np.float64)


def probe_source(train: Sample, validation: Sample, images: Sample, task: Task) -> Array:
    """Return the labels [N, K] that a probe reads from source images.

    The probe is a ridge regression on fixed statistics and a copy of 16 x 16 means. It is fitted on
    the training patients, and its penalty chosen on the validation patients or, without any, on a
    fifth of the training patients.

    Args:
        train: Source training images.
        validation: Source validation images; may be empty.
        images: Source images to read the labels from.
        task: What is predicted.
    """
    features, labels = _features(train), table(train.labels, task)
    if len(validation):
        held = _features(validation), table(validation.labels, task)
        return fit_ridge((features, labels), held)(_features(images))
    names = np.unique(train.patients.astype(str))[::5]
    out = np.isin(train.patients.astype(str), names)
    if out.all():
        return np.tile(labels.mean(axis=0), (len(images), 1))
    model = fit_ridge((features[~out], labels[~out]), (features[out], labels[out]))
    return model(_features(images))


def label_preservation(
    source: str, translated: Answers, real: Answers, task: Task, worst: tuple[int, ...] = ()
) -> Audit:
    """Compare J(G(y)) with a probe of y and with the label.

    Args:
        source: The source modality.
        translated: Of the source's test images.
        real: Of the target's real test images: whether J reads the label at all.
        task: What is predicted.
        worst: Examples of least agreement.
    """
    picture = _picture(translated, task)
    truth, predicted, probed, people = _cases(translated)
    count = len(set(people.tolist()))
    value, expected = agreement(predicted, truth), agreement(probed, truth)
    unknown = _unknown(truth, probed, people, real)
    if unknown:
        return LABEL.audit(source, "unknown", unknown, value=value, picture=picture, worst=worst)
    chance = chance_of(predicted, truth, people)
    less = _less(predicted, probed, truth, people)
    lost = chance > SIGNAL and less > 1 - LOSS
    status: Status = "fires" if lost else "ok" if chance <= SIGNAL else "unknown"
    figures = (
        f"over {count} patients, the correlation with the label is {value:.2f} for the judge on "
        f"translated images (permutation p = {chance:.2g}) and {expected:.2f} for a probe "
        f"on the {source} images"
    )
    sentence = {
        "fires": f"Translated images lose the label: {figures}.",
        "ok": f"Translated images preserve the label: {figures}.",
        "unknown": f"Too few patients to judge whether the label is preserved: {figures}.",
    }[status]
    return LABEL.audit(source, status, sentence, value=value, picture=picture, worst=worst)


def disagreement(answers: Answers) -> Array:
    """Return how far J(G(y)) is from the probe of y and from the label, by image [N]."""
    scale = answers.label.std() + 1e-9
    apart = np.abs(answers.predicted - answers.label).sum(axis=1)
    if len(answers.probed):
        apart = apart + np.abs(answers.predicted - answers.probed).sum(axis=1)
    far: Array = apart / scale
    return far


def _cases(answers: Answers) -> tuple[Array, Array, Array, Array]:
    """Return label, predicted, probed [C, K] and patient [C] of each patient's different labels.

    A patient whose slices differ in label has several cases; tests are still over patients.
    """
    label, people, which = cases(answers.label, answers.patients)
    both = (answers.predicted, answers.probed)
    predicted, probed = (group_means(each, which) if len(each) else each for each in both)
    return label, predicted, probed, people


def _unknown(truth: Array, probed: Array, people: Array, real: Answers) -> str:
    """Return why the audit cannot tell; "" where it can."""
    count = len(set(people.tolist()))
    if count < FEWEST:
        return f"Too few test patients to judge: {count}; at least {FEWEST} are needed."
    if not truth.std(axis=0).any():
        return "All test patients have the same label, so the audit cannot judge."
    if chance_of(probed, truth, people) > SIGNAL:
        return (
            "Even a probe of the source images finds no significant sign of the label, so the "
            "audit cannot judge what translation preserves (correlation "
            f"{agreement(probed, truth):.2f} over {count} patients)."
        )
    known, seen, _, owners = _cases(real)
    held = len(set(owners.tolist()))
    if held < FEWEST or chance_of(seen, known, owners) > SIGNAL:
        return (
            "The judge finds no significant sign of the label even in real target images, so its "
            "answers for translated ones are meaningless (correlation "
            f"{agreement(seen, known):.2f} "
            f"over {held} patients)."
        )
    return ""


def _less(predicted: Array, probed: Array, truth: Array, people: Array) -> float:
    """Return the share of bootstrap draws of patients where J(G(y)) agrees less than the probe."""
    random = np.random.default_rng(3)
    own = [np.flatnonzero(people == each) for each in np.unique(people)]
    draws = random.integers(len(own), size=(DRAWS, len(own)))
    drawn = (np.concatenate([own[i] for i in draw]) for draw in draws)
    return float(
        np.mean([agreement(predicted[r], truth[r]) < agreement(probed[r], truth[r]) for r in drawn])
    )


def _features(sample: Sample) -> Array:
    copies = means_of_blocks(sample.small, _PROBE_SIDE).reshape(len(sample), -1)
    return np.hstack([sample.statistics, copies]).astype(np.float64)


def _picture(answers: Answers, task: Task) -> Picture:
    unit = f", {task.unit}" if task.unit else ""
    if task.kind == "regression":
        x, y, title = answers.probed[:, 0], answers.predicted[:, 0], f"{task.name}{unit}"
    else:  # the chance that each gives the true class
        true = answers.label.argmax(axis=1)[:, None]
        x, y = (np.take_along_axis(a, true, 1)[:, 0] for a in (answers.probed, answers.predicted))
        title = f"score of the true {task.name}"
    return Picture(
        kind="scatter", title="Label read from images before and after translation",
        x_label=f"{title}: probe of the source image", diagonal=True,
        y_label="judge of the translated image", lines=(points("test images", x, y),),
    )  # fmt: skip
