"""What an evaluation found, as the run folder keeps it and the report reads it.

``<run>/evaluation/`` holds

    evaluation.json        ``Results``
    predictions.parquet    a row a test image: slice_id, patient, volume, label, prediction...
    examples/<source>/     translated test images; see ``Example``
    sheet/<source>/        test images that a seed has drawn; see ``contact_sheet``

Pseudonyms and images are in it, so it is not shared; ``evaluation.json`` alone holds neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from medxlate.base.errors import ModelError
from medxlate.base.files import write_json
from medxlate.base.records import read_record
from medxlate.dataset.labels import Task

SCHEMA_VERSION = 1
FILE = "evaluation.json"
PREDICTIONS = "predictions.parquet"
EXAMPLES = "examples"
EXAMPLES_FILE = "examples.json"
ROLES = ("source", "translated", "cycled", "nearest")  # <role>.npy, uint16 [N, S, S]; see Example


class Record(BaseModel):
    """Base of all that is kept: immutable, finite, nothing unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Metric(Record):
    """A metric with its interval, or the reason why it is missing.

    Attributes:
        group: Whether it judges predictions, translated images, or predictors that were trained
            on translated images alone and tested on real ones (tstr).
        name: mse, mae, r2, pearson, accuracy...; fid, kid, is, precision, recall, psnr, ssim...
        unit: Unit of the value; "" if it has none.
        better: Which direction is better; "" if neither is.
        level: For predictions: over images, volumes or patients.
        of: Who is measured: the model, or a constant prediction; ``translated`` images, compared
            with real ones; of tstr also the ``judge``, which learned from real images alone.
        source: The source modality of translated images.
        features: Of an image metric, the extractor: inception, predictor (the judge; before there
            was one, the run's own predictor), or a name in timm.
        value: Its value; None if it could not be computed.
        low: Lower end of the 95 % interval; None where there is none.
        high: Its upper end.
        interval: How the interval was computed, such as "bootstrap over 34 patients".
        n: The number of images, volumes or patients.
        reference: The number of real images that they were compared with; 0 where that does not
            apply.
        floor: The same metric between equally many real images; None if unknown.
        notes: What a reader must know, such as that there are fewer than 2048 images; sentences.
        reason: Why there is no value; a sentence.
        remedy: What would make it possible; a sentence.
    """

    group: Literal["prediction", "translation", "tstr"]
    name: str
    unit: str = ""
    better: Literal["lower", "higher", ""] = ""
    level: Literal["image", "volume", "patient", ""] = ""
    of: Literal["model", "constant", "translated", "judge"] = "model"
    source: str = ""
    features: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    interval: str = ""
    n: int = 0
    reference: int = 0
    floor: float | None = None
    notes: tuple[str, ...] = ()
    reason: str = ""
    remedy: str = ""

    @property
    def label(self) -> str:
        """The name with its extractor: ``fid`` (Inception), ``fid[predictor]``."""
        plain = self.features in ("", "inception")
        return self.name if plain else f"{self.name}[{self.features}]"


