"""``medxlate predict``: the label of each image, and of each patient."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from medxlate.dataset.fields import Field, parse_field
from medxlate.errors import OutputError
from medxlate.events import Listener, silent
from medxlate.files import whole_file
from medxlate.images.scan import Scan
from medxlate.inference.choices import validated_compute
from medxlate.inference.engine import Engine, Pending, run, starting_size
from medxlate.inference.inputs import (
    Batch,
    Input,
    Reader,
    find_inputs,
    patients_mean,
    refuse_if_nothing,
    sort_out,
    stack,
)
from medxlate.inference.journal import Work, journal, stamp, tell_stage, work_folder, working
from medxlate.inference.stream import stream
from medxlate.inference.units import Unit, units_of
from medxlate.models.device import Compute
from medxlate.models.folder import ModelInfo, load_predictor, predictor_of, read_model
from medxlate.models.head import Head
from medxlate.models.predictor import PredictorNetwork
from medxlate.models.runs import find_model
from medxlate.ranks import ranks


@dataclass(frozen=True)
class PredictResult:
    """What ``predict`` did.

    Attributes:
        out: The table that was written.
        table: Its content.
        label: Name of the column of predictions.
        failed: Files that could not be read, and why.
        left_out: Files that sound data leaves out, too (copies, localizers...), and why.
        seconds: How long it took.
    """

    out: Path
    table: pd.DataFrame
    label: str
    failed: dict[str, str]
    left_out: dict[str, str]
    seconds: float


def predict_batches(
    network: PredictorNetwork, images: Iterable[Tensor], *, head: Head, compute: Compute
) -> np.ndarray[Any, Any]:
    """Return predictions for batches of images: labels [N], or class probabilities [N, K].

    Validation during training, ``predict`` and ``evaluate`` all call this.
    """
    outputs: Tensor = run(network, images, compute=compute)
    return np.asarray(head.predictions(outputs))


class Predictor:
    """A trained predictor with everything needed to use it.

    Args:
        model: A model folder, a run folder, or ``runs/latest``.
        compute: Device and precision; None: chosen automatically.
        batch_size: How many slices are computed at once to begin with; None: by the device.
        listener: Told what fits into memory.

    Raises:
        ModelError: The model is missing, damaged or only translates.
    """

    def __init__(
        self,
        model: Path,
        *,
        compute: Compute | None = None,
        batch_size: int | None = None,
        listener: Listener = silent,
    ) -> None:
        folder = find_model(model)
        self.info: ModelInfo = read_model(folder)
        self.compute = compute or validated_compute(self.info, listener=listener)
        self.network = self.compute.place(load_predictor(folder, self.info))
        self.head = predictor_of(folder, self.info).head
        self.reader = Reader(self.info.target_recipe, self.info.prepared_size, self.info.image_size)
        self.batch_size = batch_size or starting_size(self.compute, self.info.image_size)
        self.engine = Engine(
            self.network,
            self.compute,
            batch_size=self.batch_size,
            listener=listener,
        )

    @classmethod
    def load(cls, model: Path | str) -> Predictor:
        """Load a predictor from a model folder, a run folder or ``runs/latest``."""
        return cls(Path(model))

    def facts(self) -> dict[str, Any]:
        """Return what a prediction depends on beside its inputs, as JSON can hold it."""
        device = f"{self.compute.device.type} {self.compute.precision}"
        model = self.info.model_dump(mode="json")
        return {"model": model, "device": device, "batch": self.batch_size}

    def predict(self, batch: list[Input]) -> np.ndarray[Any, Any]:
        """Return labels [B] for a regression, class probabilities [B, K] for a classification."""
        return self.finish(self.engine.start(stack(batch)))

    def finish(self, outputs: Pending) -> np.ndarray[Any, Any]:
        """Return predictions, as ``predict`` does, from what the engine has begun to compute."""
        return np.asarray(self.head.predictions(outputs.wait()))


def predict(
    inputs: Path | str,
    *,
    out: Path | str = "predictions.csv",
    model: Path | str = "runs/latest",
    patient: str | None = None,
    exclude: Sequence[str] = (),
    dicom_modality: str = "",
    volume: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    overwrite: bool = False,
    listener: Listener = silent,
) -> PredictResult:
    """Predict the label of every target-modality image below a folder.

    The table has a row a slice, a row a volume (a series or volume file of several slices) and,
    where it is known which images belong together, a row a patient: means over the slices.
    Near-empty slices are left out, as in ``prepare``. Patients are numbered, never named; the
    column ``file`` holds the names that the files came with. A call that was stopped is continued
    by the next one; the processes of a job of torchrun divide the scans.

    Args:
        inputs: Folder, searched recursively, or one image.
        out: The CSV file to write.
        model: A model folder, a run folder or ``runs/latest``.
        patient: ``tag:X``, ``folder:N``, ``regex:X`` or ``file``; default: the tag PatientID
            where all images are DICOM.
        exclude: Glob patterns of file names to leave out.
        dicom_modality: Take only DICOM of this Modality; default: as when the target was prepared.
        volume: Which volume of 4-D files, from 0; default: as when the target was prepared.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto (bf16 where the hardware has it and the model was validated in it), fp32
            or bf16.
        batch_size: Images computed at once; None: by the device. Halved where memory runs out.
        overwrite: Whether an existing table is replaced.
        listener: Told of progress.

    Raises:
        OutputError: ``out`` exists, or another process is writing it.
        ModelError: The model cannot be used.
        ImageError: No image could be read.
        CapacityError: Memory does not even hold a single image.
    """
    began = time.monotonic()
    inputs, out = Path(inputs), Path(out)
    if not work_folder(out).exists():
        _check_free(out, overwrite=overwrite)
    info = read_model(find_model(Path(model)))
    compute = validated_compute(info, device, precision, listener=listener)
    predictor = Predictor(Path(model), compute=compute, batch_size=batch_size, listener=listener)
    tag = None if patient is None else parse_field(patient, has_table=False, option="--patient")
    tags = [tag.name] if tag is not None and tag.kind == "tag" else ["PatientID"]
    reader = predictor.reader.choosing(dicom_modality, volume)
    found = find_inputs(
        inputs, reader.recipe, name=predictor.info.target, exclude=exclude, tags=tags
    )
    field = tag or _patient_field(found.scans)
    whole = units_of(found.scans, predictor.batch_size)
    total = sum(unit.slices for unit in whole)
    facts = predictor.facts() | {"patient": patient, "skipped": found.skipped}

    def draw() -> dict[str, Any]:
        _check_free(out, overwrite=overwrite)
        return {}

    with working(out, stamp(facts, found.scans), draw, listener) as work:
        if not work.placed:
            _check_free(out, overwrite=overwrite)
            text = f"Predicting {predictor.head.task.name} of {total} slices"
            tell_stage(text, work, whole, listener)
            _predict(work, whole, predictor, reader, field, listener)
        entries = work.entries(whole)
        failed, left_out = sort_out(found.skipped)
        failed |= {name: why for entry in entries for name, why in entry["failed"].items()}
        items = [_Item(*item) for entry in entries for item in entry["items"]]
        refuse_if_nothing(failed, found, len(items), inputs)
        values = [value for entry in entries for value in entry["values"]]
        table = _table(np.asarray(values, dtype=np.float32), items, predictor.head)
        if ranks().is_first and not work.placed:
            with whole_file(work.out) as partial:
                table.to_csv(partial, index=False)
            work.put()
    seconds = round(time.monotonic() - began, 3)
    return PredictResult(out, table, predictor.head.task.name, failed, left_out, seconds)


def _predict(
    work: Work,
    whole: Sequence[Unit],
    predictor: Predictor,
    reader: Reader,
    field: Field | None,
    listener: Listener,
) -> None:
    """Predict this process's share of what is missing, and note each finished unit."""
    failed: dict[str, str] = {}
    items: list[list[Any]] = []
    values: list[Any] = []

    def collect(batch: Batch, outputs: Pending | None) -> None:
        failed.update(batch.failed)
        if outputs is not None:
            items.extend(list(astuple(_Item.of(item, field))) for item in batch.shown)
            values.extend(predictor.finish(outputs).tolist())

    with journal(work) as note:

        def ended(unit: Unit) -> None:
            note(unit, {"items": items, "values": values, "failed": failed})
            for noted in (items, values, failed):
                noted.clear()

        stream(
            work.missing(whole),
            reader,
            predictor.engine,
            collect,
            ended,
            batch_size=predictor.batch_size,
            listener=listener,
        )


