"""What ``prepare`` is going to do: which scans, with which labels, by which recipe."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

import medxlate
from medxlate.dataset.annotate import Annotation, Annotator
from medxlate.dataset.fields import parse_field
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.parts import state_of
from medxlate.dataset.selection import combined, parse_selection
from medxlate.dataset.spellings import fold
from medxlate.dataset.volumes import Place, picture_volumes
from medxlate.errors import DataError, UsageError
from medxlate.events import Listener, Progress
from medxlate.files import sha256
from medxlate.images.find import Search, image_suffix
from medxlate.images.modality import PROJECTIONS, dicom_modality
from medxlate.images.pseudonym import normal_id
from medxlate.images.recipes import Kind, Recipe, make_recipe
from medxlate.images.scan import RASTER_FORMATS, VOLUME_FORMATS, FoundImage, Scan, add_note
from medxlate.images.scans import PatientOf, Scans, by_header, find_scans
from medxlate.parallel import Mapper


@dataclass(frozen=True)
class Plan:
    """What will be read.

    Attributes:
        scans: The scans of which at least one file has a label and a patient.
        annotations: Label and patient by the relative path of a file.
        recipe: How the scans are read.
        found: What the search came to; its ``skipped`` lists also files without label or patient.
        places: Volume and position of pictures that are slices, by relative path.
        where: By what they were selected.
    """

    scans: tuple[Scan, ...]
    annotations: Mapping[str, Annotation]
    recipe: Recipe
    found: Scans
    places: Mapping[str, Place] = field(default_factory=dict)
    where: tuple[str, ...] = ()

    @property
    def series(self) -> int:
        """How many series, volumes and single images the scans come to."""
        volumes = {self.places[s.name].volume for s in self.scans if s.name in self.places}
        return len(volumes) + sum(scan.name not in self.places for scan in self.scans)


def make_plan(
    search: Search,
    *,
    modality: str,
    options: PrepareOptions,
    mapper: Mapper,
    listener: Listener,
) -> Plan:
    """Read headers, group them to scans and find label and patient of each file.

    Raises:
        UsageError: The options contradict each other.
        DataError: The label table cannot be read.
    """
    found = find_scans(
        search,
        name=modality,
        dicom_modality=options.dicom_modality or "",
        tags=_tags(search, options),
        volume=options.volume,
        patient_of=_patient_of(options),
        force=options.force,
        mapper=mapper,
        done=lambda done, total: listener(Progress("headers", done, total)),
    )
    _check_choices(found.scans, options)
    annotator = Annotator(options, found.scans)
    annotations: dict[str, Annotation] = {}
    for scan in found.scans:
        for file, tags in _files(scan):
            try:
                annotation = annotator.annotate(file.relative, tags)
            except DataError as problem:
                found.skipped[file.relative] = str(problem)
                continue
            annotations[file.relative] = annotation
            if annotation.note:
                add_note(found.notes, file.relative, annotation.note)
    same = normal_id if options.as_spelled else fold
    places = picture_volumes(options.volume_from, found.scans, annotations, same)
    if options.patient != "file":
        _leave_out_mixed(found, annotations, same)
    annotations = _select(annotations, options, found)
    scans = [
        scan for scan in found.scans if any(file.relative in annotations for file in scan.files)
    ]
    recipe = _recipe(found.scans, modality, options)
    return Plan(tuple(scans), annotations, recipe, found, places, options.where)


def _leave_out_mixed(
    found: Scans, annotations: dict[str, Annotation], same: Callable[[str], str]
) -> None:
    """Leave out series whose files the table assigns to patients whose ids are not the ``same``."""
    for scan in found.scans:
        names = [file.relative for file in scan.files if file.relative in annotations]
        if len({same(annotations[name].patient) for name in names}) > 1:
            for name in names:
                del annotations[name]
                found.skipped[name] = "its series holds files of several patients"


def _select(
    annotations: dict[str, Annotation], options: PrepareOptions, found: Scans
) -> dict[str, Annotation]:
    """Return the annotations that ``--where`` selects; the others are counted as left out.

    Raises:
        UsageError: An expression cannot be used, or selects nothing.
    """
    if not options.where or not annotations:
        return annotations
    every = list(annotations.values())
    frame = pd.DataFrame([each.asked for each in every], index=range(len(every)))
    for name in options.label_names:
        frame[name] = [each.label for each in every]
    mask = combined(frame, [parse_selection(text) for text in options.where])
    if not mask.any():
        raise UsageError(
            f"--where {' --where '.join(options.where)} selects none of {len(every)} files.",
            "Check the values: texts are matched letter by letter.",
        )
    left_out = len(every) - int(mask.sum())
    if left_out:
        found.left_out["not selected (--where)"] = left_out
    return {
        name: each for (name, each), kept in zip(annotations.items(), mask, strict=True) if kept
    }


def stamp(search: Search, options: PrepareOptions, *, size: int) -> str:
    """Return a hash of everything the result depends on: files, options, label table, version."""
    files = [(image.relative, image.format, *state_of(image)) for image in search.images]
    facts = [
        medxlate.__version__,
        size,
        plain(options),
        [sha256(table) for table in _tables(search, options)],
        files,
        sorted(search.not_images),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _tables(search: Search, options: PrepareOptions) -> Iterator[Path]:
    """Yield the files from which labels may come: the table, its sessions, volumes' sidecars."""
    if options.labels is not None and options.labels.is_file():
        yield options.labels
    if options.sessions is not None:
        yield from sorted(options.sessions.glob("sub-*/*_sessions.tsv"))
    for image in search.images:
        if image.format in VOLUME_FORMATS:
            stem = image.path.name.removesuffix(image_suffix(image.path.name))
            sidecar = image.path.with_name(f"{stem}.json")
            if os.path.isfile(sidecar):  # Path.is_file raises where a name is too long
                yield sidecar


