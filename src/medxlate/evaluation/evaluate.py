"""``medxlate evaluate``: a run's predictor and translator on its test patients."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from medxlate._version import __version__
from medxlate.artifacts.hub import located
from medxlate.artifacts.info import predictor_of, read_model, weights_hashes
from medxlate.artifacts.runs import RunFolder, find_model, find_run, read_config
from medxlate.base.errors import UsageError
from medxlate.base.events import Listener, Stage, Warned, counted, silent
from medxlate.dataset.labels import Task
from medxlate.dataset.splits import MEANING
from medxlate.evaluation.batches import gather_predictions, own_rows
from medxlate.evaluation.fidelity import NAMES
from medxlate.evaluation.judge import find_judge
from medxlate.evaluation.merge import Clock, check_replaceable, write_evaluation
from medxlate.evaluation.paired import NAMES as PAIRED
from medxlate.evaluation.paired import paired_metrics
from medxlate.evaluation.prediction_metrics import (
    Cases,
    errors_by_group,
    metric_names,
    pictures,
    prediction_metrics,
)
from medxlate.evaluation.results import Metric, Results
from medxlate.evaluation.subject import Subject, open_subject
from medxlate.evaluation.translation import eight_bit_windows, translation_metrics
from medxlate.evaluation.tstr import NAME as TSTR
from medxlate.evaluation.tstr import is_cheap, tstr_metrics
from medxlate.inference.engine import run as run_network
from medxlate.inference.finite import check_finite
from medxlate.inference.out_of_distribution import Span
from medxlate.inference.predict import Predictor


@dataclass(frozen=True)
class Evaluation:
    """The result of ``evaluate`` on the run's test patients.

    Attributes:
        run: The run folder.
        results: All of it, as ``<run>/evaluation/evaluation.json`` keeps it; after an evaluation
            of some metrics, with the others of earlier ones.
        missing: Metrics that were requested by name and could not be computed, with the reason.
        seconds: How long it took.
    """

    run: Path
    results: Results
    missing: tuple[Metric, ...]
    seconds: float

    def figure(
        self,
        name: str,
        *,
        level: str = "",
        of: str = "model",
        source: str = "",
        features: str | None = None,
    ) -> float | None:
        """Return the value of a figure; None where it has none or was not taken.

        Args:
            name: mse, fid...
            level: image, volume or patient; of a figure of predictions.
            of: model or constant, likewise; judge, of tstr.
            source: The source modality; of a figure of translated images.
            features: What the images were compared by; None: the first.
        """
        for metric in self.results.metrics:
            same = (metric.name, metric.level, metric.source) == (name, level, source)
            same &= bool(source) or metric.of == of
            if same and features in (None, metric.features):
                return metric.value
        return None


def evaluate(
    run: Path | str = "runs/latest",
    *,
    metrics: Sequence[str] = (),
    extractors: Sequence[str] = (),
    audits: bool | None = None,
    data: Path | str | None = None,
    model: Path | str | None = None,
    inception: Path | str | None = None,
    download: bool = False,
    offline: bool = False,
    device: str = "auto",
    precision: str = "auto",
    listener: Listener = silent,
) -> Evaluation:
    """Measure a run on its test patients, whom training never saw, and store the results.

    Translated images are judged by a small predictor trained on real target images alone. It is
    trained when first needed and kept in the run's ``judge/`` (see ``judge.find_judge``).
    The processes of a torchrun job share the batches; all get the same results.

    Args:
        run: A run folder or ``runs/latest``.
        metrics: mse, mae, bias, r2, pearson, slope, skill | accuracy, balanced_accuracy, auroc, f1,
            ece, skill; fid, kid, is, precision, recall, paired_psnr, paired_ssim, paired_mae; tstr.
            None: all that apply, tstr only where it is cheap (``tstr.is_cheap``). A metric that
            cannot be computed has a reason instead of a value.
        extractors: What images are compared by: ``inception``, ``predictor`` (the judge), or
            ``NAME=FILE.safetensors`` (a network of timm's). None: the judge, and Inception where
            its weights are.
        audits: Whether to audit the translators; None: if no metric is named.
        data: The dataset folder; None: where it was when the run was trained.
        model: A model folder, such as an imported one, or ``hf://OWNER/NAME@REVISION``, whose
            translators are measured instead of the run's, by the metrics of images only. Nothing is
            stored. Its training images are unknown: make sure that the run's test patients are not
            among them.
        inception: Inception's weights.
        download: Whether torch-fidelity may download Inception's weights.
        offline: Whether a download is refused even so; also where the run's configuration says so.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32 or bf16.
        listener: Receives stages and warnings.

    Raises:
        UsageError: A metric is unknown or does not apply, or a foreign model is to be audited.
        ModelError: The run is missing, damaged or not finished, a network's outputs are not
            finite, or ``model`` cannot be compared with it.
        OutputError: The run's evaluation/ lacks its evaluation.json, so it is not replaced.
        DataError: The dataset is gone or has changed.
    """
    began = time.monotonic()
    folder = find_run(Path(run), "a model", listener)
    own = find_model(folder.path)
    info = read_model(own)
    offline = offline or read_config(folder).runtime.offline
    other = None
    if model is not None:
        other = find_model(located(Path(model), listener, offline=offline))
    if other is None:
        check_replaceable(folder)
    elif audits:
        raise UsageError("Only a run's own translators can be audited.", "Drop --audit or --model.")
    task = predictor_of(own, info).head.task
    wanted = _wanted(metrics, task if other is None else None)
    subject = open_subject(folder, own, other, data, device, precision, listener)
    if subject.cohort.split.policy == "image":
        listener(Warned(MEANING["image"]))
    audit = other is None and (not metrics if audits is None else audits)
    if TSTR not in metrics and not is_cheap(subject):
        wanted = [name for name in wanted if name != TSTR]
    clock = Clock()
    if subject.translators and (audit or _needs_judge(wanted, extractors)):
        with clock.timing("judge"):
            judge = find_judge(folder, subject.cohort, subject.compute.device, listener)
            subject = replace(subject, judge=judge)
    found: list[Metric] = []
    cases = table = None
    if predicted := [name for name in wanted if name in metric_names(task)]:
        with clock.timing("predictions"):
            cases, table = _predict(subject, listener)
            volumes = table["volume"].tolist()
            labels = subject.cohort.train[info.target].labels.numpy()
            figures = prediction_metrics(cases, labels, task, volumes, predicted)
            found += [_with_calibration(figure, subject.predictor) for figure in figures]
    if subject.translators:
        compare = partial(
            translation_metrics,
            extractors=extractors,
            inception=None if inception is None else Path(inception),
            download=download,
            offline=offline,
        )
        found += _image_metrics(folder, subject, wanted, compare, clock, listener)
    elif metrics:
        found += [_no_translator(name) for name in (*NAMES, *PAIRED, TSTR) if name in wanted]
    results = _results(subject, task, found, cases)
    if other is None:
        results = write_evaluation(
            folder, subject, results, table, clock, audit=audit, listener=listener
        )
    seconds = round(time.monotonic() - began, 3)
    missing = tuple(m for m in found if m.value is None and m.name in metrics)
    return Evaluation(folder.path, results, missing, seconds)


def _wanted(metrics: Sequence[str], task: Task | None) -> list[str]:
    """Return the metrics to take; without a task only those of images."""
    fitting = [*(metric_names(task) if task else ()), *NAMES, *PAIRED, TSTR]
    for name in metrics:
        if name not in fitting:
            what = f"a {task.kind}" if task else "--model"
            raise UsageError(
                f"The metric '{name}' does not exist or does not apply to {what}.",
                f"Choose from {', '.join(fitting)}.",
            )
    return list(dict.fromkeys(metrics)) or fitting


def _needs_judge(wanted: Sequence[str], extractors: Sequence[str]) -> bool:
    """Return whether figures of translated images need the judge."""
    compared = any(name in NAMES for name in wanted)
    return TSTR in wanted or (compared and "predictor" in (extractors or ("predictor",)))


def _image_metrics(
    folder: RunFolder,
    subject: Subject,
    wanted: Sequence[str],
    compare: Callable[..., tuple[Metric, ...]],
    clock: Clock,
    listener: Listener,
) -> list[Metric]:
    """Return the figures of translated images.

    Args:
        folder: The run.
        subject: What is judged.
        wanted: Figures of all kinds.
        compare: ``translation_metrics`` with its options.
        clock: Times each kind.
        listener: Receives stages, progress and warnings.
    """
    found: list[Metric] = []
    if compared := [name for name in wanted if name in NAMES]:
        with clock.timing("images"):
            found += compare(subject, compared, listener=listener)
    if paired := [name for name in wanted if name in PAIRED]:
        with clock.timing("pairs"):
            found += paired_metrics(subject, paired, listener=listener)
    if TSTR in wanted:
        with clock.timing("tstr"):
            found += tstr_metrics(folder, subject, listener=listener)
    return found


def _predict(subject: Subject, listener: Listener) -> tuple[Cases, pd.DataFrame]:
    """Predict the target's test images; return them, and the table that is kept."""
    predictor, target = subject.predictor, subject.info.target
    assert predictor is not None  # of the run's own model
    slices = subject.cohort.test[target]
    listener(Stage(f"Predicting {len(slices)} {target} images of test patients"))

    def predict(images: Iterable[Tensor]) -> np.ndarray[Any, Any]:
        batches = len(own_rows(len(slices), subject.batch_size))
        images = counted(images, "predicted batches", batches, listener)
        outputs = run_network(predictor.network, images, compute=predictor.compute)
        return predictor.calibrated(outputs)

    values = gather_predictions(predict, slices, subject.batch_size)
    check_finite(values, "predictor", "test images")
    labels, task = slices.labels.numpy(), predictor.head.task
    rows = subject.cohort.tables[target].slices.iloc[slices.rows]
    table = pd.DataFrame(
        {
            "slice_id": rows["slice_id"].tolist(),
            "patient": slices.patients,
            "volume": rows["series"].astype(str).tolist(),
        }
    )
    if task.kind == "regression":
        table["label"], table["prediction"] = labels, values
        span = Span.of([predictor.head])
        table["outside"] = span.outside(values)
        for note in span.notes({"image": (int(table["outside"].sum()), len(table))}):
            listener(Warned(note))
    else:
        table["label"] = [task.classes[i] for i in labels]
        table["prediction"] = [task.classes[i] for i in values.argmax(axis=1)]
        for i, name in enumerate(task.classes):
            table[f"p({name})"] = values[:, i]
    return Cases(values.astype(np.float64), labels, tuple(slices.patients)), table


def _with_calibration(metric: Metric, predictor: Predictor | None) -> Metric:
    """Return a calibration error with a note whether the probabilities are calibrated."""
    if (metric.name, metric.of) != ("ece", "model") or predictor is None:
        return metric
    calibration = predictor.calibration
    if calibration is None or calibration.reason:
        why = f": {calibration.reason}" if calibration else ""
        note = f"The probabilities are not calibrated{why}."
    else:
        note = f"The probabilities were calibrated on {calibration.patients} validation patients."
    return metric.model_copy(update={"notes": (*metric.notes, note)})


def _no_translator(name: str) -> Metric:
    return Metric(
        group="tstr" if name == TSTR else "translation",
        name=name,
        of="translated",
        reason=f"{name} cannot be computed: this run has no translator.",
        remedy="Train one with `medxlate train --method joint`.",
    )


def _results(
    subject: Subject, task: Task, metrics: Sequence[Metric], cases: Cases | None
) -> Results:
    """Return the results without audits."""
    info, cohort = subject.info, subject.cohort
    real = cohort.test[info.target]
    return Results(
        versions={
            "medxlate": __version__,
            "Python": platform.python_version(),
            **{name: version(name) for name in ("torch", "timm", "torch-fidelity")},
        },
        method=info.method,
        target=info.target,
        sources=tuple(info.translators),
        task=task,
        split=str(cohort.split.to_json()["hash"]),
        policy=cohort.split.policy,
        model=weights_hashes(info),
        windows=eight_bit_windows(cohort.dataset.info, [info.target, *info.translators]),
        images=len(real),
        patients=len(set(real.patients)),
        translated={source: len(cohort.test[source]) for source in info.translators},
        metrics=tuple(metrics),
        groups=() if cases is None else errors_by_group(cases, task),
        pictures={} if cases is None else pictures(cases, task),
        judge="" if subject.judge is None else subject.judge.trained_on,
        device=subject.compute.device.type,
        precision=subject.compute.precision,
        day=date.today().isoformat(),
    )
