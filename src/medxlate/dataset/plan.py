"""What ``prepare`` is going to do: which scans, with which labels, by which recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import medxlate
from medxlate.dataset.annotate import Annotation, Annotator
from medxlate.dataset.options import PrepareOptions
from medxlate.errors import DataError, UsageError
from medxlate.events import Listener, Progress
from medxlate.files import sha256
from medxlate.images.find import Search, image_suffix
from medxlate.images.recipes import Kind, Recipe, make_recipe
from medxlate.images.scan import RASTER_FORMATS, VOLUME_FORMATS, FoundImage, Scan
from medxlate.images.scans import Scans, find_scans
from medxlate.parallel import Mapper

PROJECTIONS = frozenset({"CR", "DX", "RF", "XA", "MG", "RG", "PX", "IO"})
MR_NAMES = ("mr", "t1", "t2", "pd", "flair", "dwi", "swi")


@dataclass(frozen=True)
class Plan:
    """What will be read.

    Attributes:
        scans: The scans of which at least one file has a label and a patient.
        annotations: Label and patient by the relative path of a file.
        recipe: How the scans are read.
        found: What the search came to; its ``skipped`` lists also files without label or patient.
    """

    scans: tuple[Scan, ...]
    annotations: Mapping[str, Annotation]
    recipe: Recipe
    found: Scans


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
        tags=_tags(search, options),
        volume=options.volume,
        dicom_modality=options.dicom_modality,
        mapper=mapper,
        done=lambda done, total: listener(Progress("headers", done, total)),
    )
    annotator = Annotator(options, found.scans)
    annotations: dict[str, Annotation] = {}
    scans = []
    for scan in found.scans:
        for file, tags in _files(scan):
            try:
                annotations[file.relative] = annotator.annotate(file.relative, tags)
            except DataError as problem:
                found.skipped[file.relative] = str(problem)
        if any(file.relative in annotations for file in scan.files):
            scans.append(scan)
    recipe = _recipe(found.scans, modality, options)
    return Plan(tuple(scans), annotations, recipe, found)


def stamp(search: Search, options: PrepareOptions, *, size: int) -> str:
    """Return a hash of everything the result depends on: files, options, label table, version."""
    files = []
    for image in search.images:
        status = image.path.stat()
        files.append((image.relative, image.format, status.st_size, status.st_mtime_ns))
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
            if sidecar.is_file():
                yield sidecar


def plain(options: PrepareOptions) -> dict[str, Any]:
    """Return the options that the result depends on, as JSON can hold them."""
    values = {key: str(v) if isinstance(v, Path) else v for key, v in asdict(options).items()}
    del values["workers"]
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
    for text in (options.label, options.patient, *options.keep):
        kind, _, name = (text or "").rpartition(":")
        if name and kind in ("", "tag"):
            try:
                check_keyword(name)
            except UsageError:
                continue  # a column or a sidecar's key
            tags.add(name)
    return tuple(sorted(tags))


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
    volumes = first is not None and first.format not in RASTER_FORMATS
    if volumes and modality.startswith("ct") and first is not None and not first.modality:
        return "ct"
    return "mr" if volumes or modality.startswith(MR_NAMES) else "xray"


def _is_8_bit(scan: Scan) -> bool:
    if scan.format not in RASTER_FORMATS:
        return False
    from medxlate.images.raster import stored_bits

    return stored_bits(scan.files[0].path) == 8
