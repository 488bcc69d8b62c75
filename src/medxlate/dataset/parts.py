"""The reading half of ``prepare``: each scan becomes a part on disk.

A part is a unit of ``base/journal.py``: its slices' pixels in a file, and the rest in the journal.
It is named after what it was made from, so that a run that was stopped finds the parts of the last
one and makes only those that are missing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from medxlate.base.errors import DataError, ImageError
from medxlate.base.files import naming_full_disk, sha256
from medxlate.base.journal import Entry
from medxlate.images.open import NEAR_EMPTY, open_slices
from medxlate.images.perceptual import perceptual_hash
from medxlate.images.recipes import Limits, Recipe
from medxlate.images.scan import RASTER_FORMATS, VOLUME_FORMATS, FoundImage, Scan
from medxlate.images.volumes import data_file

PARTS_VERSION = 2  # of this module's output: raised when the same scan gives other bytes

NO_AIR = "no voxel is below 0 HU: its values may not be Hounsfield units"


def state_of(file: FoundImage) -> tuple[int, ...]:
    """Return size and time of change of a file and, for detached headers, of its voxels.

    Of a file that is gone, (-1,): it is noticed when it is read.
    """
    paths = {file.path}
    if file.format in VOLUME_FORMATS:
        paths.add(data_file(file.path))
    state: list[int] = []
    for path in sorted(paths):
        try:
            status = path.stat()
        except OSError:
            return (-1,)
        state += [status.st_size, status.st_mtime_ns]
    return tuple(state)


@dataclass(frozen=True)
class PartJob:
    """What a part is made from, and where it goes.

    Attributes:
        scan: The scan to read.
        recipe: Its modality's recipe.
        size: Side of the squares, pixels.
        folder: Where the parts' files lie.
    """

    scan: Scan
    recipe: Recipe
    size: int
    folder: Path

    @cached_property
    def key(self) -> str:
        """A hash of all that the part depends on, when it is first asked for."""
        files = [(file.relative, *state_of(file)) for file in self.scan.files]
        facts = [PARTS_VERSION, self.scan.name, files, self.size, self.recipe.model_dump()]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]

    @property
    def pixels(self) -> Path:
        """The file of the slices' pixels."""
        return self.folder / f"{self.key}.bin"


@dataclass(frozen=True)
class PartSlice:
    """One stored slice of a part.

    Attributes:
        number: Which slice of the scan, from 0 along the plane's normal.
        file: Relative path of the file that holds it.
        height: Original rows.
        width: Original columns.
        pixel_hash: Of the stored integers.
        perceptual_hash: See ``duplicates``.
    """

    number: int
    file: str
    height: int
    width: int
    pixel_hash: str
    perceptual_hash: str


@dataclass(frozen=True)
class Part:
    """What was read of a scan.

    Attributes:
        limits: The physical values of black and white; None where nothing could be read.
        slices: The slices, in the order of the pixels in the part's file.
        skipped: What could not be used, and why.
        notes: What is to be known about the scan although it is used; empty for nothing.
    """

    limits: Limits | None
    slices: tuple[PartSlice, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class WrittenPart:
    """A part whose file is there.

    Attributes:
        entry: The part, as the journal holds it.
        files: The SHA-256 of its file, by name.
    """

    entry: Entry
    files: Mapping[str, str]


def write_part(job: PartJob) -> WrittenPart:
    """Read a scan and write its part."""
    with naming_full_disk(job.pixels):
        part = _read(job, job.pixels)
    return WrittenPart(asdict(part), {job.pixels.name: sha256(job.pixels)})


def crashed_part(job: PartJob) -> WrittenPart:
    """Write the part of a scan that no process survives."""
    job.pixels.write_bytes(b"")
    part = Part(None, skipped={job.scan.name: "it crashed the reader"})
    return WrittenPart(asdict(part), {job.pixels.name: sha256(job.pixels)})


def noted_part(job: PartJob, entry: Entry) -> Part:
    """Return a part from its entry in the journal.

    Raises:
        DataError: The entry is damaged.
    """
    try:
        limits = entry["limits"]
        return Part(
            limits=None if limits is None else (float(limits[0]), float(limits[1])),
            slices=tuple(PartSlice(**slice_) for slice_ in entry["slices"]),
            skipped=dict(entry["skipped"]),
            notes=tuple(map(str, entry["notes"])),
        )
    except (IndexError, KeyError, TypeError, ValueError):
        folder = job.folder.parent
        raise DataError(
            f"The journal in {folder} is damaged: its entry for {job.scan.name} is unusable.",
            f"Delete the folder {folder} and prepare again.",
        ) from None


def pixels_of(job: PartJob, part: Part) -> Iterator[bytes]:
    """Yield the bytes of each slice of a part."""
    count = len(part.slices)
    with job.pixels.open("rb") as stream:
        each = job.pixels.stat().st_size // max(count, 1)
        for _ in range(count):
            yield stream.read(each)


def _read(job: PartJob, path: Path) -> Part:
    """Write the stored slices of a scan to ``path``, one after the other."""
    scan = job.scan
    slices: list[PartSlice] = []
    skipped: dict[str, str] = {}
    lowest = math.nan
    with path.open("wb") as stream:
        try:
            opened = open_slices(scan, job.recipe, job.size)
        except ImageError as refusal:
            return Part(None, skipped={scan.name: str(refusal)})
        for slice_ in opened.slices:
            lowest = np.fmin(lowest, slice_.lowest)
            problem = slice_.problem or (NEAR_EMPTY if slice_.near_empty else "")
            stored = slice_.stored
            if stored is not None and not problem and stored.min() == stored.max():
                problem = "the image is empty after applying the intensity recipe"
            if stored is None or problem:
                skipped[_slice_name(scan, slice_.file, slice_.number)] = problem
                continue
            content = stored.tobytes()
            stream.write(content)
            slices.append(
                PartSlice(
                    number=slice_.number,
                    file=slice_.file,
                    height=slice_.height,
                    width=slice_.width,
                    pixel_hash=hashlib.sha256(content).hexdigest()[:32],
                    perceptual_hash=perceptual_hash(stored),
                )
            )
    notes = [opened.note] if opened.note else []
    if job.recipe.unit == "HU" and lowest >= 0:
        notes.append(NO_AIR)
    return Part(opened.limits, tuple(slices), skipped, tuple(notes))


def _slice_name(scan: Scan, file: str, number: int) -> str:
    """Return what a slice is called in lists: its file, with its number where that holds many."""
    alone = len(scan.files) == max(1, len(scan.frames)) and scan.frames and file != scan.name
    return file if alone or scan.format in RASTER_FORMATS else f"{file}, slice {number + 1}"
