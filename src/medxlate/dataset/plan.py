"""What ``prepare`` is about to do: which scans, with which labels, by which recipe."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from medxlate._version import __version__
from medxlate.base.errors import DataError, ImageError, UsageError
from medxlate.base.events import Listener, Progress, Warned
from medxlate.base.files import sha256
from medxlate.base.plugins import used
from medxlate.base.pool import Mapper
from medxlate.dataset.annotate import Annotation, Annotator
from medxlate.dataset.fields import parse_field
from medxlate.dataset.identifiers import is_placeholder
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.parts import state_of
from medxlate.dataset.picture_volumes import VolumePosition, picture_volumes
from medxlate.dataset.recipe_guess import choose_recipe
from medxlate.dataset.selection import combined, parse_selection
from medxlate.dataset.spellings import fold
from medxlate.images.find import Search, image_suffix
from medxlate.images.grouping import FoundScans, PatientOf, by_header, find_scans
from medxlate.images.open import cut_of
from medxlate.images.pseudonym import normal_id
from medxlate.images.recipes import KINDS, Recipe
from medxlate.images.scan import RASTER_FORMATS, VOLUME_FORMATS, FoundImage, Scan, add_note


@dataclass(frozen=True)
class Plan:
    """What will be read.

    Attributes:
        scans: The scans of which at least one file has a label and a patient.
        annotations: Label and patient by the relative path of a file.
        recipe: How the scans are read.
        found: What the search came to; its ``skipped`` lists also files without label or patient.
        places: Volume and position of pictures that are slices, by relative path.
        across: Names of the series that are cut across their files; all of these have one label.
        where: The expressions that selected them.
    """

    scans: tuple[Scan, ...]
    annotations: Mapping[str, Annotation]
    recipe: Recipe
    found: FoundScans
    places: Mapping[str, VolumePosition] = field(default_factory=dict)
    across: frozenset[str] = frozenset()
    where: tuple[str, ...] = ()

    def annotation_of(self, scan: Scan, file: str) -> Annotation | None:
        """Return label and patient of a slice; None where its file lacks them or is left out."""
        if scan.name in self.across:  # a series may be called like its first file
            file = scan.files[0].relative
        return self.annotations.get(file)

    @property
    def series(self) -> int:
        """Number of series, volumes and single images."""
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
    _warn_placeholders(annotations, listener)
    same = normal_id if options.as_spelled else fold
    places = picture_volumes(options.volume_from, found, annotations, same)
    if options.patient != "file":
        _leave_out_mixed(found, annotations, same)
    annotations = _select(annotations, options, found)
    scans = _used(found.scans, annotations)
    recipe = choose_recipe(scans or found.scans, modality, options, listener)
    across = frozenset(scan.name for scan in scans if _is_cut_across(scan, recipe))
    _leave_out_disagreeing(found, annotations, across)
    scans = _used(scans, annotations)
    return Plan(tuple(scans), annotations, recipe, found, places, across, options.where)


def _used(scans: Iterable[Scan], annotations: Mapping[str, Annotation]) -> list[Scan]:
    """Return the scans of which at least one file has a label and a patient."""
    return [scan for scan in scans if any(file.relative in annotations for file in scan.files)]


def _is_cut_across(scan: Scan, recipe: Recipe) -> bool:
    """Whether each slice shows something of every file of a series."""
    try:
        cut = cut_of(scan, recipe) if scan.frames else None
    except ImageError:  # it is refused when it is read
        return False
    return cut is not None and not cut.as_stored


def _leave_out_disagreeing(
    found: FoundScans, annotations: dict[str, Annotation], across: Collection[str]
) -> None:
    """Leave out series that are cut across files of several labels, or of which some are left out.

    Each of their slices shows something of every file, and has one label.
    """
    for scan in found.scans:
        if scan.name not in across:
            continue
        names = list(dict.fromkeys(file.relative for file in scan.files))
        known = [name for name in names if name in annotations]
        labels = {annotations[name].label for name in known}
        reason = "its series is resliced, but its files have different labels"
        if len(known) < len(names):
            reason = "its series is resliced, but some of its files were left out"
        if len(known) < len(names) or len(labels) > 1:
            for name in known:
                del annotations[name]
                found.skipped[name] = reason


def _warn_placeholders(annotations: Mapping[str, Annotation], listener: Listener) -> None:
    """Warn about placeholder ids: all files with one count as one patient's."""
    count = sum(is_placeholder(annotation.patient) for annotation in annotations.values())
    if count > 1:
        listener(
            Warned(
                f"{count} files have a placeholder (anonymous, unknown, 0...) as patient ID and "
                "count as one patient. Use --patient to give the real IDs."
            )
        )


