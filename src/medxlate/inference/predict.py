"""``medxlate predict``: the label of each image, and of each patient."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medxlate.artifacts.hub import located, origin_of
from medxlate.artifacts.info import read_model
from medxlate.artifacts.runs import find_model
from medxlate.base.distributed import ranks
from medxlate.base.errors import UsageError
from medxlate.base.events import Listener, Warned, silent
from medxlate.base.files import whole_file
from medxlate.base.records import for_csv
from medxlate.dataset.fields import Field, parse_field
from medxlate.images.grouping import by_header
from medxlate.images.scan import Scan
from medxlate.inference.engine import Pending, validated_compute
from medxlate.inference.finite import is_finite, no_number
from medxlate.inference.inputs import Reader, SliceBatch, find_inputs, refuse_if_nothing, sort_out
from medxlate.inference.out_of_distribution import Looks, total
from medxlate.inference.prediction_table import Columns, Item, make_table, outside
from medxlate.inference.predictor import (
    COVERAGE,
    Ensemble,
    Prediction,
    Predictor,
    predict_batches,
)
from medxlate.inference.request import check_free_table, check_prediction
from medxlate.inference.stream import Unit, stream, units_of
from medxlate.inference.work import Work, stamp, working

__all__ = ["PredictResult", "Prediction", "Predictor", "predict", "predict_batches"]


@dataclass(frozen=True)
class PredictResult:
    """The result of ``predict``.

    Attributes:
        out: The table that was written.
        table: Its content.
        label: Name of the column of predictions.
        notes: Why there are no intervals, or probabilities are not calibrated; how many predictions
            lie outside the range of the training labels; sentences.
        failed: Files that could not be read or predicted, with the reasons.
        left_out: Files that are left out of any data (copies, localizers...), with the reasons.
        models: The origin of each downloaded model: ``hf://OWNER/NAME@COMMIT``.
        seconds: How long it took.
    """

    out: Path
    table: pd.DataFrame
    label: str
    notes: tuple[str, ...]
    failed: dict[str, str]
    left_out: dict[str, str]
    models: tuple[str, ...]
    seconds: float


def predict(
    inputs: Path | str,
    *,
    out: Path | str = "predictions.csv",
    model: Path | str | Sequence[Path | str] = "runs/latest",
    level: float = COVERAGE,
    tta: bool = False,
    patient: str | None = None,
    exclude: Sequence[str] = (),
    dicom_modality: str = "",
    force: bool = False,
    volume: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    overwrite: bool = False,
    listener: Listener = silent,
) -> PredictResult:
    """Predict the label of every target-modality image below a folder.

    The table has one row per slice, per volume (a series or volume file of several slices) and,
    where patients are known, per patient; the latter two are means over slices. If the model had
    enough validation patients, a regression has an interval in ``low`` and ``high``, and class
    probabilities are calibrated. With several models, ``spread`` is the standard deviation of
    their predictions. ``outside`` tells whether a regression lies outside the range of the
    training labels. The interval of a slice or volume is valid for one drawn at random from a new
    patient: all slices of one patient tend to be right or wrong together. Near-empty slices are
    left out, as in ``prepare``. Patients are numbered, never named; the column ``file`` contains
    the original file names. A call that was stopped is continued by the next one; the processes
    of a torchrun job share the scans.

    Args:
        inputs: Folder, searched recursively, or one image.
        out: The CSV file to write.
        model: A model folder, a run folder, ``runs/latest`` or ``hf://OWNER/NAME@REVISION``; or
            several, for the mean of their predictions.
        level: Coverage of the intervals: the fraction of new patients within them, in (0, 1).
        tta: Whether predictions are means over five small shifts of the images; they take five
            times as long.
        patient: ``tag:X``, ``folder:N``, ``regex:X`` or ``file``; default: the tag PatientID
            where all images are DICOM.
        exclude: Glob patterns of file names to leave out.
        dicom_modality: Take only DICOM of this Modality; default: as when the target was prepared.
        force: Whether to read DICOM whose Modality does not match the name of the target.
        volume: Which volume of 4-D files, from 0; default: as when the target was prepared.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto (bf16 where the hardware has it and the model was validated in it), fp32
            or bf16.
        batch_size: Images computed at once; None: by the device. Halved where memory runs out.
        overwrite: Whether an existing table is replaced.
        listener: Receives progress.

    Raises:
        OutputError: ``out`` exists, or another process is writing it.
        ModelError: The model cannot be used, or several cannot be combined.
        UsageError: ``level`` is not between 0 and 1, or no model is given.
        ImageError: No image could be read.
        CapacityError: Memory does not even hold a single image.
    """
    began = time.monotonic()
    inputs, out = Path(inputs), Path(out)
    named = [model] if isinstance(model, (str, Path)) else model
    models = [located(Path(each), listener) for each in named]
    check_prediction(
        inputs, out=out, models=models, level=level, patient=patient, overwrite=overwrite
    )
    predictor = _load(
        models,
        device=device,
        precision=precision,
        batch_size=batch_size,
        tta=tta,
        listener=listener,
    )
    columns = Columns(predictor.head, predictor.uncertainty(level), predictor.span)
    tag = None if patient is None else parse_field(patient, has_table=False, option="--patient")
    tags = [tag.name] if tag is not None and tag.kind == "tag" else ["PatientID"]
    reader = predictor.reader.choosing(dicom_modality, volume)
    found = find_inputs(
        inputs,
        reader.recipe,
        name=predictor.info.target,
        exclude=exclude,
        tags=tags,
        patient_of=by_header if tag is None else tag.of_file,
        force=force,
    )
    field = tag or _patient_field(found.scans)
    whole = units_of(found.scans, predictor.batch_size)
    count = sum(unit.slices for unit in whole)
    options = {"patient": patient, "skipped": found.skipped, "level": level, "tta": tta}
    facts = {"models": predictor.facts(), **options}

    def draw() -> dict[str, Any]:
        check_free_table(out, overwrite=overwrite)
        return {}

    with working(out, stamp(facts, found.scans), draw, listener) as work:
        if not work.placed:
            check_free_table(out, overwrite=overwrite)
            text = f"Predicting {predictor.head.task.name} for {count} slices"
            work.report(text, whole, listener)
            _predict(work, whole, predictor, reader, field, listener)
        entries = list(work.journal.entries(whole))
        failed, left_out = sort_out(found.skipped)
        failed |= {name: why for entry in entries for name, why in entry["failed"].items()}
        items = [Item(*item) for entry in entries for item in entry["items"]]
        refuse_if_nothing(failed, found, len(items), inputs)
        values = [value for entry in entries for value in entry["values"]]
        table = make_table(np.asarray(values, dtype=np.float32), items, columns)
        if ranks().is_first and not work.placed:
            with whole_file(work.out) as partial:
                for_csv(table).to_csv(partial, index=False)
            work.put()
    looks = total(Looks.noted(each) for each in entries)
    seen = looks.notes(predictor.info.target)
    notes = (*columns.uncertainty.notes(), *columns.span.notes(outside(table)), *seen)
    for note in notes:
        listener(Warned(note))
    seconds = round(time.monotonic() - began, 3)
    origins = tuple(filter(None, map(origin_of, models)))
    return PredictResult(out, table, columns.label, notes, failed, left_out, origins, seconds)


def _load(
    models: Sequence[Path],
    *,
    device: str,
    precision: str,
    batch_size: int | None,
    tta: bool,
    listener: Listener,
) -> Ensemble:
    """Return the models; all are computed as the first one was validated."""
    if not models:
        raise UsageError("No model is given.", "Give a model folder or a run with --model.")
    folders = [find_model(each, "a predictor", listener) for each in models]
    info = read_model(folders[0])
    compute = validated_compute(info, device, precision, listener=listener)
    return Ensemble(
        [
            Predictor(each, compute=compute, batch_size=batch_size, tta=tta, listener=listener)
            for each in folders
        ],
        listener=listener,
    )


def _predict(
    work: Work,
    whole: Sequence[Unit],
    predictor: Ensemble,
    reader: Reader,
    field: Field | None,
    listener: Listener,
) -> None:
    """Predict this process's share of what is missing, and note each finished unit."""
    failed: dict[str, str] = {}
    items: list[list[Any]] = []
    values: list[Any] = []
    looks: list[Looks] = []

    def collect(batch: SliceBatch, outputs: Pending | None) -> None:
        failed.update(batch.failed)
        looks.append(Looks.of_batch(batch, predictor.greys))
        if outputs is None:
            return
        found = predictor.finish(outputs)
        for item, value, known in zip(batch.shown, found, is_finite(found), strict=True):
            if known:
                items.append(list(astuple(Item.of(item, field))))
                values.append(value.tolist())
            else:
                failed[item.slice.file] = no_number("predictor", item.number)

    with work.journal.noting() as note:

        def ended(unit: Unit) -> None:
            entry = {"items": items, "values": values, "failed": failed}
            note(unit, {**entry, "looks": asdict(total(looks))}, {})
            for noted in (items, values, failed, looks):
                noted.clear()

        stream(
            work.journal.missing(whole),
            reader,
            predictor.engine,
            collect,
            ended,
            batch_size=predictor.batch_size,
            listener=listener,
        )


def _patient_field(scans: Sequence[Scan]) -> Field | None:
    if any(scan.format == "dicom" for scan in scans):
        return Field("tag", "PatientID")
    return None
