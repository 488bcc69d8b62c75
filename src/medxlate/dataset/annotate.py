"""Label and patient of each image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from medxlate.base.errors import DataError, UsageError
from medxlate.dataset.fields import Field, parse_field
from medxlate.dataset.index import COLUMNS
from medxlate.dataset.label_table import Table, read_table
from medxlate.dataset.labels import MISSING, TaskKind, parse_label
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.rows import RowFinder, SessionTables
from medxlate.dataset.selection import parse_selection
from medxlate.dataset.spellings import fold
from medxlate.images.pseudonym import normal_id
from medxlate.images.scan import VOLUME_FORMATS, Scan


@dataclass(frozen=True)
class Annotation:
    """What is known about an image.

    Attributes:
        label: Its label.
        patient: Its patient's real id.
        kept: Further values, which go into the index.
        asked: Those that a selection asks for.
        note: What is odd about its source; "" where nothing is.
    """

    label: float | str
    patient: str
    kept: Mapping[str, str]
    asked: Mapping[str, str]
    note: str = ""


class Annotator:
    """Resolve label and patient of images.

    Args:
        options: Where they come from.
        scans: The scans found: they decide the default source of patients and whether a tag may
            be a key of a JSON file, and a name in the table must match only one of their files.

    Raises:
        UsageError: The options contradict each other or name what does not exist.
        DataError: The label table cannot be read.
    """

    def __init__(self, options: PrepareOptions, scans: Sequence[Scan]) -> None:
        if options.sheet and options.labels is None:
            raise UsageError("--sheet needs a label table.", "Give the workbook with --labels.")
        table = None
        if options.labels is not None:
            table = read_table(options.labels, sheet=options.sheet)
        if options.label is None:
            raise UsageError(
                "No label is given.", "Give a column or a DICOM tag (PatientAge) with --label."
            )
        parse = partial(
            parse_field,
            has_table=table is not None,
            sidecars=any(scan.format in VOLUME_FORMATS for scan in scans),
        )
        self._kind: TaskKind = options.task
        self._age_in = options.age_in
        self._decimal_comma = table is not None and table.decimal_comma
        self._label = parse(options.label, option="--label")
        self._patient = _patient_field(options, scans, parse)
        self._kept: dict[str, Field] = {}
        for text in options.keep:
            name, field = text.rpartition(":")[2], parse(text, option="--keep")
            if self._kept.setdefault(name, field) != field:
                raise UsageError(f"--keep {text}: '{name}' is already kept from another place.")
        self._asked = {
            name: self._kept.get(name) or parse(name, option="--where")
            for text in options.where
            for name in parse_selection(text).columns
            if name not in options.label_names
        }
        _check_kept(self._kept, options, self._label)
        self._sessions = SessionTables(options.sessions) if options.sessions is not None else None
        self._rows: RowFinder | None = None
        if table is not None:
            further = self._sessions.columns if self._sessions is not None else frozenset()
            for option, field in self._fields():
                if field.kind == "column" and field.name not in further:
                    table.check_column(field.name, option=option)
            columns = [field.name for _, field in self._fields() if field.kind == "column"]
            relevant = [column for column in columns if column in table.columns]
            self._rows = _row_finder(options, table, self._patient, relevant, scans)

    @property
    def tags(self) -> tuple[str, ...]:
        """The DICOM attributes or JSON keys that must be read along."""
        return tuple(field.name for _, field in self._fields() if field.kind == "tag")

    def annotate(self, relative: str, tags: Mapping[str, str]) -> Annotation:
        """Return what is known about the image at a relative path.

        Args:
            relative: The file's path below the folder that was searched.
            tags: Its DICOM attributes, or the keys of the JSON file beside it, as text.

        Raises:
            DataError: Its label or its patient is missing or not valid.
        """
        patient = self._patient.value(relative, {}, tags)
        row = self._rows.find(relative, patient) if self._rows else {}
        if self._sessions is not None:
            row = self._sessions.complete(relative, row)
        patient = patient or self._patient.value(relative, row, tags)
        if not patient or normal_id(patient).lower() in MISSING:
            raise DataError("the patient is unknown")
        label = parse_label(
            self._label.value(relative, row, tags),
            kind=self._kind,
            decimal_comma=self._decimal_comma,
            age_in=self._age_in,
        )
        kept, asked = (
            {name: field.value(relative, row, tags) or "" for name, field in fields.items()}
            for fields in (self._kept, self._asked)
        )
        note = self._rows.note(patient) if self._rows else ""
        return Annotation(label, normal_id(patient), kept, asked, note)

    def _fields(self) -> list[tuple[str, Field]]:
        """Return each field with the option that asked for it."""
        return [
            ("--label", self._label),
            ("--patient", self._patient),
            *(("--keep", field) for field in self._kept.values()),
            *(("--where", field) for field in self._asked.values()),
        ]


def _check_kept(kept: Mapping[str, Field], options: PrepareOptions, label: Field) -> None:
    """Raise UsageError where a kept column would be named like another one."""
    for name, field in kept.items():
        if name in COLUMNS:
            raise UsageError(
                f"--keep {name}: the dataset already has its own column '{name}'.",
                "Rename the column in your table to keep it.",
            )
        if name == options.task_name and field != label:
            raise UsageError(
                f"--keep {name}: the label has the same name but comes from another place.",
                "Give the label another name with --label-name.",
            )


def _patient_field(
    options: PrepareOptions, scans: Iterable[Scan], parse: Callable[..., Field]
) -> Field:
    if options.patient is not None:
        return parse(options.patient, option="--patient")
    if any(scan.format == "dicom" for scan in scans):  # the patient of others stays unknown
        return Field("tag", "PatientID")
    raise UsageError(
        "It is not clear which images belong to the same patient.",
        "Add --patient COLUMN, --patient folder:1, --patient 'regex:...' or, if every file is a "
        "patient of its own, --patient file.",
    )


def _row_finder(
    options: PrepareOptions,
    table: Table,
    patient: Field,
    relevant: Sequence[str],
    scans: Iterable[Scan],
) -> RowFinder:
    """Return the finder that matches rows by file or by patient."""
    if options.file is not None:
        table.check_column(options.file, option="--file")
        names = [file.relative for scan in scans for file in scan.files]
        return RowFinder(table, options.file, by_patient=False, relevant=relevant, images=names)
    if patient.kind == "column":
        raise UsageError(
            "It is not clear which row of the table belongs to which image.",
            "Give the column of file names with --file, or take the patient from the path or a "
            "tag (--patient folder:1) and give the table's column of patients with "
            "--patient-column.",
        )
    if options.patient_column is None:
        raise UsageError(
            f"The rows of {table.path} cannot be matched to images.",
            "Give the column of file names with --file, or of patients with --patient-column.",
        )
    table.check_column(options.patient_column, option="--patient-column")
    column = options.patient_column
    return RowFinder(
        table,
        column,
        by_patient=True,
        relevant=relevant,
        images=(),
        normal=normal_id if options.as_spelled else fold,
    )
