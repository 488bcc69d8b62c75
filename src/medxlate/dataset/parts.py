"""The reading half of ``prepare``: each scan becomes a part on disk.

A part is complete or absent, and named after what it was made from; a run that was stopped finds
the parts of the last one and makes only those that are missing.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from medxlate.base.errors import DataError, ImageError
from medxlate.base.files import naming_full_disk, write_json
from medxlate.base.records import read_object
from medxlate.images.open import NEAR_EMPTY, open_slices
from medxlate.images.perceptual import perceptual_hash
from medxlate.images.recipes import Limits, Recipe
from medxlate.images.scan import RASTER_FORMATS, VOLUME_FORMATS, FoundImage, Scan
from medxlate.images.volumes import data_file

PARTS_VERSION = 2  # of this module's output: raised when the same scan gives other bytes

NO_AIR = "no voxel is below 0 HU: its Hounsfield units may be lost"


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
        folder: Where parts lie.
    """

    scan: Scan
    recipe: Recipe
    size: int
    folder: Path

    @property
    def name(self) -> str:
        """A hash of all that the part depends on."""
        files = [(file.relative, *state_of(file)) for file in self.scan.files]
        facts = [PARTS_VERSION, self.scan.name, files, self.size, self.recipe.model_dump()]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


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


def write_part(job: PartJob) -> int:
    """Read a scan and write its part, unless it is there; return how many files it had."""
    name = job.name
    listing = job.folder / f"{name}.json"
    if not listing.exists():
        pixels = job.folder / f"{name}.bin"
        partial = pixels.with_suffix(f".{os.getpid()}.partial")
        try:
            with naming_full_disk(pixels):
                part = _read(job, partial)
                partial.replace(pixels)
                text = json.dumps(asdict(part))
                partial.write_text(text, encoding="utf-8")
                partial.replace(listing)  # last: a part with a listing is complete
        finally:
            with suppress(FileNotFoundError):
                partial.unlink()
    return len(job.scan.files)


def crashed_part(job: PartJob) -> int:
    """Write the part of a scan that no process survives."""
    part = Part(None, skipped={job.scan.name: "reading it crashed the reader"})
    (job.folder / f"{job.name}.bin").write_bytes(b"")
    write_json(job.folder / f"{job.name}.json", asdict(part))
    return len(job.scan.files)


def load_part(job: PartJob) -> tuple[Part, Iterator[bytes]]:
    """Return a part and the bytes of its slices, one by one."""
    name = job.name
    listing = job.folder / f"{name}.json"
    again = f"Remove the folder {job.folder} and prepare again."
    values = read_object(listing, error=DataError, hint=again, needs=["limits"])
    try:
        limits = values["limits"]
        part = Part(
            limits=None if limits is None else (float(limits[0]), float(limits[1])),
            slices=tuple(PartSlice(**slice_) for slice_ in values["slices"]),
            skipped=dict(values["skipped"]),
            notes=tuple(map(str, values["notes"])),
        )
    except (IndexError, KeyError, TypeError, ValueError):
        raise DataError(f"{listing} is damaged.", again) from None
    return part, _pixels(job.folder / f"{name}.bin", len(part.slices))


def _pixels(path: Path, count: int) -> Iterator[bytes]:
    with path.open("rb") as stream:
        each = path.stat().st_size // max(count, 1)
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
                problem = "the image is empty after its intensity recipe"
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