def plain(options: PrepareOptions) -> dict[str, Any]:
    """Return the options that the result depends on, as JSON can hold them."""
    values = {key: str(v) if isinstance(v, Path) else v for key, v in asdict(options).items()}
    del values["workers"]
    # What was prepared without them stays what it was.
    for name in ("where", "force", "distinct_ids", "volume_from"):
        if not values[name]:
            del values[name]
    return values


def _files(scan: Scan) -> Iterator[tuple[FoundImage, Mapping[str, str]]]:
    """Yield each file of a scan once, with the tags known of it."""
    if not scan.frames:
        yield scan.files[0], scan.tags
        return
    seen: set[str] = set()
    for frame in scan.frames:
        if frame.file.relative not in seen:
            seen.add(frame.file.relative)
            yield frame.file, frame.tags


def _tags(search: Search, options: PrepareOptions) -> tuple[str, ...]:
    """Return the DICOM attributes that labels, patients and kept values may be read from."""
    if all(image.format != "dicom" for image in search.images):
        return ()
    from medxlate.images.dicom.tags import check_keyword

    tags = {"PatientID"}
    asked = [column for text in options.where for column in parse_selection(text).columns]
    for text in (options.label, options.patient, *options.keep, *asked):
        kind, _, name = (text or "").rpartition(":")
        if name and kind in ("", "tag"):
            try:
                check_keyword(name)
            except UsageError:
                continue  # a column or a sidecar's key
            tags.add(name)
    return tuple(sorted(tags))


def _patient_of(options: PrepareOptions) -> PatientOf:
    """Return what tells a DICOM file's patient before its series is put together."""
    if options.patient is not None:
        with suppress(UsageError):  # the annotator raises it, or reads a key of JSON files
            has_table = options.labels is not None
            return parse_field(options.patient, has_table=has_table, option="--patient").of_file
    return by_header


def _check_choices(scans: Sequence[Scan], options: PrepareOptions) -> None:
    """Raise UsageError where an option speaks of files that are not there."""
    for option, value, formats in (
        ("--channel", options.channel, RASTER_FORMATS),
        ("--volume", options.volume, VOLUME_FORMATS),
        ("--volume-from", options.volume_from, RASTER_FORMATS),
    ):
        if value is not None and scans and not any(scan.format in formats for scan in scans):
            kinds = ", ".join(sorted(formats))
            raise UsageError(f"{option} is for {kinds}; there are only other files.")


def _recipe(scans: Sequence[Scan], modality: str, options: PrepareOptions) -> Recipe:
    return make_recipe(
        options.recipe,
        modality=modality,
        guess=_guess(scans, modality),
        bits=8 if scans and all(_is_8_bit(scan) for scan in scans) else 16,
        window=options.window,
        percentiles=options.percentiles,
        n4=options.n4,
        channel=options.channel,
        plane=options.plane,
        volume=options.volume,
        dicom_modality=(options.dicom_modality or "").upper(),
    )


def _guess(scans: Sequence[Scan], modality: str) -> Kind:
    """Return the recipe that fits what the first scan says of itself, or else the name."""
    first = scans[0] if scans else None
    if first is not None and first.unit == "HU":
        return "ct"
    if first is not None and first.modality == "PT":
        return "pet"
    if first is not None and first.modality in PROJECTIONS:
        return "xray"
    volumes = first is not None and first.format in VOLUME_FORMATS
    said = dicom_modality(modality)
    if volumes and said == "CT":
        return "ct"
    dicom = first is not None and first.format == "dicom"
    return "mr" if volumes or dicom or said == "MR" else "xray"


def _is_8_bit(scan: Scan) -> bool:
    if scan.format not in RASTER_FORMATS:
        return False
    from medxlate.images.raster import stored_bits

    return stored_bits(scan.files[0].path) == 8
