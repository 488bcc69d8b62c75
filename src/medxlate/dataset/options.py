"""What ``prepare`` is told about a folder of images, and presets for public data sets."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from medxlate.dataset.labels import TaskKind
from medxlate.errors import DataError, UsageError, nearest


@dataclass(frozen=True)
class PrepareOptions:
    """Where labels, patients and intensities come from.

    Attributes:
        label: Column or DICOM tag of the label; also ``column:X`` or ``tag:X``.
        labels: The label table.
        file: The table's column that names images (file name, stem or relative path).
        patient: Column, tag, ``folder:N``, ``regex:X`` or ``file``; default: tag PatientID.
        patient_column: The table's column of patients, where rows are matched by patient.
        keep: Further columns or tags to keep in the index (sex, site...).
        task: ``regression`` or ``classification``.
        label_name: What the label is called; default: ``age`` for ages, else as in ``label``.
        unit: The label's unit; default: years for ages.
        channel: Channel of colour images, from 0.
        recipe: ``auto``, ``ct``, ``percentile`` or ``as-is``.
        window: Level and width in HU of the recipe ct.
        percentiles: Of the recipe percentile.
        exclude: Glob patterns of file names to leave out.
    """

    label: str | None = None
    labels: Path | None = None
    file: str | None = None
    patient: str | None = None
    patient_column: str | None = None
    keep: tuple[str, ...] = ()
    task: TaskKind = "regression"
    label_name: str | None = None
    unit: str | None = None
    channel: int | None = None
    recipe: str = "auto"
    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] | None = None
    exclude: tuple[str, ...] = ()

    @property
    def task_name(self) -> str:
        """The label's name."""
        if self.label_name:
            return self.label_name
        name = (self.label or "").rpartition(":")[2]
        return "age" if self._is_age(name) else name

    @property
    def task_unit(self) -> str:
        """The label's unit."""
        if self.unit is not None:
            return self.unit
        return "years" if self.task == "regression" and self.task_name == "age" else ""

    @staticmethod
    def _is_age(name: str) -> bool:
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
        return "age" in re.split(r"[^a-z]+", words)


def lgg_mri(raw: Path, options: PrepareOptions) -> PrepareOptions:
    """Fill in the layout of the LGG MRI segmentation set (Buda 2019), the paper's MRI source.

    ``kaggle_3m/<case>/<case>_<slice>.tif`` with pre-contrast T1, FLAIR and post-contrast T1 as
    channels (FLAIR unless ``channel`` says otherwise), ``*_mask.tif`` left out, ages in
    ``data.csv`` by patient: the first 12 characters of the case.
    """
    tables = sorted(raw.rglob("data.csv"))
    if options.labels is None and not tables:
        raise DataError(
            f"The preset lgg-mri finds no data.csv below {raw}.",
            "Name the folder kaggle_3m or one above it.",
        )
    return replace(
        options,
        labels=options.labels or tables[0],
        label=options.label or "age_at_initial_pathologic",
        patient=options.patient or r"regex:(TCGA_\w\w_\w{4})_\d+_\d+\.tif$",
        patient_column=options.patient_column or "Patient",
        channel=1 if options.channel is None else options.channel,
        recipe="as-is" if options.recipe == "auto" else options.recipe,
        exclude=(*options.exclude, "*_mask.tif"),
    )


PRESETS: dict[str, Callable[[Path, PrepareOptions], PrepareOptions]] = {"lgg-mri": lgg_mri}


def apply_preset(name: str, raw: Path, options: PrepareOptions) -> PrepareOptions:
    """Return the options with the preset's choices where the user made none."""
    if name not in PRESETS:
        raise UsageError(f"There is no preset '{name}' of prepare.", nearest(name, PRESETS))
    return PRESETS[name](raw, options)
