"""From raw files to the dataset folder."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
from pydantic import TypeAdapter

from medxlate.base.distributed import ranks
from medxlate.base.errors import DataError, OutputError
from medxlate.base.events import Listener, Warned, silent
from medxlate.base.files import check_free, locked, remove_stale
from medxlate.base.journal import drop, kept_until_done
from medxlate.base.records import read_object
from medxlate.dataset.duplicates import Duplicate
from medxlate.dataset.index import (
    Dataset,
    DatasetInfo,
    Modality,
    load_key,
    other_modalities,
    read_info,
)
from medxlate.dataset.job import (
    MARKER,
    Job,
    PrepareResult,
    mapper_for,
    refuse_unusable,
    work_folder,
)
from medxlate.dataset.join import agreed_size, check_task
from medxlate.dataset.labels import count_labels, label_notes
from medxlate.dataset.layouts import apply_layout
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.plan import Plan, make_plan, stamp
from medxlate.dataset.spellings import (
    Named,
    Respelled,
    name_patients,
    refuse_respelled,
    warn_respelled,
)
from medxlate.images.find import Search, find_images
from medxlate.images.modality import check_name

_RESULT = TypeAdapter(PrepareResult)


def prepare(
    raw: Path | str,
    *,
    modality: str,
    data: Path | str = "data",
    options: PrepareOptions | None = None,
    layout: str | None = None,
    size: int | None = None,
    overwrite: bool = False,
    strict: bool = False,
    dry_run: bool = False,
    listener: Listener = silent,
    preset: str | None = None,
) -> PrepareResult:
    """Read a folder of images of one modality into a dataset folder.

    The same files and options give the same bytes, whatever the number of processes, here or of a
    torchrun job. A run that was stopped is continued by the next one; on unchanged input nothing is
    done.

    Args:
        raw: Folder (searched recursively) of DICOM, NIfTI, NRRD, MetaImage, PNG, JPEG, WebP, TIFF.
        modality: Its name: ct, mri, pet, xray...
        data: The dataset folder; further modalities are added to the same one.
        options: Where labels, patients and intensities come from.
        layout: How a public data set is laid out: ``lgg-mri``, ``ct-ich``, ``head-neck-pet-ct`` or
            ``bids``. It fills in what ``options`` leave open.
        size: Side of the stored squares, pixels; default 256, or what the dataset has.
        overwrite: Whether to replace the modality if it already exists.
        strict: Whether an unusable file, or an id spelled in several ways, is an error.
        dry_run: Whether to read headers and labels only and to write nothing.
        listener: Receives progress and warnings.
        preset: The former name of ``layout``.

    Raises:
        UsageError: Options contradict each other.
        DataError, ImageError: No file is usable or, with ``strict``, some file is not.
        OutputError: The modality already exists and was made from something else.
    """
    began = time.monotonic()
    raw, data, options = Path(raw), Path(data), options or PrepareOptions()
    check_name(modality)
    if preset is not None:
        warnings.warn("preset is now called layout", DeprecationWarning, stacklevel=2)
        layout = layout or preset
    if layout is not None:
        options = apply_layout(layout, modality, raw, options)
    search = find_images(raw, include=options.include, exclude=options.exclude)
    existing = read_info(data)
    size = agreed_size(size, existing)
    check_task(existing, modality, options)
    if dry_run:
        with mapper_for(search, options) as mapper:
            plan = make_plan(
                search, modality=modality, options=options, mapper=mapper, listener=listener
            )
        refuse_unusable(plan.found.skipped, strict=strict)
        others = other_modalities(data, existing, modality)
        named = _named(plan, others, options, key=load_key(data))
        refuse_respelled(named.respelled, strict=strict, spellings=named.spellings)
        planned = _planned(plan, modality, existing, options, began, named)
        warn_respelled(named, others, listener)
        for note in planned.label_notes:
            listener(Warned(note))
        return planned
    mark = stamp(search, options, size=size)
    job = Job(raw, data, modality, options, size, mark, overwrite, strict, listener)
    team = ranks()
    if not team.is_first:
        return _help(job, search)
    with locked(data / f".{modality}.lock"):
        done = None if overwrite else _unchanged(data, modality, mark, began)
        if done is not None:
            refuse_unusable(done.skipped, strict=strict)
            refuse_respelled(done.respelled, strict=strict)
            drop(work_folder(data, modality))
        else:
            # One that was stopped after its folder was placed is finished, not refused.
            overwrite = overwrite or _made_from(data, modality) == mark
            _check_free(data, modality, overwrite=overwrite)
            remove_stale(data, modality)
        team.broadcast(done is None)
        if done is None:
            # What was read stays where the next call can continue.
            with kept_until_done(job.work):
                done = replace(job, overwrite=overwrite).run(search)
    result = replace(done, seconds=round(time.monotonic() - began, 3))
    team.broadcast(_RESULT.dump_python(result, mode="json"))
    return result


def _help(job: Job, search: Search) -> PrepareResult:
    """Read this process's share for the first process, where there is work to do."""
    if ranks().broadcast(None):
        job.help(search)
    return _RESULT.validate_python(ranks().broadcast(None))


