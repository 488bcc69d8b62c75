"""Label and patient of each image."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from medxlate.dataset.fields import Field, parse_field
from medxlate.dataset.index import COLUMNS
from medxlate.dataset.labels import TaskKind, parse_label
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.table import RowFinder, Table, read_table
from medxlate.errors import DataError, UsageError
from medxlate.images.find import FoundImage


@dataclass(frozen=True)
class Annotation:
    """What is known of an image: its label, its patient's real id, and further values to keep."""

    label: float | str
    patient: str
    kept: Mapping[str, str]


class Annotator:
    """Resolve label and patient of images.

    Args:
        options: Where they come from.
        images: The images found, to choose the default source of patients.

    Raises:
        UsageError: The options contradict each other or name what does not exist.
        DataError: The label table cannot be read.
    """

    def __init__(self, options: PrepareOptions, images: Iterable[FoundImage]) -> None:
        table = read_table(options.labels) if options.labels is not None else None
        has_table = table is not None
        if options.label is None:
            raise UsageError(
                "A label is needed.", "Name a column with --label, or a DICOM tag (PatientAge)."
            )
        self._kind: TaskKind = options.task
        self._decimal_comma = table is not None and table.decimal_comma
        self._label = parse_field(options.label, has_table=has_table, option="--label")
        self._patient = _patient_field(options, images, has_table=has_table)
        self._kept = {
            name.rpartition(":")[2]: parse_field(name, has_table=has_table, option="--keep")
            for name in options.keep
        }
        for name in COLUMNS:
            if name in self._kept:
                raise UsageError(
                    f"--keep {name}: the index has a column '{name}' of its own.",
                    "Rename the table's column to keep it.",
                )
        self._rows = (
            _row_finder(options, table, self._patient, self._fields(), images) if table else None
        )

    @property
    def tags(self) -> tuple[str, ...]:
        """The DICOM attributes that must be read along."""
        return tuple(field.name for field in self._fields() if field.kind == "tag")

    def annotate(self, relative: str, tags: Mapping[str, str]) -> Annotation:
        """Return what is known of the image at a relative path.

        Raises:
            DataError: Its label or its patient is missing or not valid.
        """
        patient = self._patient.value(relative, {}, tags)
        row = self._rows.find(relative, patient) if self._rows else {}
        patient = patient or self._patient.value(relative, row, tags)
        if not patient:
            raise DataError("the patient is unknown")
        label = parse_label(
            self._label.value(relative, row, tags),
            kind=self._kind,
            decimal_comma=self._decimal_comma,
        )
        kept = {name: field.value(relative, row, tags) or "" for name, field in self._kept.items()}
        return Annotation(label, patient, kept)

    def _fields(self) -> list[Field]:
        return [self._label, self._patient, *self._kept.values()]


def pseudonym(patient: str, key: bytes) -> str:
    """Return the patient's pseudonym: the same for the same id and key, in every modality."""
    return "p" + hmac.new(key, patient.encode(), hashlib.sha256).hexdigest()[:16]


def _patient_field(
    options: PrepareOptions, images: Iterable[FoundImage], *, has_table: bool
) -> Field:
    if options.patient is not None:
        return parse_field(options.patient, has_table=has_table, option="--patient")
    if all(image.format == "dicom" for image in images):
        return Field("tag", "PatientID")
    raise UsageError(
        "It is not known which images belong to one patient.",
        "Say it with --patient COLUMN, --patient folder:1, --patient 'regex:...' or, where each "
        "file is its own patient, --patient file.",
    )


def _row_finder(
    options: PrepareOptions,
    table: Table,
    patient: Field,
    fields: Iterable[Field],
    images: Iterable[FoundImage],
) -> RowFinder:
    """Check the columns and choose how rows are matched: by file or by patient."""
    for field, option in zip(fields, ("--label", "--patient"), strict=False):
        if field.kind == "column":
            table.check_column(field.name, option=option)
    relevant = [field.name for field in fields if field.kind == "column"]
    for column in relevant:
        table.check_column(column, option="--keep")
    if options.file is not None:
        table.check_column(options.file, option="--file")
        names = [image.relative for image in images]
        return RowFinder(table, options.file, by_patient=False, relevant=relevant, images=names)
    if patient.kind == "column":
        raise UsageError(
            "It is not known which row of the table belongs to which image.",
            "Name the column of file names with --file, or take the patient from the path or a "
            "tag (--patient folder:1) and name the table's column with --patient-column.",
        )
    if options.patient_column is None:
        raise UsageError(
            f"The rows of {table.path} cannot be matched.",
            "Name the column of file names with --file, or of patients with --patient-column.",
        )
    table.check_column(options.patient_column, option="--patient-column")
    column = options.patient_column
    return RowFinder(table, column, by_patient=True, relevant=relevant, images=())