def _check_free(out: Path, *, overwrite: bool) -> None:
    """Raise OutputError where a table may not be replaced."""
    if out.is_dir() or (out.exists() and not overwrite):
        raise OutputError(f"{out} exists.", "Name another table, or replace it with --overwrite.")


@dataclass(frozen=True)
class _Item:
    """Where a predicted slice came from; ``patient`` is "" where that is not known."""

    file: str
    scan: str
    number: int
    patient: str

    @classmethod
    def of(cls, item: Input, field: Field | None) -> _Item:
        file = item.slice.file
        known = field.value(file, {}, item.tags) if field is not None else None
        scan = item.scan.name if item.opened.count > 1 else ""
        return cls(file, scan, item.slice.number, known or "")


def _patient_field(scans: Sequence[Scan]) -> Field | None:
    if any(scan.format == "dicom" for scan in scans):
        return Field("tag", "PatientID")
    return None


def _table(values: np.ndarray[Any, Any], items: list[_Item], head: Head) -> pd.DataFrame:
    """Return the rows of slices, then of volumes, then of patients, numbers in place of ids."""
    numbers: dict[str, str] = {"": ""}
    for item in items:
        numbers.setdefault(item.patient, f"patient-{len(numbers):04d}")
    patients = [numbers[item.patient] for item in items]
    slices = pd.DataFrame(
        {
            "level": "slice",
            "patient": patients,
            "file": [item.file for item in items],
            "slice": [item.number + 1 for item in items],
            "slices": 1,
            **_columns(values, head),
        }
    )
    owners = {item.scan: patient for item, patient in zip(items, patients, strict=True)}
    volumes = _means("volume", values, [item.scan for item in items], head)
    if volumes is not None:
        volumes["patient"] = [owners[name] for name in volumes["file"]]
    people = _means("patient", values, patients, head)
    if people is not None:
        people["patient"], people["file"] = people["file"], ""
    tables = [table for table in (slices, volumes, people) if table is not None]
    return pd.concat(tables, ignore_index=True)


def _means(
    level: str, values: np.ndarray[Any, Any], names: list[str], head: Head
) -> pd.DataFrame | None:
    """Return a row for each name, the mean of its slices; rows without a name do not count."""
    named = [i for i, name in enumerate(names) if name]
    if not named:
        return None
    means = patients_mean(values[named], [names[i] for i in named])
    counts = Counter(names)
    return pd.DataFrame(
        {
            "level": level,
            "patient": "",
            "file": list(means),
            "slice": "",
            "slices": [counts[name] for name in means],
            **_columns(np.stack(list(means.values())), head),
        }
    )


def _columns(values: np.ndarray[Any, Any], head: Head) -> dict[str, Any]:
    if head.task.kind == "regression":
        return {head.task.name: np.round(values.astype(np.float64), 4)}
    classes = head.task.classes
    columns: dict[str, Any] = {head.task.name: [classes[i] for i in values.argmax(axis=1)]}
    for i, name in enumerate(classes):
        columns[f"p({name})"] = np.round(values[:, i].astype(np.float64), 6)
    return columns