def _named(
    plan: Plan, others: Mapping[str, Modality], options: PrepareOptions, *, key: bytes
) -> Named:
    rows = [(name, annotation.patient) for name, annotation in plan.annotations.items()]
    table = pd.DataFrame(rows, columns=["file", "patient"])
    tables = {name: other.slices for name, other in others.items()}
    return name_patients(table, tables, key, distinct=options.as_spelled)


def _planned(
    plan: Plan,
    modality: str,
    existing: DatasetInfo | None,
    options: PrepareOptions,
    began: float,
    named: Named,
) -> PrepareResult:
    others = {} if existing is None else existing.modalities
    classes = {label for name, info in others.items() if name != modality for label in info.labels}
    labels = count_labels(
        (each.label for each in plan.annotations.values()),
        sorted(classes) if options.task == "classification" else (),
    )
    return PrepareResult(
        existing,
        modality,
        "planned",
        files=plan.found.files,
        images=len(plan.annotations),
        scans=plan.series,
        patients=len(set(named.patients)),
        skipped=dict(sorted(plan.found.skipped.items())),
        left_out=plan.found.left_out,
        notes=plan.found.notes,
        respelled=named.respelled,
        label_notes=label_notes(labels, options.task, options.task_name),
        seconds=round(time.monotonic() - began, 3),
    )


_REASONS, _COUNTS = TypeAdapter(dict[str, str]), TypeAdapter(dict[str, int])
_NOTES = TypeAdapter(tuple[str, ...])
_DUPLICATES = TypeAdapter(tuple[Duplicate, ...])
_RESPELLED = TypeAdapter(tuple[Respelled, ...])


def _unchanged(data: Path, modality: str, mark: str, began: float) -> PrepareResult | None:
    """Return the existing result, if it is whole and was made from the same input."""
    if _made_from(data, modality) != mark:
        return None
    record = read_object(data / modality / MARKER, error=DataError)
    try:
        dataset = Dataset(data)
        info = dataset.modality(modality).info
    except DataError:  # a run that was stopped between its two renames
        return None
    try:
        return PrepareResult(
            dataset.info,
            modality,
            "unchanged",
            files=int(record["files"]),
            images=info.images,
            scans=info.series,
            patients=info.patients,
            skipped=_REASONS.validate_python(record["skipped"]),
            left_out=_COUNTS.validate_python(record["left_out"]),
            notes=_REASONS.validate_python(record["notes"]),
            duplicates=_DUPLICATES.validate_python(record["duplicates"]),
            respelled=_RESPELLED.validate_python(record.get("respelled", ())),
            label_notes=_NOTES.validate_python(record.get("label_notes", ())),
            seconds=round(time.monotonic() - began, 3),
        )
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{data / modality / MARKER} is damaged.", "Prepare it again with --overwrite."
        ) from None


def _made_from(data: Path, modality: str) -> str:
    """Return the hash of what the modality's folder was made from; "" where there is none."""
    path = data / modality / MARKER
    hint = "Delete the folder, or prepare into another --data folder."
    if not path.is_file():
        return ""
    return str(read_object(path, error=DataError, hint=hint).get("made_from"))


def _check_free(data: Path, modality: str, *, overwrite: bool) -> None:
    """Raise OutputError where the modality is there and may not be replaced."""
    folder = data / modality
    if not overwrite and (folder / MARKER).is_file():
        raise OutputError(
            f"{folder} already exists and was made from other files, labels or options.",
            "Replace it with --overwrite, or choose another --modality or --data.",
        )
    check_free(folder, marker=MARKER, overwrite=overwrite)