def _leave_out_mixed(
    found: FoundScans, annotations: dict[str, Annotation], same: Callable[[str], str]
) -> None:
    """Leave out series whose files the table assigns to patients whose ids are not the ``same``."""
    for scan in found.scans:
        names = [file.relative for file in scan.files if file.relative in annotations]
        if len({same(annotations[name].patient) for name in names}) > 1:
            for name in names:
                del annotations[name]
                found.skipped[name] = "its series contains files of several patients"


def _select(
    annotations: dict[str, Annotation], options: PrepareOptions, found: FoundScans
) -> dict[str, Annotation]:
    """Return the annotations that ``--where`` selects; the others are counted as left out.

    Raises:
        UsageError: An expression cannot be used, or selects nothing.
    """
    if not options.where or not annotations:
        return annotations
    known = list(annotations.values())
    frame = pd.DataFrame([each.asked for each in known], index=range(len(known)))
    for name in options.label_names:
        frame[name] = [each.label for each in known]
    mask = combined(frame, [parse_selection(text) for text in options.where])
    if not mask.any():
        raise UsageError(
            f"--where {' --where '.join(options.where)} selects none of {len(known)} files.",
            "Check the values: text must match exactly.",
        )
    left_out = len(known) - int(mask.sum())
    if left_out:
        found.left_out["not selected (--where)"] = left_out
    return {
        name: each for (name, each), kept in zip(annotations.items(), mask, strict=True) if kept
    }


def stamp(search: Search, options: PrepareOptions, *, size: int) -> str:
    """Return a hash of everything the result depends on: files, options, label table, version."""
    files = [(image.relative, image.format, *state_of(image)) for image in search.images]
    facts = [
        __version__,
        size,
        plain(options),
        [sha256(table) for table in _tables(search, options)],
        files,
        sorted(search.not_images),
        *_plugin_hashes(options),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _plugin_hashes(options: PrepareOptions) -> list[str]:
    """Return the hash of a plug-in's recipe; nothing of medxlate's own, as in older versions."""
    if options.recipe in (*KINDS, "auto"):
        return []
    return [each.sha256 for each in used([("recipes", options.recipe)])]


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
    # So that datasets prepared before these options existed keep their hash.
    for name in ("where", "force", "distinct_ids", "volume_from", "sheet", "recipe_settings"):
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
    """Return the function that finds a DICOM file's patient before series are put together."""
    if options.patient is not None:
        with suppress(UsageError):  # the annotator raises it, or reads a key of JSON files
            has_table = options.labels is not None
            return parse_field(options.patient, has_table=has_table, option="--patient").of_file
    return by_header


def _check_choices(scans: Sequence[Scan], options: PrepareOptions) -> None:
    """Raise UsageError where an option is for files that are not there."""
    for option, value, formats in (
        ("--channel", options.channel, RASTER_FORMATS),
        ("--volume", options.volume, VOLUME_FORMATS),
        ("--volume-from", options.volume_from, RASTER_FORMATS),
        ("--n4", options.n4 or None, {*VOLUME_FORMATS, "dicom"}),
        ("--plane", None if options.plane == "axial" else 1, {*VOLUME_FORMATS, "dicom"}),
    ):
        if value is not None and scans and not any(scan.format in formats for scan in scans):
            kinds = ", ".join(sorted(formats))
            raise UsageError(f"{option} applies only to {kinds}, and there are no such files.")