class Points(Record):
    """A named set of points of a picture.

    Attributes:
        name: As in the legend.
        x: Positions.
        y: Values at these positions; empty in a histogram.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...] = ()


class Picture(Record):
    """A chart as data; the report draws it.

    Attributes:
        kind: histogram (of each line's x), scatter, lines, or bars (x are positions, named by
            ``ticks``).
        title: What it shows.
        x_label: With the unit.
        y_label: With the unit.
        lines: What is drawn.
        thresholds: Named vertical (histogram) or horizontal lines.
        diagonal: Whether y = x is drawn.
        ticks: Names of the positions 0, 1, 2... of bars.
        note: What is left out, or what else a reader must know, as a sentence.
    """

    kind: Literal["histogram", "scatter", "lines", "bars"]
    title: str
    x_label: str
    y_label: str = ""
    lines: tuple[Points, ...] = ()
    thresholds: dict[str, float] = {}
    diagonal: bool = False
    ticks: tuple[str, ...] = ()
    note: str = ""


class Audit(Record):
    """The result of one audit of a translator.

    Attributes:
        kind: A stable name: label-preservation, memorisation, prevalence, domain-gap, identity,
            inversion, tissue, jitter.
        source: The source modality.
        status: ``unknown`` where there is too little to tell; the sentence says why.
        value: What was measured.
        threshold: The value from which it fires.
        rule: The threshold in words.
        sentence: What was found, in words.
        advice: What to do; "" if nothing.
        picture: A chart; None if there is nothing to draw.
        worst: Numbers of the ``Example``s of this source to look at, worst first.
    """

    kind: str
    source: str
    status: Literal["ok", "fires", "unknown"]
    value: float | None = None
    threshold: float | None = None
    rule: str
    sentence: str
    advice: str = ""
    picture: Picture | None = None
    worst: tuple[int, ...] = ()


def prediction_table(
    metrics: Sequence[Metric],
) -> tuple[list[str], dict[str, list[Metric | None]]]:
    """Return figures of predictions as a table: a row for each figure, a column for each level.

    The constant prediction has columns of its own.

    Returns:
        The columns' titles, such as "28 images" and "constant, 28 images"; and the rows by name and
        unit.
    """
    found = {(each.level, each.of, each.name): each for each in metrics}
    columns = dict.fromkeys((each.level, each.of) for each in metrics)
    counts = {each.level: each.n for each in metrics}
    titles = [
        f"{'' if of == 'model' else 'constant, '}{counts[level]} {level}s" for level, of in columns
    ]
    names = dict.fromkeys((each.name, each.unit) for each in metrics)
    return titles, {
        f"{name} ({unit})" if unit else name: [found.get((*column, name)) for column in columns]
        for name, unit in names
    }


def trained_on(metric: Metric) -> str:
    """Return what the predictor of a tstr figure was trained on, in words."""
    if metric.of == "translated":
        return f"translated {metric.source} images"
    return "real images (the judge)" if metric.of == "judge" else "nothing (constant prediction)"


def taught_in(metric: Metric) -> str:
    """Return what a tstr figure measures, in words."""
    return "mean squared error" if metric.better == "lower" else "accuracy"


def value_text(metric: Metric | None, shown: Callable[[float], str], none: str) -> str:
    """Return a figure with its interval, where it has one, such as "3.2 (2.9 to 3.6)".

    Args:
        metric: The figure.
        shown: Writes a number.
        none: The text where there is no value.
    """
    if metric is None or metric.value is None:
        return none
    if metric.low is None or metric.high is None:
        return shown(metric.value)
    return f"{shown(metric.value)} ({shown(metric.low)} to {shown(metric.high)})"


class GroupError(Record):
    """Errors of the test images in one decade of the label, or in one class.

    Attributes:
        name: A range such as "40 to 49", or a class.
        images: Number of images.
        patients: The number of their patients.
        error: Mean absolute error in the label's unit, or error rate.
        low: Lower end of its 95 % interval over patients; None for fewer than five.
        high: Its upper end.
        bias: Mean of prediction minus label; None for classes.
    """

    name: str
    images: int
    patients: int
    error: float
    low: float | None = None
    high: float | None = None
    bias: float | None = None


class Results(Record):
    """The content of evaluation.json.

    Attributes:
        schema_version: Version of this file's format.
        versions: Versions of medxlate, Python, torch and other libraries.
        method: Method of the run.
        target: The target modality.
        sources: The source modalities that have a translator.
        task: What is predicted.
        split: The hash of the split; runs on the same patients have the same.
        policy: patient or image.
        model: SHA-256 of each file of weights that was evaluated.
        windows: For each modality, how its values became the 8 bits that feature extractors see.
        images: The number of real target images in the test part.
        patients: The number of their patients.
        translated: The number of translated test images by source.
        metrics: All metrics.
        groups: Errors by decade or class.
        pictures: Charts of the predictions, by name: errors, calibration, regression.
        audits: The audits of each translator.
        judge: The predictor of real images alone that judged translated ones, in words; "" where
            none was needed, or, in older files, where it was the run's own.
        device: The device that computed it.
        precision: fp32 or bf16.
        seconds: Seconds of each stage.
        day: When it was evaluated, ISO 8601; "" in older files.
    """

    schema_version: int = SCHEMA_VERSION
    versions: dict[str, str]
    method: str
    target: str
    sources: tuple[str, ...] = ()
    task: Task | None = None
    split: str = ""
    policy: str = "patient"
    model: dict[str, str] = {}
    windows: dict[str, str] = {}
    images: int = 0
    patients: int = 0
    translated: dict[str, int] = {}
    metrics: tuple[Metric, ...] = ()
    groups: tuple[GroupError, ...] = ()
    pictures: dict[str, Picture] = {}
    audits: tuple[Audit, ...] = ()
    judge: str = ""
    device: str = ""
    precision: str = ""
    seconds: dict[str, float] = {}
    day: str = ""


class Example(Record):
    """A translated test image; image k of ``<role>.npy`` belongs to entry k of examples.json.

    Stored values 0 to 65535 stand for -1 to 1. ``cycled`` is F(G(y)) and missing where F is;
    ``nearest`` is the real target training image that is most like the translated one.

    Attributes:
        why: Why it was chosen, such as "worst label agreement" or "evenly spaced".
        label: The patient's label as people read it, such as "63 years".
        predicted: The judge's prediction for the translated image, in the same form.
        nearest_label: The label of the nearest image's patient.
        nearest_distance: The distance to that image; the memorisation audit defines it.
        cycle_error: Mean |F(G(y)) - y| in [0, 2]; None without F.
    """

    why: str
    label: str
    predicted: str = ""
    nearest_label: str = ""
    nearest_distance: float | None = None
    cycle_error: float | None = None


def write_results(folder: Path, results: Results) -> None:
    """Write evaluation.json."""
    write_json(folder / FILE, results.model_dump(mode="json"))


def read_results(folder: Path) -> Results:
    """Read evaluation.json; raises ModelError where it is missing, damaged or too new."""
    return read_record(
        folder / FILE,
        Results,
        version=SCHEMA_VERSION,
        error=ModelError,
        hint="Evaluate the run with `medxlate evaluate`.",
        again="Evaluate again",
    )
