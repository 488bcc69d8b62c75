"""The options of ``prepare``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medxlate.base.plugins import Setting
from medxlate.dataset.labels import AGE_UNITS, TaskKind, age_unit
from medxlate.images.orientation import Plane


@dataclass(frozen=True)
class PrepareOptions:
    """Which images are used, and where labels, patients and intensities come from.

    Attributes:
        label: Column or tag of the label; also ``column:X`` or ``tag:X``. A tag is a DICOM
            attribute or, for volume files, a key of the JSON file beside them.
        labels: The label table.
        sheet: Which sheet of it, where it is a workbook; "": the first.
        file: The table's column of image names (file name, stem or relative path).
        patient: Column, tag, ``folder:N``, ``regex:X`` or ``file``; default: tag PatientID.
        patient_column: The table's column of patients, where rows are matched by patient.
        distinct_ids: Whether ids that differ in case, separators or leading zeros alone are
            different patients.
        sessions: The folder of BIDS subjects whose ``sub-X/sub-X_sessions.tsv`` complete the
            table; their values win for an image's session.
        keep: Further columns or tags to keep in the index (sex, site...).
        where: Expressions over the label and columns or tags, such as ``age >= 18``; only images
            for which all of them hold are taken. See ``dataset.selection``.
        task: ``regression`` or ``classification``.
        label_name: The label's name; default: ``age`` for ages, else as in ``label``.
        unit: The label's unit; default: years for ages.
        include: Glob patterns; where there are any, only files that match one are taken. A
            pattern with a slash is held against the relative path (``**`` stands for any number
            of folders), another against the file name.
        exclude: Glob patterns of files to leave out.
        dicom_modality: Take only DICOM series of this Modality (CT, MR, PT...).
        force: Whether DICOM files are taken although their Modality is not what the name of the
            modality says.
        plane: The plane along which volumes are cut: ``axial``, ``coronal`` or ``sagittal``.
        volume: Which volume of 4-D files is read, from 0.
        volume_from: Which pictures (PNG, JPEG, WebP, TIFF) are slices of one volume: ``folder``,
            ``folder:N`` or ``regex:X`` (``dataset.picture_volumes``); default: none.
        channel: Channel of colour images, from 0.
        recipe: ``auto``, ``ct``, ``mr``, ``pet``, ``xray``, ``as-is``, or a plug-in's.
        recipe_settings: Of a plug-in's recipe, by name.
        window: A window's name, or level and width, HU for the recipe ct, SUVbw for pet.
        percentiles: Of the recipes mr and xray.
        n4: Whether the bias field of each volume is corrected first (N4); recipe mr.
        workers: How many processes read at once; default: one. The command line takes one a core.
    """

    label: str | None = None
    labels: Path | None = None
    sheet: str = ""
    file: str | None = None
    patient: str | None = None
    patient_column: str | None = None
    distinct_ids: bool = False
    sessions: Path | None = None
    keep: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    task: TaskKind = "regression"
    label_name: str | None = None
    unit: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    dicom_modality: str | None = None
    force: bool = False
    plane: Plane = "axial"
    volume: int | None = None
    volume_from: str | None = None
    channel: int | None = None
    recipe: str = "auto"
    recipe_settings: Mapping[str, Setting] = field(default_factory=dict)
    window: str | tuple[float, float] | None = None
    percentiles: tuple[float, float] | None = None
    n4: bool = False
    workers: int | None = None

    @property
    def as_spelled(self) -> bool:
        """Whether every spelling of an id is a patient of its own: asked for, or files' paths."""
        return self.distinct_ids or self.patient == "file"

    @property
    def task_name(self) -> str:
        """The label's name."""
        if self.label_name:
            return self.label_name
        name = (self.label or "").rpartition(":")[2]
        return "age" if self._is_age(name) else name

    @property
    def label_names(self) -> frozenset[str]:
        """The names of the label in a selection: its own, and its column's or tag's."""
        return frozenset((self.task_name, (self.label or "").rpartition(":")[2]))

    @property
    def task_unit(self) -> str:
        """The label's unit; of ages, by default, the one in the label's name, or years."""
        name = (self.label or "").rpartition(":")[2]
        is_age = any(map(self._is_age, (self.task_name, name)))
        if self.unit is not None:
            return age_unit(self.unit) if is_age else self.unit
        if self.task != "regression" or self.task_name != "age":
            return ""
        return next((word for word in self._words(name) if word in AGE_UNITS), "years")

    @property
    def age_in(self) -> str | None:
        """The unit of the label where it is an age; "" if the unit is unknown, None for others."""
        names = (self.task_name, (self.label or "").rpartition(":")[2])
        is_age = self.task == "regression" and any(map(self._is_age, names))
        return self.task_unit if is_age else None

    @classmethod
    def _is_age(cls, name: str) -> bool:
        return "age" in cls._words(name)

    @staticmethod
    def _words(name: str) -> list[str]:
        """Return the words of a column's or tag's name, such as PatientAge or age_months."""
        return re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
